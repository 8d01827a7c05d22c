//! What a slot is: the board's life, what is kept for Launchpad, an operator's hold. Plain values; the
//! ledger holds them as JSON.

use panda_protocol::ids::{AttemptNo, BootNo};
use panda_protocol::launchpad::{BuildId, Outcome};
use serde::{Deserialize, Serialize};

use crate::event::CallId;

/// The whole state of a slot. It is what the ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The last boot number given out.
    pub boot: BootNo,
    /// The last attempt number given out.
    pub attempt: AttemptNo,
    /// How often a Failed board was tried again since it last brought a build's results or an operator took
    /// a hand: for a growing pause before the next try, and a bound on Launchpad's.
    pub pauses: u32,
    /// The board's life.
    pub board: Board,
    /// A finished build, held for Launchpad.
    pub kept: Option<Kept>,
    /// An operator's hold, with its reason.
    pub held: Option<String>,
}

impl Slot {
    /// A slot that was never seen before: nothing is known of its board, so its power is to be cut.
    /// `Recover`, the first event of every start, gives out its first boot.
    #[must_use]
    pub fn new() -> Self {
        Self {
            boot: BootNo::NONE,
            attempt: AttemptNo::NONE,
            pauses: 0,
            board: Board::Cutting {
                n: 1,
                errand: Errand::Nothing,
                prepared: false,
            },
            kept: None,
            held: None,
        }
    }

    /// The build that Launchpad is waiting for, wherever it is: on the board, on a board that has to
    /// prove itself again, or moving to a new boot. A slot with one is *live*.
    #[must_use]
    pub fn live(&self) -> Option<&Build> {
        match &self.board {
            Board::Used { build, .. }
            | Board::Rejoining(Rejoin::Running(build) | Rejoin::Collecting(build))
            | Board::Cutting {
                errand: Errand::Build(build),
                ..
            }
            | Board::Preparing {
                errand: Errand::Build(build),
                ..
            }
            | Board::Booting {
                errand: Errand::Build(build),
                ..
            } => Some(build),
            Board::Cutting {
                errand: Errand::Nothing | Errand::Trial,
                ..
            }
            | Board::Preparing {
                errand: Errand::Nothing | Errand::Trial,
                ..
            }
            | Board::Booting {
                errand: Errand::Nothing | Errand::Trial,
                ..
            }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Rejoining(Rejoin::Fresh { .. })
            | Board::Failed { .. }
            | Board::Off => None,
        }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// The board's life.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Board {
    /// Power is being cut and the cut evidenced.
    Cutting {
        /// Which attempt of the reset, from 1.
        n: u32,
        /// What the new boot is for.
        errand: Errand,
        /// The board was booted before this cut for its evidence alone. A cut that is weak all the same
        /// has failed, so that each attempt prepares once at most.
        #[serde(default)]
        prepared: bool,
    },
    /// Its cut has shown less than the rack demands, and it boots only so that the next one can show
    /// more. This boot never becomes Fresh, and nothing is built on it.
    Preparing {
        /// Which attempt of the reset, from 1.
        n: u32,
        /// What the boot after it is for.
        errand: Errand,
    },
    /// ROM, second stage, boot image, handshake.
    Booting {
        /// Which attempt of the reset, from 1.
        n: u32,
        /// What the boot is for.
        errand: Errand,
    },
    /// A canary's self-test build of a new image.
    Trial {
        /// Which attempt of the reset led here, from 1.
        n: u32,
    },
    /// Proven, has run nothing.
    Fresh {
        /// Which attempt of the reset led here, from 1; a board that is lost while Fresh goes on
        /// counting from it, so that flapping is bounded.
        n: u32,
    },
    /// Has a build, or had one.
    Used {
        /// The build.
        build: Build,
        /// How far it is.
        phase: Phase,
    },
    /// The daemon restarted; waiting for the board to prove itself again.
    Rejoining(Rejoin),
    /// Attempts used up; off.
    Failed {
        /// What it failed at.
        kind: FailureKind,
        /// For people.
        reason: String,
    },
    /// Held by an operator, without power.
    Off,
}

impl Board {
    /// The state's name, for people and for programs that read what the daemon shows.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cutting { .. } => "cutting",
            Self::Preparing { .. } => "preparing",
            Self::Booting { .. } => "booting",
            Self::Trial { .. } => "trial",
            Self::Fresh { .. } => "fresh",
            Self::Used {
                phase: Phase::Running,
                ..
            } => "running",
            Self::Used {
                phase: Phase::Collecting,
                ..
            } => "collecting",
            Self::Used {
                phase: Phase::Aborting,
                ..
            } => "aborting",
            Self::Rejoining(_) => "rejoining",
            Self::Failed { .. } => "failed",
            Self::Off => "off",
        }
    }
}

/// What a new boot is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Errand {
    /// To become Fresh.
    Nothing,
    /// To try a new image.
    Trial,
    /// To take over a build that the worker had not acknowledged when its board was lost.
    Build(Build),
}

/// An accepted build.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Build {
    /// Its attempt number.
    pub attempt: AttemptNo,
    /// The job's cookie.
    pub build_id: BuildId,
    /// The worker has acknowledged it.
    pub acknowledged: bool,
    /// How often it moved to a new boot.
    pub moves: u32,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// It runs.
    Running,
    /// It has finished; its results come to the master.
    Collecting,
    /// It is being aborted.
    Aborting,
}

/// What a board was, before the daemon restarted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Rejoin {
    /// Fresh.
    Fresh {
        /// After so many attempts of the reset.
        n: u32,
    },
    /// Running a build.
    Running(Build),
    /// Its results were being collected.
    Collecting(Build),
}

/// Why a board has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// Its power could not be cut.
    Power,
    /// It did not boot.
    Boot,
    /// It was lost again and again while Fresh.
    Flap,
    /// Another board is on the slot's port; never retried.
    Chip,
}

/// A finished build, held for Launchpad until Clean or Reset.
///
/// A board's failure is kept as `BUILDERFAIL`; [`crate::manager_status()`] says it as each dialect must.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Kept {
    /// Its attempt.
    pub attempt: AttemptNo,
    /// The job's cookie.
    pub build_id: BuildId,
    /// How it ended.
    pub outcome: Outcome,
    /// A `clean` that waits for the board to be Fresh; not remembered across restarts.
    #[serde(skip)]
    pub cleaning: Option<CallId>,
}
