//! `panda-twin fault`: orders a board of a running twin to do something wrong.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use panda_twin::faults;

/// How long the board may take to do it: a reboot waits until its machine is gone.
const LIMIT: Duration = Duration::from_secs(30);
/// The most bytes of an answer.
const MAX_ANSWER: u64 = 4096;

/// Have a virtual board do something wrong. From the next power-on: none, never-appears, late MS, stall-at N,
/// hang-at N, short-reads N, wrong-asic-id, other-chip, wrong-port BOARD, second-stage-dies, kernel-panics,
/// agent-silent, old-certificate, stays-on-port. At once: reboot, rom.
#[derive(Debug, Parser)]
#[command(name = "panda-twin fault", bin_name = "panda-twin fault")]
pub(crate) struct Arguments {
    /// The twin's state directory, or that of the `pandabuildd twin` that started it.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// The board.
    board: String,
    /// What it is to do.
    #[arg(required = true)]
    fault: Vec<String>,
}

/// Orders it, and waits for the board's answer.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let order: faults::Order = arguments.fault.join(" ").parse()?;
    let socket = |boards: &str| {
        let board = arguments.state.join(boards).join(&arguments.board);
        board.join("fault.sock")
    };
    let found = [socket("boards"), socket("twin/boards")]
        .into_iter()
        .find(|path| path.exists());
    let Some(path) = found else {
        bail!(
            "{}: no virtual board {:?} runs there",
            arguments.state.display(),
            arguments.board
        );
    };
    let said = || path.display().to_string();
    let mut stream = UnixStream::connect(&path).with_context(said)?;
    stream.set_read_timeout(Some(LIMIT)).with_context(said)?;
    stream
        .write_all(format!("{order}\n").as_bytes())
        .with_context(said)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER))
        .read_line(&mut answer)
        .with_context(said)?;
    match answer.trim_end().split_once(' ') {
        None if answer == "ok\n" => Ok(()),
        Some(("error", why)) => bail!("{}: {why}", arguments.board),
        _ => bail!("{}: an answer that is none: {answer:?}", path.display()),
    }
}
