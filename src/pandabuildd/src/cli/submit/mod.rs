//! `pandabuildd submit`: has a source package built by any Launchpad builder, exactly as Launchpad's
//! manager would, without Launchpad.
//!
//! ```text
//! check the .dsc and its files ─ serve them ─ status IDLE ─ ensurepresent (all at once) ─ build
//!   ─ status, status, … with the log ─ fetch the results, checked ─ clean ─ exit code
//! ```
//!
//! - [`dsc`]: the source package, checked before anything is sent
//! - [`serve`]: gives the builder the files
//! - [`dispatch`]: from IDLE to BUILDING
//! - [`follow`]: until it has ended; [`log`]: the log on the terminal
//! - [`fetch`]: the results
//! - [`keys`]: OpenPGP keys of archives

mod dispatch;
mod dsc;
mod fetch;
mod follow;
mod keys;
mod log;
mod serve;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use panda_http::client::ClientLimits;
use panda_http::endpoint::EndpointSettings;
use panda_http::{BuilderClient, Endpoint, pinned};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildStatus, Outcome};
use tokio_util::sync::CancellationToken;

use self::dispatch::Job;
use self::dsc::SourcePackage;
use self::follow::{Ended, Follower};
use self::log::Show;
use self::serve::{FileServer, Place};
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
    // Everything that can be wrong on this side is found before the builder hears of it.
    let package = SourcePackage::open(&args.dsc)?;
    let chroot = chroot(&args.chroot)?;
    for (option, word) in [
        ("--suite", Some(&args.suite)),
        ("--series", args.series.as_ref()),
        ("--arch", args.arch.as_ref()),
        ("--purpose", Some(&args.purpose)),
    ] {
        word.map_or(Ok(()), |word| super::check_word(option, word))?;
    }
    let keys = keys::read(&args.keys)?;
    for line in &args.archives {
        check_archive(line)?;
    }
    let output = Output::open(&args.output, &package)?;
    let client = client(&args.builder)?;

    let server = FileServer::start(&args.builder, args.serve.as_ref()).await?;
    let job = Job::new(&package, chroot, keys);
    let mut show = Show::new(&format!("{} {}", package.source, package.version));
    let ready = dispatch::ready(&client, Duration::from_secs(args.wait), &mut show);
    let build = tokio::select! {
        build = async {
            ready.await?;
            dispatch::send_files(&client, &job, &package, &args.chroot, &server).await?;
            job.call(&args, &client).await
        } => build?,
        () = stop.cancelled() => return Ok(Exit::Interrupted),
    };
    let build_id = build.build_id.clone();
    // From here on the builder is ours: whatever happens, it is left clean.
    let begun = dispatch::build(&client, build).await;
    let mut follower = Follower::new(&client, build_id, &mut show, stop);
    if let Err(error) = begun {
        // The answer may have been lost, and not the call.
        if let Err(unclean) = follower.clean().await {
            eprintln!("pandabuildd: the builder may still have the build: {unclean:#}");
        }
        return Err(error);
    }
    let ended = follower.until_end().await;
    let fetched = match &ended {
        Ok(Ended::Waiting(outcome)) => {
            follower.rest_of_log().await;
            output.fetch(&client, outcome).await
        }
        Ok(Ended::Interrupted) | Err(_) => Ok(()),
    };
    let cleaned = match &ended {
        Ok(Ended::Waiting(_)) if args.leave => Ok(()),
        Ok(_) | Err(_) => follower.clean().await,
    };
    show.end();
    drop(server);
    let exit = match ended? {
        Ended::Interrupted => {
            eprintln!("pandabuildd: the build was aborted");
            Exit::Interrupted
        }
        Ended::Waiting(outcome) => verdict(&outcome, &args.output),
    };
    fetched?;
    // A build that went well is not made a failure by a builder that is slow to become clean.
    if let Err(error) = cleaned {
        eprintln!("pandabuildd: the build has ended, but the builder is not clean: {error:#}");
    }
    Ok(exit)
}

/// Cancelled by Ctrl-C or SIGTERM; a second one ends the process at once.
fn stop_token() -> CancellationToken {
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    let interrupted = super::interrupted();
    tokio::spawn(async move {
        interrupted.await;
        eprintln!(
            "pandabuildd: stopping the build and leaving the builder clean; again to end at once"
        );
        cancel.cancel();
        super::interrupted().await;
        std::process::exit(i32::from(Exit::Interrupted.code()));
    });
    stop
}

fn client(url: &str) -> anyhow::Result<BuilderClient> {
    let tls = pinned::public_client_config()?;
    let endpoint = Endpoint::new(url, tls, EndpointSettings::default()).context("--builder")?;
    // A slot's `clean` may wait for its board for half a minute.
    let limits = ClientLimits {
        call_limit: Duration::from_secs(60),
        ..ClientLimits::default()
    };
    Ok(BuilderClient::new(endpoint, limits))
}

/// The chroot's sum.
fn chroot(path: &Path) -> anyhow::Result<Sha1> {
    dsc::sha1_of(path).map_err(|error| {
        let missing = matches!(
            &error,
            dsc::DscError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound
        );
        let error = anyhow::Error::from(error).context("--chroot");
        if missing {
            anyhow::anyhow!("{error:#}; `pandabuildd chroot build` makes one")
        } else {
            error
        }
    })
}

/// What a builder writes into its sources: a `deb` line, of one line.
fn check_archive(line: &str) -> anyhow::Result<()> {
    let words = line.split_ascii_whitespace().count();
    // The line is not quoted: it may hold a password.
    if !line.starts_with("deb ") || words < 3 || line.chars().any(char::is_control) {
        bail!("--archive: expected one line `deb [options] URL SUITE COMPONENTS`");
    }
    Ok(())
}

/// Where results go.
struct Output<'a> {
    directory: &'a Path,
    package: &'a SourcePackage,
}

impl<'a> Output<'a> {
    /// Makes the directory; a build whose results cannot be kept is not begun.
    fn open(directory: &'a Path, package: &'a SourcePackage) -> anyhow::Result<Self> {
        let what = || format!("--output {}", directory.display());
        super::make_directory(directory, 0o777).with_context(what)?;
        tempfile::tempfile_in(directory).with_context(what)?;
        Ok(Self { directory, package })
    }

    async fn fetch(&self, client: &BuilderClient, outcome: &Outcome) -> anyhow::Result<()> {
        fetch::results(client, outcome, self.directory, self.package).await
    }
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
                log::one_line(&outcome.dependencies)
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

#[cfg(test)]
mod tests;
