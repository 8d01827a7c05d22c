//! `pandabuildd hold`, `drain`, `release`: a slot out of service, and back.

use std::time::Duration;

use panda_protocol::operators::{Drain, Hold, HoldAnswer, HoldEnd, MAX_REASON, Release};

use super::slots::one_line;
use super::{Exit, Socket};

/// Take a slot out of service. Launchpad gives it no more builds; its board loses power, and gets none until `release`. A build
/// that it has goes on to its end first, and its results stay for Launchpad: `drain --wait` waits for that, `reset --force`
/// gives it up.
#[derive(Debug, clap::Args)]
pub(crate) struct HoldArgs {
    #[command(flatten)]
    socket: Socket,
    /// The slot's name
    slot: String,
    /// Why, in one line: everybody who looks is shown it
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
}

/// Take a slot out of service once its build has ended: as `hold`, and with --wait it ends when the board is without power.
#[derive(Debug, clap::Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    hold: HoldArgs,
    /// Wait until its build has ended and its board is without power; ends with code 4 when that takes longer than --timeout
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds
    #[arg(long, value_name = "S", default_value_t = 21600, requires = "wait",
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
}

/// Put a held or failed slot back into service: it boots at once.
#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseArgs {
    #[command(flatten)]
    socket: Socket,
    /// The slot's name
    slot: String,
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_REASON || text.chars().any(char::is_control) {
        return Err(format!("expected one line of 1 to {MAX_REASON} bytes"));
    }
    Ok(text.to_owned())
}

/// Runs `hold`.
pub(super) async fn hold(args: HoldArgs) -> anyhow::Result<Exit> {
    let request = Hold {
        slot: args.slot,
        reason: args.reason,
    };
    let answer = args.socket.daemon().ask(&request, Duration::ZERO).await?;
    tell(&answer);
    Ok(Exit::Done)
}

/// Runs `drain`.
pub(super) async fn drain(args: DrainArgs) -> anyhow::Result<Exit> {
    let wait_seconds = args.wait.then_some(args.timeout);
    let request = Drain {
        slot: args.hold.slot,
        reason: args.hold.reason,
        wait_seconds,
    };
    let waits = Duration::from_secs(wait_seconds.unwrap_or_default());
    let daemon = args.hold.socket.daemon();
    let answer = tokio::select! {
        answer = daemon.ask(&request, waits) => answer?,
        () = super::interrupted() => return Ok(Exit::Interrupted),
    };
    tell(&answer);
    Ok(match answer.end {
        HoldEnd::Off => Exit::Done,
        HoldEnd::UnderWay if args.wait => Exit::TimeOut,
        HoldEnd::UnderWay => Exit::Done,
        HoldEnd::Released => Exit::Error,
    })
}

/// Runs `release`.
pub(super) async fn release(args: ReleaseArgs) -> anyhow::Result<Exit> {
    let request = Release { slot: args.slot };
    let slot = args.socket.daemon().ask(&request, Duration::ZERO).await?;
    let state = one_line(&format!("{} {}", slot.state, slot.detail));
    eprintln!("{}: {}", slot.slot, state.trim_end());
    Ok(Exit::Done)
}

fn tell(answer: &HoldAnswer) {
    let slot = &answer.slot;
    let told = match (answer.end, &slot.build_id) {
        (HoldEnd::Off, _) => "held; its board is without power".to_owned(),
        (HoldEnd::UnderWay, Some(build)) => format!("held once {build} has ended; it goes on"),
        (HoldEnd::UnderWay, None) => "held; its board loses power now".to_owned(),
        (HoldEnd::Released, _) => "somebody has released it meanwhile".to_owned(),
    };
    eprintln!("{}: {}", slot.slot, one_line(&told));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line() {
        assert_eq!(reason(" new supply "), Ok("new supply".to_owned()));
        for text in ["", "  ", "a\nb", "\u{1b}[2J", &"x".repeat(501)] {
            assert!(reason(text).is_err(), "{text:?}");
        }
    }
}
