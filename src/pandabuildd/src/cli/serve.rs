//! `pandabuildd serve`: the daemon for a rack. It tells a service manager that asks (systemd's `Type=notify`) when it is
//! ready and when it stops, and listens on the sockets that one holds for it (`docs/restarts.md`).

use std::path::PathBuf;

use sd_notify::NotifyState;

use super::Exit;
use super::check::refuse;
use crate::rack::{Rack, Ready, Sockets, StateLock};

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
    #[cfg(debug_assertions)]
    if std::env::var_os("PANDABUILDD_FAILPOINTS").is_some_and(|value| value == "list") {
        crate::failpoint::Point::names().try_for_each(super::say)?;
        return Ok(Exit::Done);
    }
    // Before anything else is opened.
    let sockets = Sockets::passed()?;
    let interrupted = super::interrupted();
    tokio::pin!(interrupted);
    let (config, ready) = match Ready::of(&args.config).await {
        Ok(ready) => ready,
        Err(error) => return refuse(error),
    };
    for former in config.boot.former_keys() {
        tracing::warn!("{former}");
    }
    let lock = StateLock::take(&config.rack.state_dir)?;
    let rack = Rack::start_at(config, ready, lock, sockets).await?;
    for (slot, url) in rack.urls() {
        tracing::info!(slot, url, "listening");
    }
    tell(NotifyState::Ready);
    interrupted.await;
    tell(NotifyState::Stopping);
    tracing::info!("stopping; the boards go on as they are");
    rack.stop().await;
    Ok(Exit::Done)
}

/// Tells the service manager, where there is one.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager cannot be told how the daemon is");
    }
}
