//! A boot's first seconds: from the machine's start to the moment the master knows that this board
//! runs what it sent.
//!
//! ```text
//! a process starts ▶ boot.toml, agent.toml ▶ scratch wiped ▶ rootfs ─┬─▶ host name ▶ link listens ▶ worker
//! a kernel starts ▶ `machine`: its own first seconds ────────────────┘                   └─▶ report, until accepted
//! ```
//! What fails here is on the console, and the master is told which step it was, as far as it can be reached; the
//! boot is then never proven. The console never shows a secret.

mod files;
pub mod machine;
mod scratch;
mod supervise;

use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

use crate::foreign::Foreign;
use panda_protocol::agent_toml::AgentToml;
use panda_protocol::boot_toml::BootToml;
use panda_protocol::digest::Sha256;
use panda_protocol::link::FIXED_DISK_KEY;

use crate::link::{DepotClient, DepotError, LinkServer, Reporter, Served};
use crate::worker::{Settings, Worker};
pub use files::FilesError;
use machine::{Failed, Handover, HandoverError, Steps};
pub use supervise::{SuperviseError, supervise};

/// The kind of machine that a boot is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// A virtual board: this process, in namespaces of its own, on a host that has network, time and
    /// a root file system already.
    Process,
    /// A virtual board with a kernel of its own.
    Qemu,
    /// A PandaBoard.
    Panda,
}

impl Machine {
    /// Whether it has a kernel of its own, whose first process this program is.
    #[must_use]
    pub fn has_kernel(self) -> bool {
        match self {
            Self::Process => false,
            Self::Qemu | Self::Panda => true,
        }
    }
}

/// Why a boot failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// `boot.toml` or `agent.toml`.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// What the ramdisk's program left.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// The depot.
    #[error(transparent)]
    Depot(#[from] DepotError),
    /// A step.
    #[error(transparent)]
    Step(#[from] Failed),
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
    let mut found = if machine.has_kernel() {
        Found::handed_over()?
    } else {
        Found::in_files(root)?
    };
    let (slot, boot) = (&found.boot.slot, &found.boot.boot);
    tracing::info!(agent = crate::VERSION, ?machine, %slot, %boot, "booting");
    if own_names {
        name_host(&found.boot.network.hostname);
    }
    // From the first moment on, and beside what follows, which may take its time.
    let alive = DepotClient::new(&found.boot.link)
        .map(|depot| tokio::spawn(async move { depot.say_alive().await }));
    match start(machine, &mut found, scratch).await {
        Ok((server, worker, depot)) => {
            let reporter = Reporter::new(&found.boot, &worker, found.started).after(
                found.steps.done().to_vec(),
                found.rootfs,
                found.insecure(),
            );
            drop(found);
            tracing::info!("the link listens");
            let served = server.run(worker, reporter.clone(), CancellationToken::new());
            let proven = async {
                depot.prove(&reporter).await;
                if let Ok(alive) = alive {
                    alive.abort();
                }
            };
            let ((), ()) = tokio::join!(served, proven);
            Ok(())
        }
        Err(failed) => {
            machine::tell(
                &found.boot,
                &machine::failure(&found.boot, &failed, &found.steps),
            )
            .await;
            Err(failed.into())
        }
    }
}

/// What a boot knows when it comes to its link.
struct Found {
    boot: BootToml,
    agent: AgentToml,
    steps: Steps,
    /// The root file system that was verified.
    rootfs: Option<Sha256>,
    /// When the machine started.
    started: Instant,
}

impl Found {
    /// The process machine has a file system with the two files in it.
    fn in_files(root: &Path) -> Result<Self, BootError> {
        Ok(Self {
            started: Instant::now(),
            boot: files::boot(root)?,
            agent: files::agent(root)?,
            steps: Steps::default(),
            rootfs: None,
        })
    }

    /// The others have had a program of the ramdisk.
    fn handed_over() -> Result<Self, BootError> {
        let Handover {
            boot,
            agent,
            rootfs,
            steps,
            at,
        } = Handover::receive()?;
        let up = machine::since_kernel();
        let mut steps = Steps::resumed(steps);
        steps.push(
            "agent",
            up.saturating_sub(at),
            "from the ramdisk's to the root file system's",
        );
        let now = Instant::now();
        Ok(Self {
            boot,
            agent,
            steps,
            rootfs: Some(rootfs),
            started: now.checked_sub(up).unwrap_or(now),
        })
    }

    fn insecure(&self) -> Vec<String> {
        let fixed = self.agent.insecure_fixed_disk_key;
        fixed
            .then(|| FIXED_DISK_KEY.to_owned())
            .into_iter()
            .collect()
    }
}

/// The steps that all machines have: what a reset has left is removed, the link listens, the worker is ready.
async fn start(
    machine: Machine,
    found: &mut Found,
    scratch: &Path,
) -> Result<(LinkServer, Served, DepotClient), Failed> {
    let Found {
        boot,
        agent,
        steps,
        rootfs,
        ..
    } = found;
    if !machine.has_kernel() {
        let wiped = async { scratch::wipe(scratch).map(|said| ((), said)) };
        steps.run("scratch", wiped).await?;
        // It runs in its host's, and checks what it is told of as any board does.
        if let Some(wanted) = &boot.rootfs {
            let checked = async {
                let depot = DepotClient::new(&boot.link).map_err(|error| error.to_string())?;
                let checked = machine::rootfs::check(&depot, wanted).await;
                checked.map_err(|error| error.to_string())?;
                Ok::<_, String>(((), format!("{} bytes, verified", wanted.bytes)))
            };
            steps.run("rootfs", checked).await?;
            *rootfs = Some(wanted.sha256);
        }
    }
    let listening = async {
        let server = LinkServer::listen(&boot.link)
            .await
            .map_err(|error| error.to_string())?;
        let depot = DepotClient::new(&boot.link).map_err(|error| error.to_string())?;
        Ok::<_, String>(((server, depot), boot.link.listen.clone()))
    };
    let (server, depot) = steps.run("link", listening).await?;
    let state = scratch.join("worker");
    let started = async {
        let worker = match &boot.worker {
            Some(worker) => Foreign::start_up(worker, &agent.arch, &state, depot.depot())
                .await
                .map(Served::Foreign)
                .map_err(|error| format!("the image's own worker: {error}"))?,
            None => {
                let mut settings = Settings::new(state, agent.arch.clone());
                settings.executor = agent.executor.clone();
                Worker::start_up(settings, Some(depot.depot()))
                    .await
                    .map(Served::Own)
                    .map_err(|error| format!("the worker: {error}"))?
            }
        };
        Ok::<_, String>((worker, String::new()))
    };
    let worker = steps.run("worker", started).await?;
    Ok((server, worker, depot))
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
