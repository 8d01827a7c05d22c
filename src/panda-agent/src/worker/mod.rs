//! The worker: a Launchpad builder (today's dialect) that runs `binarypackage` builds by sbuild in a
//! chroot. It serves the master through the [link](crate::link), or anybody on plain HTTP when it
//! runs alone.
//!
//! # Layout
//! - `service`: the protocol's methods; `state`: what may be asked when
//! - `runner`: a build's process, from the worker's side; [`inner`]: that process
//! - `args`, `plan`: what a build is told; `sources`, `openpgp`: its apt sources and their keys
//! - `log`: its log; `outcome`, `fetching`, `relations`, `contradiction`, `pointers`: what sbuild's status and log mean
//! - `gather`, `changes`, `deb822`: its results; `clean_up`: what is done with the rest
//! - [`needs`]: the programs that must be there
//!
//! # On the disk
//! ```text
//! STATE/lock        one worker a state directory
//! STATE/filecache/  inputs, by SHA-1
//! STATE/builds/     one directory a build: work/, results/, buildlog; emptied when the worker starts
//! STATE/stuck/      what could not be removed of earlier builds; tried again at each start and after each build
//! ```

mod args;
mod changes;
mod clean_up;
mod contradiction;
mod deb822;
mod fetching;
mod gather;
pub mod inner;
mod log;
pub mod needs;
mod openpgp;
mod outcome;
mod plan;
mod pointers;
mod relations;
mod runner;
mod service;
mod sources;
mod state;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use panda_http::download::{DownloadSettings, Downloader};
use panda_http::{ClientError, Store, StoreError};
use panda_protocol::launchpad::{BuildStatus, Outcome};
use panda_tree::StuckError;
use tokio_util::sync::CancellationToken;

use log::BuildLog;
use needs::NeedsError;
use plan::{Plan, Stage, Verdict, WorkDir};
use runner::{End, Isolation, RunError};
use state::State;

/// The one build type.
const BUILD_TYPE: &str = "binarypackage";
/// Who pins a running build's inputs in the cache.
const OWNER: &str = "build";

/// What a worker is given.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A directory of its own.
    pub state: PathBuf,
    /// The architecture that it announces.
    pub arch: String,
    /// A shell command that takes the place of chroot and sbuild.
    pub executor: Option<String>,
    /// A proxy for apt in the chroot.
    pub apt_proxy: Option<String>,
    /// The most bytes of inputs that are kept.
    pub cache_bytes: u64,
    /// The most bytes of one build's log; a build that prints more is killed.
    pub log_bytes: u64,
    /// The most bytes of one build's results.
    pub result_bytes: u64,
}

impl Settings {
    /// The usual bounds.
    #[must_use]
    pub fn new(state: PathBuf, arch: String) -> Self {
        Self {
            state,
            arch,
            executor: None,
            apt_proxy: None,
            cache_bytes: 8 << 30,
            log_bytes: 256 << 20,
            result_bytes: 8 << 30,
        }
    }
}

/// The depot that a link gives its worker: what begins with `url` is fetched by `downloader`.
#[derive(Debug, Clone)]
pub struct Depot {
    /// `https://ADDRESS:PORT/`
    pub url: String,
    /// A downloader that trusts the master alone.
    pub downloader: Downloader,
}

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A program or right is missing.
    #[error(transparent)]
    Needs(#[from] NeedsError),
    /// The state directory.
    #[error("the state directory {}: {source}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another worker has it.
    #[error("the state directory {} is in use by another worker; give each its own --state", .0.display())]
    InUse(PathBuf),
    /// What an earlier worker left of its builds.
    #[error(transparent)]
    Stuck(#[from] StuckError),
    /// The file cache.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A worker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Worker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Settings,
    isolation: Isolation,
    cache: Store,
    /// Made when it is first wanted: on a rack everything comes from the depot, and a Panda reads the certificates of all the
    /// authorities that it trusts for seconds.
    public: OnceLock<Downloader>,
    depot: Option<Depot>,
    builds: PathBuf,
    /// What could not be removed of earlier builds.
    stuck: PathBuf,
    counter: AtomicU64,
    state: Mutex<State<Arc<Run>>>,
    /// Held for as long as the worker lives.
    _lock: Flock<File>,
}

/// What belongs to one build.
#[derive(Debug)]
struct Run {
    directory: PathBuf,
    work: WorkDir,
    results: PathBuf,
    log: BuildLog,
    abort: CancellationToken,
    /// Nothing of it runs any more.
    ended: CancellationToken,
}

impl Worker {
    /// Starts a worker: checks what it needs, and removes what an earlier one left of its builds.
    ///
    /// # Errors
    /// See [`WorkerError`].
    pub async fn start_up(settings: Settings, depot: Option<Depot>) -> Result<Self, WorkerError> {
        needs::check(settings.executor.is_some())?;
        let program = std::env::current_exe().map_err(|source| NeedsError::Run {
            program: "panda-agent",
            source,
        })?;
        let isolation = Isolation::probe(program).await?;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| WorkerError::State { path, source }
        };
        // The build's process has other directories as its own.
        private_dir(&settings.state).map_err(failed(&settings.state))?;
        let state = settings
            .state
            .canonicalize()
            .map_err(failed(&settings.state))?;
        let lock = File::create(state.join("lock")).map_err(failed(&state))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| WorkerError::InUse(state.clone()))?;
        let (builds, stuck) = (state.join("builds"), state.join("stuck"));
        clean_up::fresh(&builds, &stuck)?;
        Ok(Self(Arc::new(Shared {
            cache: Store::open(&state.join("filecache"), settings.cache_bytes)?,
            public: OnceLock::new(),
            settings,
            isolation,
            depot,
            builds,
            stuck,
            counter: AtomicU64::new(0),
            state: Mutex::new(State::Idle),
            _lock: lock,
        })))
    }

    /// The architecture that it announces.
    #[must_use]
    pub fn arch(&self) -> &str {
        &self.0.settings.arch
    }

    /// The build types that it announces.
    #[must_use]
    pub fn build_types(&self) -> &'static [&'static str] {
        &[BUILD_TYPE]
    }

    /// Ends a running build; nothing of it is left when this returns.
    pub async fn shut_down(&self) {
        let run = self.state().abort().ok();
        if let Some(run) = run {
            run.abort.cancel();
            run.ended.cancelled().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State<Arc<Run>>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache(&self) -> &Store {
        &self.0.cache
    }

    fn executor(&self) -> Option<&str> {
        self.0.settings.executor.as_deref()
    }

    fn apt_proxy(&self) -> Option<&str> {
        self.0.settings.apt_proxy.as_deref()
    }

    fn downloader(&self, url: &str) -> Result<&Downloader, ClientError> {
        match &self.0.depot {
            Some(depot) if url.starts_with(&depot.url) => Ok(&depot.downloader),
            _ => self.public(),
        }
    }

    fn public(&self) -> Result<&Downloader, ClientError> {
        if let Some(public) = self.0.public.get() {
            return Ok(public);
        }
        let settings = DownloadSettings {
            max_bytes: self.0.settings.cache_bytes,
            ..DownloadSettings::default()
        };
        let made = Downloader::public(settings)?;
        Ok(self.0.public.get_or_init(|| made))
    }

    /// The directory of a new build.
    fn prepare(&self) -> io::Result<Arc<Run>> {
        let number = self.0.counter.fetch_add(1, Ordering::Relaxed);
        let directory = self.0.builds.join(number.to_string());
        let work = WorkDir::new(directory.join("work"));
        let results = directory.join("results");
        for path in [&directory, work.path(), &work.files(), &results] {
            private_dir(path)?;
        }
        work.mark()?;
        let log = BuildLog::create(&directory.join("buildlog"), self.0.settings.log_bytes)?;
        let (abort, ended) = (CancellationToken::new(), CancellationToken::new());
        Ok(Arc::new(Run {
            directory,
            work,
            results,
            log,
            abort,
            ended,
        }))
    }

    /// Runs a build in the background, to its end.
    fn start(&self, run: Arc<Run>, plan: Plan) {
        let worker = self.clone();
        tokio::spawn(async move {
            let outcome = worker.run(&run, &plan).await;
            if let Err(error) = run.log.finish() {
                tracing::warn!(%error, "the log is not whole");
            }
            worker.cache().unpin(OWNER);
            tracing::info!(build = %plan.build_id, status = outcome.build_status.as_str(), "build ended");
            worker.state().finish(outcome);
            run.ended.cancel();
            let (work, stuck) = (run.work.path().clone(), worker.0.stuck.clone());
            clean_up::later(work, stuck);
        });
    }

    async fn run(&self, run: &Arc<Run>, plan: &Plan) -> Outcome {
        tracing::info!(build = %plan.build_id, "build begins");
        let say = |text: &str| {
            if let Err(error) = run.log.line(text) {
                tracing::warn!(%error, "a line is missing in the log");
            }
        };
        if let Some(url) = &plan.args.build_url {
            say(url);
        }
        let verdict = match self.0.isolation.run(plan, &run.log, &run.abort).await {
            Ok(End::Verdict(verdict)) => verdict,
            Ok(End::Aborted) => {
                say("\nE: the build was aborted");
                return Outcome::bare(BuildStatus::Aborted);
            }
            Ok(End::LogTooLong) => {
                let most = self.0.settings.log_bytes;
                say(&format!(
                    "\nE: the build printed more than {most} bytes and was killed"
                ));
                return Outcome::bare(BuildStatus::PackageFail);
            }
            Err(error) => {
                let stage = run.work.stage();
                let full = is_full(&run.directory);
                tracing::warn!(build = %plan.build_id, %error, ?stage, full, "the build's process");
                if full {
                    clean_up::now(run.work.path().clone()).await;
                }
                let (status, why) = unfinished(&error, stage, full);
                say(&format!("\nE: {why}"));
                return Outcome::bare(status);
            }
        };
        let gathered = match verdict {
            Verdict::Ok => self.gather(run, plan).await,
            verdict => return outcome_of(verdict),
        };
        match gathered {
            Ok(filemap) => Outcome {
                build_status: BuildStatus::Ok,
                filemap,
                dependencies: String::new(),
            },
            Err(error) => {
                say(&format!("E: the results cannot be gathered: {error}"));
                Outcome::bare(BuildStatus::PackageFail)
            }
        }
    }

    async fn gather(
        &self,
        run: &Arc<Run>,
        plan: &Plan,
    ) -> Result<panda_protocol::launchpad::FileMap, gather::GatherError> {
        let (files, results) = (run.work.files(), run.results.clone());
        let inputs: BTreeSet<_> = plan.inputs.keys().cloned().collect();
        let (arch, most) = (plan.args.arch_tag.clone(), self.0.settings.result_bytes);
        let task = tokio::task::spawn_blocking(move || {
            gather::gather(&files, &inputs, &arch, &results, most)
        });
        task.await.unwrap_or_else(|error| {
            Err(gather::GatherError::Directory(io::Error::other(
                error.to_string(),
            )))
        })
    }

    /// Forgets a finished build: its log and results are removed.
    fn forget(&self, run: &Run) {
        clean_up::later(run.directory.clone(), self.0.stuck.clone());
    }
}

/// How a build ends whose process is gone without a verdict, and what there is to say. As long as only the builder's own
/// program has run, the builder is broken; a disk that is full never is its fault.
fn unfinished(error: &RunError, stage: Stage, full: bool) -> (BuildStatus, String) {
    match (stage, full, error) {
        (Stage::Start | Stage::Chroot, true, _) => (
            BuildStatus::ChrootFail,
            "the disk is too full for the chroot and its updates".to_owned(),
        ),
        (Stage::Package, true, _) => (
            BuildStatus::PackageFail,
            "the build has filled the disk".to_owned(),
        ),
        (Stage::Chroot, false, RunError::NoVerdict) => (
            BuildStatus::ChrootFail,
            format!(
                "{error}, while the chroot was set up: something in it, or in its archives, has ended it"
            ),
        ),
        (Stage::Package, false, RunError::NoVerdict) => (
            BuildStatus::PackageFail,
            format!("{error}: the build has ended it, or used up the memory"),
        ),
        (Stage::Start, false, RunError::NoVerdict) => (
            BuildStatus::BuilderFail,
            format!("{error}: the builder is broken"),
        ),
        (_, false, error) => (BuildStatus::BuilderFail, error.to_string()),
    }
}

fn outcome_of(verdict: Verdict) -> Outcome {
    let build_status = match verdict {
        Verdict::Ok => BuildStatus::Ok,
        Verdict::PackageFail => BuildStatus::PackageFail,
        Verdict::DepFail(dependencies) => {
            return Outcome {
                dependencies,
                ..Outcome::bare(BuildStatus::DepFail)
            };
        }
        Verdict::GivenBack => BuildStatus::GivenBack,
        Verdict::ChrootFail => BuildStatus::ChrootFail,
        Verdict::BuilderFail => BuildStatus::BuilderFail,
    };
    Outcome::bare(build_status)
}

/// Makes a directory for its owner alone (inputs may be of private archives), and those above it;
/// one that is there stays as it is.
fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
}

/// Less room than this is none: a verdict and the log's end would not fit.
const LEAST_ROOM: u64 = 256 << 10;

/// The kernel's numbers have 32 bits on a board and 64 elsewhere.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

/// Whether the disk that holds `path` is full.
fn is_full(path: &Path) -> bool {
    nix::sys::statvfs::statvfs(path).is_ok_and(|disk| {
        let bytes = wide(disk.blocks_available()).saturating_mul(wide(disk.fragment_size()));
        bytes < LEAST_ROOM || (disk.files() > 0 && disk.files_available() == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_blame_follows_from_how_far_the_build_has_come() {
        let directory = tempfile::tempdir().unwrap();
        let work = WorkDir::new(directory.path().to_owned());
        work.mark().unwrap();
        for (stage, broken, full) in [
            (
                Stage::Start,
                BuildStatus::BuilderFail,
                BuildStatus::ChrootFail,
            ),
            (
                Stage::Chroot,
                BuildStatus::ChrootFail,
                BuildStatus::ChrootFail,
            ),
            (
                Stage::Package,
                BuildStatus::PackageFail,
                BuildStatus::PackageFail,
            ),
        ] {
            work.begin(stage).unwrap();
            assert_eq!(work.stage(), stage);
            let status = |full| unfinished(&RunError::NoVerdict, work.stage(), full).0;
            assert_eq!((status(false), status(true)), (broken, full), "{stage:?}");
        }
    }
}
