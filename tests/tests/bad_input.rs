//! What the programs say to input that is wrong: the file, the key or the name, and what to do.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use panda_tests::programs::{pandabuildd, program, root};
use panda_tests::rack::{Rack, run_within};
use panda_tests::source::{executor, hello};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// Runs a command that must fail by itself, and takes what it said on standard error.
fn refusal(command: &mut Command) -> Result<String> {
    let output = run_within(command, LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{command:?} succeeded");
    ensure!(
        output.status.code().is_some(),
        "{command:?} died of a signal: {said}"
    );
    ensure!(!said.contains("panicked"), "{command:?} panicked: {said}");
    Ok(said)
}

/// Runs `serve` on a configuration that must be refused.
fn refused_configuration(text: &str) -> Result<String> {
    let directory = TempDir::new()?;
    let file = directory.path().join("rack.toml");
    fs::write(&file, text)?;
    let said = refusal(pandabuildd()?.arg("serve").arg("--config").arg(&file))?;
    ensure!(said.contains("rack.toml"), "the file is not named: {said}");
    Ok(said)
}

fn example() -> Result<String> {
    fs::read_to_string(root().join("src/pandabuildd/rack.example.toml"))
        .context("the example configuration")
}

#[test]
fn an_unknown_key_is_named_with_its_line() -> Result<()> {
    let text = example()?.replacen("[rack]\n", "[rack]\ncolour = \"red\"\n", 1);
    let line = text
        .lines()
        .position(|line| line == "colour = \"red\"")
        .context("[rack] in the example")?
        + 1;
    let said = refused_configuration(&text)?;
    ensure!(said.contains("colour"), "the key is not named: {said}");
    ensure!(
        said.contains(&line.to_string()),
        "line {line} is not named: {said}"
    );
    Ok(())
}

#[test]
fn a_wrong_type_is_named_with_its_key() -> Result<()> {
    let text = example()?.replacen("[rack]\n", "[rack]\nvirtualized = \"perhaps\"\n", 1);
    // The example may set it already; TOML then objects to the second, on the same key.
    ensure!(
        refused_configuration(&text)?.contains("virtualized"),
        "the key is not named"
    );
    Ok(())
}

#[test]
fn a_configuration_that_is_not_there_is_named() -> Result<()> {
    let said = refusal(pandabuildd()?.args(["serve", "--config", "/nonexistent/rack.toml"]))?;
    ensure!(said.contains("/nonexistent/rack.toml"), "{said}");
    Ok(())
}

/// A listener that stands for a builder, and must never be spoken to.
fn submit_that_sends_nothing(dsc: &Path, chroot: &Path) -> Result<String> {
    let builder = TcpListener::bind("127.0.0.1:0")?;
    builder.set_nonblocking(true)?;
    let said = refusal(
        pandabuildd()?
            .arg("submit")
            .arg(dsc)
            .args(["--builder", &format!("http://{}", builder.local_addr()?)])
            .arg("--chroot")
            .arg(chroot),
    )?;
    ensure!(
        builder.accept().is_err(),
        "the builder was called before the source was checked"
    );
    Ok(said)
}

#[test]
fn a_dsc_whose_file_is_missing_is_refused_before_anything_is_sent() -> Result<()> {
    let directory = TempDir::new()?;
    let source = hello(directory.path())?;
    fs::remove_file(directory.path().join("panda-hello_1.0.tar.xz"))?;
    let said = submit_that_sends_nothing(&source.dsc, &source.chroot)?;
    ensure!(
        said.contains("panda-hello_1.0.tar.xz"),
        "the file is not named: {said}"
    );
    Ok(())
}

#[test]
fn a_dsc_whose_file_was_changed_is_refused_before_anything_is_sent() -> Result<()> {
    let directory = TempDir::new()?;
    let source = hello(directory.path())?;
    let file = directory.path().join("panda-hello_1.0.tar.xz");
    let mut bytes = fs::read(&file)?;
    let last = bytes.last_mut().context("an empty file")?;
    *last ^= 1;
    fs::write(&file, bytes)?;
    let said = submit_that_sends_nothing(&source.dsc, &source.chroot)?;
    ensure!(
        said.contains("panda-hello_1.0.tar.xz"),
        "the file is not named: {said}"
    );
    Ok(())
}

#[test]
fn a_dsc_that_names_a_file_elsewhere_is_refused() -> Result<()> {
    let directory = TempDir::new()?;
    let source = hello(directory.path())?;
    let text =
        fs::read_to_string(&source.dsc)?.replace("panda-hello_1.0.tar.xz", "../../etc/passwd");
    fs::write(&source.dsc, text)?;
    submit_that_sends_nothing(&source.dsc, &source.chroot).map(drop)
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let state = TempDir::with_prefix_in("panda-", "/tmp")?;
    let said = refusal(
        pandabuildd()?
            .args(["twin", "--listen", &address, "--executor", "true"])
            .arg("--state")
            .arg(state.path()),
    )?;
    ensure!(said.contains(&address), "the address is not named: {said}");
    Ok(())
}

#[test]
fn a_state_directory_in_use_is_named_and_its_rack_is_not_harmed() -> Result<()> {
    let rack = Rack::start(1, &executor("hello.sh", &[]))?;
    let state = rack.state();
    let said = refusal(
        pandabuildd()?
            .args(["twin", "--listen", "127.0.0.1:31999", "--executor", "true"])
            .arg("--state")
            .arg(&state),
    )?;
    ensure!(
        said.contains(&state.display().to_string()),
        "the directory is not named: {said}"
    );
    rack.wait_fresh()?;
    rack.stop()
}

#[test]
fn asking_a_daemon_that_is_not_there_names_the_socket() -> Result<()> {
    let said = refusal(pandabuildd()?.args(["slots", "--socket", "/nonexistent/control.sock"]))?;
    ensure!(said.contains("/nonexistent/control.sock"), "{said}");
    Ok(())
}

#[test]
fn every_program_and_subcommand_explains_itself() -> Result<()> {
    for subcommand in [
        vec!["--help"],
        vec!["serve", "--help"],
        vec!["twin", "--help"],
        vec!["submit", "--help"],
        vec!["slots", "--help"],
        vec!["reset", "--help"],
        vec!["boots", "--help"],
        vec!["chroot", "build", "--help"],
    ] {
        let output = run_within(pandabuildd()?.args(&subcommand), LIMIT)?;
        ensure!(output.status.success(), "{subcommand:?} failed");
        ensure!(output.stdout.len() > 100, "{subcommand:?} explains nothing");
    }
    for name in ["pandabuildd", "panda-twin", "panda-agent"] {
        let output = run_within(Command::new(program(name)?).arg("--version"), LIMIT)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && said.contains(env!("CARGO_PKG_VERSION")),
            "{name} --version: {said}"
        );
    }
    Ok(())
}
