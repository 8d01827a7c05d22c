//! What a slot is: the board's life, what is kept for Launchpad, an operator's hold.

use panda_protocol::launchpad::{BuildId, Outcome};
use serde::{Deserialize, Serialize};

use crate::event::CallId;

/// Number of a boot of this slot: one power-on of the board. Grows by one with every cut; never reused.
pub type BootNo = u64;
/// Number of a build attempt of this slot. Grows by one with every accepted build; never reused.
pub type AttemptNo = u64;

/// The whole state of a slot. It is what the ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The last boot number given out.
    pub boot: BootNo,
    /// The last attempt number given out.
    pub attempt: AttemptNo,
    /// The board's life.
    pub board: Board,
    /// A finished build, held for Launchpad.
    pub kept: Option<Kept>,
    /// An operator's hold, with its reason.
    pub held: Option<String>,
}

/// The board's life.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Board {
    /// Attempt `n` of a reset; power is being cut and the cut evidenced.
    Cutting { n: u32, errand: Errand },
    /// ROM, second stage, boot image, handshake.
    Booting { n: u32, errand: Errand },
    /// A canary's self-test build of a new image.
    Trial,
    /// Proven, has run nothing.
    Fresh { n: u32 },
    /// Has a build, or had one.
    Used { build: Build, phase: Phase },
    /// The daemon restarted; waiting for the board to prove itself again.
    Rejoining(Rejoin),
    /// Attempts used up; off.
    Failed { kind: FailureKind, reason: String, pauses: u32 },
    /// Held by an operator, without power.
    Off,
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
    /// Fresh after `n` attempts.
    Fresh { n: u32 },
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
