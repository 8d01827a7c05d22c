//! `pandabuildd usb`: what is on this machine's USB, for whoever puts a rack together; and which board belongs on a
//! slot's port.

mod learn;
mod list;

use super::Exit;

/// Look at this machine's USB, and learn which board is on a slot's port.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show hubs, their ports and what is on them; boot ROMs with what they say of their chip
    List(list::Args),
    /// Record which board is on a slot's port, so that another one is refused
    Learn(learn::Args),
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    match args.command {
        Action::List(args) => list::run(args).await,
        Action::Learn(args) => learn::run(args).await,
    }
}
