//! Step 5, `asic id`: the ROM says which chip it is. It tells a board only where its public ID is not
//! zero, so the slot remains its port, and the ID is checked as far as the slot's settings and the part
//! itself allow. Another chip than the slot's is not retried: somebody has exchanged a board.

use panda_board::Presence;
use panda_protocol::omap4::asic_id::{self, AsicId};
use panda_protocol::omap4::rom;
use tokio::sync::watch;
use tokio::time::Instant;

use super::chain::{Chain, Note};
use super::error::{Failure, StepError, pipe};
use super::paced::Paced;
use super::rom::Rom;
use super::second_stage::Ready;
use super::settings::{ExpectedBoard, PublicId, ms};
use crate::images::Image;

/// The chip is the slot's.
#[derive(Debug)]
pub struct Identified {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) pipe: Paced,
    id: AsicId,
}

pub(super) async fn identify(found: Rom, expected: &ExpectedBoard) -> Result<Identified, Failure> {
    let Rom {
        chain,
        port,
        pipe: mut paced,
    } = found;
    let limit = ms(chain.settings().asic_id_ms);
    let deadline = Instant::now() + limit;
    let work = async {
        paced
            .write(&rom::word(rom::GET_ASIC_ID), deadline)
            .await
            .map_err(pipe("asking for the ASIC ID"))?;
        let answer = paced
            .read(asic_id::BYTES, deadline)
            .await
            .map_err(pipe("reading the ASIC ID"))?;
        let id = AsicId::parse(&answer)?;
        check(&id, expected)?;
        let board = id.board().map_or_else(
            || "no public ID".to_owned(),
            |public_id| format!("public ID {}", PublicId(public_id)),
        );
        Ok((
            id,
            Note::from(format!(
                "{}, ROM version {}, {board}",
                id.chip, id.rom_version
            )),
        ))
    };
    let id = chain.step("asic id", limit, work).await?;
    Ok(Identified {
        chain,
        port,
        pipe: paced,
        id,
    })
}

fn check(id: &AsicId, expected: &ExpectedBoard) -> Result<(), StepError> {
    if let Some(chip) = expected.chip
        && chip != id.chip
    {
        return Err(StepError::WrongChip {
            expected: chip.to_string(),
            found: id.chip.to_string(),
        });
    }
    match expected.public_id {
        Some(PublicId(public_id)) if public_id != id.public_id => Err(StepError::WrongPublicId {
            expected: PublicId(public_id).to_string(),
            found: PublicId(id.public_id).to_string(),
        }),
        _ => Ok(()),
    }
}

impl Identified {
    /// What the ROM said of its chip.
    #[must_use]
    pub fn asic_id(&self) -> &AsicId {
        &self.id
    }

    /// Sends the image's second stage and waits for it to announce itself.
    ///
    /// # Errors
    /// A transfer's, the image's, or an announcement that is none.
    pub async fn second_stage(self, image: &Image) -> Result<Ready, Failure> {
        super::second_stage::send(self, image).await
    }
}
