//! The ASIC ID: what OMAP4's boot ROM says of its chip. The daemon parses it to check that the chip on
//! a port is the slot's; the twin builds one.
//!
//! ```text
//! offset  0   1 2 3  4..6 6  7    8 9 10..12  12 13 14 15..35     35 36 37 38..70    70 71 72 73..77 77..81
//!         5 | 1 5 1  chip CH ROM |13 2  -    |12 21  1 public id |14 33  1 MPK hash |15  9  1  CRC     CRC
//!      count| type, length, data |           |(type and length in hexadecimal and decimal)
//! ```
//!
//! Sub-blocks are checked by type, length and order, so that bytes at fixed offsets are never taken from a
//! block that is another. The ID tells chip and ROM; it tells a *board* only where its public ID is not
//! all zero, as it was seen to be on general-purpose 4430 parts.
//!
//! Source: `panda-hardware.md`, "Boot ROM, over USB".

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of an OMAP4's ASIC ID. (An OMAP3 has 69.)
pub const BYTES: usize = 81;

/// The sub-blocks in their order: type, length of the data, and the data's fixed first byte.
const BLOCKS: [(u8, u8, Option<u8>); 5] = [
    (0x01, 5, Some(1)),
    (0x13, 2, None),
    (0x12, 21, Some(1)),
    (0x14, 33, Some(1)),
    (0x15, 9, Some(1)),
];

const CHIP_4430: u16 = 0x4430;
const CHIP_4460: u16 = 0x4440;

/// An OMAP4 chip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Chip {
    /// The PandaBoard's.
    #[serde(rename = "omap4430")]
    Omap4430,
    /// The PandaBoard ES's; calls itself 0x4440.
    #[serde(rename = "omap4460")]
    Omap4460,
}

impl Chip {
    const fn code(self) -> u16 {
        match self {
            Self::Omap4430 => CHIP_4430,
            Self::Omap4460 => CHIP_4460,
        }
    }

    /// The USB product id of this chip's ROM.
    #[must_use]
    pub const fn usb_product(self) -> u16 {
        match self {
            Self::Omap4430 => super::rom::USB_PRODUCT_4430,
            Self::Omap4460 => super::rom::USB_PRODUCT_4460,
        }
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Omap4430 => "OMAP4430",
            Self::Omap4460 => "OMAP4460",
        })
    }
}

/// A parsed ASIC ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsicId {
    /// The chip.
    pub chip: Chip,
    /// "CH" byte of the identity block; its meaning is not documented.
    pub ch: u8,
    /// The ROM's version.
    pub rom_version: u8,
    /// Block 0x13; its meaning is not documented.
    pub block_13: [u8; 2],
    /// The public id; all zero on parts that have none. [`AsicId::board`] tells them apart.
    pub public_id: [u8; 20],
    /// Hash of the manufacturer's public key; all zero on general-purpose parts.
    pub mpk_hash: [u8; 32],
    /// The two checksums; the second is 0 on a general-purpose part.
    pub crcs: [u32; 2],
}

impl AsicId {
    /// The public id, where the chip has one: it then names this very board.
    #[must_use]
    pub fn board(&self) -> Option<[u8; 20]> {
        (self.public_id != [0; 20]).then_some(self.public_id)
    }

    /// Reads what the ROM answered.
    ///
    /// # Errors
    /// When its length, a sub-block's type, length or place, or the chip is not an OMAP4's.
    pub fn parse(bytes: &[u8]) -> Result<Self, AsicIdError> {
        let bytes: &[u8; BYTES] = bytes
            .try_into()
            .map_err(|_| AsicIdError::Length { found: bytes.len() })?;
        if usize::from(bytes[0]) != BLOCKS.len() {
            return Err(AsicIdError::Count { found: bytes[0] });
        }
        let mut at = 1;
        for (kind, length, first) in BLOCKS {
            if bytes[at] != kind || bytes[at + 1] != length {
                return Err(AsicIdError::Block { at, kind, length });
            }
            if first.is_some_and(|first| bytes[at + 2] != first) {
                return Err(AsicIdError::Fixed { at: at + 2 });
            }
            at += 2 + usize::from(length);
        }
        let chip = match u16::from_be_bytes(piece(bytes, 4)) {
            CHIP_4430 => Chip::Omap4430,
            CHIP_4460 => Chip::Omap4460,
            found => return Err(AsicIdError::Chip { found }),
        };
        Ok(Self {
            chip,
            ch: bytes[6],
            rom_version: bytes[7],
            block_13: piece(bytes, 10),
            public_id: piece(bytes, 15),
            mpk_hash: piece(bytes, 38),
            crcs: [
                u32::from_le_bytes(piece(bytes, 73)),
                u32::from_le_bytes(piece(bytes, 77)),
            ],
        })
    }

    /// As the ROM sends it.
    #[must_use]
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[0] = 5;
        let mut at = 1;
        for (kind, length, first) in BLOCKS {
            bytes[at] = kind;
            bytes[at + 1] = length;
            if let Some(first) = first {
                bytes[at + 2] = first;
            }
            at += 2 + usize::from(length);
        }
        bytes[4..6].copy_from_slice(&self.chip.code().to_be_bytes());
        bytes[6] = self.ch;
        bytes[7] = self.rom_version;
        bytes[10..12].copy_from_slice(&self.block_13);
        bytes[15..35].copy_from_slice(&self.public_id);
        bytes[38..70].copy_from_slice(&self.mpk_hash);
        bytes[73..77].copy_from_slice(&self.crcs[0].to_le_bytes());
        bytes[77..81].copy_from_slice(&self.crcs[1].to_le_bytes());
        bytes
    }
}

/// The `N` bytes at `at`; every caller's offset lies inside the fixed length.
fn piece<const N: usize>(bytes: &[u8; BYTES], at: usize) -> [u8; N] {
    let mut piece = [0; N];
    piece.copy_from_slice(&bytes[at..at + N]);
    piece
}

/// Why bytes are no OMAP4's ASIC ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AsicIdError {
    /// Its length is another chip family's, or it was cut.
    #[error(
        "the ASIC ID has {found} bytes; an OMAP4's has {BYTES}. Is another board on this port?"
    )]
    Length {
        /// Bytes that came.
        found: usize,
    },
    /// The first byte counts other sub-blocks.
    #[error("the ASIC ID announces {found} sub-blocks; an OMAP4's has 5")]
    Count {
        /// The count.
        found: u8,
    },
    /// A sub-block is not the one that belongs there.
    #[error("the ASIC ID has no sub-block {kind:#04x} of {length} bytes at offset {at}")]
    Block {
        /// Its offset.
        at: usize,
        /// The type that belongs there.
        kind: u8,
        /// The length that belongs there.
        length: u8,
    },
    /// A sub-block's fixed first byte is not 1.
    #[error("the ASIC ID's byte at offset {at} is not 1")]
    Fixed {
        /// Its offset.
        at: usize,
    },
    /// The chip is not one of a Panda's.
    #[error("the ASIC ID names chip {found:#06x}; a Panda's is 0x4430, or 0x4440 (ES)")]
    Chip {
        /// The chip's code.
        found: u16,
    },
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    /// A general-purpose OMAP4430: no public id, no MPK hash, second CRC 0.
    const GENERAL_PURPOSE: [u8; 81] = hex!(
        "05"
        "01 05 01 4430 07 04"
        "13 02 01 00"
        "12 15 01 0000000000000000000000000000000000000000"
        "14 21 01 0000000000000000000000000000000000000000000000000000000000000000"
        "15 09 01 1b5ed7f0 00000000"
    );

    #[test]
    fn a_general_purpose_4430_is_read() {
        let id = AsicId::parse(&GENERAL_PURPOSE).unwrap();
        assert_eq!(id.chip, Chip::Omap4430);
        assert_eq!((id.ch, id.rom_version, id.block_13), (7, 4, [1, 0]));
        assert_eq!(id.board(), None);
        assert_eq!(id.crcs, [0xf0d7_5e1b, 0]);
        assert_eq!(id.encode(), GENERAL_PURPOSE);
    }

    #[test]
    fn a_4460_calls_itself_4440_and_a_public_id_names_a_board() {
        let mut bytes = GENERAL_PURPOSE;
        bytes[5] = 0x40;
        bytes[34] = 9;
        let id = AsicId::parse(&bytes).unwrap();
        assert_eq!(id.chip, Chip::Omap4460);
        assert_eq!(id.board().unwrap()[19], 9);
    }

    #[test]
    fn an_omap3s_id_is_refused_by_its_length() {
        assert_eq!(
            AsicId::parse(&GENERAL_PURPOSE[..69]),
            Err(AsicIdError::Length { found: 69 })
        );
    }

    #[test]
    fn every_type_length_and_fixed_byte_is_checked() {
        for at in [0, 1, 2, 3, 8, 9, 12, 13, 14, 35, 36, 37, 70, 71, 72] {
            let mut bytes = GENERAL_PURPOSE;
            bytes[at] ^= 0x40;
            let error = AsicId::parse(&bytes).unwrap_err();
            assert!(
                matches!(
                    error,
                    AsicIdError::Count { .. }
                        | AsicIdError::Block { .. }
                        | AsicIdError::Fixed { .. }
                ),
                "{at}: {error}"
            );
        }
    }

    #[test]
    fn swapped_sub_blocks_are_refused() {
        let mut bytes = GENERAL_PURPOSE;
        bytes[1..12].rotate_left(7);
        assert_eq!(
            AsicId::parse(&bytes),
            Err(AsicIdError::Block {
                at: 1,
                kind: 1,
                length: 5
            })
        );
    }

    #[test]
    fn another_chip_is_refused() {
        let mut bytes = GENERAL_PURPOSE;
        bytes[4] = 0x54;
        assert_eq!(
            AsicId::parse(&bytes),
            Err(AsicIdError::Chip { found: 0x5430 })
        );
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_back(
            es: bool, ch: u8, rom_version: u8, block_13: [u8; 2], public_id: [u8; 20],
            mpk_hash: [u8; 32], crcs: [u32; 2],
        ) {
            let chip = if es { Chip::Omap4460 } else { Chip::Omap4430 };
            let id = AsicId { chip, ch, rom_version, block_13, public_id, mpk_hash, crcs };
            prop_assert_eq!(AsicId::parse(&id.encode()), Ok(id));
        }

        #[test]
        fn bytes_that_parse_are_built_again(at in 0..81usize, value: u8) {
            let mut bytes = GENERAL_PURPOSE;
            bytes[at] = value;
            if let Ok(id) = AsicId::parse(&bytes) {
                prop_assert_eq!(id.encode(), bytes);
            }
        }
    }
}
