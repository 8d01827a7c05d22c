//! The truth test: four boards side by side, each cut by its hub's port and booted over the guest's USB to the proof of its
//! boot, and what arrived outside is byte for byte what the daemon inside says it sent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use panda_tests::rack::json_items;
use serde_json::Value;

use crate::boards::{Arrived, Boards};
use crate::guest::Guest;
use crate::rack::{self, Slot};

const BOARDS: usize = 4;
/// All boards must be proven within this.
const FRESH_LIMIT: Duration = Duration::from_secs(240);
/// The chain, in the ledger's words.
const CHAIN: [&str; 10] = [
    "cut",
    "evidence",
    "power on",
    "rom",
    "asic id",
    "second stage",
    "boot image",
    "started",
    "handshake",
    "proof",
];

#[test]
#[ignore = "boots a kernel in QEMU and needs a package mirror: scripts/usb-truth-test"]
fn four_boards_boot_over_a_real_kernels_usb_and_get_what_was_sent() -> Result<()> {
    let began = Instant::now();
    let programs = rack::programs()?;
    let work = tempfile::TempDir::with_prefix_in("usb-", "/tmp")?;
    let (image, toml, trace) = (
        work.path().join("image"),
        work.path().join("rack.toml"),
        work.path().join("trace"),
    );
    rack::image(&image, &programs.join("panda-agent"))?;
    nix::unistd::mkfifo(&trace, Mode::S_IRWXU)?;
    let mut ports = rack::free_ports(BOARDS + 1)?;
    let depot = ports.pop().context("ports")?;
    let slots: Vec<Slot> = (1..)
        .zip(&ports)
        .map(|(number, &link)| Slot {
            name: format!("panda{number:02}"),
            port: format!("1-1.{number}"),
            power: format!("{{ driver = \"hub-port\", hub = \"1-1\", port = {number} }}"),
            more: "[slot.board]\nchip = \"omap4430\"".to_owned(),
            link,
        })
        .collect();
    std::fs::write(&toml, rack::toml(&slots, depot, "")?)?;

    let state = work.path().join("twin");
    let mut options = vec!["--hub-trace".to_owned(), trace.display().to_string()];
    for number in 1..=BOARDS {
        options.extend(["--hub-port".to_owned(), format!("1.{number}")]);
    }
    let boards = Boards::start(&programs.join("panda-twin"), &state, BOARDS, &options)?;

    let mut options = vec!["--limit".to_owned(), "600".to_owned()];
    let mut option = |name: &str, value: String| options.extend([name.to_owned(), value]);
    option("--trace", trace.display().to_string());
    for (number, board) in (1..).zip(&boards.directories) {
        let socket = board.join("usbredir.sock");
        option("--port", format!("1.{number}={}", socket.display()));
    }
    option("--add", image.display().to_string());
    option("--add", toml.display().to_string());
    option("--add", programs.join("pandabuildd").display().to_string());
    option("--forward", format!("{depot}:{}", rack::DEPOT));
    if let Some(console) = std::env::var_os("PANDA_USB_CONSOLE") {
        option("--console", console.to_string_lossy().into_owned());
    }
    let Some(mut guest) = Guest::start(&options)? else {
        return Ok(());
    };
    println!("guest up after {:.1} s", guest.age().as_secs_f64());
    println!("{}", guest.run("uname -a")?);

    let listed = guest.run("until [ -e /sys/bus/usb/devices/1-1/1-1:1.0/1-1-port4 ]; do sleep 0.1; done; ./pandabuildd usb list || true")?;
    println!("\n$ pandabuildd usb list\n{listed}");

    // The first reset of every slot: the daemon cuts what it does not know.
    guest.run("RUST_LOG=info ./pandabuildd serve --config rack.toml >/tmp/log 2>&1 &")?;
    fresh(&mut guest).with_context(|| log(&boards))?;
    let first = boots(&mut guest)?;
    // And one more of boards that run: whoever switches their ports behind the daemon's back restarts them, and a
    // board that is not in its boot any more is cut and booted again.
    for (value, pause) in [(1, 1), (0, 0)] {
        guest.run(&format!(
            "for n in 1 2 3 4; do echo {value} > /sys/bus/usb/devices/1-1/1-1:1.0/1-1-port$n/disable; done; sleep {pause}"
        ))?;
    }
    let again = |boots: &BTreeMap<String, Value>| {
        slots
            .iter()
            .all(|slot| boots[&slot.name]["boot"].as_u64() > first[&slot.name]["boot"].as_u64())
    };
    let deadline = Instant::now() + FRESH_LIMIT;
    while !again(&boots(&mut guest)?) {
        ensure!(
            Instant::now() < deadline,
            "boards that restarted were not reset"
        );
        guest.run("sleep 1")?;
    }
    fresh(&mut guest).with_context(|| log(&boards))?;
    let second = boots(&mut guest)?;
    println!(
        "\n$ pandabuildd boots\n{}",
        guest.run("./pandabuildd boots --limit 12 --socket /tmp/state/control.sock")?
    );
    println!(
        "\n$ dmesg | grep usb\n{}",
        guest.run("dmesg | grep 'usb 1-1.1' | tail -n 12")?
    );

    let arrived = boards.arrived()?;
    println!(
        "\nslot     boot  sent inside, SHA-256                                              arrived outside  bytes"
    );
    for slot in &slots {
        let (before, after) = (&first[&slot.name], &second[&slot.name]);
        let number = |boot: &Value| boot["boot"].as_u64().context("a boot's number");
        ensure!(
            number(after)? > number(before)?,
            "{} was not reset again",
            slot.name
        );
        for boot in [before, after] {
            complete(boot).with_context(|| format!("{} boot {}", slot.name, boot["boot"]))?;
            let (bytes, sha256) = sent(boot)?;
            let there = Arrived {
                board: slot.name.clone(),
                bytes,
                sha256: sha256.clone(),
            };
            let same = arrived.contains(&there);
            println!(
                "{}  {:>4}  {sha256}  {:15}  {bytes}",
                slot.name,
                boot["boot"],
                if same { "the same" } else { "NOT THE SAME" }
            );
            ensure!(same, "no such image arrived at {}: {arrived:#?}", slot.name);
        }
    }
    // Its own, each time: no two boots share a key.
    let mut digests: Vec<&str> = arrived.iter().map(|image| image.sha256.as_str()).collect();
    digests.sort_unstable();
    digests.dedup();
    ensure!(
        digests.len() == arrived.len(),
        "two boots got the same boot image"
    );
    // No boot was needed but these.
    let retried = arrived.len().saturating_sub(2 * BOARDS);
    let last = second
        .values()
        .filter_map(|boot| boot["boot"].as_u64())
        .max();
    println!("\n{retried} boots were tried again");
    ensure!(
        last == Some(2),
        "boots failed and were tried again: {second:#?}"
    );
    guest.stop()?;
    println!("\nall in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Waits until every slot is on a proven boot.
fn fresh(guest: &mut Guest) -> Result<()> {
    let command = format!(
        "n=0; until [ -S /tmp/state/control.sock ] || [ $n = 100 ]; do sleep 0.1; n=$((n+1)); done; \
         ./pandabuildd slots --wait fresh --timeout {} --socket /tmp/state/control.sock",
        FRESH_LIMIT.as_secs()
    );
    let (status, output) = guest.try_run(&command, FRESH_LIMIT + Duration::from_secs(30))?;
    if status == 0 {
        return Ok(());
    }
    let said = guest.run("tail -n 60 /tmp/log")?;
    let boots = guest.run("./pandabuildd boots --socket /tmp/state/control.sock || true")?;
    anyhow::bail!("the boards are not fresh:\n{output}\n{boots}\n{said}")
}

/// The last boot of each slot.
fn boots(guest: &mut Guest) -> Result<BTreeMap<String, Value>> {
    let written =
        guest.run("./pandabuildd boots --json --limit 50 --socket /tmp/state/control.sock")?;
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    for boot in json_items(&written)? {
        let slot = boot["slot"].as_str().context("a boot's slot")?.to_owned();
        let newer = |known: &Value| boot["boot"].as_u64() > known["boot"].as_u64();
        if last.get(&slot).is_none_or(newer) {
            last.insert(slot, boot);
        }
    }
    Ok(last)
}

/// Every step of the chain is there, and none failed.
fn complete(boot: &Value) -> Result<()> {
    let steps = boot["steps"].as_array().context("steps")?;
    let names: Vec<&str> = steps
        .iter()
        .filter_map(|step| step["name"].as_str())
        // What the board says of its own part in between.
        .filter(|name| !name.starts_with("agent: "))
        .collect();
    ensure!(names.starts_with(&CHAIN), "the chain is {names:?}");
    for step in steps {
        ensure!(step["error"].is_null(), "a step failed: {step}");
    }
    let grade = steps.iter().find_map(|step| step["grade"].as_str());
    ensure!(grade == Some("readback"), "the evidence is {grade:?}");
    Ok(())
}

/// What the daemon says it sent: bytes and SHA-256.
fn sent(boot: &Value) -> Result<(u64, String)> {
    let steps = boot["steps"].as_array().context("steps")?;
    let detail = steps
        .iter()
        .find(|step| step["name"] == "boot image")
        .and_then(|step| step["detail"].as_str())
        .context("no boot image")?;
    let (bytes, sha256) = detail
        .split_once(" bytes, SHA-256 ")
        .with_context(|| format!("the boot image is {detail:?}"))?;
    Ok((bytes.parse()?, sha256.trim().to_owned()))
}

fn log(boards: &Boards) -> String {
    boards.log().unwrap_or_default()
}
