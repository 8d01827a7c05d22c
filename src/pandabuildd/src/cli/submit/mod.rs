//! `pandabuildd submit`: has a source package built by any Launchpad builder, exactly as Launchpad's
//! manager would, without Launchpad. The work is `panda-submit`'s; this is its command line.
//!
//! - [`log`]: the log on the terminal

mod log;

use std::path::{Path, PathBuf};
use std::time::Duration;

use panda_protocol::launchpad::{BuildStatus, Outcome};
use panda_submit::{Ended, Place, Request, one_line};
use tokio_util::sync::CancellationToken;

use self::log::Terminal;
use super::Exit;

/// Have a source package built by any Launchpad builder: a slot of a rack, of `twin`, or another. Serves
/// the files to it, shows the log as it grows, and brings the results here.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The source package; the files that it names are beside it
    #[arg(value_name = "FILE.dsc")]
    dsc: PathBuf,
    /// The builder: http://HOST:PORT
    #[arg(long, value_name = "URL")]
    builder: String,
    /// The chroot to build in, a tarball with chroot-autobuild/ in it (see `chroot build`)
    #[arg(long, value_name = "TARBALL")]
    chroot: PathBuf,
    /// The suite to build for, with its pocket: bookworm, noble-proposed, …
    #[arg(long, default_value = "unstable")]
    suite: String,
    /// The series; without it, the suite less its pocket
    #[arg(long)]
    series: Option<String>,
    /// The architecture to build for; without it, the builder's own
    #[arg(long)]
    arch: Option<String>,
    /// A line of apt sources for the build, `deb URL SUITE COMPONENTS`; may be given several times. Without
    /// any, the chroot's own packages must do
    #[arg(long = "archive", value_name = "LINE")]
    archives: Vec<String>,
    /// A file with the OpenPGP key of an archive, binary or armoured; may be given several times
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// What the archive is for, as the build is told
    #[arg(long, value_name = "PURPOSE", default_value = "PPA")]
    purpose: String,
    /// Leave architecture-independent packages to another builder
    #[arg(long)]
    no_arch_indep: bool,
    /// Make debug symbol packages too
    #[arg(long)]
    debug_symbols: bool,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// The address of this machine that the builder fetches files from, ADDRESS or ADDRESS:PORT; without it,
    /// the one that faces the builder
    #[arg(long, value_name = "ADDR")]
    serve: Option<Place>,
    /// How long to wait for a builder that is not ready (between boots, or not reachable), in seconds
    #[arg(long, value_name = "S", default_value_t = 300)]
    wait: u64,
    /// Do not clean the builder after a build that has ended: its results stay there until somebody does
    #[arg(long)]
    leave: bool,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let stop = stop_token();
    let request = request(args);
    let mut terminal = Terminal::default();
    let submitted = panda_submit::submit(&request, &mut terminal, stop).await;
    terminal.end();
    let submitted = submitted?;
    let exit = match &submitted.ended {
        Ended::NotBegun => Exit::Interrupted,
        Ended::Aborted => {
            eprintln!("pandabuildd: the build was aborted");
            Exit::Interrupted
        }
        Ended::Waiting(outcome) => verdict(outcome, &request.output),
    };
    submitted.fetched?;
    // A build that went well is not made a failure by a builder that is slow to become clean.
    if let Err(error) = submitted.cleaned {
        eprintln!("pandabuildd: the build has ended, but the builder is not clean: {error:#}");
    }
    Ok(exit)
}

fn request(args: Args) -> Request {
    Request {
        dsc: args.dsc,
        builder: args.builder,
        chroot: args.chroot,
        suite: args.suite,
        series: args.series,
        arch: args.arch,
        archives: args.archives,
        keys: args.keys,
        purpose: args.purpose,
        arch_indep: !args.no_arch_indep,
        debug_symbols: args.debug_symbols,
        output: args.output,
        serve: args.serve,
        wait: Duration::from_secs(args.wait),
        leave: args.leave,
    }
}

/// Cancelled by Ctrl-C or SIGTERM; a second one ends the process at once.
fn stop_token() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    let interrupted = super::interrupted();
    tokio::spawn(async move {
        interrupted.await;
        eprintln!(
            "pandabuildd: stopping; a build that has begun is aborted, and its builder left clean. Again to end at once"
        );
        cancel.cancel();
        super::interrupted().await;
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    stop
}

fn verdict(outcome: &Outcome, output: &Path) -> Exit {
    let (exit, text) = match outcome.build_status {
        BuildStatus::Ok => (
            Exit::Done,
            format!(
                "built; {} files in {}",
                outcome.filemap.len(),
                output.display()
            ),
        ),
        BuildStatus::PackageFail => (
            Exit::PackageFail,
            "the package does not build; the log says why".into(),
        ),
        BuildStatus::DepFail => (
            Exit::DepFail,
            format!(
                "a build dependency is missing: {}",
                one_line(&outcome.dependencies)
            ),
        ),
        BuildStatus::ChrootFail => (
            Exit::ChrootFail,
            "the chroot does not work; the log says why".into(),
        ),
        BuildStatus::BuilderFail => (Exit::BuilderFail, "the builder does not work".into()),
        BuildStatus::GivenBack => (
            Exit::GivenBack,
            "the builder gives the build back; try again".into(),
        ),
        BuildStatus::Aborted => (Exit::Aborted, "the build was aborted".into()),
    };
    eprintln!("{}: {text}", outcome.build_status);
    exit
}
