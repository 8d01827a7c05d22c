//! `pandabuildd check`: what it shows of a rack, and that it refuses what `serve` would refuse.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use panda_tests::programs::{pandabuildd, run};
use panda_tests::rack::Rack;
use panda_tests::source::executor;
use serde_json::Value;

#[test]
fn a_rack_is_checked_beside_its_daemon_and_every_byte_of_its_image_is_read() -> Result<()> {
    let rack = Rack::start(2, &executor("hello.sh", &[]))?;
    let config = rack.state().join("rack.toml");
    let text = fs::read_to_string(&config)?;
    let copy = rack.state().join("other.toml");

    let people = check(&config, &[])?;
    ensure!(people.status.success(), "{people:?}");
    let shown = String::from_utf8(people.stdout)?;
    ensure!(
        shown.starts_with("rack twin: 2 slots, Launchpad's dialect current\nimage ")
            && shown.contains("\nover USB, at 160 Mb/s ")
            && shown.contains("\nover the network, at 100 Mb/s "),
        "{shown}"
    );

    // The image's own kernel is what the most of it is, and the inputs share the link that is configured.
    let kernel = fs::metadata(rack.state().join("image").join(kernel_file(&rack)?))?.len();
    fs::write(
        &copy,
        text.replacen("[rack]\n", "[rack]\nlink_mbit_per_s = 10\n", 1),
    )?;
    let json = check(&copy, &["--json", "--inputs-mb", "100"])?;
    let json: Value = serde_json::from_slice(&json.stdout).context("no JSON")?;
    let at = |place: &str| json.pointer(place).cloned().unwrap_or_default();
    assert_eq!(at("/budget/slots"), 2);
    assert_eq!(at("/budget/parts/1/part"), "kernel");
    assert_eq!(at("/budget/parts/1/bytes"), kernel);
    assert_eq!(at("/budget/link/mbit_per_s"), 10);
    assert_eq!(at("/budget/inputs/one_ms"), 85_087);
    assert_eq!(at("/budget/inputs/all_ms"), 170_173);

    for (settings, error) in [
        (
            "[rack]\nlink_mbit_per_s = 0\n",
            "rack.link_mbit_per_s: expected 1 to 1000000, got 0",
        ),
        ("[rack]\nlink_mbits = 1\n", "unknown field `link_mbits`"),
    ] {
        fs::write(&copy, text.replacen("[rack]\n", settings, 1))?;
        refused(&check(&copy, &[])?, error)?;
    }

    // One byte of the image that is not what its manifest says.
    let kernel = rack.state().join("image").join(kernel_file(&rack)?);
    let mut bytes = fs::read(&kernel)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&kernel)?;
    fs::write(&kernel, bytes)?;
    refused(&check(&config, &["--json"])?, "and its manifest says")?;
    rack.stop()
}

/// Mistakes of different rooms, and an image that is not there.
const WRONG: &str = r#"[rack]
name = "rack1"
state_dir = "state"
image = "no-such-image"
[front]
listen = "127.0.0.1:8221"

[boot]
power_ms = 0
[depot]
listens = "127.0.0.1:8300"
listen = "127.0.0.1:8300"

[[slot]]
name = "panda01"
link = "127.0.0.1:0"
power = { driver = "twin", socket = "1/power" }
pipe = { driver = "twin", socket = "1/pipe" }

[[slot]]
link = "127.0.0.1:8402"
name = "panda01"
[slot.power]
driver = "proxr-tcp"
address = "10.0.0.5"
relay = "one"
[slot.pipe]
driver = "twin"
socket = "1/pipe"
"#;

#[test]
fn check_and_serve_tell_everything_that_is_wrong_sorted_by_line_and_how_much_it_is() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("rack.toml");
    fs::write(&config, WRONG)?;
    let wanted = [
        (4, "rack.image: ", "no-such-image"),
        (9, "boot.power_ms: ", "expected 1 to"),
        (11, "depot.listens: ", "unknown field `listens`"),
        (16, "slot.link: ", "expected the address and port"),
        (22, "slot.name: ", "slot panda01 has it already"),
        (26, "slot.power.relay: ", "invalid type: string"),
        (29, "slot.pipe.socket: ", "slot panda01 has it already"),
    ];
    for command in ["check", "serve"] {
        let output = run(pandabuildd()?.arg(command).arg("--config").arg(&config))?;
        let told = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(1), "{command}: {told}");
        let lines: Vec<&str> = told.lines().collect();
        ensure!(lines.len() == wanted.len() + 1, "{command}: {told}");
        for (line, (number, key, text)) in lines.iter().zip(wanted) {
            let place = format!("{}: line {number}: {key}", config.display());
            ensure!(
                line.starts_with(&place) && line.contains(text),
                "{command}: expected {place}{text}: {told}"
            );
        }
        ensure!(told.ends_with("pandabuildd: 7 problems\n"), "{told}");
    }
    // What the configuration names and is not there, where nothing is wrong with itself.
    let right = WRONG
        .replace("power_ms = 0\n", "")
        .replace("listens = \"127.0.0.1:8300\"\n", "")
        .replace("link = \"127.0.0.1:0\"", "link = \"127.0.0.1:8401\"")
        .replace(
            "link = \"127.0.0.1:8402\"\nname = \"panda01\"",
            "link = \"127.0.0.1:8402\"\nname = \"panda02\"",
        )
        .replace(
            "driver = \"proxr-tcp\"\naddress = \"10.0.0.5\"\nrelay = \"one\"",
            "driver = \"command\"\nargv = [\"no-such-pdu\", \"{state}\"]",
        )
        .replace(
            "[slot.pipe]\ndriver = \"twin\"\nsocket = \"1/pipe\"",
            "[slot.pipe]\ndriver = \"twin\"\nsocket = \"2/pipe\"",
        );
    fs::write(&config, right)?;
    let output = run(pandabuildd()?.arg("check").arg("--config").arg(&config))?;
    let told = String::from_utf8(output.stderr)?;
    let lines: Vec<&str> = told.lines().collect();
    ensure!(
        lines.len() == 3 && output.status.code() == Some(1),
        "{told}"
    );
    ensure!(lines[0].contains("line 4: rack.image: "), "{told}");
    ensure!(
        lines[1].contains("line 23: slot.power.argv: slot panda02: no program \"no-such-pdu\""),
        "{told}"
    );
    ensure!(lines[2] == "pandabuildd: 2 problems", "{told}");
    ensure!(!directory.path().join("state").exists(), "nothing was made");
    Ok(())
}

fn check(config: &Path, options: &[&str]) -> Result<Output> {
    run(pandabuildd()?
        .arg("check")
        .arg("--config")
        .arg(config)
        .args(options))
}

fn refused(output: &Output, error: &str) -> Result<()> {
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && output.stdout.is_empty() && told.contains(error),
        "expected {error:?}: {output:?}"
    );
    Ok(())
}

/// By the image's manifest.
fn kernel_file(rack: &Rack) -> Result<String> {
    let text = fs::read_to_string(rack.state().join("image/manifest.toml"))?;
    let manifest: toml::Table = text.parse()?;
    let file = manifest["kernel"]["file"].as_str().context("no file")?;
    Ok(file.to_owned())
}
