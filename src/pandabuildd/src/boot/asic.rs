//! Step 5, `asic id`: the ROM says which chip it is. It tells a board only where its public ID is not
//! zero, so the slot remains its port, and the ID is checked as far as the slot's settings and the part
//! itself allow. Another chip than the slot's is not retried: somebody has exchanged a board.

use std::fmt;
use std::str::FromStr;

use panda_board::Presence;
use panda_protocol::omap4::asic_id::{AsicId, Chip};
use tokio::sync::watch;
use tokio::time::Instant;

use super::chain::{Chain, Note};
use super::error::{Failure, StepError};
use super::paced::Paced;
use super::rom::Rom;
use super::second_stage::Ready;
use super::settings::{ExpectedBoard, PublicId, ms};
use super::talk;
use panda_image::Image;

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
        let id = talk::ask_asic_id(&mut paced, deadline).await?;
        check(&id, expected)?;
        Ok((id, Note::from(Told::from(&id).to_string())))
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

/// What an ASIC ID tells, in words; the ledger has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The chip.
    pub chip: Chip,
    /// Its ROM's version.
    pub rom_version: u8,
    /// Which board it is, where the part tells.
    pub public_id: Option<PublicId>,
}

impl From<&AsicId> for Told {
    fn from(id: &AsicId) -> Self {
        Self {
            chip: id.chip,
            rom_version: id.rom_version,
            public_id: id.board().map(PublicId),
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ROM version {}, ", self.chip, self.rom_version)?;
        match self.public_id {
            Some(public_id) => write!(f, "public ID {public_id}"),
            None => f.write_str("no public ID"),
        }
    }
}

impl FromStr for Told {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(", ");
        let mut part = || parts.next().ok_or(());
        let name = part()?;
        let chip = [Chip::Omap4430, Chip::Omap4460]
            .into_iter()
            .find(|chip| chip.to_string() == name)
            .ok_or(())?;
        let version = part()?.strip_prefix("ROM version ").ok_or(())?;
        let public_id = match part()?.strip_prefix("public ID ") {
            Some(id) => Some(PublicId::try_from(id.to_owned()).map_err(|_| ())?),
            None => None,
        };
        Ok(Self {
            chip,
            rom_version: version.parse().map_err(|_| ())?,
            public_id,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_ledger_has_of_an_asic_id_is_read_back() {
        for public_id in [None, Some(PublicId([7; 20]))] {
            let told = Told {
                chip: Chip::Omap4460,
                rom_version: 4,
                public_id,
            };
            assert_eq!(told.to_string().parse(), Ok(told));
        }
        assert_eq!(
            "OMAP5430, ROM version 4, no public ID".parse::<Told>(),
            Err(())
        );
        assert_eq!("".parse::<Told>(), Err(()));
    }
}
