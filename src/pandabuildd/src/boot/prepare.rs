//! Between a cut that showed too little and the next one: the board is booted only so that its image brings its
//! gadget up, whose leaving the next cut can then show. The steps are those of any boot, with `prepare` before them
//! and `gadget` after them in the ledger.
//!
//! ```text
//! Weak ─power_on─▶ Powered ─ … ─▶ Proof ─gadget─▶ ready to be cut
//! ```
//!
//! Nothing is built on such a boot: its cut lacks the evidence that a build demands. What the slot makes of it is
//! `panda_slot`'s `Preparing`; the cut that follows is judged by itself alone.

use panda_board::Presence;
use tokio::sync::watch;
use tokio::time::timeout;

use super::chain::{Chain, Note};
use super::cut::is_gadget;
use super::error::{Failure, StepError};
use super::handshake::Proof;
use super::power_on::{self, Powered};
use super::rom::wait_for_unawaited_rom;
use super::settings::ms;

/// The board is without power as far as its driver says, which is less than the rack demands; still watched.
#[derive(Debug)]
pub struct Weak {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) last_arrival: Option<u64>,
    pub(super) failure: Failure,
}

impl Weak {
    /// What is missing.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// The same, for good.
    #[must_use]
    pub fn into_failure(self) -> Failure {
        self.failure
    }

    /// Gives the board power, for the evidence of its next cut.
    ///
    /// # Errors
    /// Something came to the port meanwhile, or the driver's.
    pub async fn power_on(self) -> Result<Powered, Failure> {
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
        power_on::give(chain, port, last_arrival).await
    }
}

impl Proof {
    /// Waits until the image's gadget is on the port, where the next cut can see it leave.
    ///
    /// # Errors
    /// It does not come, or the board restarts.
    pub async fn gadget(self) -> Result<(), Failure> {
        let Self {
            chain, mut port, ..
        } = self;
        let (gadget, limit) = (
            chain.settings().gadget,
            ms(chain.settings().gadget_comes_ms),
        );
        let restarted = wait_for_unawaited_rom(port.clone());
        let work = async {
            tokio::select! {
                came = timeout(limit, port.wait_for(|seen| is_gadget(*seen, gadget))) => match came {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) => return Err(StepError::PortUnseen),
                    Err(_) => return Err(StepError::NoGadget { limit }),
                },
                () = restarted => return Err(StepError::Restarted),
            }
            let detail = "the gadget is on the port; the next cut can show its leaving";
            Ok(((), Note::from(detail.to_owned())))
        };
        chain.step("gadget", limit * 2, work).await
    }
}
