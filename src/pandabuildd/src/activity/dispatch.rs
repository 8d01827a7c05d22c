//! Gives the worker its build, unless it has it. The only activity that reads what Launchpad asked for,
//! passwords included.

use panda_slot::{AttemptNo, BootNo, Event, Lost};

use super::common::Common;
use super::parts::Parts;
use super::{Events, send};
use crate::failpoint::{self, Point};
use crate::guest::{self, Dispatched};

/// Sends `Acknowledged` once the worker has the build.
pub(super) async fn dispatch(
    common: &Common,
    boot: BootNo,
    attempt: AttemptNo,
    events: &Events,
) -> Result<(), Lost> {
    common.unless_rebooted(give(common, boot, attempt)).await?;
    failpoint::before(Point::GuestAcknowledge);
    send(events, Event::Acknowledged { attempt, boot });
    failpoint::after(Point::GuestAcknowledge);
    Ok(())
}

async fn give(common: &Common, boot: BootNo, attempt: AttemptNo) -> Result<(), Lost> {
    let guest = common.guest(boot, attempt).await;
    let (guest, call) = guest.map_err(|error| error.lost())?;
    let Parts {
        slot,
        inputs,
        depot_address,
        ..
    } = &common.parts;
    inputs.allow(slot, guest::inputs(&call).unwrap_or_default());
    match guest::dispatch(&guest, &call, &depot_address.to_string()).await? {
        Dispatched::Begun => tracing::info!(slot, %attempt, %boot, "the build has begun"),
        Dispatched::Joined => {
            tracing::info!(slot, %attempt, %boot, "the worker has the build already");
        }
    }
    Ok(())
}
