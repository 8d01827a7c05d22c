//! Boots the board whose cut is evidenced, up to its proof.

use panda_slot::{BootNo, Event};

use super::common::Common;
use super::error::ActivityError;
use crate::boot::Evidence;

/// Ends with `Proved`, `BootFailed` or `WrongChip`.
pub(super) async fn boot(common: &Common, boot: BootNo) -> Event {
    match until_proof(common, boot).await {
        Ok(()) => Event::Proved { boot },
        Err(error) => error.not_booted(boot),
    }
}

async fn until_proof(common: &Common, boot: BootNo) -> Result<(), ActivityError> {
    let _board = common.board.lock().await;
    let Some(Evidence::Enough(dark)) = common.take_dark(boot) else {
        return Err(ActivityError::NotDark);
    };
    let secrets = common.secrets(boot).await?;
    let awaited = common.awaited(&secrets)?;
    let powered = dark.power_on().await?;
    let proof = common.walk(powered, awaited, &secrets).await?;
    common.keep_report(proof.into_report());
    Ok(())
}
