//! Brings the results and the rest of the log to the master, each checked.

use panda_slot::{AttemptNo, BootNo, Event};

use super::common::Common;
use super::lost;
use crate::guest;

/// Ends with `Collected` or `Lost`.
pub(super) async fn collect(common: &Common, boot: BootNo, attempt: AttemptNo) -> Event {
    let collect = async {
        let guest = common.guest(boot, attempt).await;
        let (guest, _) = guest.map_err(|error| error.lost())?;
        guest::collect(&guest).await
    };
    match common.unless_rebooted(collect).await {
        Ok(outcome) => Event::Collected {
            attempt,
            boot,
            outcome,
        },
        Err(why) => lost(boot, why),
    }
}
