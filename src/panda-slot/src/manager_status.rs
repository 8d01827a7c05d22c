//! What Launchpad is told of a slot. The front calls it, through the daemon's view of the slot.
//!
//! Today's manager takes anything but IDLE from a builder that it thinks clean for a security breach, and
//! a Fault for a scan to be tried again: so between boots it gets a Fault. 2011's counts every Fault
//! against the builder but skips one that says ABORTING: so between boots it gets that.

use panda_protocol::ids::AttemptNo;
use panda_protocol::launchpad::{BuildId, BuildStatus, Dialect, Outcome};

use crate::board::{Board, Build, Kept, Phase, Rejoin, Slot};

/// What `status` says of a slot, without the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManagerStatus {
    /// IDLE.
    Idle,
    /// BUILDING, with the log of this attempt.
    Building {
        /// The job's cookie.
        build_id: BuildId,
        /// Whose log.
        attempt: AttemptNo,
    },
    /// ABORTING; 2011 says it between boots too, with no build.
    Aborting {
        /// The job's cookie, where there is a job.
        build_id: Option<BuildId>,
    },
    /// ABORTED (2011 only).
    Aborted {
        /// The job's cookie.
        build_id: BuildId,
        /// Whose log.
        attempt: AttemptNo,
    },
    /// WAITING.
    Waiting {
        /// The job's cookie.
        build_id: BuildId,
        /// Whose log and results.
        attempt: AttemptNo,
        /// How it ended.
        outcome: Outcome,
    },
    /// A Fault that says where the reset stands.
    Fault {
        /// Where it stands.
        reason: String,
    },
}

/// What a manager of `dialect` is told of `slot`; `virtualized` says how it knows the builder.
#[must_use]
pub fn manager_status(slot: &Slot, dialect: Dialect, virtualized: bool) -> ManagerStatus {
    if let Some(build) = slot.live() {
        return live(build, &slot.board);
    }
    if let Some(kept) = &slot.kept {
        return waiting(kept, dialect, virtualized);
    }
    match (&slot.board, &slot.held) {
        (Board::Fresh { .. }, None) => ManagerStatus::Idle,
        (board, held) => between_boots(dialect, whereabouts(board, held.as_deref())),
    }
}

/// What a manager of `dialect` is told of a slot that is not ready, for this reason.
#[must_use]
pub fn between_boots(dialect: Dialect, reason: String) -> ManagerStatus {
    match dialect {
        Dialect::Current => ManagerStatus::Fault { reason },
        Dialect::Y2011 => ManagerStatus::Aborting { build_id: None },
    }
}

fn live(build: &Build, board: &Board) -> ManagerStatus {
    let Build {
        attempt, build_id, ..
    } = build.clone();
    match board {
        Board::Used {
            phase: Phase::Aborting,
            ..
        } => ManagerStatus::Aborting {
            build_id: Some(build_id),
        },
        Board::Used {
            phase: Phase::Running | Phase::Collecting,
            ..
        }
        | Board::Rejoining(_)
        | Board::Cutting { .. }
        | Board::Preparing { .. }
        | Board::Booting { .. }
        | Board::Trial { .. }
        | Board::Fresh { .. }
        | Board::Failed { .. }
        | Board::Off => ManagerStatus::Building { build_id, attempt },
    }
}

fn waiting(kept: &Kept, dialect: Dialect, virtualized: bool) -> ManagerStatus {
    let Kept {
        attempt,
        build_id,
        mut outcome,
        ..
    } = kept.clone();
    match (dialect, outcome.build_status) {
        (Dialect::Y2011, BuildStatus::Aborted) if virtualized => {
            return ManagerStatus::Aborted { build_id, attempt };
        }
        // BUILDERFAIL disables the builder at once, and ABORTED is no build status there; GIVENBACK
        // requeues cleanly.
        (Dialect::Y2011, BuildStatus::BuilderFail | BuildStatus::Aborted) => {
            outcome.build_status = BuildStatus::GivenBack;
        }
        (Dialect::Current, _)
        | (
            Dialect::Y2011,
            BuildStatus::Ok
            | BuildStatus::DepFail
            | BuildStatus::GivenBack
            | BuildStatus::PackageFail
            | BuildStatus::ChrootFail,
        ) => {}
    }
    ManagerStatus::Waiting {
        build_id,
        attempt,
        outcome,
    }
}

/// Where a slot without a build stands, for people.
fn whereabouts(board: &Board, held: Option<&str>) -> String {
    let board = match board {
        Board::Cutting { n, .. } => format!("resetting: power is being cut, attempt {n}"),
        Board::Preparing { n, .. } => {
            format!("resetting: booting for the evidence of the next power cut, attempt {n}")
        }
        Board::Booting { n, .. } => format!("resetting: booting, attempt {n}"),
        Board::Trial { .. } => "trying a new image".to_owned(),
        Board::Fresh { .. } => "ready".to_owned(),
        Board::Used { .. } => "building".to_owned(),
        Board::Rejoining(Rejoin::Fresh { .. } | Rejoin::Running(_) | Rejoin::Collecting(_)) => {
            "the master has restarted; the board has to prove itself again".to_owned()
        }
        Board::Failed { reason, .. } => format!("the board has failed: {reason}"),
        Board::Off => "off".to_owned(),
    };
    match held {
        Some(reason) => format!("held by an operator ({reason}); {board}"),
        None => board,
    }
}

#[cfg(test)]
mod tests;
