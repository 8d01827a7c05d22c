//! Follows the build that the worker has to its end.

use panda_slot::{AttemptNo, BootNo, Event};

use super::common::Common;
use super::lost;
use crate::guest;

/// Ends with `Finished` or `Lost`.
pub(super) async fn follow(common: &Common, boot: BootNo, attempt: AttemptNo) -> Event {
    let follow = async {
        let guest = common.guest(boot, attempt).await;
        let (guest, _) = guest.map_err(|error| error.lost())?;
        guest::follow(&guest).await
    };
    match common.unless_rebooted(follow).await {
        Ok(()) => Event::Finished { attempt, boot },
        Err(why) => lost(boot, why),
    }
}
