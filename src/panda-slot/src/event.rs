//! What comes in, and what goes out. Every event and timer that belongs to a boot or an attempt carries
//! its number; one whose number is not the current one is late and is dropped.

use std::fmt;

use panda_protocol::ids::{AttemptNo, BootNo};
use panda_protocol::launchpad::{BuildId, Dialect, Outcome};

use crate::board::Slot;

/// A caller that waits for an answer. Made by the daemon, unique while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

impl CallId {
    /// The caller of this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What the machine is told of its rack: how often things are tried, and who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts of one reset before the board is Failed.
    pub attempts: u32,
    /// How often an unacknowledged build moves to a new boot.
    pub moves: u32,
    /// Which manager the rack speaks to: 2011's `clean` is answered at once.
    pub dialect: Dialect,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// Launchpad's `build`.
    Build {
        /// Who asks.
        call: CallId,
        /// The job's cookie.
        build_id: BuildId,
    },
    /// Launchpad's `abort`.
    Abort {
        /// Who asks.
        call: CallId,
    },
    /// Launchpad's `clean`.
    Clean {
        /// Who asks.
        call: CallId,
    },
    /// Launchpad's reset, through its command.
    Reset {
        /// Who asks.
        call: CallId,
    },
    /// An operator's reset.
    OperatorReset {
        /// Who asks.
        call: CallId,
        /// A build or its results may be lost.
        forced: bool,
    },
    /// An operator holds the slot.
    Hold {
        /// Who asks.
        call: CallId,
        /// Why, for people.
        reason: String,
    },
    /// An operator releases it.
    Release {
        /// Who asks.
        call: CallId,
    },
    /// The image that the board was booted from is no longer the rack's current one. Asked slot by slot,
    /// never of all at once, so that a roll-out leaves the others ready.
    ImageOutdated {
        /// Who asks.
        call: CallId,
        /// The boot that was made from the outdated image.
        boot: BootNo,
    },
    /// Power was cut, with evidence.
    CutSeen {
        /// Whose cut.
        boot: BootNo,
    },
    /// Power was ordered off and the port stayed empty, but that shows less than the rack demands: what
    /// has to leave the port was not there.
    CutWeak {
        /// Whose cut.
        boot: BootNo,
        /// What is missing, for people.
        reason: String,
    },
    /// It was not.
    CutFailed {
        /// Whose cut.
        boot: BootNo,
        /// Why, for people.
        reason: String,
    },
    /// A board that was booted for the evidence of its next cut is ready for that.
    Prepared {
        /// Which boot.
        boot: BootNo,
    },
    /// A step of the boot failed.
    BootFailed {
        /// Which boot.
        boot: BootNo,
        /// Why, for people.
        reason: String,
    },
    /// Another board answered.
    WrongChip {
        /// In which boot.
        boot: BootNo,
        /// Why, for people.
        reason: String,
    },
    /// The board proved this boot.
    Proved {
        /// Which boot.
        boot: BootNo,
    },
    /// The self-test build ended.
    TrialEnded {
        /// On which boot.
        boot: BootNo,
        /// It went as it should.
        good: bool,
    },
    /// The board is lost.
    Lost {
        /// In which boot.
        boot: BootNo,
        /// How.
        why: Lost,
    },
    /// The worker has acknowledged the build.
    Acknowledged {
        /// Which build.
        attempt: AttemptNo,
        /// On which boot.
        boot: BootNo,
    },
    /// The worker has finished.
    Finished {
        /// Which build.
        attempt: AttemptNo,
        /// On which boot.
        boot: BootNo,
    },
    /// Its results are here, each checked.
    Collected {
        /// Which build.
        attempt: AttemptNo,
        /// From which boot.
        boot: BootNo,
        /// How it ended.
        outcome: Outcome,
    },
    /// The abort is done, or its time is over.
    AbortEnded {
        /// Which build.
        attempt: AttemptNo,
        /// On which boot.
        boot: BootNo,
    },
    /// A `clean` has waited long enough.
    CleanDue {
        /// Which `clean`.
        call: CallId,
    },
    /// A Failed board may be tried again.
    RetryDue {
        /// The boot that failed.
        boot: BootNo,
    },
    /// The daemon started with this state; always its first event.
    Recover,
}

/// Why a board is lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Lost {
    /// It does not answer.
    #[error("it does not answer")]
    Silent,
    /// It said what cannot be.
    #[error("it said what cannot be: {0}")]
    Lied(String),
    /// It refused a call.
    #[error("it refused a call: {0}")]
    Refused(String),
    /// It is in another boot, or a ROM was seen where none was awaited.
    #[error("it has started again by itself")]
    Rebooted,
    /// It took more than its time.
    #[error("it took more than its time")]
    OverTime,
}

/// What the daemon must do, in this order, after the new state is committed. One activity of the board
/// runs at a time: each that starts takes the place of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Cut power and gather evidence.
    StartCut {
        /// The boot that begins with this cut.
        boot: BootNo,
        /// It is to try a new image.
        trial: bool,
    },
    /// Boot only so that the next cut can be evidenced: from power on until what has to leave the port is
    /// on it.
    StartPreparing {
        /// The boot.
        boot: BootNo,
    },
    /// Boot: from power on to the agent's report.
    StartBoot {
        /// The boot.
        boot: BootNo,
        /// It is to try a new image.
        trial: bool,
    },
    /// Ask the board to prove itself every few seconds.
    StartProving {
        /// The boot.
        boot: BootNo,
    },
    /// Give the worker this build, or follow the one it has.
    StartGuest {
        /// The boot.
        boot: BootNo,
        /// The build.
        attempt: AttemptNo,
        /// The worker is known to have it. Where it is not, it may have it all the same: the daemon may
        /// have died between the worker's answer and the commit.
        acknowledged: bool,
    },
    /// Bring the results to the master.
    StartCollecting {
        /// The boot.
        boot: BootNo,
        /// The build.
        attempt: AttemptNo,
    },
    /// Tell the worker to abort and take its log, within seconds.
    StartAbort {
        /// The boot.
        boot: BootNo,
        /// The build.
        attempt: AttemptNo,
    },
    /// Run the self-test build.
    StartTrial {
        /// The boot.
        boot: BootNo,
    },
    /// Power off and leave it so.
    PowerOff,
    /// Tell the operators.
    Alert {
        /// What happened.
        reason: String,
    },
    /// Tell the image store how the trial went.
    ReportTrial {
        /// It went as it should.
        good: bool,
    },
    /// Drop the kept results and the log.
    DropKept {
        /// Whose.
        attempt: AttemptNo,
    },
    /// The slot's build has ended, or the slot is reset without one: what its board may fetch, and what was
    /// brought for its next build, is let go.
    ReleaseInputs,
    /// The build has ended: forget its arguments.
    BuildEnded {
        /// Which build.
        attempt: AttemptNo,
    },
    /// Arm the timer that ends a waiting `clean`.
    ArmCleanDue {
        /// Which `clean`.
        call: CallId,
    },
    /// Arm the timer that retries a Failed board.
    ArmRetry {
        /// The boot that failed.
        boot: BootNo,
        /// How often the board was Failed before, since it was last given a build or an operator took a
        /// hand: for a growing pause.
        pauses: u32,
    },
    /// Answer a caller.
    Answer {
        /// Whom.
        call: CallId,
        /// With what.
        answer: Answer,
    },
}

/// An answer to a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// `build` was accepted.
    Building {
        /// As this attempt.
        attempt: AttemptNo,
    },
    /// `abort` was accepted.
    Aborting,
    /// `clean` is done.
    Idle,
    /// A reset: the slot is Fresh.
    Ready,
    /// A reset: one is under way now (joined or begun); watch the slot for its end.
    Joined,
    /// Hold or release is done; or an outdated image was taken note of, by a reset or the next one.
    Done,
    /// No.
    Refused(Refusal),
}

/// Why a call is refused; becomes a Fault, or the command's line on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// `build` while the slot is not ready for one.
    #[error("the slot is not idle")]
    NotIdle,
    /// `abort` with nothing to abort.
    #[error("nothing is building")]
    NotBuilding,
    /// `clean` with nothing to clean.
    #[error("nothing waits to be cleaned")]
    NothingKept,
    /// An operator's reset of a slot with a build, without force.
    #[error("the slot has a build or its results; force the reset to lose them")]
    HasBuild,
    /// An operator holds the slot.
    #[error("held by an operator: {0}")]
    Held(String),
    /// The board has failed.
    #[error("the board has failed: {0}")]
    Failed(String),
    /// The slot is off.
    #[error("the board is off")]
    Off,
    /// `clean` waited, and the slot did not become ready in time, or something else came first.
    #[error("not ready in time; ask again")]
    NotReady,
    /// The new state could not be committed, so nothing was changed. The machine itself never says
    /// this; the slot's task does.
    #[error("the master cannot write its ledger, so nothing was changed; see its log")]
    NotRecorded,
}

/// A step of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The new state; to be committed before any effect.
    pub next: Slot,
    /// What to do then.
    pub effects: Vec<Effect>,
}
