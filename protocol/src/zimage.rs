//! An ARM Linux kernel as 32-bit boards start it: a zImage, with the board's device tree appended where the second
//! stage passes none on. A file that is none is told before a board is given power for it.
//!
//! ```text
//! zImage  0x24 0x016f2818   0x28 start   0x2c end (both addresses; end - start is its size)   0x30 0x04030201
//!         0x34 0x45454545   0x38 where its table is (since Linux 4.15), a list of tags:
//!   tag   0x00 its words    0x04 0x5a534c4b   0x08 where the Image's size is   0x0c bytes of its BSS   0x10 offset
//! dtb     0x00 0xd00dfeed (big-endian)   0x04 its size (big-endian)
//! ```
//!
//! Sources: Linux, arch/arm/boot/compressed/head.S and vmlinux.lds.S; Devicetree Specification 0.4, 5.2.

/// How many bytes of a kernel's beginning [`check`] wants to see.
pub const HEAD_BYTES: usize = 0x34;
/// The most bytes of a device tree.
pub const MAX_DTB: usize = 2 << 20;

const MAGIC_AT: usize = 0x24;
const MAGIC: u32 = 0x016f_2818;
const START_AT: usize = 0x28;
const END_AT: usize = 0x2c;
const BYTE_ORDER_AT: usize = 0x30;
const TABLE_MAGIC_AT: usize = 0x34;
const TABLE_MAGIC: u32 = 0x4545_4545;
const TABLE_AT: usize = 0x38;
const SIZE_TAG: u32 = 0x5a53_4c4b;
/// A table has one tag or two.
const MAX_TAGS: usize = 16;
const BIG: u32 = 0x0102_0304;
const DTB_MAGIC: u32 = 0xd00d_feed;

/// Checks a kernel of `bytes` bytes by its beginning, `head`: the size of the zImage alone.
///
/// # Errors
/// It is no zImage, one of another byte order, or cut short.
pub fn check(head: &[u8], bytes: u64) -> Result<u64, KernelError> {
    let word = |at: usize| {
        let word = head.get(at..at + 4)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*word))
    };
    let looks_like = || {
        let known: [(&[u8], &str); 5] = [
            (
                b"\x1f\x8b",
                "it is compressed by gzip: an Image.gz, or a kernel of another machine",
            ),
            (b"\x7fELF", "it is an ELF file: a vmlinux"),
            (b"MZ", "it is an EFI program: a kernel of another machine"),
            (
                b"\x27\x05\x19\x56",
                "it is a uImage; take the zImage that it was made from",
            ),
            (
                b"ANDROID!",
                "it is a boot image already; give it with --raw",
            ),
        ];
        known
            .iter()
            .find_map(|(magic, text)| head.starts_with(magic).then_some(*text))
            .unwrap_or("Debian's /boot/vmlinuz-…-armmp is one")
    };
    if word(MAGIC_AT) != Some(MAGIC) {
        return Err(KernelError::NoZImage { hint: looks_like() });
    }
    // Kernels before 3.11 have something else than a byte order there.
    if word(BYTE_ORDER_AT) == Some(BIG) {
        return Err(KernelError::BigEndian);
    }
    let (start, end) = (word(START_AT).unwrap_or(0), word(END_AT).unwrap_or(0));
    let size = u64::from(end.saturating_sub(start));
    if size <= HEAD_BYTES as u64 || size > bytes {
        return Err(KernelError::Cut { bytes, size });
    }
    Ok(size)
}

/// What a kernel is once it is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of the Image and its BSS: all that the running kernel overwrites.
    pub bytes: u64,
    /// How far from the start of RAM it begins, where the table says so.
    pub text_offset: Option<u32>,
}

/// What a kernel says of its unpacked size; nothing where it says nothing (before Linux 4.15), or what leads out of it.
#[must_use]
pub fn unpacked(kernel: &[u8]) -> Option<Unpacked> {
    let word = |at: usize| {
        let word = kernel.get(at..at.checked_add(4)?)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*word))
    };
    if word(MAGIC_AT)? != MAGIC || word(TABLE_MAGIC_AT)? != TABLE_MAGIC {
        return None;
    }
    let mut at = usize::try_from(word(TABLE_AT)?).ok()?;
    for _ in 0..MAX_TAGS {
        let words = usize::try_from(word(at)?).ok()?;
        if words == 0 {
            return None;
        }
        if word(at + 4)? == SIZE_TAG {
            let size_at = usize::try_from(word(at + 8)?).ok()?;
            // The size of a tag has counted its own two words only since Linux 5.1.
            let more = words > 4;
            return Some(Unpacked {
                bytes: u64::from(word(size_at)?) + u64::from(word(at + 12)?),
                text_offset: if more { word(at + 16) } else { None },
            });
        }
        at = at.checked_add(words.checked_mul(4)?)?;
    }
    None
}

/// The kernel with the device tree appended, for a second stage that passes none on.
///
/// # Errors
/// As [`check`]; a kernel that has something appended already; a device tree that is none.
pub fn with_dtb(mut kernel: Vec<u8>, dtb: Option<&[u8]>) -> Result<Vec<u8>, KernelError> {
    let size = check(&kernel, kernel.len() as u64)?;
    let Some(dtb) = dtb else {
        return Ok(kernel);
    };
    // What a build pads a zImage with is dropped: the kernel looks right behind its end.
    let size = usize::try_from(size).unwrap_or(kernel.len());
    if kernel[size..].starts_with(&DTB_MAGIC.to_be_bytes()) {
        return Err(KernelError::TwoTrees);
    }
    let size_field = dtb.get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
    let dtb_bytes = size_field.map_or(0, |bytes| u32::from_be_bytes(*bytes)) as usize;
    if !dtb.starts_with(&DTB_MAGIC.to_be_bytes()) || dtb.len() > MAX_DTB {
        return Err(KernelError::NoTree);
    }
    if dtb_bytes > dtb.len() {
        return Err(KernelError::CutTree {
            bytes: dtb.len(),
            size: dtb_bytes,
        });
    }
    kernel.truncate(size);
    kernel.extend_from_slice(dtb);
    Ok(kernel)
}

/// Why a kernel cannot be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Something else.
    #[error("the kernel is no ARM zImage: {hint}")]
    NoZImage {
        /// What it looks like, or where to find one.
        hint: &'static str,
    },
    /// Of the wrong byte order.
    #[error("the kernel is a big-endian one; the board's second stage starts little-endian ones")]
    BigEndian,
    /// Shorter than it says.
    #[error("the kernel has {bytes} bytes, and its header says {size}: it was cut short")]
    Cut {
        /// Its bytes.
        bytes: u64,
        /// By its header.
        size: u64,
    },
    /// It has a device tree.
    #[error(
        "the kernel has a device tree appended already; leave --dtb out, or give the plain zImage"
    )]
    TwoTrees,
    /// The device tree is none.
    #[error(
        "the device tree is none: a .dtb begins with d0 0d fe ed; a .dts must be compiled first"
    )]
    NoTree,
    /// Shorter than it says.
    #[error("the device tree has {bytes} bytes, and its header says {size}: it was cut short")]
    CutTree {
        /// Its bytes.
        bytes: usize,
        /// By its header.
        size: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zimage(size: u32, padding: usize) -> Vec<u8> {
        let mut kernel = vec![0; size as usize + padding];
        for (at, word) in [
            (MAGIC_AT, MAGIC),
            (START_AT, 0),
            (END_AT, size),
            (BYTE_ORDER_AT, 0x0403_0201),
        ] {
            kernel[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        kernel
    }

    fn dtb(size: u32) -> Vec<u8> {
        let mut tree = vec![7; size as usize];
        tree[..4].copy_from_slice(&DTB_MAGIC.to_be_bytes());
        tree[4..8].copy_from_slice(&size.to_be_bytes());
        tree
    }

    #[test]
    fn a_zimage_is_known_and_its_tree_follows_right_behind_it() {
        let kernel = zimage(200, 0);
        assert_eq!(check(&kernel[..HEAD_BYTES], 200), Ok(200));
        assert_eq!(with_dtb(kernel.clone(), None), Ok(kernel.clone()));
        let whole = with_dtb(zimage(200, 56), Some(&dtb(64))).unwrap();
        assert_eq!(whole, [kernel, dtb(64)].concat());
        assert_eq!(with_dtb(whole, Some(&dtb(64))), Err(KernelError::TwoTrees));
    }

    /// A zImage with a table: at 64 a tag of `words`, the Image's size at 100.
    fn with_table(words: u32) -> Vec<u8> {
        let mut kernel = zimage(200, 0);
        for (at, word) in [
            (TABLE_MAGIC_AT, TABLE_MAGIC),
            (TABLE_AT, 64),
            (64, words),
            (68, SIZE_TAG),
            (72, 100),
            (76, 0x1000),
            (80, 0x0020_8000),
            (100, 0x0013_0000),
        ] {
            kernel[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        kernel
    }

    #[test]
    fn a_kernel_tells_what_it_is_unpacked_with_its_bss() {
        let known = Unpacked {
            bytes: 0x0013_1000,
            text_offset: Some(0x0020_8000),
        };
        assert_eq!(unpacked(&with_table(6)), Some(known));
        let old = Unpacked {
            text_offset: None,
            ..known
        };
        assert_eq!(unpacked(&with_table(4)), Some(old));
        assert_eq!(unpacked(&zimage(200, 0)), None);
        let mut other = with_table(6);
        other[68] ^= 1;
        assert_eq!(unpacked(&other), None, "the tag is another");
        let mut out = with_table(6);
        out[72..76].copy_from_slice(&[0xff; 4]);
        assert_eq!(unpacked(&out), None, "the size lies outside");
    }

    #[test]
    fn what_is_no_zimage_is_told_with_what_it_is() {
        let refused = |bytes: &[u8]| check(bytes, 1 << 20).unwrap_err().to_string();
        assert!(refused(b"\x1f\x8b\x08").contains("gzip"));
        assert!(refused(b"\x7fELF").contains("vmlinux"));
        assert!(refused(b"MZ\0\0").contains("EFI"));
        assert!(refused(b"ANDROID!").contains("--raw"));
        assert!(refused(b"").contains("vmlinuz"));
        let mut big = zimage(200, 0);
        big[BYTE_ORDER_AT..BYTE_ORDER_AT + 4].copy_from_slice(&BIG.to_le_bytes());
        assert_eq!(check(&big, 200), Err(KernelError::BigEndian));
        let cut = KernelError::Cut {
            bytes: 199,
            size: 200,
        };
        assert_eq!(check(&zimage(200, 0), 199), Err(cut));
    }

    #[test]
    fn what_is_no_device_tree_is_refused() {
        let kernel = || zimage(200, 0);
        assert_eq!(
            with_dtb(kernel(), Some(b"/dts-v1/;")),
            Err(KernelError::NoTree)
        );
        assert_eq!(with_dtb(kernel(), Some(&[])), Err(KernelError::NoTree));
        assert_eq!(
            with_dtb(kernel(), Some(&dtb(64)[..63])),
            Err(KernelError::CutTree {
                bytes: 63,
                size: 64
            })
        );
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_check(kernel: Vec<u8>, tree: Vec<u8>, at in 0..64_usize, value: u8) {
            prop_assert_eq!(unpacked(&kernel), None);
            prop_assert!(with_dtb(kernel, Some(&tree)).is_err());
            let mut table = with_table(6);
            table[at + 36] = value;
            let bounded = |told: Unpacked| told.bytes <= 2 * u64::from(u32::MAX);
            prop_assert!(unpacked(&table).is_none_or(bounded));
            let mut near = zimage(100, 10);
            near[at] = value;
            if let Ok(whole) = with_dtb(near, Some(&dtb(32))) {
                prop_assert!(whole.len() <= 142);
            }
        }
    }
}
