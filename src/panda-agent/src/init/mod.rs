//! A boot's first seconds: from the machine's start to the moment the master knows that this board
//! runs what it sent.
//!
//! ```text
//! machine starts ▶ boot.toml, agent.toml ▶ scratch wiped ▶ host name ▶ link listens ▶ worker
//!                                                                          └─▶ report, until accepted
//! ```
//! What fails here is on the console, and the boot is never proven. The console never shows a secret.

mod files;
mod scratch;
mod supervise;

use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

use crate::foreign::{Foreign, ForeignError};
use crate::link::{DepotClient, DepotError, LinkError, LinkServer, Reporter, Served};
use crate::worker::{Settings, Worker, WorkerError};
pub use files::FilesError;
pub use scratch::ScratchError;
pub use supervise::{SuperviseError, supervise};

/// The kind of machine that a boot is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// A virtual board: this process, in namespaces of its own, on a host that has network, time and
    /// a root file system already.
    Process,
}

/// Why a boot failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// `boot.toml` or `agent.toml`.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The scratch disk.
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    /// The worker.
    #[error("the worker: {0}")]
    Worker(#[from] WorkerError),
    /// The worker that the image names.
    #[error("the image's own worker: {0}")]
    Foreign(#[from] ForeignError),
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The depot.
    #[error(transparent)]
    Depot(#[from] DepotError),
}

/// Boots, and then works for the master for as long as the machine has power. `own_names` says that
/// the machine has a host name of its own to set.
///
/// # Errors
/// See [`BootError`].
pub async fn boot(
    machine: Machine,
    root: &Path,
    scratch: &Path,
    own_names: bool,
) -> Result<(), BootError> {
    let started = Instant::now();
    let boot = files::boot(root)?;
    let agent = files::agent(root)?;
    tracing::info!(agent = crate::VERSION, ?machine, slot = %boot.slot, boot = %boot.boot, "booting");
    scratch::wipe(scratch)?;
    if own_names {
        name_host(&boot.network.hostname);
    }
    let server = LinkServer::listen(&boot.link).await?;
    let depot = DepotClient::new(&boot.link)?;
    let state = scratch.join("worker");
    let worker = match &boot.worker {
        Some(worker) => {
            Served::Foreign(Foreign::start_up(worker, &agent.arch, &state, depot.depot()).await?)
        }
        None => {
            let mut settings = Settings::new(state, agent.arch);
            settings.executor = agent.executor;
            Served::Own(Worker::start_up(settings, Some(depot.depot())).await?)
        }
    };
    let reporter = Reporter::new(&boot, &worker, started);
    drop(boot);
    tracing::info!("the link listens");
    let served = server.run(worker, reporter.clone(), CancellationToken::new());
    let ((), ()) = tokio::join!(served, depot.prove(&reporter));
    Ok(())
}

/// The Debian architecture of this machine, as dpkg names it.
#[must_use]
pub fn native_arch() -> Option<String> {
    let output = std::process::Command::new("dpkg")
        .arg("--print-architecture")
        .output()
        .ok()?;
    let arch = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!arch.is_empty()).then_some(arch)
}

fn name_host(name: &str) {
    if let Err(error) = nix::unistd::sethostname(name) {
        tracing::warn!(%error, name, "the host name stays as it is");
    }
}
