//! Messages of OMAP4's boot ROM over USB: what the daemon's boot steps write, and what the twin's ROM
//! expects. All numbers are little-endian `u32`.
//!
//! ```text
//! host                          ROM
//!  | -- 0xF0030003 (4 bytes) -->  |   get ASIC ID
//!  | <-- ASIC ID (81 bytes) ----  |
//!  | -- 0xF0030002 (4 bytes) -->  |   peripheral boot
//!  | -- size (4 bytes) -------->  |   1 ..= 48 KiB
//!  | -- second stage (size) --->  |   loaded to 0x40300000 and jumped to
//! ```
//!
//! Source: `panda-hardware.md`, "Boot ROM, over USB".

/// Texas Instruments' USB vendor id.
pub const USB_VENDOR: u16 = 0x0451;
/// USB product id of an OMAP4430's ROM.
pub const USB_PRODUCT_4430: u16 = 0xd00f;
/// USB product id of an OMAP4460's ROM.
pub const USB_PRODUCT_4460: u16 = 0xd010;
/// Class of the ROM's interface 0: vendor-specific.
pub const USB_INTERFACE_CLASS: u8 = 0xff;
/// Bulk OUT endpoint: host to ROM.
pub const ENDPOINT_OUT: u8 = 0x01;
/// Bulk IN endpoint: ROM to host.
pub const ENDPOINT_IN: u8 = 0x81;

/// Asks for the ASIC ID.
pub const GET_ASIC_ID: u32 = 0xf003_0003;
/// Announces a second stage.
pub const PERIPHERAL_BOOT: u32 = 0xf003_0002;
/// The most bytes of a second stage: what the ROM has room for at [`SECOND_STAGE_ADDRESS`].
pub const MAX_SECOND_STAGE: usize = 48 * 1024;
/// Where the ROM loads the second stage (internal SRAM).
pub const SECOND_STAGE_ADDRESS: u32 = 0x4030_0000;

/// A message, or a size, as it goes over the wire.
#[must_use]
pub const fn word(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

/// Reads one word; `None` unless the transfer has exactly four bytes.
#[must_use]
pub fn parse_word(transfer: &[u8]) -> Option<u32> {
    transfer.try_into().ok().map(u32::from_le_bytes)
}

/// A second stage's size, checked against what the ROM has room for.
///
/// # Errors
/// When it is empty or larger than [`MAX_SECOND_STAGE`].
pub fn second_stage_size(bytes: usize) -> Result<u32, SecondStageSize> {
    match u32::try_from(bytes) {
        Ok(size) if size > 0 && bytes <= MAX_SECOND_STAGE => Ok(size),
        _ => Err(SecondStageSize { bytes }),
    }
}

/// A second stage that the ROM would not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the second stage has {bytes} bytes; the boot ROM takes 1 to {MAX_SECOND_STAGE}")]
pub struct SecondStageSize {
    /// Its size.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    #[test]
    fn messages_are_little_endian_words() {
        assert_eq!(word(GET_ASIC_ID), hex!("03 00 03 f0"));
        assert_eq!(word(PERIPHERAL_BOOT), hex!("02 00 03 f0"));
    }

    #[test]
    fn a_word_is_four_bytes_and_nothing_else() {
        assert_eq!(parse_word(&hex!("02 00 03 f0")), Some(PERIPHERAL_BOOT));
        assert_eq!(parse_word(&hex!("02 00 03")), None);
        assert_eq!(parse_word(&hex!("02 00 03 f0 00")), None);
        assert_eq!(parse_word(&[]), None);
    }

    #[test]
    fn a_second_stage_has_one_byte_to_48_kib() {
        assert_eq!(second_stage_size(0), Err(SecondStageSize { bytes: 0 }));
        assert_eq!(second_stage_size(1), Ok(1));
        assert_eq!(second_stage_size(49_152), Ok(49_152));
        assert_eq!(
            second_stage_size(49_153),
            Err(SecondStageSize { bytes: 49_153 })
        );
    }
}
