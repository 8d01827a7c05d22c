//! `pandabuildd serve`: the daemon for a rack.

use std::path::PathBuf;

use super::Exit;
use crate::config::Config;
use crate::rack::{Rack, StateLock};

/// Run the daemon for a rack. SIGTERM or Ctrl-C ends it: calls in flight are answered, and the boards go on as
/// they are for the next daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The rack's configuration; rack.example.toml is a commented one
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let interrupted = super::interrupted();
    tokio::pin!(interrupted);
    let config = Config::load(&args.config)?;
    let lock = StateLock::take(&config.rack.state_dir)?;
    let rack = Rack::start(config, lock).await?;
    for (slot, url) in rack.urls() {
        tracing::info!(slot, url, "listening");
    }
    interrupted.await;
    tracing::info!("stopping; the boards go on as they are");
    rack.stop().await;
    Ok(Exit::Done)
}
