//! `pandabuildd reset`: cut a slot's power and boot it from the known-good image, also where the board is
//! ready: an operator who asks for it wants a new boot. (Launchpad's own command, `ppa-reset`, leaves a
//! board that is proven and has run nothing as it is.)

use std::time::Duration;

use panda_protocol::operators::{Reset, ResetAnswer, ResetEnd};

use super::{Exit, Socket};

/// Reset a slot: cut its power and boot it from the known-good image. A board that is ready is cut
/// too, for a new image or in doubt; a reset that is under way already is joined.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: Socket,
    /// The slot's name
    slot: String,
    /// Do not wait for the end of the reset
    #[arg(long)]
    no_wait: bool,
    /// Reset it even if it has a build, or results that Launchpad has not fetched: they are lost
    #[arg(long)]
    force: bool,
    /// How long to wait, in seconds; ends with code 4 when it takes longer
    #[arg(long, value_name = "S", default_value_t = 600, conflicts_with = "no_wait",
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let wait_seconds = (!args.no_wait).then_some(args.timeout);
    let request = Reset {
        slot: args.slot,
        force: args.force,
        wait_seconds,
    };
    let waits = Duration::from_secs(wait_seconds.unwrap_or_default());
    let daemon = args.socket.daemon();
    let ResetAnswer { slot, end } = tokio::select! {
        answer = daemon.ask(&request, waits) => answer?,
        () = super::interrupted() => return Ok(Exit::Interrupted),
    };
    let state = super::slots::one_line(&format!("{} {}", slot.state, slot.detail));
    eprintln!("{}: {}", slot.slot, state.trim_end());
    Ok(match end {
        ResetEnd::Fresh => Exit::Done,
        ResetEnd::UnderWay if args.no_wait => Exit::Done,
        ResetEnd::UnderWay => Exit::TimeOut,
        ResetEnd::Failed => Exit::Error,
    })
}
