//! `pandabuildd ppa-reset`: Launchpad's reset command, `vm_resume_command`. Its exit code is all that the
//! manager looks at: 0 says, in reset protocol 1.1, that a dispatch would be served now; in 2.0, with
//! `--no-wait`, that a reset is under way and Launchpad will be told of its end.
//!
//! The manager gives the command no second chance and kills it after its own time-out, so everything is over
//! before that, and a daemon that is just being restarted is waited for.

use std::time::Duration;

use anyhow::bail;
use panda_protocol::operators::{LaunchpadReset, ResetAnswer, ResetEnd};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Exit, Socket};
use crate::operators::client::AskError;

/// What the daemon keeps of the time for its answer to arrive.
const FOR_THE_ANSWER: Duration = Duration::from_millis(500);
/// Between two tries to reach a daemon.
const PAUSE: Duration = Duration::from_millis(200);

/// Reset a slot as Launchpad's manager does: whatever the slot has is given up. Ends with 0 only when the
/// builder is clean and answers; else with one line on standard error, while the reset goes on and the next
/// call joins it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: Socket,
    /// The slot's name, any host name of its, or such a name's first label
    name: String,
    /// Reset protocol 2.0: only trigger the reset; the daemon tells Launchpad's web service of its end
    #[arg(long)]
    no_wait: bool,
    /// How long it may take in all, in seconds; ends with code 4 when it takes longer. Keep it below the
    /// manager's own time-out
    #[arg(long, value_name = "S", default_value_t = 25, value_parser = clap::value_parser!(u64).range(2..=3600))]
    timeout: u64,
}

impl Args {
    /// The same, asked of another daemon or for somebody else.
    pub(super) fn over(self, socket: Socket) -> Self {
        Self { socket, ..self }
    }
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let reset = reset(&args, until);
    tokio::select! {
        ended = timeout_at(until, reset) => ended.unwrap_or_else(|_| {
            eprintln!("pandabuildd: {}: the daemon has not answered within {} s", shown(&args.name), args.timeout);
            Ok(Exit::TimeOut)
        }),
        () = super::interrupted() => Ok(Exit::Interrupted),
    }
}

async fn reset(args: &Args, until: Instant) -> anyhow::Result<Exit> {
    let ResetAnswer { slot, end } = match ask(args, until).await {
        Ok(answer) => answer,
        // One line, whatever an operator wrote into a hold.
        Err(error) => bail!("{}", super::slots::one_line(&error.to_string())),
    };
    let ready = end == ResetEnd::Fresh || (end == ResetEnd::UnderWay && args.no_wait);
    if ready {
        return Ok(Exit::Done);
    }
    let state = format!("{}: {} {}", slot.slot, slot.state, slot.detail);
    let state = super::slots::one_line(state.trim_end());
    if end == ResetEnd::Failed {
        bail!("{state}");
    }
    eprintln!(
        "pandabuildd: {state}; not ready within {} s: the reset goes on, and the next call joins it",
        args.timeout
    );
    Ok(Exit::TimeOut)
}

/// A daemon that is not there, or goes away, may be back in a moment; asking it again does no harm.
async fn ask(args: &Args, until: Instant) -> Result<ResetAnswer, AskError> {
    let daemon = args.socket.daemon();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let waits = left.saturating_sub(FOR_THE_ANSWER);
        let wait_ms = u64::try_from(waits.as_millis()).unwrap_or(u64::MAX);
        let request = LaunchpadReset {
            name: args.name.clone(),
            wait_ms: (!args.no_wait).then_some(wait_ms),
        };
        let answer = daemon.ask(&request, waits).await;
        let again = matches!(&answer, Err(error) if error.is_absence());
        if !again || left <= FOR_THE_ANSWER + PAUSE {
            return answer;
        }
        sleep(PAUSE).await;
    }
}

/// A name from outside, fit for one line.
fn shown(name: &str) -> String {
    super::slots::one_line(&name.chars().take(100).collect::<String>())
}
