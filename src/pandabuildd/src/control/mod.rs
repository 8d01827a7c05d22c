//! The control socket: how operators ask the daemon. A Unix socket in the state directory that only the
//! daemon's own user may open; [`wire`] is what goes over it, [`client`] is the command line's end.

pub mod client;
mod console;
mod ppa;
mod server;
pub mod wire;

use panda_protocol::launchpad::Dialect;
use panda_slot::{Board, ManagerStatus, Rejoin, Slot};

pub use self::ppa::Rpc;
pub use self::server::{Bound, ControlServerError, Desk, Operated, bind, serve};
use self::wire::{KeptInfo, SlotInfo};
use crate::slot::View;

/// The socket's name in the state directory.
pub const SOCKET: &str = "control.sock";

/// A slot as operators see it.
fn describe(
    name: &str,
    hosts: &[String],
    view: &View,
    dialect: Dialect,
    virtualized: bool,
) -> SlotInfo {
    let slot = &view.slot;
    let told = match view.manager_status(dialect, virtualized) {
        ManagerStatus::Idle => "BuilderStatus.IDLE".to_owned(),
        ManagerStatus::Building { .. } => "BuilderStatus.BUILDING".to_owned(),
        ManagerStatus::Aborting { .. } => "BuilderStatus.ABORTING".to_owned(),
        ManagerStatus::Aborted { .. } => "BuilderStatus.ABORTED".to_owned(),
        ManagerStatus::Waiting { .. } => "BuilderStatus.WAITING".to_owned(),
        ManagerStatus::Fault { reason } => format!("Fault: {reason}"),
    };
    let mut detail = detail(slot);
    if let Some(fault) = &view.fault {
        detail = if detail.is_empty() {
            fault.clone()
        } else {
            format!("{detail}; {fault}")
        };
    }
    SlotInfo {
        slot: name.to_owned(),
        hosts: hosts.to_vec(),
        state: slot.board.name().to_owned(),
        detail,
        boot: slot.boot,
        build_id: slot.live().map(|build| build.build_id.to_string()),
        kept: slot.kept.as_ref().map(|kept| KeptInfo {
            build_id: kept.build_id.to_string(),
            build_status: kept.outcome.build_status.to_string(),
        }),
        held: slot.held.clone(),
        told,
    }
}

/// What a state's name leaves out.
fn detail(slot: &Slot) -> String {
    match &slot.board {
        Board::Preparing { n, .. } => match slot.live() {
            Some(build) => {
                format!(
                    "attempt {n}: booting for the evidence of the next cut; to take over {}",
                    build.build_id
                )
            }
            None => format!("attempt {n}: booting for the evidence of the next cut"),
        },
        Board::Cutting { n, .. } | Board::Booting { n, .. } => match slot.live() {
            Some(build) => format!("attempt {n}; to take over {}", build.build_id),
            None => format!("attempt {n}"),
        },
        Board::Trial { .. } => "trying a new image".to_owned(),
        Board::Fresh { .. } | Board::Off => String::new(),
        Board::Used { build, .. } => {
            let acknowledged = if build.acknowledged {
                ""
            } else {
                " (not yet acknowledged)"
            };
            format!("{}{acknowledged}", build.build_id)
        }
        Board::Rejoining(Rejoin::Fresh { .. }) => "was fresh".to_owned(),
        Board::Rejoining(Rejoin::Running(build) | Rejoin::Collecting(build)) => {
            format!("had {}", build.build_id)
        }
        Board::Failed { reason, .. } => reason.clone(),
    }
}

#[cfg(test)]
mod tests;
