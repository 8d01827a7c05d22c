//! `pandabuildd twin`: the daemon over virtual boards on this machine. It starts panda-twin, writes the
//! `rack.toml` that a rack of such boards has, and runs the same daemon over it as `serve` does.
//!
//! ```text
//! STATE/rack.toml   the configuration (`pandabuildd serve --config` takes it too)
//!      /image       the known-good image: the agent's program and its settings
//!      /twin        panda-twin's own state: sockets, scratch disks; /twin.log its messages
//!      /…           the daemon's own state
//! ```
//!
//! - [`process`]: panda-twin as a process: started, or found running and taken over
//! - [`plan`]: addresses, and the `rack.toml`

mod plan;
mod process;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use panda_protocol::agent_toml::{self, AgentToml};
use serde_json::json;

use self::plan::Plan;
use self::process::Twin;
use super::{Exit, programs, say};
use crate::config::Config;
use crate::images;
use crate::rack::{Rack, StateLock};

/// Run the daemon over virtual boards on this machine. Slots are panda01, panda02, …; each has a port of its
/// own, and all are at the first port too, by Host name. Prints one line of JSON a slot when it listens.
/// Ctrl-C or SIGTERM stops the daemon and the boards.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many boards
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    slots: u16,
    /// What a board is
    #[arg(long, value_name = "KIND", default_value = "process")]
    machine: Machine,
    /// The first slot's address; the others count up from its port. Port 0: any free ports
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8221")]
    listen: SocketAddr,
    /// Where everything is kept; without it, a temporary directory that is removed at the end
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A shell command that takes the place of the chroot and sbuild in each build
    #[arg(long, value_name = "CMD")]
    executor: Option<String>,
    /// The architecture that the builders are of; without it, this machine's
    #[arg(long)]
    arch: Option<String>,
    /// The panda-twin program; without it, the one beside this program or in PATH
    #[arg(long, value_name = "FILE")]
    twin_program: Option<PathBuf>,
    /// The panda-agent program; without it, the one beside this program or in PATH
    #[arg(long, value_name = "FILE")]
    agent_program: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Machine {
    /// A process of this machine, in namespaces of its own
    Process,
}

impl Machine {
    const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
        }
    }
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    // First, so that nothing that is started below can be left behind by a signal.
    let interrupted = super::interrupted();
    tokio::pin!(interrupted);
    let twin_program = program("panda-twin", "--twin-program", args.twin_program.as_deref())?;
    let agent_program = program(
        "panda-agent",
        "--agent-program",
        args.agent_program.as_deref(),
    )?;
    programs::find("unshare", "util-linux")?;
    let state = State::open(args.state.as_deref())?;
    // Before anything in the directory is touched: it may be a running daemon's, and so may its boards.
    let lock = StateLock::take(state.path())?;

    let result = match Twin::start(&twin_program, state.path(), args.slots, args.machine.name())
        .await
    {
        Ok(twin) => {
            let served = serve(&args, state.path(), lock, &agent_program, &mut interrupted).await;
            let stopped = twin.stop().await;
            served.and_then(|exit| stopped.map(|()| exit))
        }
        Err(error) => Err(error),
    };
    let removed = state.close();
    result.and_then(|exit| removed.map(|()| exit))
}

/// The daemon itself, until it is interrupted.
async fn serve(
    args: &Args,
    state: &Path,
    lock: StateLock,
    agent: &Path,
    interrupted: &mut (impl Future<Output = ()> + Unpin),
) -> anyhow::Result<Exit> {
    let settings = AgentToml {
        version: agent_toml::VERSION,
        arch: args
            .arch
            .clone()
            .unwrap_or_else(|| programs::host_arch().to_owned()),
        executor: args.executor.clone(),
        insecure_fixed_disk_key: false,
    };
    let (directory, agent) = (state.join("image"), agent.to_owned());
    tokio::task::spawn_blocking(move || images::process::make(&directory, &agent, &settings))
        .await
        .context("making the image")??;
    let path = state.join("rack.toml");
    let plan = Plan::make(args.listen, args.slots, Config::load(&path).ok().as_ref())?;
    plan.write(&path)?;

    let rack = Rack::start(Config::load(&path)?, lock).await?;
    for (slot, url) in rack.urls() {
        say(&json!({ "slot": slot, "url": url }).to_string())?;
    }
    interrupted.await;
    tracing::info!("stopping the daemon and the boards");
    rack.stop().await;
    Ok(Exit::Done)
}

fn program(name: &str, option: &str, given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) if programs::executable(path) => {
            path.canonicalize().with_context(|| path.display().to_string())
        }
        Some(path) => bail!("{option} {}: not an executable file", path.display()),
        None => programs::beside_ours(name).with_context(|| {
            format!(
                "the program {name} is neither beside this program nor in PATH; build it with `cargo build -p \
                 {name}`, or name it with {option}"
            )
        }),
    }
}

/// Where everything is kept.
enum State {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl State {
    fn open(given: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = given else {
            let directory = tempfile::Builder::new().prefix("pandabuildd-").tempdir();
            return Ok(Self::Temporary(
                directory.context("a temporary state directory")?,
            ));
        };
        // What is kept here is not for everybody: logs and sources of private archives.
        super::make_directory(path, 0o700)
            .and_then(|()| path.canonicalize())
            .map(Self::Kept)
            .with_context(|| format!("--state {}", path.display()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(directory) => directory.path(),
        }
    }

    fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::Temporary(directory) => {
                let path = directory.path().to_owned();
                directory
                    .close()
                    .with_context(|| format!("{} is left behind", path.display()))
            }
        }
    }
}
