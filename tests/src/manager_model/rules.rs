//! What differs between managers: the era, the way a builder is cleaned, the times and the thresholds.

use std::time::Duration;

/// Failed scans in a row that today's manager lets pass before they count once.
pub const SCANS_BEFORE_COUNT: u32 = 5;
/// Equal counts of builder and job at which today's manager requeues the job, where it may retry.
pub const REQUEUE_AT: u32 = 3;
/// A builder's count at which it is disabled, where the builder is to blame.
pub const DISABLE_AT: u32 = 5;

/// A manager and its way of cleaning builders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Today's, virtualised, reset protocol 1.1: a command that returns when the builder is ready, then `echo`.
    Command,
    /// Today's, virtualised, reset protocol 2.0: a command that triggers; somebody says `Clean` over the web service.
    Trigger,
    /// Today's, not virtualised: `abort` and `clean`.
    Plain,
    /// 2011's, virtualised: `clean` after a build, and a command just before dispatch.
    Virtual2011,
    /// 2011's, not virtualised: `clean` after a build.
    Plain2011,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Command,
        Self::Trigger,
        Self::Plain,
        Self::Virtual2011,
        Self::Plain2011,
    ];

    /// Whether this is 2011's manager.
    #[must_use]
    pub const fn is_2011(self) -> bool {
        matches!(self, Self::Virtual2011 | Self::Plain2011)
    }

    /// Whether the manager knows its builders as virtualised.
    #[must_use]
    pub const fn is_virtualized(self) -> bool {
        matches!(self, Self::Command | Self::Trigger | Self::Virtual2011)
    }
}

/// How long things are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the end of a scan to the next one.
    pub scan: Duration,
    /// For a call, and for the reset command.
    pub call: Duration,
    /// For the files of one build to be present.
    pub ensure: Duration,
    /// Between two pieces of a file.
    pub read: Duration,
    /// From an accepted `abort` to the end of the build.
    pub cancel: Duration,
}

impl Times {
    /// The real manager's.
    #[must_use]
    pub const fn of(mode: Mode) -> Self {
        let (call, ensure) = match mode {
            Mode::Command | Mode::Trigger => (30, 20 * 30),
            Mode::Plain => (40, 20 * 40),
            Mode::Virtual2011 | Mode::Plain2011 => (40, 40),
        };
        Self {
            scan: Duration::from_secs(15),
            call: Duration::from_secs(call),
            ensure: Duration::from_secs(ensure),
            read: Duration::from_secs(call),
            cancel: Duration::from_secs(180),
        }
    }
}
