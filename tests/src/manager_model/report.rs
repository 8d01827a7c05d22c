//! All that the manager decides, as it decides it: a run's reports are its history.

use std::time::Duration;

use panda_protocol::launchpad::{BuildStatus, FileMap};

use super::ask::Failure;
use super::pool::{BuilderNo, JobNo};

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// When.
    pub at: Duration,
    /// At which builder.
    pub builder: BuilderNo,
    /// The job that it had, if any.
    pub job: Option<JobNo>,
    /// What.
    pub what: What,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The builder is believed to be clean.
    Cleaned,
    /// The reset was triggered; the web service will say when the builder is clean.
    Cleaning,
    /// The job was handed over; the builder's count of failures is cleared.
    Dispatched,
    /// The build has ended, and all that it left was fetched.
    Collected(BuildStatus, FileMap),
    /// A cancelled job is at its end.
    Cancelled,
    /// A scan failed and will be tried again; nothing was counted.
    FailedScan(Why),
    /// Failures were counted: the counts after it.
    Counted {
        /// The builder's.
        builder: u32,
        /// The job's, where there is one.
        job: Option<u32>,
        /// For what.
        why: Why,
    },
    /// The job goes back to the queue.
    Requeued(Why),
    /// The job has failed for good, through no word of the build's.
    JobFailed(Why),
    /// The builder is to be cleaned before anything else.
    Dirtied(Why),
    /// The builder is out of service until a person looks at it.
    Disabled(Why),
}

impl What {
    /// Whether this is what no good builder makes happen: a count, a requeued or failed job, a builder dirtied or
    /// disabled.
    #[must_use]
    pub const fn is_harm(&self) -> bool {
        match self {
            Self::Counted { .. }
            | Self::Requeued(_)
            | Self::JobFailed(_)
            | Self::Dirtied(_)
            | Self::Disabled(_) => true,
            Self::Cleaned
            | Self::Cleaning
            | Self::Dispatched
            | Self::Collected(..)
            | Self::Cancelled
            | Self::FailedScan(_) => false,
        }
    }
}

/// What went wrong, or seemed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// A call failed.
    Call(&'static str, Failure),
    /// A builder that should be clean did not say IDLE, or one that has a job is not dirty: a breach of security.
    Isolation,
    /// The builder does not have the job that it should have.
    Lost,
    /// The builder is disabled.
    OutOfService,
    /// The build ended in a way that the manager has no use for.
    Unexpected(BuildStatus),
    /// A cancelled build ended in another way than ABORTED.
    NotAborted(BuildStatus),
    /// A cancelled build did not end in time.
    CancelTimeOut,
    /// The builder gave the build back.
    GivenBack,
    /// The builder says ABORTED where no abort was asked for.
    Aborted,
}
