//! Step 6, `second stage`: the ROM loads it into its internal memory and starts it; it sets the board's
//! RAM up and announces itself with its greeting on the same pipe.

use panda_board::Presence;
use tokio::sync::watch;
use tokio::time::Instant;

use super::asic::Identified;
use super::boot_image::Started;
use super::chain::{Chain, Note};
use super::error::Failure;
use super::paced::Paced;
use super::settings::ms;
use super::talk;
use panda_image::Image;
use panda_protocol::boot_toml::BootToml;

/// The second stage runs and waits for a boot image.
#[derive(Debug)]
pub struct Ready {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) pipe: Paced,
}

pub(super) async fn send(identified: Identified, image: &Image) -> Result<Ready, Failure> {
    let Identified {
        chain,
        port,
        pipe: mut paced,
        ..
    } = identified;
    let limit = ms(chain.settings().second_stage_ms);
    let deadline = Instant::now() + limit;
    let work = async {
        let part = &image.manifest().second_stage;
        let stage = image.read(part).await?;
        talk::send_second_stage(&mut paced, &stage, deadline).await?;
        Ok((
            (),
            Note::from(format!("{} bytes, SHA-256 {}", part.bytes, part.sha256)),
        ))
    };
    chain.step("second stage", limit, work).await?;
    Ok(Ready {
        chain,
        port,
        pipe: paced,
    })
}

impl Ready {
    /// Composes this boot's image and sends it.
    ///
    /// # Errors
    /// A transfer's or the image's, or a second stage that does not leave the port.
    pub async fn boot_image(self, image: &Image, boot: BootToml) -> Result<Started, Failure> {
        super::boot_image::send(self, image, boot).await
    }
}
