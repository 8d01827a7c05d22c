//! Steps 6 and 7: the board's family hands it what the image holds for it, in steps of its own (`second stage`, `boot
//! image`), and the board leaves the port (`started`). **Leaving the port proves nothing**: a second stage closes USB
//! before it looks at what it was sent.

use panda_board::Presence;
use panda_protocol::boot_toml::BootToml;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::chain::{Chain, Note};
use super::cut::is_gadget;
use super::error::{Failure, StepError};
use super::identity::{Identified, session};
use super::payload::ImagePayload;
use super::rom::Rom;
use super::settings::ms;
use panda_image::Image;

/// The board has all that it was sent, and has left the port: whether it runs it is not known yet.
#[derive(Debug)]
pub(crate) struct Started {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    #[cfg(test)]
    digest: panda_protocol::digest::Sha256,
}

#[cfg(test)]
impl Started {
    /// The SHA-256 of what was sent to be started.
    #[must_use]
    pub(crate) fn digest(&self) -> panda_protocol::digest::Sha256 {
        self.digest
    }
}

impl Identified {
    /// Has the family hand the board what the image holds for it, with this boot's own settings.
    ///
    /// # Errors
    /// The family's, or a board that does not leave the port.
    pub(crate) async fn hand_over(self, image: &Image, boot: BootToml) -> Result<Started, Failure> {
        let Rom {
            chain,
            mut port,
            family,
            mut pipe,
            mut arrival,
        } = self.rom;
        let payload = ImagePayload { image, boot: &boot };
        let bytes = image.manifest().parts().map(|(_, part)| part.bytes).sum();
        let limit = family.hand_over_limit(bytes);
        let mut session = session(&chain, &mut pipe, &mut arrival, Instant::now() + limit);
        let handed = family.hand_over(&mut session, &payload).await?;
        tracing::debug!(sha256 = %handed.sha256, "the board has all that it was sent");

        let limit = ms(chain.settings().port_released_ms);
        let released = async {
            // The image's gadget may have come already.
            let gadget = chain.settings().gadget;
            let left = |seen: &Presence| *seen == Presence::Empty || is_gadget(*seen, gadget);
            match timeout(limit, port.wait_for(left)).await {
                Ok(Ok(_)) => Ok(((), Note::from("the board has left the port".to_owned()))),
                Ok(Err(_)) => Err(StepError::PortUnseen),
                Err(_) => Err(StepError::NotReleased { limit }),
            }
        };
        chain.step("started", limit * 2, released).await?;
        // Not sooner: closing a device makes the kernel talk to it, and where it is just leaving, the kernel waits five
        // seconds for an answer before it sees that.
        drop(pipe);
        Ok(Started {
            chain,
            port,
            #[cfg(test)]
            digest: handed.sha256,
        })
    }
}
