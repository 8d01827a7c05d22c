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

use tokio::time::timeout;

use super::chain::Note;
use super::cut::is_gadget;
use super::error::{Failure, StepError};
use super::handshake::Proof;
use super::rom::wait_for_unawaited_rom;
use super::settings::ms;

impl Proof {
    /// Waits until the image's gadget is on the port, where the next cut can see it leave.
    ///
    /// # Errors
    /// It does not come, or the board restarts.
    pub(crate) async fn gadget(self) -> Result<(), Failure> {
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
