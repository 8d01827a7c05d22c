//! What a run was: the model's database and decisions, the jobs with what was planned for them, and what was seen.
//! The builders' tasks, the web service and whoever makes trouble share it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use panda_tests::manager_model::pool::Cleanness;
use panda_tests::manager_model::report::Why;
use panda_tests::manager_model::{BuilderNo, JobNo, Manager, What};
use tokio::time::Instant;

use crate::plan::Planned;
use crate::trouble::Trouble;

/// The most failures that are told of a run.
const SHOWN: usize = 20;

/// What a run was.
#[derive(Debug)]
pub(crate) struct History {
    pub(crate) manager: Manager,
    pub(crate) planned: Vec<Planned>,
    /// Jobs that are submitted when the one of the same id is cancelled.
    pub(crate) retries: BTreeMap<String, Planned>,
    /// What was seen of each failure.
    pub(crate) notes: Vec<String>,
    /// What nothing excuses: a wrong result, another build's log, a request that the web service has to refuse.
    pub(crate) wrong: Vec<String>,
    /// How often the web service took a `Clean`, and how often it was asked over an entry that had changed.
    pub(crate) told_clean: usize,
    pub(crate) outdated: usize,
    /// Files that were fetched and were as their sums said.
    pub(crate) fetched: usize,
}

/// What the tasks of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    history: Mutex<History>,
    pub(crate) begun: Instant,
}

impl Shared {
    pub(crate) fn new(manager: Manager) -> Self {
        Self {
            history: Mutex::new(History {
                manager,
                planned: Vec::new(),
                retries: BTreeMap::new(),
                notes: Vec::new(),
                wrong: Vec::new(),
                told_clean: 0,
                outdated: 0,
                fetched: 0,
            }),
            begun: Instant::now(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

impl History {
    /// Takes the jobs in; those that are retries wait for the end of the one before.
    pub(crate) fn plan(&mut self, jobs: Vec<Planned>) {
        let mut before_was_retried = false;
        for job in jobs {
            let retried = job.retried;
            if before_was_retried {
                let id = job.call.build_id.as_str().to_owned();
                self.retries.insert(id, job);
            } else {
                self.submit(job);
            }
            before_was_retried = retried;
        }
    }

    pub(crate) fn submit(&mut self, job: Planned) {
        self.manager.submit(job.call.build_id.clone());
        self.planned.push(job);
    }

    /// Whether a job is just being handed over that had to be requeued before.
    pub(crate) fn hands_over_again(&self) -> bool {
        let jobs = self
            .manager
            .builders()
            .filter_map(|builder| self.manager.job_of(builder));
        jobs.filter(|job| self.manager.job_failures(*job) > 0)
            .any(|job| {
                let mut reports = self.manager.reports().iter().rev();
                let last = reports.find(|report| report.job == Some(job));
                last.is_none_or(|last| matches!(last.what, What::Requeued(_)))
            })
    }

    /// How often a job was handed over.
    pub(crate) fn dispatched(&self) -> usize {
        self.count(|what| *what == What::Dispatched)
    }

    /// Whether every job is over.
    pub(crate) fn is_done(&self) -> bool {
        self.manager.is_done() && self.retries.is_empty()
    }

    /// Whether every job is over, and this builder ready for another; or whether no builder is left.
    pub(crate) fn is_over(&self, builder: BuilderNo) -> bool {
        let clean = self.manager.cleanness(builder) == Cleanness::Clean;
        !self.manager.is_in_service(builder)
            || (self.is_done() && (clean || self.manager.is_2011()))
    }

    /// Demands that every job ended as it should, with the right results, and that nothing was counted; under trouble,
    /// that what was counted is forgiven by the manager's own rules.
    pub(crate) fn judge(&self, cycles: usize, trouble: Trouble) -> Result<()> {
        ensure!(
            self.wrong.is_empty(),
            "what nothing excuses: {:#?}",
            self.wrong
        );
        let bad = |what: &What| match trouble {
            Trouble::None => what.is_harm() || matches!(what, What::FailedScan(_)),
            Trouble::Kills(_) => is_unforgivable(what) || blames_the_build(what),
            Trouble::Deaths(_) | Trouble::SlowLink => is_unforgivable(what),
            Trouble::Outage(_) => is_unforgivable(what) || counts_idleness(what),
        };
        let bad = self.count(bad);
        ensure!(
            bad == 0,
            "{bad} decisions that no rack may cause:\n{}",
            self.told()
        );
        ensure!(
            trouble != Trouble::None || self.notes.is_empty(),
            "failures:\n{}",
            self.told()
        );
        ensure!(
            self.planned.len() == cycles,
            "{} jobs of {cycles}",
            self.planned.len(),
        );
        for (number, job) in self.planned.iter().enumerate() {
            let end = self.manager.end(JobNo(number));
            ensure!(
                end == Some(job.kind.end()),
                "{} ({:?}) ended as {end:?}\n{}",
                job.call.build_id,
                job.kind,
                self.told()
            );
        }
        Ok(())
    }

    /// What was counted, in one line.
    pub(crate) fn counted(&self) -> String {
        let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
        for report in self.manager.reports() {
            let name = match &report.what {
                What::FailedScan(why) => format!("scans that failed ({})", told(*why)),
                What::Counted { why, job, .. } => {
                    let whom = if job.is_some() {
                        "builder and job"
                    } else {
                        "builder"
                    };
                    format!("counted against {whom} ({})", told(*why))
                }
                What::Requeued(why) => format!("requeued ({})", told(*why)),
                What::JobFailed(why) => format!("FAILED FOR GOOD ({})", told(*why)),
                What::Dirtied(why) => format!("dirtied ({})", told(*why)),
                What::Disabled(why) => format!("DISABLED ({})", told(*why)),
                What::Cleaned
                | What::Cleaning
                | What::Dispatched
                | What::Collected(..)
                | What::Cancelled => continue,
            };
            *by_name.entry(name).or_default() += 1;
        }
        if by_name.is_empty() {
            return "nothing counted".to_owned();
        }
        let mut line = String::new();
        for (name, count) in by_name {
            let comma = if line.is_empty() { "" } else { ", " };
            // Writing to a string cannot fail.
            write!(line, "{comma}{count} {name}").unwrap_or_default();
        }
        line
    }

    /// How many decisions are of a kind.
    pub(crate) fn count(&self, is: impl Fn(&What) -> bool) -> usize {
        let reports = self.manager.reports().iter();
        reports.filter(|report| is(&report.what)).count()
    }

    /// What a person needs to know of a run that went wrong: the harm first.
    pub(crate) fn told(&self) -> String {
        let reports = || self.manager.reports().iter();
        let worst = reports().filter(|report| is_unforgivable(&report.what));
        let harm =
            reports().filter(|report| report.what.is_harm() && !is_unforgivable(&report.what));
        let scans = reports().filter(|report| matches!(report.what, What::FailedScan(_)));
        let reports = worst
            .take(SHOWN)
            .chain(harm.take(SHOWN))
            .chain(scans.take(SHOWN));
        let open = self.planned.iter().enumerate().filter_map(|(number, job)| {
            let open = self.manager.end(JobNo(number)).is_none();
            open.then(|| format!("open: {} ({:?})", job.call.build_id, job.kind))
        });
        reports
            .map(|report| format!("{report:?}"))
            .chain(self.wrong.iter().take(SHOWN).cloned())
            .chain(self.notes.iter().take(SHOWN).cloned())
            .chain(open.take(SHOWN))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// What a person at Launchpad would have to put right.
fn is_unforgivable(what: &What) -> bool {
    matches!(what, What::Disabled(_) | What::JobFailed(_))
}

/// A builder that was not asked for anything but its status was counted as a bad one.
fn counts_idleness(what: &What) -> bool {
    matches!(
        what,
        What::Counted {
            why: Why::Call("status", _),
            ..
        }
    )
}

/// What a daemon that was only killed has no excuse for: a build lost, given back, or ended by the board.
fn blames_the_build(what: &What) -> bool {
    let (What::FailedScan(why) | What::Counted { why, .. } | What::Requeued(why)) = what else {
        return false;
    };
    match why {
        Why::Isolation
        | Why::Lost
        | Why::Unexpected(_)
        | Why::NotAborted(_)
        | Why::CancelTimeOut
        | Why::GivenBack
        | Why::Aborted => true,
        Why::Call(..) | Why::OutOfService => false,
    }
}

fn told(why: Why) -> String {
    match why {
        Why::Call(call, failure) => format!("{call}: {failure:?}").to_lowercase(),
        other => format!("{other:?}"),
    }
}
