//! What of the scratch disk is used for what, and the device-mapper tables that say so. Three areas, each
//! encrypted with a key of its own:
//!
//! ```text
//! 0                                        root                 swap            end of the disk
//! ├── panda-scratch: ext4 ─────────────────┼── panda-root ──────┼── panda-swap ──┤
//!     the overlay's upper side, the worker     the root file        swap
//!                                              system, read-only
//! ```
//! A sector of an area is the disk's own at the same place from the area's start. The cipher works on 4096 bytes
//! at a time (`sector_size`), which costs a slow processor far less than eight times 512.

use std::fmt::Write as _;

use zeroize::Zeroizing;

/// Bytes of a disk's sector, as device mapper counts.
pub(crate) const SECTOR: u64 = 512;
/// Areas begin and end on these.
const UNIT: u64 = 1 << 20;
/// The smallest disk that is used: a chroot, a build and some swap.
pub(crate) const LEAST_DISK: u64 = 1 << 30;
/// Swap is an eighth of the disk, but no more than this: twice a Panda's RAM.
const MOST_SWAP: u64 = 2 << 30;
/// Bytes of a key: two AES-256 keys, as XTS needs.
pub(crate) const KEY_BYTES: usize = 64;

/// One area's key.
pub(crate) type Key = Zeroizing<[u8; KEY_BYTES]>;

/// An area of the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Area {
    /// Its name for device mapper.
    pub(crate) name: &'static str,
    /// Where it begins.
    pub(crate) start: u64,
    /// How long it is.
    pub(crate) bytes: u64,
}

/// The disk, divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Areas {
    /// For the file system.
    pub(crate) scratch: Area,
    /// For the root file system.
    pub(crate) root: Area,
    /// For swap.
    pub(crate) swap: Area,
}

/// A disk that cannot be divided.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the scratch disk has {have} MiB, and at least {least} MiB are needed; give the board a larger one"
)]
pub(crate) struct TooSmall {
    have: u64,
    least: u64,
}

impl Areas {
    /// Divides a disk of `disk` bytes for a root file system of `rootfs` bytes.
    pub(crate) fn of(disk: u64, rootfs: u64) -> Result<Self, TooSmall> {
        let root = rootfs.div_ceil(UNIT).saturating_mul(UNIT);
        let least = LEAST_DISK.saturating_add(root);
        let end = disk / UNIT * UNIT;
        if end < least {
            return Err(TooSmall {
                have: disk / UNIT,
                least: least.div_ceil(UNIT),
            });
        }
        let swap = (end / 8 / UNIT * UNIT).min(MOST_SWAP);
        let scratch = end - swap - root;
        let area = |name, start, bytes| Area { name, start, bytes };
        Ok(Self {
            scratch: area("panda-scratch", 0, scratch),
            root: area("panda-root", scratch, root),
            swap: area("panda-swap", scratch + root, swap),
        })
    }
}

impl Area {
    /// Its device.
    pub(crate) fn device(&self) -> std::path::PathBuf {
        std::path::Path::new("/dev/mapper").join(self.name)
    }

    /// The line that device mapper takes: plain dm-crypt over this part of `disk`. It holds the key, so it goes to
    /// `dmsetup` over a pipe, and nowhere else.
    pub(crate) fn table(&self, disk: &str, key: &Key) -> Zeroizing<String> {
        // Made whole before the key goes in, so that no copy of it is left behind by growing.
        let mut table = Zeroizing::new(String::with_capacity(512 + disk.len()));
        let (start, sectors) = (self.start / SECTOR, self.bytes / SECTOR);
        // Writing to a string does not fail.
        write!(table, "0 {sectors} crypt aes-xts-plain64 ").unwrap_or_default();
        for byte in key.iter() {
            write!(table, "{byte:02x}").unwrap_or_default();
        }
        writeln!(
            table,
            " 0 {disk} {start} 2 sector_size:4096 iv_large_sectors"
        )
        .unwrap_or_default();
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_disk_of_8_gib_is_divided_without_gap_or_overlap() {
        let areas = Areas::of(8192 * MIB, 62_205_952).unwrap();
        assert_eq!(areas.swap.bytes, 1024 * MIB);
        assert_eq!(areas.root.bytes, 60 * MIB);
        assert_eq!(areas.scratch.bytes, 7108 * MIB);
        assert_eq!(areas.scratch.start, 0);
        assert_eq!(areas.root.start, areas.scratch.bytes);
        assert_eq!(areas.swap.start, areas.root.start + areas.root.bytes);
        assert_eq!(areas.swap.start + areas.swap.bytes, 8192 * MIB);
    }

    #[test]
    fn swap_has_a_bound_and_a_disk_of_any_size_is_divided_whole() {
        let areas = Areas::of(300_000_000_000, 1).unwrap();
        assert_eq!((areas.swap.bytes, areas.root.bytes), (2048 * MIB, MIB));
        let end = areas.swap.start + areas.swap.bytes;
        assert!(end <= 300_000_000_000 && 300_000_000_000 - end < MIB);
    }

    #[test]
    fn a_disk_that_is_too_small_is_refused_with_its_size() {
        let said = Areas::of(512 * MIB, 62 * MIB).unwrap_err().to_string();
        assert!(
            said.contains("512 MiB") && said.contains("1086 MiB"),
            "{said}"
        );
        assert!(Areas::of(0, 0).is_err());
        assert!(Areas::of(8192 * MIB, u64::MAX).is_err());
        assert!(Areas::of(LEAST_DISK + MIB, 1).is_ok());
    }

    #[test]
    fn a_table_is_this_line() {
        let mut key = Key::new([0; KEY_BYTES]);
        (key[0], key[63]) = (0xab, 0x01);
        let area = Area {
            name: "panda-swap",
            start: 3 * MIB,
            bytes: 2 * MIB,
        };
        let zeros = "0".repeat(124);
        assert_eq!(
            *area.table("/dev/vda", &key),
            format!(
                "0 4096 crypt aes-xts-plain64 ab{zeros}01 0 /dev/vda 6144 2 sector_size:4096 iv_large_sectors\n"
            )
        );
    }
}
