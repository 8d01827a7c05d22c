//! Families of boards: what boots the same way. This is what is known of a family without talking to one: which
//! USB devices are its boot ROM, which chips it has, what its part of an image must be, and which stores on its
//! boards survive a power cut. Each family's folder of this crate holds its own; [`FAMILIES`] lists them, and
//! nothing else here names one. Called by the manifest's check, by the USB drivers (which device on a port may be
//! talked to), by the boot and by `pandabuildd check`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::manifest::Manifest;
use crate::omap4;
use crate::operators::HandOver;

/// Every family; a new one is a line here.
pub const FAMILIES: &[&FamilyFacts] = &[&omap4::FAMILY];

/// What is known of a family.
#[derive(Debug)]
pub struct FamilyFacts {
    /// Its name.
    pub name: FamilyName,
    /// The USB devices that are its boot ROM.
    pub roms: &'static [RomUsb],
    /// Its chips.
    pub chips: &'static [Chip],
    /// Bytes of its chips' public ID.
    pub public_id_bytes: usize,
    /// The steps by which it hands a board what it boots, in their order.
    pub hand_over: &'static [HandOver],
    /// What is wrong with its part of a manifest.
    pub check: fn(&Manifest) -> Result<(), PayloadProblem>,
    /// Every store on its boards that survives a power cut.
    pub stores: &'static [Store],
}

/// A family's name, as manifests and operators write it: `omap4`. What is read is one of [`FAMILIES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FamilyName(&'static str);

/// A boot ROM, as it shows itself on USB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RomUsb {
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
    /// Class of its interface 0.
    pub interface_class: u8,
    /// Its bulk endpoint from the host.
    pub endpoint_out: u8,
    /// Its bulk endpoint to the host.
    pub endpoint_in: u8,
    /// The chip that it is the ROM of, by [`Chip::key`].
    pub chip: &'static str,
}

/// A chip of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// As settings and records have it: `omap4430`.
    pub key: &'static str,
    /// As people write it: `OMAP4430`.
    pub name: &'static str,
}

/// A store on a board that survives a power cut: what an attacker with root could leave there, and why the next
/// boot does not take it. Where something is not known, it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Store {
    /// Which.
    pub store: &'static str,
    /// Whether it is on the board: `none fitted`, `empty`, `in use`, …
    pub state: &'static str,
    /// Why the boot path does not consult it, or what closes it.
    pub closed_by: &'static str,
    /// How the rack would notice that it is open.
    pub noticed_by: &'static str,
}

/// A part of an image that its family's boards could not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{key}`: {problem}")]
pub struct PayloadProblem {
    /// The manifest's key or keys.
    pub key: &'static str,
    /// What is wrong, and what was expected.
    pub problem: String,
}

impl FamilyName {
    /// The name of a family that is being defined.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self(name)
    }

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// What is known of it; nothing of a family that is not in the table.
    #[must_use]
    pub fn facts(self) -> Option<&'static FamilyFacts> {
        FAMILIES.iter().copied().find(|facts| facts.name == self)
    }
}

impl Default for FamilyName {
    /// Of what was written before there were families.
    fn default() -> Self {
        omap4::FAMILY.name
    }
}

impl fmt::Display for FamilyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl fmt::Debug for FamilyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl Serialize for FamilyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for FamilyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = FAMILIES.iter().map(|facts| facts.name);
        known.clone().find(|name| name.0 == text).ok_or_else(|| {
            let names: Vec<&str> = known.map(Self::as_str).collect();
            serde::de::Error::custom(format!("expected a family: {}", names.join(", ")))
        })
    }
}

/// A chip's key that is in the table, as settings name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChipKey(&'static str);

impl ChipKey {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl std::str::FromStr for ChipKey {
    type Err = UnknownChip;

    fn from_str(text: &str) -> Result<Self, UnknownChip> {
        let (_, chip) = chip(text).ok_or(UnknownChip)?;
        Ok(Self(chip.key))
    }
}

impl Serialize for ChipKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for ChipKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A chip of no family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a chip: {}", all_chips())]
pub struct UnknownChip;

fn all_chips() -> String {
    let chips = FAMILIES.iter().flat_map(|facts| facts.chips);
    let keys: Vec<&str> = chips.map(|chip| chip.key).collect();
    keys.join(", ")
}

/// The boot ROM that a device with these numbers says it is, of any family.
#[must_use]
pub fn rom_of(vendor: u16, product: u16) -> Option<(&'static FamilyFacts, &'static RomUsb)> {
    FAMILIES.iter().find_map(|facts| {
        let is = |rom: &&RomUsb| rom.vendor == vendor && rom.product == product;
        Some((*facts, facts.roms.iter().find(is)?))
    })
}

/// The chip of this key, of any family.
#[must_use]
pub fn chip(key: &str) -> Option<(&'static FamilyFacts, Chip)> {
    FAMILIES.iter().find_map(|facts| {
        let chip = facts.chips.iter().find(|chip| chip.key == key)?;
        Some((*facts, *chip))
    })
}

/// What people call the chip of this key; the key where it is not known.
#[must_use]
pub fn chip_name(key: &str) -> &str {
    chip(key).map_or(key, |(_, chip)| chip.name)
}

/// The numbers of all ROMs that there are, for messages: `0451:d00f or 0451:d010`.
#[must_use]
pub fn rom_numbers() -> String {
    let roms = FAMILIES.iter().flat_map(|facts| facts.roms);
    let numbers: Vec<String> = roms
        .map(|rom| format!("{:04x}:{:04x}", rom.vendor, rom.product))
        .collect();
    match numbers.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_families_share_a_name_a_rom_or_a_chip() {
        let (mut names, mut roms, mut chips) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for facts in FAMILIES {
            assert!(names.insert(facts.name), "{}", facts.name);
            for rom in facts.roms {
                assert!(roms.insert((rom.vendor, rom.product)), "{rom:?}");
                let own = facts.chips.iter().any(|chip| chip.key == rom.chip);
                assert!(own, "{rom:?} is the ROM of no chip of {}", facts.name);
            }
            for chip in facts.chips {
                assert!(chips.insert(chip.key), "{chip:?}");
            }
        }
    }

    #[test]
    fn every_family_states_each_store_with_what_closes_it() {
        for facts in FAMILIES {
            assert!(!facts.stores.is_empty(), "{}", facts.name);
            for store in facts.stores {
                for text in [store.store, store.state, store.closed_by, store.noticed_by] {
                    assert!(!text.is_empty() && !text.contains('|'), "{store:?}");
                }
            }
        }
    }

    #[test]
    fn the_security_page_has_every_store_as_it_stands_here() {
        let page = include_str!("../../docs/security.md");
        for facts in FAMILIES {
            let (_, section) = page
                .split_once(&format!("\n### {}\n", facts.name))
                .unwrap_or_else(|| panic!("no section {}", facts.name));
            let section = section.split("\n#").next().unwrap();
            let rows: Vec<&str> = section
                .lines()
                .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
                .skip(1)
                .collect();
            let stores: Vec<String> = facts
                .stores
                .iter()
                .map(|store| {
                    let cells = [store.store, store.state, store.closed_by, store.noticed_by];
                    format!("| {} |", cells.join(" | "))
                })
                .collect();
            assert_eq!(rows, stores, "{}", facts.name);
        }
    }

    #[test]
    fn a_family_is_read_by_its_name_and_no_other() {
        for facts in FAMILIES {
            let json = serde_json::to_string(&facts.name).unwrap();
            let read: FamilyName = serde_json::from_str(&json).unwrap();
            assert_eq!(read, facts.name);
        }
        let error = serde_json::from_str::<FamilyName>("\"z80\"").unwrap_err();
        assert!(error.to_string().contains("expected a family: "), "{error}");
    }

    #[test]
    fn a_rom_and_a_chip_are_found_by_their_numbers_and_keys() {
        for facts in FAMILIES {
            for rom in facts.roms {
                let (found, of) = rom_of(rom.vendor, rom.product).unwrap();
                assert_eq!((found.name, of), (facts.name, rom));
                assert!(chip(rom.chip).is_some());
            }
        }
        assert!(rom_of(0x046d, 0xc31c).is_none());
        assert_eq!(chip_name("z80"), "z80");
    }
}
