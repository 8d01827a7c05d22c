//! One build by a manager that is not put off by a daemon that dies: what was lost is asked for again, and everything
//! else must be as if the daemon had never been away.
//!
//! ```text
//! IDLE ─ ensurepresent ─ build ─▶ BUILDING … ─▶ WAITING ─ buildlog, results, twice ─▶ clean ─▶ IDLE
//!                                    └ abort ─▶ … WAITING, ABORTED ─ buildlog ─▶ clean ─▶ IDLE
//! never: IDLE or another build between `build` and `clean`; a fault to a dispatch once IDLE was said;
//!        a line of the log that is missing or there twice; a result whose bytes change
//! ```

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dxr::Value;
use panda_http::endpoint::EndpointSettings;
use panda_http::{BuilderClient, ClientError, ClientLimits, Endpoint, pinned};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{
    BuildCall, BuildId, BuildReply, BuildStatus, EnsurePresent, FileMap, FileName, Status, Sum,
};
use panda_tests::source::arch;
use tokio::runtime::Runtime;

use crate::inputs::{Inputs, Watcher};
use crate::keeper::wait;

/// The most bytes of a file.
const MAX_FILE: u64 = 64 << 20;
/// What a worker of another make says beyond the protocol: a field of its `status`.
pub(crate) const WORDS: (&str, &str) = ("revision_id", "4711");
/// Lines of a whole build's log.
const LINES: usize = 30;

/// The daemon behind the builder, as far as the manager's driver must know of it.
pub(crate) trait Daemon {
    /// Notes one that has died, and starts another, where nobody else does.
    fn tick(&mut self) -> Result<()>;
    /// How often it died.
    fn deaths(&self) -> usize;
    /// The last of what it wrote.
    fn end_of_log(&self) -> String;
}

/// What becomes of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Builds,
    /// It is aborted once its log has begun.
    Aborted,
    /// It is aborted when its results are there.
    AbortedLate,
    /// A worker of another make builds it, which says [`WORDS`] of it.
    Foreign,
}

/// What an answer was.
enum Said<T> {
    Answer(T),
    Fault(String),
    /// The daemon died, or was not there.
    Lost,
}

/// A manager of one builder.
pub(crate) struct Manager {
    runtime: Runtime,
    url: String,
    inputs: Inputs,
    count: usize,
    /// What is under way, for people; and what was when the daemon died last.
    phase: Cell<&'static str>,
    watcher: Option<Watcher>,
    phase_at_death: Cell<&'static str>,
    deaths: Cell<usize>,
    /// Calls of a dispatch whose answers were lost: the real manager counts each, against builder and job alike.
    pub(crate) lost_dispatches: usize,
    /// All that was asked.
    pub(crate) calls: Cell<Calls>,
    /// What each build's chroot tarball is filled up with, so that it takes its time.
    chroot_bytes: usize,
}

/// How calls went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Calls {
    pub(crate) made: usize,
    /// Without an answer.
    pub(crate) lost: usize,
    /// Answered with a fault.
    pub(crate) faults: usize,
    /// The longest that one took.
    pub(crate) slowest: Duration,
}

impl Manager {
    pub(crate) fn new(url: &str) -> Result<Self> {
        Self::with_inputs(url, Inputs::serve()?)
    }

    /// A manager whose librarian is `inputs`.
    pub(crate) fn with_inputs(url: &str, inputs: Inputs) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            runtime,
            url: url.to_owned(),
            inputs,
            count: 0,
            phase: Cell::new("rest"),
            watcher: None,
            phase_at_death: Cell::new("rest"),
            deaths: Cell::default(),
            lost_dispatches: 0,
            calls: Cell::default(),
            chroot_bytes: 0,
        })
    }

    /// From now on `watcher` is told of each step before its call is made, and of each download once it has begun.
    pub(crate) fn watch(&mut self, watcher: Watcher) {
        self.inputs.watch(watcher.clone());
        self.watcher = Some(watcher);
    }

    fn phase(&self) -> &'static str {
        self.phase.get()
    }

    fn set_phase(&self, phase: &'static str) {
        self.phase.set(phase);
        if let Some(watcher) = &self.watcher {
            watcher(phase);
        }
    }

    /// From now on, what was under way when the daemon died is remembered.
    pub(crate) fn watch_deaths(&self, daemon: &dyn Daemon) {
        self.deaths.set(daemon.deaths());
        self.phase_at_death.set("-");
    }

    pub(crate) fn phase_at_death(&self) -> &'static str {
        self.phase_at_death.get()
    }

    fn ask<T>(
        &self,
        daemon: &mut dyn Daemon,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<Said<T>> {
        let begun = Instant::now();
        let answer = self.runtime.block_on(call);
        let mut calls = self.calls.get();
        calls.made += 1;
        calls.slowest = calls.slowest.max(begun.elapsed());
        match &answer {
            Ok(_) => {}
            Err(ClientError::Fault { .. }) => calls.faults += 1,
            Err(error) => {
                calls.lost += 1;
                println!("lost at {}: {error}", self.phase());
            }
        }
        self.calls.set(calls);
        daemon.tick()?;
        if daemon.deaths() != self.deaths.replace(daemon.deaths()) {
            self.phase_at_death.set(self.phase());
        }
        match answer {
            Ok(answer) => Ok(Said::Answer(answer)),
            Err(ClientError::Fault { text, .. }) => Ok(Said::Fault(text.as_str().to_owned())),
            Err(error) if error.is_silence() => Ok(Said::Lost),
            Err(error) => Err(error).context(self.phase()),
        }
    }

    /// A client for one call: the manager makes a connection for each, and a daemon that ends closes those that
    /// are kept idle.
    fn client(&self) -> Result<BuilderClient> {
        let _inside = self.runtime.enter();
        let tls = pinned::public_client_config()?;
        let endpoint = Endpoint::new(&self.url, tls, EndpointSettings::default())?;
        Ok(BuilderClient::new(endpoint, ClientLimits::default()))
    }

    fn status(&self, daemon: &mut dyn Daemon) -> Result<Said<Status>> {
        let client = self.client()?;
        let said = self.ask(daemon, async move { client.status().await })?;
        Ok(match said {
            Said::Answer(report) => Said::Answer(report.status),
            Said::Fault(text) => Said::Fault(text),
            Said::Lost => Said::Lost,
        })
    }

    /// One scan of a builder that has nothing to do.
    pub(crate) fn scan(&self, daemon: &mut dyn Daemon) -> Result<()> {
        self.status(daemon).map(drop)
    }

    /// A whole build, from IDLE to IDLE. The same id every time, as retries have it.
    pub(crate) fn build(&mut self, daemon: &mut dyn Daemon, kind: Kind) -> Result<()> {
        self.count += 1;
        let job = self.job(kind)?;
        self.dispatch(daemon, &job)?;
        if kind == Kind::Aborted {
            self.abort(daemon, &job, true)?;
        }
        self.set_phase("running");
        let mut outcome = self.wait_for_end(daemon, &job)?;
        if kind == Kind::AbortedLate {
            self.abort(daemon, &job, false)?;
            outcome = self.wait_for_end(daemon, &job)?;
        }
        self.set_phase("kept");
        match kind {
            Kind::Builds | Kind::Foreign => ensure!(
                outcome.0 == BuildStatus::Ok && outcome.1.len() == 2,
                "{outcome:?}"
            ),
            Kind::Aborted | Kind::AbortedLate => {
                ensure!(outcome.0 == BuildStatus::Aborted, "{outcome:?}");
            }
        }
        self.check_words(daemon, kind)?;
        let first = self.fetch(daemon, &job, &outcome.1, kind)?;
        let again = self.wait_for_end(daemon, &job)?;
        ensure!(
            again == outcome,
            "what is kept changed: {outcome:?}, {again:?}"
        );
        let second = self.fetch(daemon, &job, &outcome.1, kind)?;
        ensure!(first == second, "a kept file changed");
        self.clean(daemon, &job)?;
        self.set_phase("rest");
        Ok(())
    }

    /// Has a build running that never ends.
    pub(crate) fn begin(&mut self, daemon: &mut dyn Daemon) -> Result<()> {
        self.count += 1;
        let job = self.job(Kind::Aborted)?;
        self.dispatch(daemon, &job)?;
        self.set_phase("running");
        Ok(())
    }

    fn job(&mut self, kind: Kind) -> Result<Job> {
        let mut chroot = b"this is no chroot\n".to_vec();
        if self.chroot_bytes > 0 {
            // Another one for each build, so that it is fetched each time.
            chroot.extend(format!("{:08}\n", self.count).into_bytes());
            chroot.resize(self.chroot_bytes, b'.');
        }
        let chroot = self.inputs.add(chroot);
        let dsc = self
            .inputs
            .add(format!("Source: panda-lines {}\n", self.count).into_bytes());
        let text = |text: &str| Value::String(text.to_owned());
        let build_type = match kind {
            Kind::Builds | Kind::AbortedLate | Kind::Aborted => "binarypackage",
            Kind::Foreign => "snap",
        };
        let url = match kind {
            Kind::Builds | Kind::AbortedLate | Kind::Foreign => {
                "https://launchpad.test/+build/lines"
            }
            Kind::Aborted => "https://launchpad.test/+build/endless",
        };
        let arch = arch()?;
        let args: BTreeMap<String, Value> = [
            ("series", text("noble")),
            ("suite", text("noble")),
            ("arch_tag", text(&arch)),
            ("arch_indep", Value::Boolean(false)),
            ("archive_purpose", text("PPA")),
            ("ogrecomponent", text("main")),
            ("archives", Value::Array(Vec::new())),
            ("archive_private", Value::Boolean(false)),
            ("build_debug_symbols", Value::Boolean(false)),
            ("fast_cleanup", Value::Boolean(true)),
            ("build_url", text(url)),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let call = BuildCall {
            build_id: BuildId::try_from("PACKAGEBUILD-1".to_owned())?,
            build_type: build_type.to_owned(),
            chroot: Sum::from(chroot.0),
            filemap: [(
                FileName::try_from(format!("panda-lines_{}.dsc", self.count))?,
                Sum::from(dsc.0),
            )]
            .into(),
            args,
        };
        Ok(Job {
            call,
            files: vec![chroot, dsc],
        })
    }

    fn dispatch(&mut self, daemon: &mut dyn Daemon, job: &Job) -> Result<()> {
        wait(|| {
            self.set_phase("idle");
            match self.status(daemon)? {
                Said::Answer(Status::Idle) => {}
                // The answer to `build` was lost; the build was not.
                Said::Answer(
                    Status::Building { build_id, .. } | Status::Waiting { build_id, .. },
                ) if build_id == job.call.build_id && self.lost_dispatches > 0 => {
                    return Ok(true);
                }
                Said::Answer(other) => bail!("before a dispatch: {other:?}"),
                Said::Fault(_) | Said::Lost => return Ok(false),
            }
            let mut begun = false;
            for (sum, url) in &job.files {
                self.set_phase("ensurepresent");
                let ensure = EnsurePresent {
                    sum: Sum::from(*sum),
                    url: Some(url.clone()),
                    username: String::new(),
                    password: String::new(),
                };
                let client = self.client()?;
                match self.ask(daemon, async move { client.ensure_present(ensure).await })? {
                    Said::Answer(presence) => ensure!(presence.present, "{}", presence.info),
                    Said::Fault(text) => bail!("ensurepresent: {text}"),
                    Said::Lost => {
                        self.lost_dispatches += 1;
                        return Ok(false);
                    }
                }
            }
            self.set_phase("build");
            let (client, call) = (self.client()?, job.call.clone());
            match self.ask(daemon, async move { client.build(call).await })? {
                Said::Answer(BuildReply::Building { .. }) => begun = true,
                Said::Answer(other) => bail!("build: {other:?}"),
                Said::Fault(text) => bail!("build, once IDLE was said: {text}"),
                Said::Lost => self.lost_dispatches += 1,
            }
            Ok(begun)
        })
    }

    /// Waits for WAITING; nothing else than this build may be told before.
    fn wait_for_end(
        &mut self,
        daemon: &mut dyn Daemon,
        job: &Job,
    ) -> Result<(BuildStatus, FileMap)> {
        let mut ended = None;
        wait(|| {
            match self.status(daemon)? {
                Said::Answer(Status::Waiting { build_id, outcome })
                    if build_id == job.call.build_id =>
                {
                    ended = Some((outcome.build_status, outcome.filemap));
                }
                Said::Answer(Status::Building { build_id, .. })
                    if build_id == job.call.build_id => {}
                Said::Answer(Status::Aborting { .. }) | Said::Lost => {}
                Said::Answer(other) => bail!("the build was lost: {other:?}"),
                Said::Fault(text) => bail!("the build was lost: {text}"),
            }
            Ok(ended.is_some())
        })
        .with_context(|| format!("{}\n{}", self.phase(), daemon.end_of_log()))?;
        ended.context("no end")
    }

    fn abort(&mut self, daemon: &mut dyn Daemon, job: &Job, running: bool) -> Result<()> {
        wait(|| {
            self.set_phase("running");
            match self.status(daemon)? {
                Said::Answer(Status::Building { build_id, logtail })
                    if build_id == job.call.build_id =>
                {
                    if !logtail.windows(5).any(|part| part == b"line ") {
                        return Ok(false);
                    }
                }
                Said::Answer(Status::Waiting { outcome, .. })
                    if running || outcome.build_status == BuildStatus::Aborted =>
                {
                    return Ok(true);
                }
                Said::Answer(Status::Waiting { .. }) => {}
                Said::Answer(Status::Aborting { .. }) => return Ok(true),
                Said::Lost => return Ok(false),
                Said::Answer(other) => bail!("the build was lost: {other:?}"),
                Said::Fault(text) => bail!("the build was lost: {text}"),
            }
            self.set_phase("abort");
            let client = self.client()?;
            match self.ask(daemon, async move { client.abort().await })? {
                Said::Answer(()) => Ok(true),
                Said::Fault(text) => bail!("abort: {text}"),
                Said::Lost => Ok(false),
            }
        })
    }

    /// What the worker has said beyond the protocol is told as long as its build is.
    fn check_words(&self, daemon: &mut dyn Daemon, kind: Kind) -> Result<()> {
        let (name, value) = WORDS;
        let words = (kind == Kind::Foreign).then(|| Value::String(value.to_owned()));
        wait(|| {
            let client = self.client()?;
            let said = self.ask(daemon, async move { client.status().await })?;
            let Said::Answer(report) = said else {
                return Ok(false);
            };
            ensure!(
                report.extra.get(name) == words.as_ref(),
                "the worker's words: {:?}",
                report.extra
            );
            Ok(true)
        })
    }

    /// The log and the results, each checked.
    fn fetch(
        &mut self,
        daemon: &mut dyn Daemon,
        job: &Job,
        files: &FileMap,
        kind: Kind,
    ) -> Result<Vec<Vec<u8>>> {
        let log = self.file(daemon, "buildlog")?;
        check_log(
            &String::from_utf8_lossy(&log),
            job.call.build_id.as_str(),
            kind,
        )?;
        let mut all = vec![log];
        for (name, sum) in files {
            let bytes = self.file(daemon, &sum.to_string())?;
            ensure!(Sha1::of(&bytes) == *sum, "{name} has another sum");
            if name.as_str().ends_with(".txt") {
                let own = format!("Source: panda-lines {}\n", self.count);
                ensure!(
                    String::from_utf8_lossy(&bytes).starts_with(&own),
                    "{name} is another build's"
                );
            }
            all.push(bytes);
        }
        Ok(all)
    }

    fn file(&self, daemon: &mut dyn Daemon, name: &str) -> Result<Vec<u8>> {
        let mut had = None;
        wait(|| {
            let (client, name) = (self.client()?, name.to_owned());
            let fetch = async move {
                let mut pieces = client.file(&name, MAX_FILE).await?;
                let mut bytes = Vec::new();
                while let Some(piece) = pieces.next().await? {
                    bytes.extend_from_slice(&piece);
                }
                Ok(bytes)
            };
            if let Said::Answer(bytes) = self.ask(daemon, fetch)? {
                had = Some(bytes);
            }
            Ok(had.is_some())
        })
        .with_context(|| name.to_owned())?;
        had.context("a file")
    }

    fn clean(&mut self, daemon: &mut dyn Daemon, job: &Job) -> Result<()> {
        wait(|| {
            self.set_phase("clean");
            let client = self.client()?;
            match self.ask(daemon, async move { client.clean().await })? {
                Said::Answer(()) => return Ok(true),
                Said::Fault(_) | Said::Lost => {}
            }
            // The answer was lost, or took too long: what became of it?
            match self.status(daemon)? {
                Said::Answer(Status::Idle) => Ok(true),
                Said::Answer(Status::Waiting { build_id, .. }) if build_id == job.call.build_id => {
                    Ok(false)
                }
                Said::Answer(other) => bail!("after clean: {other:?}"),
                Said::Fault(_) | Said::Lost => Ok(false),
            }
        })
    }

    /// Has the builder fetch `bytes`, for no build.
    pub(crate) fn bring(&mut self, daemon: &mut dyn Daemon, bytes: Vec<u8>) -> Result<()> {
        self.set_phase("ensurepresent");
        let (sum, url) = self.inputs.add(bytes);
        wait(|| {
            let ensure = EnsurePresent {
                sum: Sum::from(sum),
                url: Some(url.clone()),
                username: String::new(),
                password: String::new(),
            };
            let client = self.client()?;
            match self.ask(daemon, async move { client.ensure_present(ensure).await })? {
                Said::Answer(presence) => {
                    ensure!(presence.present, "{}", presence.info);
                    Ok(true)
                }
                Said::Fault(text) => bail!("ensurepresent: {text}"),
                Said::Lost => Ok(false),
            }
        })
    }

    /// Chroot tarballs from now on are so large, and new for each build.
    pub(crate) fn large_chroots(&mut self, bytes: usize) {
        self.chroot_bytes = bytes;
    }

    /// Slow servers from now on: each piece of an input takes so long.
    pub(crate) fn slow_inputs(&self, pause: Duration) {
        self.inputs.slow(pause);
    }
}

struct Job {
    call: BuildCall,
    files: Vec<(Sha1, String)>,
}

/// Every line once, and in its order.
fn check_log(log: &str, id: &str, kind: Kind) -> Result<()> {
    if kind == Kind::Foreign {
        let begins = log.matches(&format!("begins {id}\n")).count();
        ensure!(
            begins == 1 && log.matches("ends\n").count() == 1,
            "the log is not whole:\n{log}"
        );
        return Ok(());
    }
    let begins = format!("lines: build {id} begins");
    ensure!(
        log.matches(&begins).count() == 1,
        "the log begins {} times:\n{log}",
        log.matches(&begins).count()
    );
    let numbers: Vec<usize> = log
        .lines()
        .filter_map(|line| line.strip_prefix("line ")?.parse().ok())
        .collect();
    let wanted: Vec<usize> = (1..=numbers.len()).collect();
    ensure!(
        numbers == wanted,
        "lines are missing or doubled: {numbers:?}"
    );
    if kind != Kind::Aborted {
        let ends = format!("lines: build {id} ends");
        ensure!(
            numbers.len() == LINES && log.matches(&ends).count() == 1,
            "the log is not whole:\n{log}"
        );
    }
    Ok(())
}
