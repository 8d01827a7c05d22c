//! Cuts the power of a board that nobody waits for, and leaves it off.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::common::Common;
use super::parts::Parts;

/// How often power off is tried.
const TRIES: u32 = 5;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// Returns when power is off, or cannot be switched off.
pub(super) async fn power_off(common: &Common) {
    let _board = common.take_board().await;
    let Parts {
        slot, power, boot, ..
    } = &common.parts;
    let limit = Duration::from_millis(boot.power_ms);
    for left in (0..TRIES).rev() {
        match timeout(limit, power.off()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::warn!(slot, %error, left, "power off failed"),
            Err(_) => tracing::warn!(slot, ?limit, left, "power off was not answered"),
        }
        sleep(PAUSE).await;
    }
    tracing::error!(
        slot,
        "the board's power cannot be switched off; see to it by hand"
    );
}
