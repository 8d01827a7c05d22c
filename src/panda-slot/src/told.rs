//! What Launchpad is told of a slot.

use panda_protocol::launchpad::{BuildId, Dialect, Outcome};

use crate::board::{AttemptNo, Slot};

/// What `status` says of a slot, without the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// IDLE.
    Idle,
    /// BUILDING, with the log of this attempt.
    Building { build_id: BuildId, attempt: AttemptNo },
    /// ABORTING; 2011 says it between boots too, with no build.
    Aborting { build_id: Option<BuildId> },
    /// ABORTED (2011 only).
    Aborted { build_id: BuildId, attempt: AttemptNo },
    /// WAITING.
    Waiting { build_id: BuildId, attempt: AttemptNo, outcome: Outcome },
    /// A Fault that says where the reset stands.
    Fault { reason: String },
}

/// What a manager of `dialect` is told of `slot`; `virtualized` says how it knows the builder.
#[must_use]
pub fn told(slot: &Slot, dialect: Dialect, virtualized: bool) -> Told {
    let _ = (slot, dialect, virtualized);
    Told::Fault { reason: String::new() }
}
