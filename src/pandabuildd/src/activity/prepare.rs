//! Boots the board whose cut has shown too little, only until its gadget is up, so that the next cut can
//! show more. Nothing is built on this boot.

use panda_slot::{BootNo, Event};

use super::common::Common;
use super::error::ActivityError;
use crate::boot::Evidence;

/// Ends with `Prepared`, `BootFailed` or `WrongChip`.
pub(super) async fn prepare(common: &Common, boot: BootNo) -> Event {
    match until_gadget(common, boot).await {
        Ok(()) => Event::Prepared { boot },
        Err(error) => error.not_booted(boot),
    }
}

async fn until_gadget(common: &Common, boot: BootNo) -> Result<(), ActivityError> {
    let _board = common.board.lock().await;
    let Some(Evidence::Weak(weak)) = common.take_dark(boot) else {
        return Err(ActivityError::NotWeak);
    };
    let secrets = common.secrets(boot).await?;
    let awaited = common.awaited(&secrets)?;
    let powered = weak.power_on().await?;
    let proof = common.walk(powered, awaited, &secrets).await?;
    Ok(proof.gadget().await?)
}
