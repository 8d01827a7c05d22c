//! Step 5, `identity`: the ROM says who it is. It tells a board only where the part has an ID of its own, so the slot
//! remains its port, and the rest is checked as far as the slot's settings and the part itself allow. Another chip than
//! the slot's is not retried: somebody has exchanged a board.

use panda_board::Pipe;
use panda_board::family::Session;
use panda_protocol::family::{ChipKey, FAMILIES, chip_name};
use panda_protocol::operators::{Identity, PublicId};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;

use super::chain::{Chain, Note};
use super::error::{Failure, StepError};
use super::rom::Rom;
use super::settings::ms;

/// Which board belongs on a slot's port, as far as its ROM tells. Part of `[[slot]]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ExpectedBoard {
    /// Its chip: `omap4430`.
    pub(crate) chip: Option<ChipKey>,
    /// Its public ID, on parts that have one.
    #[serde(deserialize_with = "public_id")]
    pub(crate) public_id: Option<PublicId>,
}

/// A public ID as long as those of some family's chips.
fn public_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PublicId>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let lengths: Vec<usize> = FAMILIES.iter().map(|facts| facts.public_id_bytes).collect();
    match text.parse::<PublicId>() {
        Ok(id) if lengths.contains(&id.as_bytes().len()) => Ok(Some(id)),
        _ => {
            let digits: Vec<String> = lengths
                .iter()
                .map(|bytes| (2 * bytes).to_string())
                .collect();
            let text = format!("a public ID has {} hexadecimal digits", digits.join(" or "));
            Err(serde::de::Error::custom(text))
        }
    }
}

/// The chip is the slot's.
#[derive(Debug)]
pub(crate) struct Identified {
    pub(super) rom: Rom,
    identity: Identity,
}

impl Rom {
    /// Asks the ROM who it is and compares it with the slot's.
    ///
    /// # Errors
    /// A transfer's, an invalid answer, or another chip.
    pub(crate) async fn identify(
        mut self,
        expected: &ExpectedBoard,
    ) -> Result<Identified, Failure> {
        let limit = ms(self.chain.settings().identify_ms());
        let Self {
            chain,
            family,
            pipe,
            arrival,
            ..
        } = &mut self;
        let work = async {
            let mut session = session(chain, pipe, arrival, Instant::now() + limit);
            let identity = family.identify(&mut session).await?;
            check(&identity, expected)?;
            let note = Note::from(describe(&identity));
            Ok((identity, note))
        };
        let identity = chain.step("asic id", limit, work).await?;
        Ok(Identified {
            rom: self,
            identity,
        })
    }
}

impl Identified {
    /// What the ROM said of itself.
    #[must_use]
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// What a family is given of a boot.
pub(super) fn session<'a>(
    chain: &'a Chain,
    pipe: &'a mut Box<dyn Pipe>,
    arrival: &'a mut u64,
    deadline: Instant,
) -> Session<'a> {
    Session {
        pipe,
        deadline,
        steps: chain,
        port: &*chain.board.port,
        arrival,
    }
}

fn check(identity: &Identity, expected: &ExpectedBoard) -> Result<(), StepError> {
    if let Some(chip) = expected.chip
        && chip.as_str() != identity.chip.as_str()
    {
        return Err(StepError::WrongChip {
            expected: chip_name(chip.as_str()).to_owned(),
            found: chip_name(identity.chip.as_str()).to_owned(),
        });
    }
    match &expected.public_id {
        Some(public_id) if identity.public_id.as_ref() != Some(public_id) => {
            let found = identity.public_id.as_ref();
            Err(StepError::WrongPublicId {
                expected: public_id.to_string(),
                found: found.map_or_else(|| "none".to_owned(), PublicId::to_string),
            })
        }
        _ => Ok(()),
    }
}

/// An identity in words, for people.
pub(crate) fn describe(identity: &Identity) -> String {
    let mut text = chip_name(identity.chip.as_str()).to_owned();
    if let Some(version) = identity.rom_version {
        text += &format!(", ROM version {version}");
    }
    match &identity.public_id {
        Some(public_id) => text + &format!(", public ID {public_id}"),
        None => text + ", no public ID",
    }
}

/// The same, read back from a record of it.
pub(crate) fn read_back(text: &str) -> Option<Identity> {
    let mut parts = text.split(", ");
    let name = parts.next()?;
    let (facts, chip) = FAMILIES.iter().find_map(|facts| {
        let chip = facts.chips.iter().find(|chip| chip.name == name)?;
        Some((facts, chip))
    })?;
    let (mut rom_version, mut public_id) = (None, None);
    for part in parts {
        if let Some(version) = part.strip_prefix("ROM version ") {
            rom_version = Some(version.parse().ok()?);
        } else if let Some(id) = part.strip_prefix("public ID ") {
            public_id = Some(id.parse().ok()?);
        }
    }
    Some(Identity {
        family: facts.name.as_str().parse().ok()?,
        chip: chip.key.parse().ok()?,
        rom_version,
        public_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_ledger_has_of_an_identity_is_read_back() {
        for facts in FAMILIES {
            for public_id in [None, Some(PublicId::from_bytes(&[7; 20]).unwrap())] {
                let identity = Identity {
                    family: facts.name.as_str().parse().unwrap(),
                    chip: facts.chips[0].key.parse().unwrap(),
                    rom_version: Some(4),
                    public_id,
                };
                assert_eq!(read_back(&describe(&identity)), Some(identity));
            }
        }
        assert_eq!(read_back("Z80, ROM version 4, no public ID"), None);
        assert_eq!(read_back(""), None);
    }
}
