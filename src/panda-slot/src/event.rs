//! What comes in, and what goes out. Every event and timer that belongs to a boot or an attempt carries
//! its number; one whose number is not the current one is late and is dropped.

use panda_protocol::launchpad::{BuildId, Outcome};

use crate::board::{AttemptNo, BootNo, Slot};

/// A caller that waits for an answer. Made by the daemon, unique while it runs.
pub type CallId = u64;

/// How often things are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Attempts of one reset before the board is Failed.
    pub attempts: u32,
    /// How often an unacknowledged build moves to a new boot.
    pub moves: u32,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// Launchpad's `build`.
    Build { call: CallId, build_id: BuildId },
    /// Launchpad's `abort`.
    Abort { call: CallId },
    /// Launchpad's `clean`.
    Clean { call: CallId },
    /// Launchpad's reset, through its command.
    Reset { call: CallId },
    /// An operator's reset.
    OperatorReset { call: CallId, forced: bool },
    /// An operator holds the slot.
    Hold { call: CallId, reason: String },
    /// An operator releases it.
    Release { call: CallId },
    /// Power was cut, with evidence.
    CutSeen { boot: BootNo },
    /// It was not.
    CutFailed { boot: BootNo, reason: String },
    /// A step of the boot failed.
    BootFailed { boot: BootNo, reason: String },
    /// Another board answered.
    WrongChip { boot: BootNo, reason: String },
    /// The board proved this boot.
    Proved { boot: BootNo },
    /// The self-test build ended.
    TrialEnded { boot: BootNo, good: bool },
    /// The board is lost.
    Lost { boot: BootNo, why: Lost },
    /// The worker has acknowledged the build.
    Acknowledged { attempt: AttemptNo, boot: BootNo },
    /// The worker has finished.
    Finished { attempt: AttemptNo, boot: BootNo },
    /// Its results are here, each checked.
    Collected { attempt: AttemptNo, boot: BootNo, outcome: Outcome },
    /// The abort is done, or its time is over.
    AbortEnded { attempt: AttemptNo, boot: BootNo },
    /// A `clean` has waited long enough.
    CleanDue { call: CallId },
    /// A Failed board may be tried again.
    RetryDue { boot: BootNo },
    /// The daemon started with this state.
    Recover,
}

/// Why a board is lost.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lost {
    /// It does not answer.
    Silent,
    /// It said what cannot be.
    Lied(String),
    /// It refused a call.
    Refused(String),
    /// It is in another boot, or a ROM was seen where none was awaited.
    Rebooted,
    /// It took more than its time.
    OverTime,
}

/// What the daemon must do, in this order, after the new state is committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Cut power and gather evidence; cancels any activity of the board.
    StartCut { boot: BootNo, trial: bool },
    /// Boot: from power on to the agent's report.
    StartBoot { boot: BootNo, trial: bool },
    /// Ask the board to prove itself every few seconds.
    StartProving { boot: BootNo },
    /// Give the worker this build, or (`acknowledged`) follow the one it has.
    StartGuest { boot: BootNo, attempt: AttemptNo, acknowledged: bool },
    /// Bring the results to the master.
    StartCollecting { boot: BootNo, attempt: AttemptNo },
    /// Tell the worker to abort and take its log, within seconds.
    StartAbort { boot: BootNo, attempt: AttemptNo },
    /// Run the self-test build.
    StartTrial { boot: BootNo },
    /// Power off and leave it so; cancels any activity of the board.
    PowerOff,
    /// Tell the operators.
    Alert { reason: String },
    /// Tell the image store how the trial went.
    ReportTrial { good: bool },
    /// Drop the kept results and everything pinned for the slot's build.
    DropKept { attempt: AttemptNo },
    /// The build has ended: unpin its inputs, forget its arguments.
    BuildEnded { attempt: AttemptNo },
    /// Arm the timer that ends a waiting `clean`.
    ArmCleanDue { call: CallId },
    /// Arm the timer that retries a Failed board; `pauses` counts how often it was armed since the
    /// last Fresh, for a growing pause.
    ArmRetry { boot: BootNo, pauses: u32 },
    /// Answer a caller.
    Answer { call: CallId, answer: Answer },
}

/// An answer to a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// `build` was accepted as this attempt.
    Building { attempt: AttemptNo },
    /// `abort` was accepted.
    Aborting,
    /// `clean` is done.
    Idle,
    /// A reset: the slot is Fresh.
    Ready,
    /// A reset: one is under way now (joined or begun); watch the slot for its end.
    Joined,
    /// Hold or release is done.
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
    #[error("held: {0}")]
    Held(String),
    /// The board has failed.
    #[error("failed: {0}")]
    Failed(String),
    /// The slot is off.
    #[error("off")]
    Off,
    /// `clean` waited, and the slot did not become ready in time, or something else came first.
    #[error("not ready in time")]
    NotReady,
}

/// A step of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The new state; to be committed before any effect.
    pub next: Slot,
    /// What to do then.
    pub effects: Vec<Effect>,
}
