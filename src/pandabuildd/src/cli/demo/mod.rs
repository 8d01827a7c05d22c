//! `pandabuildd demo`: one boot, one build, shown from end to end on two virtual Pandas in QEMU, and shown to be
//! no accident by a control run that differs in one thing only.
//!
//! ```text
//!                 ┌─ the image ───────────────────── Panda 1: build, power cut, boot, build ─▶ found: nothing
//! image, chroot ──┤
//!                 └─ the same with a fixed disk key ─ Panda 2: build, power cut, boot, build ─▶ found: every mark
//! ```
//! The package that is built leaves marks wherever root can reach (root file system, raw disk, swap), and looks for those of
//! an earlier build; `fixtures/sources/panda-marks` is its source. Both Pandas work at the same time. Where image and chroot are in
//! the cache nothing is fetched.
//!
//! - [`inputs`]: image, chroot and package
//! - [`rack`]: a rack of one Panda, a process of its own
//! - [`builds`]: a build, by `submit`, with its log
//! - [`marks`]: what the builds say of marks
//! - [`report`]: what happened

mod builds;
mod inputs;
mod marks;
mod rack;
mod report;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use panda_image::steps::{Interrupted, Steps};
use panda_protocol::operators::BootHistory;
use tokio_util::sync::CancellationToken;

use self::builds::{Built, Show};
use self::inputs::Inputs;
use self::rack::DemoRack;
use super::{Exit, say, steps_until_interrupted};

/// How often the package is built on each Panda.
const BUILDS: u32 = 2;

/// Show on two virtual Pandas in QEMU that nothing of one build reaches the next: a package that leaves marks as root is built
/// twice, with a power cut in between, and finds none; on a Panda whose disk key is fixed it finds them all. Needs root the
/// first time, when image and chroot are made. Ends with 0 only where all of that is so.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The Debian suite of the image and the chroot; without it, this machine's own
    #[arg(long)]
    suite: Option<String>,
    /// An archive's URL, or a whole `deb …` line; without it, this machine's own apt sources are used
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// The agent, a static program; without it, the panda-agent beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// The size of each Panda's scratch disk
    #[arg(long, value_name = "MIB", default_value_t = 1152, value_parser = clap::value_parser!(u64).range(1152..=65536))]
    scratch_mib: u64,
    /// Keep the directory with everything that the demonstration leaves: states, logs, consoles, results
    #[arg(long)]
    keep: bool,
}

/// One of the two Pandas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Runs the image as it is.
    Real,
    /// Runs the image with the fixed disk key.
    Control,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Control => "control",
        }
    }
}

/// What became of one Panda.
#[derive(Debug)]
struct Run {
    builds: Vec<Built>,
    boots: Vec<BootHistory>,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let steps = steps_until_interrupted();
    let shown = show(&args, &steps).await;
    steps.end();
    match shown {
        Ok(true) => Ok(Exit::Done),
        Ok(false) => Ok(Exit::Error),
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("pandabuildd: interrupted; nothing is left running");
            Ok(Exit::Interrupted)
        }
        Err(error) => Err(error),
    }
}

/// The whole of it; whether everything was as it must be.
async fn show(args: &Args, steps: &Steps) -> anyhow::Result<bool> {
    let began = Instant::now();
    let work = Work::open(args.keep)?;
    say("== Image, chroot and package")?;
    let inputs = Inputs::prepare(args, work.path(), steps).await?;
    steps.end();
    inputs.tell(began.elapsed())?;

    say("")?;
    say(
        "== Two virtual Pandas: one boots the image, the other the same image with a fixed disk key",
    )?;
    let built = Instant::now();
    // Where one fails, the other need not go on.
    let stop = steps.stop().child_token();
    let panda = |role| panda(role, &inputs, work.path(), args.scratch_mib, &stop);
    let (real, control) = tokio::join!(panda(Role::Real), panda(Role::Control));
    if steps.stop().is_cancelled() {
        return Err(Interrupted.into());
    }
    let (real, control) = match (real, control) {
        (Ok(real), Ok(control)) => (real, control),
        // The first to fail has stopped the other, whose "interrupted" says nothing.
        (Err(error), other) if !error.is::<Interrupted>() => {
            drop(other);
            return Err(error.context("the Panda with the image"));
        }
        (_, Err(error)) => return Err(error.context("the Panda with the fixed disk key")),
        (Err(error), Ok(_)) => return Err(error),
    };
    let took = built.elapsed();
    let good = report::tell(&real, &control)?;
    say("")?;
    say(&format!(
        "In all: {:.0} s, of which {:.0} s are boots and builds",
        began.elapsed().as_secs_f64(),
        took.as_secs_f64()
    ))?;
    work.close()?;
    Ok(good)
}

/// One Panda's whole life: a rack of its own, two builds, and the end of it.
async fn panda(
    role: Role,
    inputs: &Inputs,
    work: &Path,
    scratch_mib: u64,
    stop: &CancellationToken,
) -> anyhow::Result<Run> {
    let lived = async {
        let image = inputs.image(role);
        let rack = DemoRack::start(role, image, &work.join(role.name()), scratch_mib, stop).await?;
        let used = use_rack(role, &rack, inputs, work, stop).await;
        let boots = rack.boots().await;
        let stopped = rack.stop().await;
        let builds = match used {
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                let tail = DemoRack::last_words(&work.join(role.name()));
                return Err(error.context(tail));
            }
            Ok(builds) => builds,
        };
        stopped?;
        Ok(Run {
            builds,
            boots: boots?,
        })
    }
    .await;
    if lived.is_err() {
        stop.cancel();
    }
    lived
}

async fn use_rack(
    role: Role,
    rack: &DemoRack,
    inputs: &Inputs,
    work: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Built>> {
    let mut builds = Vec::new();
    for number in 1..=BUILDS {
        let waited = Instant::now();
        rack.wait_fresh(stop).await?;
        let show = Show::new(role, number);
        if number == 1 {
            show.note(&format!(
                "{} has booted and proved itself in {:.0} s; operators ask with --socket {}",
                rack.slot,
                waited.elapsed().as_secs_f64(),
                rack.socket().display()
            ))?;
        }
        let output = work.join(format!("{}-results-{number}", role.name()));
        let last = number == BUILDS;
        builds.push(builds::run(rack, inputs, &output, show, last, stop).await?);
    }
    Ok(builds)
}

/// The directory of everything that the demonstration leaves.
enum Work {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Work {
    fn open(keep: bool) -> anyhow::Result<Self> {
        // Not /tmp, which may be in memory: disks are as large as the builds make them. Short, because the paths of Unix
        // sockets are limited.
        let directory = tempfile::Builder::new()
            .prefix("panda-demo.")
            .tempdir_in("/var/tmp")
            .context("/var/tmp")?;
        Ok(if keep {
            Self::Kept(directory.keep())
        } else {
            Self::Temporary(directory)
        })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(directory) => directory.path(),
        }
    }

    fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Kept(path) => say(&format!("Everything is kept in {}", path.display())),
            Self::Temporary(directory) => {
                let path = directory.path().to_owned();
                directory
                    .close()
                    .with_context(|| format!("{} is left behind", path.display()))
            }
        }
    }
}
