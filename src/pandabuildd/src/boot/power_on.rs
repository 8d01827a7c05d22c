//! Step 3, `power on`: the board gets power, while its port is known to be empty: whatever is first seen
//! on it from here on came after the order.

use panda_board::Presence;
use tokio::sync::watch;
use tokio::time::Instant;

use super::chain::{Chain, Note};
use super::error::Failure;
use super::evidence::{Dark, Weak, port_still_empty};
use super::settings::ms;

/// The board has power.
#[derive(Debug)]
pub(crate) struct Powered {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) last_arrival: Option<u64>,
    pub(super) at: Instant,
}

impl Dark {
    /// Gives the board power.
    ///
    /// # Errors
    /// Something came to the port meanwhile, or the driver's.
    pub(crate) async fn power_on(self) -> Result<Powered, Failure> {
        let Self {
            chain,
            port,
            last_arrival,
            ..
        } = self;
        give(chain, port, last_arrival).await
    }
}

impl Weak {
    /// Gives the board power, for the evidence of its next cut.
    ///
    /// # Errors
    /// Something came to the port meanwhile, or the driver's.
    pub(crate) async fn power_on(self) -> Result<Powered, Failure> {
        let Self {
            chain,
            port,
            last_arrival,
            ..
        } = self;
        let limit = ms(chain.settings().power_ms);
        let why =
            "booted only to bring the gadget up for the next cut: nothing is built on this boot";
        let work = async { Ok(((), Note::from(why.to_owned()))) };
        chain.step("prepare", limit, work).await?;
        give(chain, port, last_arrival).await
    }
}

/// How well the cut is shown is the caller's to judge.
async fn give(
    chain: Chain,
    mut port: watch::Receiver<Presence>,
    last_arrival: Option<u64>,
) -> Result<Powered, Failure> {
    let work = async {
        port_still_empty(&mut port)?;
        chain.power("power on", chain.board.power.on()).await?;
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
