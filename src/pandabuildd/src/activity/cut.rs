//! Cuts power and gathers evidence of it. A new boot begins here, and its identity is in the ledger before
//! anything else happens.

use panda_slot::{BootNo, Event};

use super::common::Common;
use super::error::ActivityError;
use super::parts::Parts;
use crate::boot::{Chain, Evidence, order};
use crate::identity::{self, KeyAndCertificate};
use crate::ledger::BootSecrets;

/// Ends with `CutSeen`, `CutWeak` or `CutFailed`.
pub(super) async fn cut(common: &Common, boot: BootNo) -> Event {
    match order_and_watch(common, boot).await {
        Ok(None) => Event::CutSeen { boot },
        Ok(Some(reason)) => Event::CutWeak { boot, reason },
        Err(error) => Event::CutFailed {
            boot,
            reason: error.to_string(),
        },
    }
}

/// Says what is missing where the cut has shown less than the rack demands.
async fn order_and_watch(common: &Common, boot: BootNo) -> Result<Option<String>, ActivityError> {
    let _board = common.take_board().await;
    let Parts {
        slot,
        ledger,
        image,
        ..
    } = &common.parts;
    let made = KeyAndCertificate::make()?;
    let secrets = BootSecrets {
        id: identity::new_boot_id()?,
        image: image.id(),
        certificate_pem: made.certificate_pem,
        key_pem: made.key_pem,
    };
    ledger.begin_boot(slot, boot, secrets).await?;
    let evidence = order(Chain::new(common.drivers.clone(), boot))
        .await?
        .evidence()
        .await?;
    let missing = match &evidence {
        Evidence::Enough(_) => None,
        Evidence::Weak(weak) => Some(weak.failure().to_string()),
    };
    common.keep_dark(boot, evidence);
    Ok(missing)
}
