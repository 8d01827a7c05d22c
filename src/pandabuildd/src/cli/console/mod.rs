//! `pandabuildd console`: what a slot's board has said on its serial console, and what it says; with `--interactive`,
//! what is typed goes to the board. Bytes of a board are made harmless before they reach the terminal.

mod terminal;

use panda_slot::BootNo;
use std::io::Write as _;
use std::time::Duration;

use panda_protocol::operators::{ConsoleText, Place, ReadConsole, TypeKeys};

use self::terminal::{Escape, Meant, Raw};
use super::{Exit, Socket, interrupted};
use crate::console::harmless;

/// How long the daemon waits for more, before it is asked again.
const WAIT: Duration = Duration::from_secs(30);
/// How long the daemon may wait for the console to take keys.
const TYPED: Duration = Duration::from_secs(15);

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
    boot: Option<BootNo>,
    /// Type on the console too; ~. at the beginning of a line ends it
    #[arg(long, short, conflicts_with_all = ["boot", "follow"])]
    interactive: bool,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let interrupted = interrupted();
    if args.interactive {
        return tokio::select! {
            ended = interact(&args) => ended,
            () = interrupted => Ok(Exit::Interrupted),
        };
    }
    tokio::select! {
        shown = show(&args) => shown,
        () = interrupted => Ok(Exit::Interrupted),
    }
}

async fn show(args: &Args) -> anyhow::Result<Exit> {
    let mut place = None;
    let mut wait = Duration::ZERO;
    loop {
        let text = some(args, &mut place, wait).await?;
        if text.is_empty() {
            if !args.follow {
                return Ok(Exit::Done);
            }
            wait = WAIT;
        } else if !print(&clean(&text))? {
            return Ok(Exit::Done);
        }
    }
}

/// What there is from `place` on, which moves; nothing where nothing comes within `wait`.
async fn some(args: &Args, place: &mut Option<Place>, wait: Duration) -> anyhow::Result<String> {
    let request = ReadConsole {
        slot: args.slot.clone(),
        boot: args.boot,
        from: *place,
        wait_seconds: (!wait.is_zero()).then_some(wait.as_secs()),
    };
    let ConsoleText { text, next } = args.socket.daemon().ask(&request, wait).await?;
    *place = next.or(*place);
    Ok(text)
}

async fn interact(args: &Args) -> anyhow::Result<Exit> {
    let mut place = None;
    let mut last = String::new();
    loop {
        let text = some(args, &mut place, Duration::ZERO).await?;
        if text.is_empty() {
            break;
        }
        last = text;
    }
    eprintln!(
        "console of {}; ~. at the beginning of a line ends it, ~? tells more",
        args.slot
    );
    let raw = Raw::stdin()?;
    let mut keys = terminal::keys()?;
    let mut screen = Screen::default();
    print(&screen.show(tail(&last)))?;
    let shown = async {
        loop {
            let text = some(args, &mut place, WAIT).await?;
            if !print(&screen.show(&text))? {
                return anyhow::Ok(());
            }
        }
    };
    let typed = async {
        let mut escape = Escape::default();
        while let Some(pressed) = keys.recv().await {
            match escape.take(&pressed) {
                Meant::Type(keys) => type_keys(args, keys).await?,
                Meant::End(keys) => {
                    type_keys(args, keys).await?;
                    break;
                }
                Meant::Help(keys) => {
                    type_keys(args, keys).await?;
                    print(HELP)?;
                }
            }
        }
        anyhow::Ok(())
    };
    let ended = tokio::select! {
        ended = shown => ended,
        ended = typed => ended,
    };
    drop(raw);
    eprintln!();
    ended.map(|()| Exit::Done)
}

const HELP: &str = "\r\n~.  ends this\r\n~~  types one ~\r\n~?  tells this\r\n";

async fn type_keys(args: &Args, keys: Vec<u8>) -> anyhow::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let request = TypeKeys {
        slot: args.slot.clone(),
        keys,
    };
    args.socket.daemon().ask(&request, TYPED).await?;
    Ok(())
}

/// The last lines, to see where one is.
fn tail(text: &str) -> &str {
    const LINES: usize = 15;
    let mut ends = text.trim_end_matches('\n').rmatch_indices('\n');
    ends.nth(LINES - 1).map_or(text, |(at, _)| &text[at + 1..])
}

/// A terminal in raw mode, on which a log is shown as the console itself: without the times that lines begin with.
#[derive(Debug, Default)]
struct Screen {
    /// Bytes of a line's time that are still to come, and not to be shown.
    within: Option<usize>,
}

impl Screen {
    fn show(&mut self, text: &str) -> String {
        // `2026-11-22T15:00:00.000Z `
        const STAMP: usize = 25;
        let mut shown = String::with_capacity(text.len() + 16);
        for c in clean(text).chars() {
            let left = self.within.get_or_insert(STAMP);
            match (c, *left) {
                ('\n', _) => {
                    shown.push_str("\r\n");
                    self.within = None;
                }
                (_, 0) => shown.push(c),
                _ => *left -= 1,
            }
        }
        shown
    }
}

/// Whether anybody still reads.
fn print(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
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

    #[test]
    fn a_screen_shows_lines_without_their_times_wherever_they_are_cut() {
        let log = "2026-11-22T15:00:00.000Z login: root\n2026-11-22T15:00:01.000Z # \u{1b}[2J";
        let whole = Screen::default().show(log);
        assert_eq!(whole, "login: root\r\n# \u{fffd}[2J");
        for cut in 0..log.len() {
            let Some((one, two)) = log.split_at_checked(cut) else {
                continue;
            };
            let mut screen = Screen::default();
            assert_eq!(screen.show(one) + &screen.show(two), whole, "{cut}");
        }
    }

    #[test]
    fn the_last_lines_are_whole() {
        assert_eq!(tail("one\ntwo\n"), "one\ntwo\n");
        let many = "line\n".repeat(40);
        assert_eq!(tail(&many), "line\n".repeat(15));
        assert_eq!(tail(""), "");
    }
}
