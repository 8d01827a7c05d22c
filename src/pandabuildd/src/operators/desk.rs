//! What operators may ask of, and how it is: slots, boots.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use panda_protocol::launchpad::Dialect;
use panda_protocol::operators::{
    BootHistory, Boots, GetBoots, GetSlot, GetSlots, KeptInfo, Problem, ProblemKind, SlotInfo,
    Slots,
};
use panda_slot::{Board, ManagerStatus, Rejoin, Slot};
use tokio::time::{Instant, timeout};

use super::launchpad::Rpc;
use crate::boot::INSECURE;
use crate::console::Consoles;
use crate::ledger::{Ledger, LedgerError};
use crate::slot::{SlotHandle, View};
use crate::webservice::Duty;

/// What operators may ask of.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The slots, in the order of `rack.toml`.
    pub(crate) slots: Vec<Operated>,
    /// What their consoles have said.
    pub(crate) consoles: Consoles,
    /// The history of boots, and the record of actions.
    pub(crate) ledger: Ledger,
    /// Which manager the rack speaks to.
    pub(crate) dialect: Dialect,
    /// Whether that manager knows the builders as virtualised.
    pub(crate) virtualized: bool,
    /// Who has typed on which console, and when that was recorded.
    pub(crate) typists: Mutex<HashMap<(String, Option<i32>), Instant>>,
}

/// A slot that operators may ask of. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Operated {
    /// The slot.
    pub(crate) handle: SlotHandle,
    /// The host names that Launchpad knows it by.
    pub(crate) hosts: Vec<String>,
    /// Its RPC, as Launchpad reaches it.
    pub(crate) rpc: Rpc,
    /// Its duty towards Launchpad's web service, where one is configured.
    pub(crate) duty: Option<Duty>,
}

impl Desk {
    pub(super) async fn slots(&self, asked: &GetSlots) -> Slots {
        let in_time = match asked.fresh_within_seconds {
            Some(seconds) => {
                let fresh = join_all(self.slots.iter().map(|slot| fresh(&slot.handle)));
                timeout(Duration::from_secs(seconds), fresh).await.is_ok()
            }
            None => true,
        };
        let mut slots: Vec<_> = self.slots.iter().map(|slot| self.describe(slot)).collect();
        for slot in &mut slots {
            self.warn(slot).await;
        }
        Slots { slots, in_time }
    }

    pub(super) async fn slot(&self, asked: &GetSlot) -> Result<SlotInfo, Problem> {
        let mut slot = self.describe(self.named(&asked.slot)?);
        self.warn(&mut slot).await;
        Ok(slot)
    }

    pub(super) async fn boots(&self, asked: &GetBoots) -> Result<Boots, Problem> {
        let slot = asked.slot.as_deref();
        slot.map(|name| self.named(name)).transpose()?;
        let boots = self.ledger.boots(slot, asked.limit).await;
        let boots = boots.map_err(|error| failed(&error))?;
        Ok(Boots {
            boots: boots.iter().map(typed).collect::<Result<_, _>>()?,
        })
    }

    /// The slot of this name.
    pub(super) fn named(&self, name: &str) -> Result<&Operated, Problem> {
        let mut slots = self.slots.iter();
        slots
            .find(|slot| slot.handle.name() == name)
            .ok_or_else(|| self.no_such(name))
    }

    pub(super) fn no_such(&self, name: &str) -> Problem {
        Problem::no_such_slot(name, self.slots.iter().map(|slot| slot.handle.name()))
    }

    /// A slot whose last boot was of an image for demonstrations is shown as what it is.
    async fn warn(&self, slot: &mut SlotInfo) {
        let last = self.ledger.boots(Some(&slot.slot), 1).await;
        let insecure = last.iter().flatten().flat_map(|boot| &boot.steps);
        if insecure.into_iter().any(|step| step.name == INSECURE) {
            let what = "INSECURE IMAGE, for demonstrations only".to_owned();
            let parts = vec![what, std::mem::take(&mut slot.detail)];
            slot.detail = joined(parts);
        }
    }

    pub(super) fn describe(&self, slot: &Operated) -> SlotInfo {
        let view = slot.handle.view();
        let name = slot.handle.name();
        let mut info = describe(name, &slot.hosts, &view, self.dialect, self.virtualized);
        if let Some(note) = slot.duty.as_ref().and_then(Duty::note) {
            info.detail = joined(vec![std::mem::take(&mut info.detail), note]);
        }
        info
    }
}

pub(super) fn failed(error: &LedgerError) -> Problem {
    Problem::new(ProblemKind::Failed, error.to_string())
}

/// A boot of the ledger's as operators are told of it: what is written is the same.
fn typed(boot: &crate::ledger::BootHistory) -> Result<BootHistory, Problem> {
    serde_json::to_value(boot)
        .and_then(serde_json::from_value)
        .map_err(|error| Problem::new(ProblemKind::Failed, format!("a boot's record: {error}")))
}

fn joined(mut parts: Vec<String>) -> String {
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

/// Waits until the slot is Fresh; for ever once the daemon stops, which ends the request.
async fn fresh(slot: &SlotHandle) {
    if slot.watch().wait_for(View::is_fresh).await.is_err() {
        std::future::pending::<()>().await;
    }
}

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
    let fault = view.fault.clone().unwrap_or_default();
    SlotInfo {
        slot: name.to_owned(),
        hosts: hosts.to_vec(),
        state: slot.board.name().to_owned(),
        detail: joined(vec![detail(slot), fault]),
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
