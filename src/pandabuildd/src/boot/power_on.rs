//! Step 3, `power on`: the board gets power, while its port is known to be empty: whatever is first seen
//! on it from here on came after the order.

use panda_board::Presence;
use tokio::sync::watch;
use tokio::time::Instant;

use super::chain::{Chain, Note};
use super::error::Failure;
use super::evidence::{Dark, port_still_empty};
use super::rom::Rom;
use super::settings::ms;

/// The board has power.
#[derive(Debug)]
pub struct Powered {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) last_arrival: Option<u64>,
    pub(super) at: Instant,
}

pub(super) async fn power_on(dark: Dark) -> Result<Powered, Failure> {
    let Dark {
        chain,
        port,
        last_arrival,
        ..
    } = dark;
    give(chain, port, last_arrival).await
}

/// The same for any board without power: how well its cut is shown is the caller's to judge.
pub(super) async fn give(
    chain: Chain,
    mut port: watch::Receiver<Presence>,
    last_arrival: Option<u64>,
) -> Result<Powered, Failure> {
    let work = async {
        port_still_empty(&mut port)?;
        chain.power("power on", chain.bench.power.on()).await?;
        Ok((
            Instant::now(),
            Note::from("ordered and acknowledged".to_owned()),
        ))
    };
    let limit = ms(chain.settings().power_ms) * 2;
    let at = chain.step("power on", limit, work).await?;
    Ok(Powered {
        chain,
        port,
        last_arrival,
        at,
    })
}

impl Powered {
    /// Waits for the boot ROM and opens it.
    ///
    /// # Errors
    /// No ROM in its window, something else, or one that was there before.
    pub async fn rom(self) -> Result<Rom, Failure> {
        super::rom::arrive(self).await
    }
}
