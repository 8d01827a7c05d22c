//! A scan of today's manager, step by step.
//!
//! ```text
//! has a job ─▶ Following ─ WAITING ─▶ Collecting ─▶ (dirty, no job)
//!                 └ cancelled ─▶ Aborting
//! dirty ─────▶ Resetting ─▶ Pinging ─▶ (clean)       protocol 1.1
//!              Resetting ─▶ (cleaning)               protocol 2.0
//!              Looking ─▶ Freeing ─▶ (clean)         not virtualised
//! clean ─────▶ Checking ─▶ Sending ─▶ Starting ─▶ (dirty, with a job)
//! ```

use std::time::Duration;

use panda_protocol::launchpad::{BuildStatus, FileMap, Outcome, Status};

use super::ask::{Answer, Ask, Failure};
use super::pool::{BuilderNo, Cancel, Cleanness, JobNo, Manager, Next, Step as AnyStep};
use super::report::{What, Why};
use super::rules::Mode;

/// How often a result is tried to be fetched.
const FETCH_TRIES: u32 = 3;

/// What a scan waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The job's `status`.
    Following(JobNo),
    /// The cancelled job's `abort`.
    Aborting(JobNo),
    /// The finished job's files.
    Collecting(BuildStatus, FileMap),
    /// The reset command.
    Resetting,
    /// `echo` after it.
    Pinging,
    /// The dirty builder's `status`.
    Looking,
    /// The dirty builder's `abort`.
    Stopping,
    /// The dirty builder's `clean`.
    Freeing,
    /// The clean builder's `status`.
    Checking,
    /// The job's inputs.
    Sending(JobNo),
    /// `build`.
    Starting,
}

impl Manager {
    pub(super) fn scan_today(&mut self, builder: BuilderNo, now: Duration) -> Next {
        let slot = &self.builders[builder.0];
        let (in_service, cleanness) = (slot.in_service, slot.cleanness);
        let (step, ask) = match slot.job {
            Some(_) if cleanness != Cleanness::Dirty => return self.breach(builder, now),
            Some(_) if !in_service => {
                self.requeue(builder, now, Why::OutOfService);
                return self.over(builder, now);
            }
            Some(job) => (Step::Following(job), Ask::Status),
            None if !in_service => return self.over(builder, now),
            None => match (cleanness, self.mode) {
                (Cleanness::Clean, _) => (Step::Checking, Ask::Status),
                (Cleanness::Cleaning, _) => return self.over(builder, now),
                (Cleanness::Dirty, Mode::Plain) => (Step::Looking, Ask::Status),
                (Cleanness::Dirty, _) => (Step::Resetting, Ask::Reset),
            },
        };
        self.next_today(builder, step, ask)
    }

    pub(super) fn go_on_today(
        &mut self,
        builder: BuilderNo,
        now: Duration,
        step: Step,
        answer: Answer,
    ) -> Next {
        let name = step.name();
        let call = |failure| Why::Call(name, failure);
        match (step, answer) {
            (Step::Following(job), Answer::Status(status)) => {
                self.follow(builder, now, job, status)
            }
            (Step::Aborting(job), Answer::Done) => {
                self.jobs[job.0].cancelling = Some(Cancel::Until(now + self.times.cancel));
                self.over(builder, now)
            }
            (Step::Collecting(build_status, files), Answer::Done) => {
                if build_status == BuildStatus::Aborted {
                    self.cancelled(builder, now);
                } else {
                    self.collected(builder, now, build_status, files);
                }
                self.over(builder, now)
            }
            (Step::Resetting, Answer::Done) if self.mode == Mode::Trigger => {
                // Whatever was written over the web service before now is overwritten.
                self.builders[builder.0].cleanness = Cleanness::Cleaning;
                self.report(builder, now, What::Cleaning);
                self.over(builder, now)
            }
            (Step::Resetting, Answer::Done) => self.next_today(builder, Step::Pinging, Ask::Echo),
            (Step::Pinging | Step::Freeing, Answer::Done) => self.cleaned(builder, now),
            (Step::Looking, Answer::Status(status)) => self.look(builder, now, &status),
            (Step::Stopping, Answer::Done) => self.over(builder, now),
            (Step::Checking, Answer::Status(Status::Idle)) => match self.take_job(builder) {
                Some(job) => {
                    self.builders[builder.0].cleanness = Cleanness::Dirty;
                    self.next_today(builder, Step::Sending(job), Ask::Files(job))
                }
                None => self.over(builder, now),
            },
            (Step::Checking, Answer::Status(_)) => self.breach(builder, now),
            (Step::Sending(job), Answer::Done) => {
                self.next_today(builder, Step::Starting, Ask::Build(job))
            }
            (Step::Starting, Answer::Done) => self.dispatched(builder, now),
            (Step::Sending(_) | Step::Starting | Step::Resetting, Answer::Failed(failure)) => {
                self.failed_at_once(builder, now, call(failure))
            }
            (_, Answer::Failed(failure)) => self.failed_scan(builder, now, call(failure)),
            (_, Answer::Done | Answer::Status(_)) => {
                self.failed_scan(builder, now, call(Failure::Malformed))
            }
        }
    }

    fn follow(&mut self, builder: BuilderNo, now: Duration, job: JobNo, status: Status) -> Next {
        let cookie = match &status {
            Status::Building { build_id, .. }
            | Status::Waiting { build_id, .. }
            | Status::Aborted { build_id } => Some(build_id),
            Status::Aborting { build_id } => build_id.as_ref(),
            Status::Idle => None,
        };
        if cookie != Some(&self.jobs[job.0].cookie) {
            self.requeue(builder, now, Why::Lost);
            return self.over(builder, now);
        }
        let cancelling = match self.jobs[job.0].cancelling {
            Some(Cancel::Wanted) => {
                return self.next_today(builder, Step::Aborting(job), Ask::Abort);
            }
            Some(Cancel::Until(until)) if now >= until => {
                return self.failed_scan(builder, now, Why::CancelTimeOut);
            }
            Some(Cancel::Until(_)) => true,
            None => false,
        };
        let Outcome {
            build_status,
            filemap,
            ..
        } = match status {
            Status::Waiting { outcome, .. } => outcome,
            Status::Building { .. } | Status::Aborting { .. } | Status::Idle => {
                return self.over(builder, now);
            }
            // Today's struct has no such status.
            Status::Aborted { .. } => {
                let why = Why::Call("status", Failure::Malformed);
                return self.failed_scan(builder, now, why);
            }
        };
        let files = match (cancelling, build_status) {
            (true, BuildStatus::Aborted) => FileMap::new(),
            (true, _) => return self.failed_scan(builder, now, Why::NotAborted(build_status)),
            (false, BuildStatus::Ok) => filemap,
            (false, BuildStatus::PackageFail | BuildStatus::DepFail | BuildStatus::ChrootFail) => {
                FileMap::new()
            }
            (false, BuildStatus::GivenBack | BuildStatus::BuilderFail | BuildStatus::Aborted) => {
                return self.failed_scan(builder, now, Why::Unexpected(build_status));
            }
        };
        let step = Step::Collecting(build_status, files.clone());
        let ask = Ask::Fetch {
            job,
            files,
            tries: FETCH_TRIES,
        };
        self.next_today(builder, step, ask)
    }

    /// A dirty builder that is not virtualised.
    fn look(&mut self, builder: BuilderNo, now: Duration, status: &Status) -> Next {
        let (step, ask) = match status {
            Status::Idle => return self.cleaned(builder, now),
            Status::Aborting { .. } => return self.over(builder, now),
            Status::Building { .. } => (Step::Stopping, Ask::Abort),
            Status::Waiting { .. } => (Step::Freeing, Ask::Clean),
            Status::Aborted { .. } => {
                let why = Why::Call("status", Failure::Malformed);
                return self.failed_scan(builder, now, why);
            }
        };
        self.next_today(builder, step, ask)
    }

    fn cleaned(&mut self, builder: BuilderNo, now: Duration) -> Next {
        self.builders[builder.0].cleanness = Cleanness::Clean;
        self.report(builder, now, What::Cleaned);
        self.over(builder, now)
    }

    fn next_today(&mut self, builder: BuilderNo, step: Step, ask: Ask) -> Next {
        self.ask(builder, AnyStep::Today(step), ask)
    }
}

impl Step {
    const fn name(&self) -> &'static str {
        match self {
            Self::Following(_) | Self::Looking | Self::Checking => "status",
            Self::Aborting(_) | Self::Stopping => "abort",
            Self::Collecting(..) => "filecache",
            Self::Resetting => "reset command",
            Self::Pinging => "echo",
            Self::Freeing => "clean",
            Self::Sending(_) => "ensurepresent",
            Self::Starting => "build",
        }
    }
}
