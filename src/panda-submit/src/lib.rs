//! Has a source package built by any Launchpad builder, exactly as Launchpad's
//! manager would, without Launchpad. `pandabuildd submit` is its command line.
//!
//! ```text
//! check the .dsc and its files ─ serve them ─ status IDLE ─ ensurepresent (all at once) ─ build
//!   ─ status, status, … with the log ─ fetch the results, checked ─ clean
//! ```
//!
//! - `dsc`: the source package, checked before anything is sent
//! - `serve`: gives the builder the files
//! - `dispatch`: from IDLE to BUILDING
//! - `follow`: until it has ended
//! - `fetch`: the results
//! - `keys`: OpenPGP keys of archives

mod dispatch;
mod dsc;
mod fetch;
mod follow;
mod keys;
mod serve;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use panda_http::client::ClientLimits;
use panda_http::endpoint::EndpointSettings;
use panda_http::{BuilderClient, Endpoint, pinned};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::Outcome;
use panda_protocol::word::check_word;
use tokio_util::sync::CancellationToken;

use self::dispatch::Job;
use self::dsc::SourcePackage;
pub use self::follow::Ended;
use self::follow::Follower;
use self::serve::FileServer;
pub use self::serve::Place;

/// What is built, where, and with what.
#[derive(Debug, Clone)]
pub struct Request {
    /// The source package; the files that it names are beside it.
    pub dsc: PathBuf,
    /// The builder: `http://HOST:PORT`.
    pub builder: String,
    /// The chroot to build in, a tarball.
    pub chroot: PathBuf,
    /// The suite, with its pocket.
    pub suite: String,
    /// The series; without it, the suite less its pocket.
    pub series: Option<String>,
    /// The Debian architecture; without it, the builder's own.
    pub arch: Option<String>,
    /// Lines of apt sources for the build: `deb URL SUITE COMPONENTS`.
    pub archives: Vec<String>,
    /// Files with OpenPGP keys of archives, binary or armoured.
    pub keys: Vec<PathBuf>,
    /// What the archive is for: `PPA`, `PRIMARY`, …
    pub purpose: String,
    /// Whether architecture-independent packages are built too.
    pub arch_indep: bool,
    /// Whether debug symbol packages are made.
    pub debug_symbols: bool,
    /// The directory for the results.
    pub output: PathBuf,
    /// Where the builder fetches files from; without it, this machine's address that faces the builder.
    pub serve: Option<Place>,
    /// How long a builder that is not ready is waited for.
    pub wait: Duration,
    /// Whether a build that has ended is left on the builder, which somebody else will clean.
    pub leave: bool,
}

/// Who is told what goes on. Nothing that it is given has been cleaned for a terminal.
pub trait Show: Send {
    /// What is built, once it is known.
    fn title(&mut self, title: &str);
    /// What is going on, in one line that the next one replaces.
    fn progress(&mut self, text: &str);
    /// A line that stays.
    fn note(&mut self, text: &str);
    /// The next piece of the build's log, as it came: hostile bytes.
    fn log(&mut self, piece: &[u8]);
}

/// What became of a [`Request`].
#[derive(Debug)]
pub struct Submitted {
    /// How the build ended.
    pub ended: Ended,
    /// Whether its results are all here.
    pub fetched: anyhow::Result<()>,
    /// Whether the builder is clean, where it was to be cleaned.
    pub cleaned: anyhow::Result<()>,
}

/// Has a package built, follows the build, and brings its results here. A build that has begun is aborted
/// when `stop` is cancelled, and the builder is left clean.
///
/// # Errors
/// Whatever is wrong with the request, found before the builder hears of it; a builder that is busy, not
/// ready in time or refuses; a build that is lost.
pub async fn submit(
    request: &Request,
    show: &mut dyn Show,
    stop: CancellationToken,
) -> anyhow::Result<Submitted> {
    let not_begun = || {
        Ok(Submitted {
            ended: Ended::NotBegun,
            fetched: Ok(()),
            cleaned: Ok(()),
        })
    };
    let prepared = tokio::select! {
        prepared = Prepared::new(request) => prepared?,
        () = stop.cancelled() => return not_begun(),
    };
    let Prepared {
        package,
        job,
        client,
        server,
    } = prepared;
    let output = Output {
        directory: &request.output,
        package: &package,
    };
    show.title(&format!("{} {}", package.source, package.version));
    let ready = dispatch::ready(&client, request.wait, show);
    let build = tokio::select! {
        build = async {
            ready.await?;
            dispatch::send_files(&client, &job, &package, &request.chroot, &server).await?;
            job.call(request, &client).await
        } => build?,
        () = stop.cancelled() => return not_begun(),
    };
    let build_id = build.build_id.clone();
    // From here on the builder is ours: whatever happens, it is left clean.
    let begun = dispatch::build(&client, build).await;
    let mut follower = Follower::new(&client, build_id, show, stop);
    if let Err(error) = begun {
        // The answer may have been lost, and not the call.
        return Err(match follower.clean().await {
            Ok(()) => error,
            Err(unclean) => {
                error.context(format!("the builder may still have the build: {unclean:#}"))
            }
        });
    }
    let ended = follower.until_end().await;
    let fetched = match &ended {
        Ok(Ended::Waiting(outcome)) => {
            follower.rest_of_log().await;
            output.fetch(&client, outcome).await
        }
        Ok(Ended::Aborted | Ended::NotBegun) | Err(_) => Ok(()),
    };
    let cleaned = match &ended {
        Ok(Ended::Waiting(_)) if request.leave => Ok(()),
        Ok(_) | Err(_) => follower.clean().await,
    };
    drop(server);
    Ok(Submitted {
        ended: ended?,
        fetched,
        cleaned,
    })
}

/// Everything that is needed before the builder is asked anything.
struct Prepared {
    package: SourcePackage,
    job: Job,
    client: BuilderClient,
    server: FileServer,
}

impl Prepared {
    /// Everything that can be wrong on this side is found before the builder hears of it.
    async fn new(request: &Request) -> anyhow::Result<Self> {
        let checking = request.clone();
        // Files are hashed: nobody else waits for that.
        let (package, job) = tokio::task::spawn_blocking(move || check(&checking))
            .await
            .context("checking the source package")??;
        let client = client(&request.builder)?;
        let server = FileServer::start(&request.builder, request.serve.as_ref()).await?;
        Ok(Self {
            package,
            job,
            client,
            server,
        })
    }
}

/// The checks that only look at this machine.
fn check(request: &Request) -> anyhow::Result<(SourcePackage, Job)> {
    let package = SourcePackage::open(&request.dsc)?;
    let chroot = chroot(&request.chroot)?;
    for (option, word) in [
        ("--suite", Some(&request.suite)),
        ("--series", request.series.as_ref()),
        ("--arch", request.arch.as_ref()),
        ("--purpose", Some(&request.purpose)),
    ] {
        word.map_or(Ok(()), |word| check_word(option, word))?;
    }
    let keys = keys::read(&request.keys)?;
    for line in &request.archives {
        check_archive(line)?;
    }
    Output::check(&request.output)?;
    let job = Job::new(&package, chroot, keys);
    Ok((package, job))
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

impl Output<'_> {
    /// Makes the directory; a build whose results cannot be kept is not begun.
    fn check(directory: &Path) -> anyhow::Result<()> {
        let what = || format!("--output {}", directory.display());
        match std::fs::create_dir_all(directory) {
            // What is there instead of a directory is told by the next step.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(what);
            }
            _ => {}
        }
        tempfile::tempfile_in(directory).with_context(what)?;
        Ok(())
    }

    async fn fetch(&self, client: &BuilderClient, outcome: &Outcome) -> anyhow::Result<()> {
        fetch::results(client, outcome, self.directory, self.package).await
    }
}

/// One line for a terminal: control characters are replaced.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
