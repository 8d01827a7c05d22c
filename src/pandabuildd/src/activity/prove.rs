//! Has a board prove itself, at once and then every few seconds, until it does not. The first proof is
//! told: a slot that rejoins its board after the daemon's start waits for it.

use std::convert::Infallible;

use panda_slot::{Board, BootNo, Event, Lost, Rejoin};

use super::common::Common;
use super::error::ActivityError;
use super::parts::Parts;
use super::{Events, lost, send};
use crate::guest::{self, Proving};

/// Sends `Proved` with the first proof; ends with `Lost`.
pub(super) async fn prove(common: &Common, boot: BootNo, events: &Events) -> Event {
    let mut first = Some(Event::Proved { boot });
    let proved = || {
        if let Some(event) = first.take() {
            send(events, event);
        }
    };
    let proofs = async {
        let ended = proofs(common, boot, proved).await;
        Err::<Infallible, Lost>(ended.unwrap_or_else(|error| error.lost()))
    };
    let Err(why) = common.unless_rebooted(proofs).await;
    lost(boot, why)
}

async fn proofs(
    common: &Common,
    boot: BootNo,
    proved: impl FnMut(),
) -> Result<Lost, ActivityError> {
    let proving = proving(common).await?;
    let link = common.link(boot).await?;
    if common.report().is_none() {
        // After the daemon's start: what the agent said of itself then is not known here.
        if let Ok(report) = link.report().await {
            common.keep_report(report);
        }
    }
    Ok(guest::prove(&link, proving, &common.parts.guest, proved).await)
}

/// What the board has to prove: one that had a build when the daemon was stopped is not idle.
async fn proving(common: &Common) -> Result<Proving, ActivityError> {
    let Parts { slot, ledger, .. } = &common.parts;
    let state = ledger.load_slot(slot).await?;
    Ok(match state.map(|slot| slot.board) {
        Some(Board::Rejoining(Rejoin::Running(_) | Rejoin::Collecting(_))) => Proving::Boot,
        _ => Proving::Idle,
    })
}
