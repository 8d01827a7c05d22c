//! `pandabuildd console`: what a slot's board has said on its serial console, and what it says.

use std::io::Write as _;
use std::time::Duration;

use anyhow::bail;

use super::{Exit, Socket, interrupted};
use crate::console::{Place, harmless};
use crate::control::client;
use crate::control::wire::{Answer, Ask};

/// How long the daemon waits for more, before it is asked again.
const WAIT: Duration = Duration::from_secs(30);

/// Show what a slot's board says on its serial console.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: Socket,
    /// The slot
    slot: String,
    /// Go on with what comes, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Of this boot only; of the last one where it is left out
    #[arg(long, value_name = "N")]
    boot: Option<u64>,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let interrupted = interrupted();
    tokio::select! {
        shown = show(&args) => shown,
        () = interrupted => Ok(Exit::Interrupted),
    }
}

async fn show(args: &Args) -> anyhow::Result<Exit> {
    let mut from: Option<Place> = None;
    let mut wait = None;
    loop {
        let ask = Ask::Console {
            slot: args.slot.clone(),
            boot: args.boot,
            from,
            wait_seconds: wait.map(|wait: Duration| wait.as_secs()),
        };
        let answer = client::ask(&args.socket.socket, ask, wait.unwrap_or_default()).await?;
        let Answer::Console { text, next } = answer else {
            bail!("the daemon answered another question");
        };
        from = next.or(from);
        if text.is_empty() {
            if !args.follow {
                return Ok(Exit::Done);
            }
            wait = Some(WAIT);
        } else if !print(&text)? {
            return Ok(Exit::Done);
        }
    }
}

/// Whether anybody still reads.
fn print(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out
        .write_all(clean(text).as_bytes())
        .and_then(|()| out.flush())
    {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The daemon has recorded it clean; what a terminal acts on does not reach one, whoever wrote the log.
fn clean(text: &str) -> String {
    let clean = |c| {
        if c == '\n' || harmless(c) {
            c
        } else {
            '\u{fffd}'
        }
    };
    text.chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_acts_on_is_printed() {
        assert_eq!(
            clean("a\tä\n\u{1b}[2J\r\u{202e}b\n"),
            "a\tä\n\u{fffd}[2J\u{fffd}\u{fffd}b\n"
        );
    }
}
