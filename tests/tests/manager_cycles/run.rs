//! Runs the model against a rack: one task a builder, as the manager has one scanner a builder, over one pool of jobs.
//!
//! ```text
//! Rack (twin) ─ rack.toml: dialect, virtualized ─ serve ─▶ fresh
//!   task a builder:  scan ─▶ ask ─▶ Caller ─▶ answer ─▶ … ─▶ rest ─▶ scan     until every job is over
//! then: no harm in the reports, every end as planned, every build on a boot of its own, nothing left running
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dxr::Value;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{Call, FileMap, Status};
use panda_tests::manager_model::pool::Cleanness;
use panda_tests::manager_model::{
    Answer, Ask, BuilderNo, Failure, JobNo, Manager, Mode, Next, Request, Times, What,
};
use panda_tests::programs::run_ok;
use panda_tests::rack::{Rack, json_items};
use panda_tests::source::executor;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::caller::{Caller, Failed};
use crate::inputs::Inputs;
use crate::plan::{Kind, Planned, When, jobs};

/// What is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) mode: Mode,
    /// What the rack is set up for.
    pub(crate) rack: Mode,
    pub(crate) slots: usize,
    pub(crate) cycles: usize,
    /// From the end of one scan to the next.
    pub(crate) scan: Duration,
}

/// The longest that one build may take on average, boot included, before a run counts as stuck.
const CYCLE_LIMIT: Duration = Duration::from_secs(60);
/// The most failures that are told of a run.
const SHOWN: usize = 20;

/// Runs it, and demands that all went well.
pub(crate) fn run(run: &Run) -> Result<()> {
    let mut rack = Rack::start(run.slots, &executor("cycle.sh", &[]))?;
    let configured = configure(&mut rack, run.rack)?;
    rack.wait_fresh()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let history = runtime
        .block_on(drive(run, &rack))
        .and_then(|history| history.judge(run).map(|()| history))
        .with_context(|| end_of(&rack.log()))?;
    rack.wait_fresh()?;
    let boots = one_boot_one_build(&rack, &history).with_context(|| end_of(&rack.log()))?;
    println!(
        "{:?}: {} builds on {} slots in {:.0?}, {boots} boots, nothing counted",
        run.mode, run.cycles, run.slots, history.lasted
    );
    if configured {
        // The boards belong to `twin`: it takes them down.
        rack.kill()?;
        rack.twin()?;
    }
    rack.stop()
}

/// The rack's settings for the mode, where they are not those that `twin` writes.
fn configure(rack: &mut Rack, mode: Mode) -> Result<bool> {
    if mode == Mode::Command {
        return Ok(false);
    }
    rack.wait_fresh()?;
    rack.kill()?;
    let path = rack.state().join("rack.toml");
    let dialect = if mode.is_2011() { "2011" } else { "current" };
    let settings = format!(
        "[rack]\ndialect = \"{dialect}\"\nvirtualized = {}\n",
        mode.is_virtualized()
    );
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains("[rack]\n"), "rack.toml has no [rack]: {text}");
    fs::write(&path, text.replacen("[rack]\n", &settings, 1))?;
    rack.serve()?;
    Ok(true)
}

/// What a run was.
#[derive(Debug)]
struct History {
    manager: Manager,
    planned: Vec<Planned>,
    /// Jobs that are submitted when the one of the same id is cancelled.
    retries: BTreeMap<String, Planned>,
    /// What was seen of each failure.
    notes: Vec<String>,
    /// How long the run took.
    lasted: Duration,
}

/// What the builders' tasks share.
#[derive(Debug)]
struct Shared {
    history: Mutex<History>,
    begun: Instant,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

async fn drive(run: &Run, rack: &Rack) -> Result<History> {
    let mut inputs = Inputs::new().await?;
    let planned = jobs(run.cycles, run.mode, &mut inputs)?;
    let _served = inputs.serve();
    let times = Times {
        scan: run.scan,
        ..Times::of(run.mode)
    };
    let mut history = History {
        manager: Manager::new(run.mode, times, run.slots),
        planned: Vec::new(),
        retries: BTreeMap::new(),
        notes: Vec::new(),
        lasted: Duration::ZERO,
    };
    let mut before_was_retried = false;
    for job in planned {
        let retried = job.retried;
        if before_was_retried {
            let id = job.call.build_id.as_str().to_owned();
            history.retries.insert(id, job);
        } else {
            history.submit(job);
        }
        before_was_retried = retried;
    }
    let shared = Arc::new(Shared {
        history: Mutex::new(history),
        begun: Instant::now(),
    });
    let mut tasks = JoinSet::new();
    for (number, slot) in rack.slots().iter().enumerate() {
        let caller = Caller::new(rack, slot, run.mode)?;
        let scanner = Scanner {
            builder: BuilderNo(number),
            caller,
            shared: Arc::clone(&shared),
        };
        tasks.spawn(scanner.run());
    }
    let limit = CYCLE_LIMIT * u32::try_from(run.cycles)?;
    let in_time = timeout(limit, tasks.join_all()).await.is_ok();
    let shared = Arc::into_inner(shared).context("a builder's task is still there")?;
    let lasted = shared.now();
    let mut history = shared
        .history
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    history.lasted = lasted;
    if !in_time {
        bail!("not over within {limit:?}\n{}", history.told());
    }
    Ok(history)
}

impl History {
    fn submit(&mut self, job: Planned) {
        self.manager.submit(job.call.build_id.clone());
        self.planned.push(job);
    }

    /// Whether every job is over, and this builder ready for another; or whether no builder is left.
    fn is_over(&self, builder: BuilderNo) -> bool {
        let clean = self.manager.cleanness(builder) == Cleanness::Clean;
        let done = self.manager.is_done() && self.retries.is_empty();
        !self.manager.is_in_service(builder) || (done && (clean || self.manager.is_2011()))
    }

    /// Demands that nothing was counted, and that every job ended as it should.
    fn judge(&self, run: &Run) -> Result<()> {
        let harmless = !self
            .manager
            .reports()
            .iter()
            .any(|report| report.what.is_harm() || matches!(report.what, What::FailedScan(_)));
        ensure!(
            harmless && self.notes.is_empty(),
            "the manager would have counted, or was close to it:\n{}",
            self.told()
        );
        ensure!(
            self.planned.len() == run.cycles,
            "{} jobs of {}",
            self.planned.len(),
            run.cycles
        );
        for (number, job) in self.planned.iter().enumerate() {
            let end = self.manager.end(JobNo(number));
            ensure!(
                end == Some(job.kind.end()),
                "{} ({:?}) ended as {end:?}",
                job.call.build_id,
                job.kind
            );
        }
        Ok(())
    }

    /// What a person needs to know of a run that went wrong: the harm first.
    fn told(&self) -> String {
        let reports = || self.manager.reports().iter();
        let harm = reports().filter(|report| report.what.is_harm());
        let scans = reports().filter(|report| matches!(report.what, What::FailedScan(_)));
        let reports = harm.take(SHOWN).chain(scans.take(SHOWN));
        let open = self.planned.iter().enumerate().filter_map(|(number, job)| {
            let open = self.manager.end(JobNo(number)).is_none();
            open.then(|| format!("open: {} ({:?})", job.call.build_id, job.kind))
        });
        reports
            .map(|report| format!("{report:?}"))
            .chain(self.notes.iter().take(SHOWN).cloned())
            .chain(open.take(SHOWN))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// One builder's scans.
struct Scanner {
    builder: BuilderNo,
    caller: Caller,
    shared: Arc<Shared>,
}

impl Scanner {
    async fn run(self) {
        loop {
            let mut next = self
                .shared
                .lock()
                .manager
                .scan(self.builder, self.shared.now());
            let until = loop {
                let request = match next {
                    Next::Rest(until) => break until,
                    Next::Ask(request) => request,
                };
                let job = self.shared.lock().manager.job_of(self.builder);
                let answer = self.ask(&request).await;
                let now = self.shared.now();
                let answer = answer.unwrap_or_else(|(failure, seen)| {
                    let mut history = self.shared.lock();
                    history
                        .notes
                        .push(format!("{now:?} {:?} {seen}", self.builder));
                    Answer::Failed(failure)
                });
                self.cancel_before(job, &answer);
                next = self.shared.lock().manager.answer(self.builder, now, answer);
                self.act_after(job, &request);
            };
            if self.shared.lock().is_over(self.builder) {
                return;
            }
            sleep_until(self.shared.begun + until).await;
        }
    }

    /// Somebody cancels the job just before the manager learns this.
    fn cancel_before(&self, job: Option<JobNo>, answer: &Answer) {
        let (Some(job), Answer::Status(status)) = (job, answer) else {
            return;
        };
        let mut history = self.shared.lock();
        let now = match status {
            // Its own words are in the log: what has arrived must not be lost.
            Status::Building { logtail, .. }
                if logtail.windows(6).any(|part| part == b"cycle:") =>
            {
                Kind::Endless(When::Building)
            }
            Status::Waiting { .. } => Kind::TooLate,
            Status::Building { .. }
            | Status::Idle
            | Status::Aborting { .. }
            | Status::Aborted { .. } => return,
        };
        if history.planned[job.0].kind == now {
            history.manager.cancel(job);
        }
    }

    /// Somebody cancels a job that was just handed over, or has one that is cancelled built after all.
    fn act_after(&self, job: Option<JobNo>, request: &Request) {
        let mut history = self.shared.lock();
        if let Ask::Build(job) = request.ask
            && history.planned[job.0].kind == Kind::Endless(When::Dispatched)
        {
            history.manager.cancel(job);
        }
        let Some(job) = job.filter(|job| history.manager.end(*job).is_some()) else {
            return;
        };
        let id = history.planned[job.0].call.build_id.as_str().to_owned();
        if let Some(again) = history.retries.remove(&id) {
            history.submit(again);
        }
    }

    async fn ask(&self, Request { ask, limit }: &Request) -> Result<Answer, Failed> {
        let limit = *limit;
        let text = |text: &str| Value::String(text.to_owned());
        let planned = |job: &JobNo| self.shared.lock().planned[job.0].clone();
        match ask {
            Ask::Status => self.caller.status(limit).await,
            Ask::Echo => {
                let same = Value::Array(vec![text("ping")]);
                let echo = Call::Echo(vec![text("ping")]);
                self.caller.expect(echo, same, limit).await
            }
            Ask::Abort => {
                let wanted = text("BuilderStatus.ABORTING");
                self.caller.expect(Call::Abort, wanted, limit).await
            }
            Ask::Clean => {
                let wanted = text("BuilderStatus.IDLE");
                self.caller.expect(Call::Clean, wanted, limit).await
            }
            Ask::Reset => self.caller.reset(limit).await,
            Ask::Files(job) => self.caller.ensure(&planned(job).files, limit).await,
            Ask::Build(job) => {
                let call = planned(job).call;
                let id = text(call.build_id.as_str());
                let wanted = Value::Array(vec![text("BuilderStatus.BUILDING"), id]);
                let build = Call::Build(Box::new(call));
                self.caller.expect(build, wanted, limit).await
            }
            Ask::Fetch { job, files, tries } => {
                let mut fetched = self.fetch(&planned(job), files, limit).await;
                for _ in 1..*tries {
                    if fetched.is_err() {
                        fetched = self.fetch(&planned(job), files, limit).await;
                    }
                }
                fetched.map(|()| Answer::Done)
            }
        }
    }

    /// Fetches log and results, and looks whether they are this build's.
    async fn fetch(&self, job: &Planned, files: &FileMap, limit: Duration) -> Result<(), Failed> {
        let wrong =
            |what: String| Err((Failure::Malformed, format!("{}: {what}", job.call.build_id)));
        let log = self.caller.file("buildlog", limit).await?;
        let log = String::from_utf8_lossy(&log).into_owned();
        // A build that is aborted before its board has it has an empty log.
        let begun = format!("cycle: build {}\n", job.call.build_id);
        let may_be_empty = matches!(job.kind, Kind::Endless(When::Dispatched));
        if !log.contains(&begun) && !may_be_empty {
            return wrong(format!("another build's log, or none: {log:?}"));
        }
        if job.kind == Kind::Builds && files.len() != 2 {
            return wrong(format!("the results are {files:?}"));
        }
        for (name, sum) in files {
            let bytes = self.caller.file(&sum.to_string(), limit).await?;
            if Sha1::of(&bytes) != *sum {
                return wrong(format!("{name} is not of the sum {sum}"));
            }
            let line = format!("built {}\n", job.call.build_id);
            let source = job.call.filemap.keys().next().map(ToString::to_string);
            let number = source
                .as_deref()
                .and_then(|name| name.strip_prefix("panda-cycle_"));
            let number = number
                .and_then(|name| name.strip_suffix(".dsc"))
                .unwrap_or_default();
            let own = format!("Source: panda-cycle {number}\n");
            let text = String::from_utf8_lossy(&bytes);
            if name.as_str().ends_with(".txt") && !(text.ends_with(&line) && text.starts_with(&own))
            {
                return wrong(format!("{name} is another build's: {text:?}"));
            }
        }
        Ok(())
    }
}

/// Every build that was handed over ran on a boot that had no other, by the daemon's own evidence; how many boots
/// there were.
fn one_boot_one_build(rack: &Rack, history: &History) -> Result<usize> {
    let mut ids = BTreeSet::new();
    for (number, slot) in rack.slots().iter().enumerate() {
        let ask = ["boots", &slot.name, "--json", "--limit", "1000"];
        let boots = json_items(&run_ok(&mut rack.control(&ask)?)?)?;
        let mut builds = 0;
        for boot in &boots {
            let id = boot["id"].as_str().context("a boot without an id")?;
            ensure!(ids.insert(id.to_owned()), "boot {id} came twice");
            let attempts = boot["attempts"].as_array().context("a boot's attempts")?;
            ensure!(attempts.len() <= 1, "boot {id} ran {attempts:?}");
            builds += attempts.len();
        }
        let dispatched = history.manager.reports().iter().filter(|report| {
            report.builder == BuilderNo(number) && report.what == What::Dispatched
        });
        let dispatched = dispatched.count();
        ensure!(
            builds == dispatched,
            "{} was given {dispatched} builds and {builds} boots had one",
            slot.name
        );
    }
    Ok(ids.len())
}

/// The end of a log, for an error.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
