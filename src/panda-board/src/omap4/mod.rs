//! The PandaBoard's family from the master's side: the boot ROM is asked for its ASIC ID, gets the second stage
//! `aboot`, and that gets the boot image.
//!
//! ```text
//! identify   ask ▶ ASIC ID
//! hand_over  second stage ▶ its greeting (retried: it is deaf while it starts) ▶ boot image, composed while it is sent
//! ```
//!
//! - `exchange`: what is said over the pipe
//! - `image`: the boot image of one boot
//! - `settings`: how long each may take
//! - `files`: what is handed over without an image

mod exchange;
mod files;
mod image;
mod settings;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use panda_protocol::family::{FamilyName, RomUsb};
use panda_protocol::omap4::asic_id::{AsicId, Chip};
use panda_protocol::omap4::{BOOT_IMAGE, FAMILY, SECOND_STAGE};
use panda_protocol::operators::{Identity, PublicId, Sent};
use tokio::time::Instant;

pub use self::files::{Files, FilesError, load};
use self::image::Plan;
pub use self::settings::Settings;
use crate::family::{Family, FamilyError, FamilyFailure, Payload, Session, StepNote, step, whole};
use crate::paced::{Paced, Pacing};

/// What a second stage says on the console, and hangs, where it cannot start what it was sent.
pub const CONSOLE_FAILURES: [&str; 2] = ["SIGNATURE VERIFICATION FAILED", "BOOT FAILED"];

/// See the module.
#[derive(Debug)]
pub struct Omap4 {
    settings: Settings,
    pacing: Pacing,
}

impl Omap4 {
    /// With these settings.
    #[must_use]
    pub const fn new(settings: Settings, pacing: Pacing) -> Self {
        Self { settings, pacing }
    }
}

#[async_trait]
impl Family for Omap4 {
    fn name(&self) -> FamilyName {
        FAMILY.name
    }

    fn roms(&self) -> &'static [RomUsb] {
        FAMILY.roms
    }

    async fn identify(&self, board: &mut Session<'_>) -> Result<Identity, FamilyError> {
        let mut pipe = Paced::new(&mut **board.pipe, self.pacing);
        let id = exchange::ask_asic_id(&mut pipe, board.deadline).await?;
        identity(&id)
    }

    async fn hand_over(
        &self,
        board: &mut Session<'_>,
        payload: &dyn Payload,
    ) -> Result<Sent, FamilyFailure> {
        let steps = board.steps;
        let mut pipe = Paced::new(&mut **board.pipe, self.pacing);
        let limit = Duration::from_millis(self.settings.second_stage_ms);
        let deadline = Instant::now() + limit;
        let work = async {
            let stage = whole(payload, "second_stage").await?;
            let part = payload.part("second_stage");
            exchange::send_second_stage(&mut pipe, stage, deadline).await?;
            let sent = part.map(|part| Sent {
                bytes: part.bytes,
                sha256: part.sha256,
            });
            Ok(((), sent.map(StepNote::sent).unwrap_or_default()))
        };
        step(steps, SECOND_STAGE, limit, work).await?;

        let plan = Plan::new(payload);
        let bytes = plan.as_ref().map_or(0, Plan::bytes);
        let limit = self.settings.image_limit(bytes, self.pacing);
        let deadline = Instant::now() + limit;
        let work = async {
            let plan = plan?;
            exchange::announce_image(&mut pipe, plan.bytes(), deadline).await?;
            let sent = plan.send(payload, &mut pipe, steps, deadline).await?;
            Ok((sent, StepNote::sent(sent)))
        };
        step(steps, BOOT_IMAGE, limit, work).await
    }

    fn hand_over_limit(&self, bytes: u64) -> Duration {
        let second_stage = Duration::from_millis(self.settings.second_stage_ms);
        second_stage + self.settings.image_limit(bytes, self.pacing)
    }

    fn warnings(&self, part: &str, bytes: &[u8]) -> Vec<String> {
        let text = CONSOLE_FAILURES[0];
        let checks = bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes());
        if part == "second_stage" && checks {
            vec![format!(
                "the second stage holds the text \"{text}\": it was built to check a signature, and will start no image \
                 without one; build it with WITH_SIGNATURE_CHECK 0"
            )]
        } else {
            Vec::new()
        }
    }
}

/// What an ASIC ID tells, for the record and to be compared with the slot's.
fn identity(id: &AsicId) -> Result<Identity, FamilyError> {
    let chip = match id.chip {
        Chip::Omap4430 => FAMILY.chips[0].key,
        Chip::Omap4460 => FAMILY.chips[1].key,
    };
    let label = |text: &str| {
        text.parse()
            .map_err(|_| FamilyError::Answer(format!("{text}: cannot be recorded")))
    };
    let public_id = id.board().map(|id| PublicId::from_bytes(&id)).transpose();
    Ok(Identity {
        family: label(FAMILY.name.as_str())?,
        chip: label(chip)?,
        rom_version: Some(u32::from(id.rom_version)),
        public_id: public_id.map_err(|error| FamilyError::Answer(error.to_string()))?,
    })
}
