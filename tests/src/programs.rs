//! Finds the built programs and runs them. Every test that runs one calls this.
//!
//! They are taken from the directory in `PANDA_TEST_BIN` where that is set (`scripts/test` builds them first);
//! else `cargo build` is run once a test process, which is quick when nothing has changed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// The programs that the workspace builds.
const PACKAGES: [&str; 3] = ["pandabuildd", "panda-twin", "panda-agent"];

/// The project's directory.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A built program's path.
///
/// # Errors
/// It cannot be built, or is not where it should be.
pub fn program(name: &str) -> Result<PathBuf> {
    static DIRECTORY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| directory().map_err(|error| format!("{error:#}")));
    let directory = directory
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is not there; PANDA_TEST_BIN may be wrong",
        path.display()
    );
    Ok(path)
}

/// A command that runs `pandabuildd`, with nothing on its standard input.
///
/// # Errors
/// It cannot be built.
pub fn pandabuildd() -> Result<Command> {
    let mut command = Command::new(program("pandabuildd")?);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Runs a command to its end and takes what it wrote.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &mut Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("cannot run {command:?}"))
}

/// Runs a command that must succeed, and takes its standard output.
///
/// # Errors
/// It cannot be started, or fails; the error holds all that it wrote.
pub fn run_ok(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("standard output is not UTF-8")
}

fn directory() -> Result<PathBuf> {
    if let Some(set) = std::env::var_os("PANDA_TEST_BIN") {
        return Ok(PathBuf::from(set));
    }
    // A test runs from target/PROFILE/deps/NAME.
    let own = std::env::current_exe().context("where this test runs from")?;
    let target = own
        .ancestors()
        .nth(2)
        .context("this test does not run from a target directory")?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["build", "--quiet"]);
    if target.ends_with("release") {
        cargo.arg("--release");
    }
    for package in PACKAGES {
        cargo.args(["-p", package]);
    }
    run_ok(&mut cargo)?;
    Ok(target.to_owned())
}
