//! Tells the worker to abort and takes its log, within its time, whatever the worker does.

use panda_slot::{AttemptNo, BootNo, Event};

use super::common::Common;
use crate::guest;

/// Ends with `AbortEnded`.
pub(super) async fn abort(common: &Common, boot: BootNo, attempt: AttemptNo) -> Event {
    match common.guest(boot, attempt).await {
        Ok((guest, _)) => guest::abort(&guest).await,
        Err(error) => {
            let slot = &common.parts.slot;
            tracing::warn!(slot, %attempt, %error, "the worker cannot be told to abort");
        }
    }
    Event::AbortEnded { attempt, boot }
}
