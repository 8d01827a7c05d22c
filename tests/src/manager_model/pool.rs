//! Builders and jobs as the manager's database has them, and what both eras do with a failure. A scan's own steps are
//! in `today` and `y2011`. Called by whoever runs the model.

use std::collections::VecDeque;
use std::time::Duration;

use panda_protocol::launchpad::{BuildId, BuildStatus, FileMap};

use super::ask::{Answer, Ask, Request};
use super::judge::{BuilderFate, JobFate, judge};
use super::report::{Report, What, Why};
use super::rules::{Mode, SCANS_BEFORE_COUNT, Times};
use super::{today, y2011};

/// A builder, by its place in the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuilderNo(pub usize);

/// A job, by the order in which jobs were submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobNo(pub usize);

/// How a job is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEnd {
    /// By the build's own word.
    Collected(BuildStatus),
    /// As somebody wished.
    Cancelled,
    /// By the manager's judgement.
    Failed,
}

/// What comes next at a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A call; its answer is to be told.
    Ask(Request),
    /// Nothing, until the next scan is due.
    Rest(Duration),
}

/// What the database says of a builder's cleanness; today's only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanness {
    /// It may be given a job.
    Clean,
    /// Protocol 2.0: somebody is resetting it.
    Cleaning,
    /// It has to be cleaned.
    Dirty,
}

/// What a scan waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Resting,
    Today(today::Step),
    Y2011(y2011::Step),
}

#[derive(Debug)]
pub(super) struct Builder {
    pub(super) in_service: bool,
    pub(super) cleanness: Cleanness,
    pub(super) failures: u32,
    pub(super) failed_scans: u32,
    pub(super) job: Option<JobNo>,
    pub(super) step: Step,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) cookie: BuildId,
    pub(super) failures: u32,
    pub(super) cancelling: Option<Cancel>,
    pub(super) end: Option<JobEnd>,
}

/// How far the cancelling of a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancel {
    Wanted,
    /// `abort` was accepted; the build has until then to end.
    Until(Duration),
}

/// The manager; see the module's picture.
#[derive(Debug)]
pub struct Manager {
    pub(super) mode: Mode,
    pub(super) times: Times,
    pub(super) builders: Vec<Builder>,
    pub(super) jobs: Vec<Job>,
    pub(super) queue: VecDeque<JobNo>,
    reports: Vec<Report>,
}

impl Manager {
    /// A manager of so many builders, each as it is when it is new: in service and, today, dirty.
    #[must_use]
    pub fn new(mode: Mode, times: Times, builders: usize) -> Self {
        let builder = || Builder {
            in_service: true,
            cleanness: Cleanness::Dirty,
            failures: 0,
            failed_scans: 0,
            job: None,
            step: Step::Resting,
        };
        Self {
            mode,
            times,
            builders: std::iter::repeat_with(builder).take(builders).collect(),
            jobs: Vec::new(),
            queue: VecDeque::new(),
            reports: Vec::new(),
        }
    }

    /// Whether this is 2011's manager.
    #[must_use]
    pub fn is_2011(&self) -> bool {
        self.mode.is_2011()
    }

    /// Puts a job at the end of the queue.
    pub fn submit(&mut self, cookie: BuildId) -> JobNo {
        let job = JobNo(self.jobs.len());
        self.jobs.push(Job {
            cookie,
            failures: 0,
            cancelling: None,
            end: None,
        });
        self.queue.push_back(job);
        job
    }

    /// Somebody wishes a job to be cancelled. One that waits is over at once; 2011 cannot, and nothing happens.
    pub fn cancel(&mut self, job: JobNo) {
        if self.mode.is_2011() || self.jobs[job.0].end.is_some() {
            return;
        }
        if let Some(place) = self.queue.iter().position(|waiting| *waiting == job) {
            self.queue.remove(place);
            self.jobs[job.0].end = Some(JobEnd::Cancelled);
        } else {
            self.jobs[job.0].cancelling.get_or_insert(Cancel::Wanted);
        }
    }

    /// Somebody wrote `Clean` over the web service (protocol 2.0).
    pub fn web_says_clean(&mut self, builder: BuilderNo) {
        self.builders[builder.0].cleanness = Cleanness::Clean;
    }

    /// What the web service says of a builder.
    #[must_use]
    pub fn cleanness(&self, builder: BuilderNo) -> Cleanness {
        self.builders[builder.0].cleanness
    }

    /// Begins a scan.
    pub fn scan(&mut self, builder: BuilderNo, now: Duration) -> Next {
        if self.builders[builder.0].step != Step::Resting {
            // The one before is not over: today's and 2011's manager both wait for it.
            return Next::Rest(now + self.times.scan);
        }
        if self.mode.is_2011() {
            self.scan_2011(builder, now)
        } else {
            self.scan_today(builder, now)
        }
    }

    /// Goes on with a scan: what became of its last request.
    pub fn answer(&mut self, builder: BuilderNo, now: Duration, answer: Answer) -> Next {
        match std::mem::replace(&mut self.builders[builder.0].step, Step::Resting) {
            Step::Resting => Next::Rest(now + self.times.scan),
            Step::Today(step) => self.go_on_today(builder, now, step, answer),
            Step::Y2011(step) => self.go_on_2011(builder, now, step, answer),
        }
    }

    /// How a job is over, where it is.
    #[must_use]
    pub fn end(&self, job: JobNo) -> Option<JobEnd> {
        self.jobs[job.0].end
    }

    /// A job's cookie.
    #[must_use]
    pub fn cookie(&self, job: JobNo) -> &BuildId {
        &self.jobs[job.0].cookie
    }

    /// Whether a builder has not been disabled.
    #[must_use]
    pub fn is_in_service(&self, builder: BuilderNo) -> bool {
        self.builders[builder.0].in_service
    }

    /// Every builder.
    pub fn builders(&self) -> impl Iterator<Item = BuilderNo> + use<> {
        (0..self.builders.len()).map(BuilderNo)
    }

    /// The job that a builder has.
    #[must_use]
    pub fn job_of(&self, builder: BuilderNo) -> Option<JobNo> {
        self.builders[builder.0].job
    }

    /// Whether every job is over.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.jobs.iter().all(|job| job.end.is_some())
    }

    /// The failures counted against a builder since its last dispatch.
    #[must_use]
    pub fn builder_failures(&self, builder: BuilderNo) -> u32 {
        self.builders[builder.0].failures
    }

    /// The failures counted against a job.
    #[must_use]
    pub fn job_failures(&self, job: JobNo) -> u32 {
        self.jobs[job.0].failures
    }

    /// All that was decided so far.
    #[must_use]
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    pub(super) fn report(&mut self, builder: BuilderNo, now: Duration, what: What) {
        self.reports.push(Report {
            at: now,
            builder,
            job: self.builders[builder.0].job,
            what,
        });
    }

    pub(super) fn ask(&mut self, builder: BuilderNo, step: Step, ask: Ask) -> Next {
        self.builders[builder.0].step = step;
        let limit = match &ask {
            Ask::Status | Ask::Echo | Ask::Abort | Ask::Clean | Ask::Reset | Ask::Build(_) => {
                self.times.call
            }
            Ask::Files(_) => self.times.ensure,
            Ask::Fetch { .. } => self.times.read,
        };
        Next::Ask(Request { ask, limit })
    }

    /// A scan went well.
    pub(super) fn over(&mut self, builder: BuilderNo, now: Duration) -> Next {
        self.builders[builder.0].failed_scans = 0;
        Next::Rest(now + self.times.scan)
    }

    /// A scan failed in a way that may pass by itself.
    pub(super) fn failed_scan(&mut self, builder: BuilderNo, now: Duration, why: Why) -> Next {
        self.report(builder, now, What::FailedScan(why));
        let scans = &mut self.builders[builder.0].failed_scans;
        *scans += 1;
        if self.mode.is_2011() || *scans >= SCANS_BEFORE_COUNT {
            *scans = 0;
            self.count(builder, now, why, true);
        }
        Next::Rest(now + self.times.scan)
    }

    /// A scan failed in a way that counts at once.
    pub(super) fn failed_at_once(&mut self, builder: BuilderNo, now: Duration, why: Why) -> Next {
        self.builders[builder.0].failed_scans = 0;
        self.count(builder, now, why, false);
        Next::Rest(now + self.times.scan)
    }

    /// A breach of security: builder and job are failed on the spot.
    pub(super) fn breach(&mut self, builder: BuilderNo, now: Duration) -> Next {
        self.count_both(builder, now, Why::Isolation);
        self.fail_job(builder, now, Why::Isolation);
        self.disable(builder, now, Why::Isolation);
        Next::Rest(now + self.times.scan)
    }

    pub(super) fn disable(&mut self, builder: BuilderNo, now: Duration, why: Why) {
        self.builders[builder.0].in_service = false;
        self.report(builder, now, What::Disabled(why));
    }

    pub(super) fn take_job(&mut self, builder: BuilderNo) -> Option<JobNo> {
        let job = self.queue.pop_front()?;
        self.builders[builder.0].job = Some(job);
        Some(job)
    }

    pub(super) fn dispatched(&mut self, builder: BuilderNo, now: Duration) -> Next {
        self.builders[builder.0].failures = 0;
        self.report(builder, now, What::Dispatched);
        self.over(builder, now)
    }

    /// The builder's job is over by the build's own word.
    pub(super) fn collected(
        &mut self,
        builder: BuilderNo,
        now: Duration,
        build_status: BuildStatus,
        files: FileMap,
    ) {
        self.report(builder, now, What::Collected(build_status, files));
        self.end_job(builder, JobEnd::Collected(build_status));
    }

    pub(super) fn cancelled(&mut self, builder: BuilderNo, now: Duration) {
        self.report(builder, now, What::Cancelled);
        self.end_job(builder, JobEnd::Cancelled);
    }

    /// The builder's job goes back to the queue; one that is being cancelled is over.
    pub(super) fn requeue(&mut self, builder: BuilderNo, now: Duration, why: Why) {
        let Some(job) = self.builders[builder.0].job else {
            return;
        };
        if self.jobs[job.0].cancelling.is_some() {
            return self.cancelled(builder, now);
        }
        self.report(builder, now, What::Requeued(why));
        self.builders[builder.0].job = None;
        self.queue.push_back(job);
    }

    fn fail_job(&mut self, builder: BuilderNo, now: Duration, why: Why) {
        if self.builders[builder.0].job.is_some() {
            self.report(builder, now, What::JobFailed(why));
            self.end_job(builder, JobEnd::Failed);
        }
    }

    fn end_job(&mut self, builder: BuilderNo, end: JobEnd) {
        if let Some(job) = self.builders[builder.0].job.take() {
            self.jobs[job.0].end = Some(end);
        }
    }

    fn count_both(&mut self, builder: BuilderNo, now: Duration, why: Why) -> (u32, u32) {
        let slot = &mut self.builders[builder.0];
        slot.failures += 1;
        let of_builder = slot.failures;
        let of_job = slot.job.map(|job| {
            self.jobs[job.0].failures += 1;
            self.jobs[job.0].failures
        });
        let counted = What::Counted {
            builder: of_builder,
            job: of_job,
            why,
        };
        self.report(builder, now, counted);
        (of_builder, of_job.unwrap_or_default())
    }

    fn count(&mut self, builder: BuilderNo, now: Duration, why: Why, retry: bool) {
        let (of_builder, of_job) = self.count_both(builder, now, why);
        let cancelling = self.builders[builder.0]
            .job
            .is_some_and(|job| self.jobs[job.0].cancelling.is_some());
        let (builder_fate, job_fate) = judge(self.mode, of_builder, of_job, retry);
        if cancelling {
            // Nobody wants the build any more: it is over, whoever is to blame.
            self.cancelled(builder, now);
        } else {
            match job_fate {
                JobFate::Kept => {}
                JobFate::Requeued => self.requeue(builder, now, why),
                JobFate::Failed => self.fail_job(builder, now, why),
            }
        }
        match builder_fate {
            BuilderFate::Kept => {}
            BuilderFate::Dirtied => {
                self.builders[builder.0].cleanness = Cleanness::Dirty;
                self.report(builder, now, What::Dirtied(why));
            }
            BuilderFate::Disabled => self.disable(builder, now, why),
        }
    }
}
