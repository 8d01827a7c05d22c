//! A scan of June 2011's manager, step by step. Every failure in it counts.
//!
//! ```text
//! Rescuing ─ unknown id: clean or abort ─▶ Rescued ─┐
//!     ├──────────────────────────────────────────────┴─▶ has a job ─▶ Following ─ WAITING ─▶ Collecting ─▶ Freeing
//!     ├ no job, ABORTING: skipped                        no job ────▶ Available ─ IDLE ─┐
//!     └ no job, ABORTED: clean, or disabled              [Resetting ─▶ Pinging] ─▶ Sending ─▶ Starting
//! ```

use std::time::Duration;

use panda_protocol::launchpad::{BuildStatus, FileMap, Status};

use super::ask::{Answer, Ask, Failure};
use super::pool::{BuilderNo, JobNo, Manager, Next, Step as AnyStep};
use super::report::Why;
use super::rules::Mode;

/// What a scan waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The first `status`: is the builder lost?
    Rescuing,
    /// `clean` or `abort` of what nobody knows.
    Rescued(&'static str),
    /// The second `status`, of a builder with a job.
    Following(JobNo),
    /// The second `status`, of one without.
    Available,
    /// The reset command.
    Resetting(JobNo),
    /// `echo` after it.
    Pinging(JobNo),
    /// The job's inputs.
    Sending(JobNo),
    /// `build`.
    Starting,
    /// The finished job's files.
    Collecting(BuildStatus, FileMap),
    /// `clean` after a build.
    Freeing(Ending),
}

/// What becomes of a job once its builder is cleaned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    Collected(BuildStatus, FileMap),
    Requeued(Why),
}

impl Manager {
    pub(super) fn scan_2011(&mut self, builder: BuilderNo, now: Duration) -> Next {
        if !self.builders[builder.0].in_service {
            self.requeue(builder, now, Why::OutOfService);
            return self.over(builder, now);
        }
        self.next_2011(builder, Step::Rescuing, Ask::Status)
    }

    pub(super) fn go_on_2011(
        &mut self,
        builder: BuilderNo,
        now: Duration,
        step: Step,
        answer: Answer,
    ) -> Next {
        let name = step.name();
        match (step, answer) {
            (Step::Rescuing, Answer::Status(status)) => self.rescue(builder, now, &status),
            (Step::Rescued(_), Answer::Done) => self.look_again(builder),
            (Step::Following(job), Answer::Status(status)) => {
                self.follow_2011(builder, now, job, status)
            }
            (Step::Available, Answer::Status(Status::Idle)) => match self.take_job(builder) {
                Some(job) if self.mode == Mode::Virtual2011 => {
                    self.next_2011(builder, Step::Resetting(job), Ask::Reset)
                }
                Some(job) => self.next_2011(builder, Step::Sending(job), Ask::Files(job)),
                None => self.over(builder, now),
            },
            (Step::Available, Answer::Status(_)) => self.over(builder, now),
            (Step::Resetting(job), Answer::Done) => {
                self.next_2011(builder, Step::Pinging(job), Ask::Echo)
            }
            (Step::Pinging(job), Answer::Done) => {
                self.next_2011(builder, Step::Sending(job), Ask::Files(job))
            }
            (Step::Sending(job), Answer::Done) => {
                self.next_2011(builder, Step::Starting, Ask::Build(job))
            }
            (Step::Starting, Answer::Done) => self.dispatched(builder, now),
            (Step::Collecting(build_status, files), Answer::Done) => {
                let ending = Ending::Collected(build_status, files);
                self.next_2011(builder, Step::Freeing(ending), Ask::Clean)
            }
            (Step::Freeing(ending), Answer::Done) => {
                match ending {
                    Ending::Collected(build_status, files) => {
                        self.collected(builder, now, build_status, files);
                    }
                    Ending::Requeued(why) => self.requeue(builder, now, why),
                }
                self.over(builder, now)
            }
            (_, Answer::Failed(failure)) => {
                self.failed_scan(builder, now, Why::Call(name, failure))
            }
            (_, Answer::Done | Answer::Status(_)) => {
                self.failed_scan(builder, now, Why::Call(name, Failure::Malformed))
            }
        }
    }

    fn rescue(&mut self, builder: BuilderNo, now: Duration, status: &Status) -> Next {
        let cookie = self.builders[builder.0]
            .job
            .map(|job| self.jobs[job.0].cookie.clone());
        let (name, ask) = match status {
            Status::Building { build_id, .. } if cookie.as_ref() != Some(build_id) => {
                ("abort", Ask::Abort)
            }
            Status::Waiting { build_id, .. } if cookie.as_ref() != Some(build_id) => {
                ("clean", Ask::Clean)
            }
            Status::Aborting { .. } if cookie.is_none() => return self.over(builder, now),
            Status::Aborted { .. } if cookie.is_none() => {
                if !self.mode.is_virtualized() {
                    self.disable(builder, now, Why::Aborted);
                    return self.over(builder, now);
                }
                ("clean", Ask::Clean)
            }
            Status::Idle
            | Status::Building { .. }
            | Status::Waiting { .. }
            | Status::Aborting { .. }
            | Status::Aborted { .. } => return self.look_again(builder),
        };
        self.next_2011(builder, Step::Rescued(name), ask)
    }

    /// The second `status` of a scan.
    fn look_again(&mut self, builder: BuilderNo) -> Next {
        let step = match self.builders[builder.0].job {
            Some(job) => Step::Following(job),
            None => Step::Available,
        };
        self.ask(builder, AnyStep::Y2011(step), Ask::Status)
    }

    fn follow_2011(
        &mut self,
        builder: BuilderNo,
        now: Duration,
        job: JobNo,
        status: Status,
    ) -> Next {
        let (step, ask) = match status {
            Status::Building { .. } | Status::Aborting { .. } => return self.over(builder, now),
            Status::Idle => {
                self.requeue(builder, now, Why::Lost);
                return self.over(builder, now);
            }
            Status::Aborted { .. } => (Step::Freeing(Ending::Requeued(Why::Aborted)), Ask::Clean),
            Status::Waiting { outcome, .. } => match outcome.build_status {
                BuildStatus::Ok => collecting(job, BuildStatus::Ok, outcome.filemap),
                known @ (BuildStatus::PackageFail
                | BuildStatus::DepFail
                | BuildStatus::ChrootFail) => collecting(job, known, FileMap::new()),
                BuildStatus::GivenBack => {
                    (Step::Freeing(Ending::Requeued(Why::GivenBack)), Ask::Clean)
                }
                broken @ BuildStatus::BuilderFail => {
                    self.disable(builder, now, Why::Unexpected(broken));
                    self.requeue(builder, now, Why::Unexpected(broken));
                    return self.over(builder, now);
                }
                unknown @ BuildStatus::Aborted => {
                    return self.failed_scan(builder, now, Why::Unexpected(unknown));
                }
            },
        };
        self.next_2011(builder, step, ask)
    }

    fn next_2011(&mut self, builder: BuilderNo, step: Step, ask: Ask) -> Next {
        self.ask(builder, AnyStep::Y2011(step), ask)
    }
}

/// The files of a finished job are fetched with a single try.
fn collecting(job: JobNo, build_status: BuildStatus, files: FileMap) -> (Step, Ask) {
    let ask = Ask::Fetch {
        job,
        files: files.clone(),
        tries: 1,
    };
    (Step::Collecting(build_status, files), ask)
}

impl Step {
    const fn name(&self) -> &'static str {
        match self {
            Self::Rescuing | Self::Following(_) | Self::Available => "status",
            Self::Rescued(name) => name,
            Self::Resetting(_) => "reset command",
            Self::Pinging(_) => "echo",
            Self::Sending(_) => "ensurepresent",
            Self::Starting => "build",
            Self::Collecting(..) => "filecache",
            Self::Freeing(_) => "clean",
        }
    }
}
