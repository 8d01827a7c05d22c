//! `pandabuildd twin`: the daemon over virtual boards on this machine. It starts panda-twin, writes the
//! `rack.toml` that a rack of such boards has, and runs the same daemon over it as `serve` does.
//!
//! ```text
//! STATE/rack.toml   the configuration (`pandabuildd serve --config` takes it too)
//!      /image       the known-good image, where boards are processes: the agent's program and its settings
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
use panda_image::{Image, programs};
use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::manifest;
use serde_json::json;

use self::plan::Plan;
use self::process::Twin;
use super::{Exit, say};
use crate::config::Config;
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
    /// The image that boards of the machine `qemu` boot: a directory that `pandabuildd image build` made
    #[arg(long, value_name = "DIR")]
    image: Option<PathBuf>,
    /// The size of a new scratch disk of a board of the machine `qemu`
    #[arg(long, value_name = "MIB", default_value_t = 8192, requires = "image", value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    scratch_mib: u64,
    /// A shell command that takes the place of the chroot and sbuild in each build
    #[arg(long, value_name = "CMD", conflicts_with = "image")]
    executor: Option<String>,
    /// The architecture that the builders are of; without it, this machine's
    #[arg(long, conflicts_with = "image")]
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
    /// QEMU: a real kernel, from the image that is named with --image
    Qemu,
}

/// The boards, all settled.
enum Boards {
    /// Processes that run this agent.
    Process { agent: PathBuf },
    /// QEMU, with an image.
    Qemu {
        image: PathBuf,
        arch: String,
        scratch_mib: u64,
    },
}

impl Boards {
    /// Looks for everything that they need.
    async fn find(args: &Args) -> anyhow::Result<Self> {
        match (args.machine, &args.image) {
            (Machine::Process, None) => {
                programs::find("unshare", "util-linux")?;
                let agent = args.agent_program.as_deref();
                Ok(Self::Process {
                    agent: program("panda-agent", "--agent-program", agent)?,
                })
            }
            (Machine::Process, Some(_)) => {
                bail!("--image is for boards that boot one; say `--machine qemu` too")
            }
            (Machine::Qemu, None) => bail!(
                "--machine qemu needs --image DIR, the image that its boards boot; `pandabuildd image build` makes one"
            ),
            (Machine::Qemu, Some(directory)) => {
                let named = || format!("--image {}", directory.display());
                if args.agent_program.is_some() {
                    bail!("--agent-program: the image has its own agent; make another image");
                }
                let path = directory.canonicalize().with_context(named)?;
                let loading = path.clone();
                let image = tokio::task::spawn_blocking(move || Image::load(&loading))
                    .await
                    .context("loading the image")?
                    .with_context(named)?;
                let manifest = image.manifest();
                if manifest.machine != manifest::Machine::Qemu {
                    bail!(
                        "{}: its manifest says that it is for a machine of another kind, and --machine is qemu; \
                         `pandabuildd image build` makes one for QEMU",
                        named()
                    );
                }
                Ok(Self::Qemu {
                    image: path,
                    arch: manifest.arch.clone(),
                    scratch_mib: args.scratch_mib,
                })
            }
        }
    }

    /// What panda-twin is told of them.
    fn options(&self, plan: &Plan) -> Vec<String> {
        match self {
            Self::Process { .. } => vec!["--machine=process".to_owned()],
            Self::Qemu {
                arch, scratch_mib, ..
            } => {
                let board = [
                    "--machine=qemu".to_owned(),
                    format!("--arch={arch}"),
                    format!("--scratch-mib={scratch_mib}"),
                ];
                let links = plan.links().map(|link| format!("--link={link}"));
                board.into_iter().chain(links).collect()
            }
        }
    }
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    // First, so that nothing that is started below can be left behind by a signal.
    let interrupted = super::interrupted();
    tokio::pin!(interrupted);
    let twin_program = program("panda-twin", "--twin-program", args.twin_program.as_deref())?;
    let boards = Boards::find(&args).await?;
    let state = State::open(args.state.as_deref())?;
    // Before anything in the directory is touched: it may be a running daemon's, and so may its boards.
    let lock = StateLock::take(state.path())?;

    let earlier = Config::load(&state.path().join("rack.toml")).ok();
    let image = match &boards {
        Boards::Process { .. } => None,
        Boards::Qemu { image, .. } => Some(image.as_path()),
    };
    let plan = Plan::make(args.listen, args.slots, image, earlier.as_ref())?;
    let options = boards.options(&plan);
    let result = match Twin::start(&twin_program, state.path(), args.slots, &options).await {
        Ok(twin) => {
            let served = serve(&args, state.path(), lock, &boards, &plan, &mut interrupted).await;
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
    boards: &Boards,
    plan: &Plan,
    interrupted: &mut (impl Future<Output = ()> + Unpin),
) -> anyhow::Result<Exit> {
    if let Boards::Process { agent } = boards {
        let settings = AgentToml {
            version: agent_toml::VERSION,
            arch: args
                .arch
                .clone()
                .unwrap_or_else(|| programs::host_arch().to_owned()),
            executor: args.executor.clone(),
            insecure_fixed_disk_key: false,
        };
        let (directory, agent) = (state.join("image"), agent.clone());
        tokio::task::spawn_blocking(move || {
            panda_image::process::make(&directory, &agent, &settings)
        })
        .await
        .context("making the image")??;
    }
    let path = state.join("rack.toml");
    plan.write(&path)?;

    let config = Config::load(&path)?;
    let socket = config.operators.socket_of(state);
    let rack = Rack::start(config, lock).await?;
    eprintln!(
        "pandabuildd: this rack's operators ask with --socket {}",
        socket.display()
    );
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
