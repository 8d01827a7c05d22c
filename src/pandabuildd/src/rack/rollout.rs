//! Brings the current image to boards that wait for a build with an older one. Started with the rack; busy
//! slots are never disturbed, for their next reset takes the current image anyway. One slot after another, so
//! that the rack goes on building while its images change.
//!
//! ```text
//! each slot: proven again after the start? ─▶ Fresh, of another image ─▶ ImageOutdated ─▶ Fresh, or failed ─▶ next
//! ```

use panda_protocol::digest::Sha256;
use panda_slot::{Board, BootNo};
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;
use crate::slot::{SlotHandle, View};

/// Resets every slot that is Fresh with another image than `current`, in turn; ends when all had theirs.
pub(super) async fn run(
    slots: Vec<SlotHandle>,
    current: Sha256,
    ledger: Ledger,
    stop: CancellationToken,
) {
    let rollout = async {
        for slot in &slots {
            renew(slot, current, &ledger).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = rollout => {}
    }
}

/// One slot's turn.
async fn renew(slot: &SlotHandle, current: Sha256, ledger: &Ledger) {
    let Some(view) = rested(slot).await else {
        return;
    };
    let boot = view.slot.boot;
    if !matches!(view.slot.board, Board::Fresh { .. }) || is_of(slot, boot, current, ledger).await {
        return;
    }
    tracing::info!(
        slot = slot.name(),
        boot = boot.get(),
        "the board has an older image: it is reset for the current one"
    );
    if slot.image_outdated(boot).await.is_ok() {
        rested(slot).await;
    }
}

/// Waits until no boot, and no proof after the daemon's start, is under way; none when the slot has ended.
async fn rested(slot: &SlotHandle) -> Option<View> {
    let mut watch = slot.watch();
    let rested = watch.wait_for(|view| {
        view.fault.is_none()
            && match view.slot.board {
                Board::Fresh { .. } | Board::Used { .. } | Board::Failed { .. } | Board::Off => {
                    true
                }
                Board::Cutting { .. }
                | Board::Preparing { .. }
                | Board::Booting { .. }
                | Board::Trial { .. }
                | Board::Rejoining(_) => false,
            }
    });
    rested.await.ok().map(|view| view.clone())
}

/// The boot was made from the current image. One that the ledger cannot tell of is left as it is.
async fn is_of(slot: &SlotHandle, boot: BootNo, current: Sha256, ledger: &Ledger) -> bool {
    match ledger.boot_secrets(slot.name(), boot).await {
        Ok(Some(secrets)) => secrets.image == current,
        Ok(None) => true,
        Err(error) => {
            tracing::error!(slot = slot.name(), %error, "the board's image is not known");
            true
        }
    }
}

#[cfg(test)]
mod tests;
