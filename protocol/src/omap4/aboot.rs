//! aboot, the second stage of omap4boot: what it says and takes once the boot ROM has started it.
//!
//! ```text
//! host                          aboot
//!  | <-- 0xAABBCCDD (4 bytes) --  |   DRAM is up
//!  | -- size (4 bytes) -------->  |
//!  | -- boot image (size) ----->  |   to 0x82000000, in pieces of at most 64 KiB
//!                                 |   closes USB, starts the kernel
//! ```
//!
//! Source: `panda-hardware.md`, "Second stage: aboot".

use crate::zimage;

/// What aboot writes first.
pub const GREETING: u32 = 0xaabb_ccdd;
/// The most bytes of one transfer of the image.
pub const PIECE: usize = 64 * 1024;
/// Start of the board's RAM.
pub const RAM_START: u32 = 0x8000_0000;
/// End of the board's RAM: 1 GiB.
pub const RAM_END: u32 = 0xc000_0000;
/// Where the image is put.
pub const LOAD_ADDRESS: u32 = 0x8200_0000;
/// Where the kernel is copied.
pub const KERNEL_ADDRESS: u32 = 0x8000_8000;
/// The most bytes of an image: what fits between [`LOAD_ADDRESS`] and the end of RAM.
pub const MAX_IMAGE: u32 = RAM_END - LOAD_ADDRESS;
/// The most bytes of a kernel: a larger one, copied to [`KERNEL_ADDRESS`], would overwrite the image.
pub const MAX_KERNEL: u32 = LOAD_ADDRESS - KERNEL_ADDRESS;

/// How far from the start of RAM Debian's kernels unpack themselves, where they do not say.
const TEXT_OFFSET: u32 = 0x0020_8000;
/// What the unpacking takes behind the kernel's end: its stack, its work space, the copy of itself that goes on.
const UNPACKING: u64 = 128 * 1024;

/// Checks that a kernel, unpacked, ends below the ramdisk. It unpacks itself near the start of RAM; zImage and device
/// tree move out of its way, and the ramdisk lies as far behind [`LOAD_ADDRESS`] as they are long. Nothing is said of a
/// kernel that does not tell its size.
///
/// # Errors
/// It would overwrite the ramdisk.
pub fn check_unpacked(kernel: &[u8]) -> Result<(), UnpackedSize> {
    let Some(unpacked) = zimage::unpacked(kernel) else {
        return Ok(());
    };
    let begins = RAM_START.saturating_add(unpacked.text_offset.unwrap_or(TEXT_OFFSET));
    let room = u64::from(LOAD_ADDRESS.saturating_sub(begins)).saturating_sub(UNPACKING);
    if unpacked.bytes > room {
        return Err(UnpackedSize {
            bytes: unpacked.bytes,
            room,
        });
    }
    Ok(())
}

/// A kernel that would overwrite the ramdisk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the kernel has {bytes} bytes once it is unpacked, with its BSS, and there is room for {room} below the ramdisk; take \
     one with less built in"
)]
pub struct UnpackedSize {
    /// Image and BSS.
    pub bytes: u64,
    /// The room for them.
    pub room: u64,
}

/// Whether a transfer is aboot's greeting.
#[must_use]
pub fn is_greeting(transfer: &[u8]) -> bool {
    transfer == GREETING.to_le_bytes()
}

/// The word that announces an image of this size.
///
/// # Errors
/// When the image is empty or does not fit into the board's RAM.
pub fn size_word(bytes: usize) -> Result<[u8; 4], ImageSize> {
    match u32::try_from(bytes) {
        Ok(size) if (1..=MAX_IMAGE).contains(&size) => Ok(size.to_le_bytes()),
        _ => Err(ImageSize { bytes }),
    }
}

/// The image in the pieces it is sent in.
pub fn pieces(image: &[u8]) -> impl Iterator<Item = &[u8]> {
    image.chunks(PIECE)
}

/// An image that does not fit into the board's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the boot image has {bytes} bytes; the board has room for 1 to {MAX_IMAGE}")]
pub struct ImageSize {
    /// Its size.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    #[test]
    fn the_greeting_is_one_little_endian_word() {
        assert!(is_greeting(&hex!("dd cc bb aa")));
        assert!(!is_greeting(&hex!("aa bb cc dd")));
        assert!(!is_greeting(&hex!("dd cc bb aa 00")));
        assert!(!is_greeting(&[]));
    }

    #[test]
    fn a_size_lies_within_the_boards_ram() {
        assert_eq!(size_word(0x0012_3456), Ok(hex!("56 34 12 00")));
        assert_eq!(size_word(0), Err(ImageSize { bytes: 0 }));
        assert_eq!(size_word(0x3e00_0000), Ok(hex!("00 00 00 3e")));
        assert_eq!(
            size_word(0x3e00_0001),
            Err(ImageSize { bytes: 0x3e00_0001 })
        );
    }

    #[test]
    fn a_kernel_that_unpacks_into_the_ramdisk_is_refused() {
        // A zImage with its table at 64: the Image's size at 100, and 0x100 bytes of BSS.
        let kernel = |image: u32| {
            let mut kernel = vec![0; 200];
            for (at, word) in [
                (0x24, 0x016f_2818),
                (0x34, 0x4545_4545),
                (0x38, 64),
                (64, 6),
                (68, 0x5a53_4c4b),
                (72, 100),
                (76, 0x100),
                (80, TEXT_OFFSET),
                (100, image),
            ] {
                kernel[at..at + 4].copy_from_slice(&u32::to_le_bytes(word));
            }
            kernel
        };
        // Debian 12's, by the room that is left below the ramdisk: 20.6 MB.
        assert_eq!(check_unpacked(&kernel(20_600_000)), Ok(()));
        let room = u64::from(0x8200_0000_u32 - 0x8020_8000) - UNPACKING;
        let most = u32::try_from(room - 0x100).unwrap();
        assert_eq!(check_unpacked(&kernel(most)), Ok(()));
        let error = UnpackedSize {
            bytes: room + 1,
            room,
        };
        assert_eq!(check_unpacked(&kernel(most + 1)), Err(error));
        assert_eq!(check_unpacked(b"a kernel that says nothing"), Ok(()));
    }

    #[test]
    fn pieces_have_at_most_64_kib_and_are_the_image() {
        let image: Vec<u8> = (0..=255).cycle().take(65_536 * 2 + 5).collect();
        let pieces: Vec<&[u8]> = pieces(&image).collect();
        assert_eq!(
            pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(),
            [65_536, 65_536, 5]
        );
        assert_eq!(pieces.concat(), image);
    }
}
