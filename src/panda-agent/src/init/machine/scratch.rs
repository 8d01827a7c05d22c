//! The scratch disk, made new: keys that nobody has ever seen or will see again, and file systems without a past.
//!
//! The keys come from the kernel's random source (which waits until it is seeded), go to `dmsetup` over a pipe, and
//! are wiped here; from then on only the kernel has them, until the power goes. What the last boot left on the disk
//! reads as noise through other keys.
//!
//! An image for demonstrations may have `insecure_fixed_disk_key`: then the keys are known, the disk is not erased, and
//! file systems that are there are kept.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};

use super::areas::{Area, Areas, KEY_BYTES, Key, TooSmall};
use super::disk::{Disk, DiskError, Erased};
use super::tools::{ToolError, Tools};

/// Where ext4 has its magic number, and that number.
const EXT4_MAGIC: (u64, &[u8]) = (1024 + 0x38, &[0x53, 0xef]);
/// Where swap has its own, with pages of 4096 bytes.
const SWAP_MAGIC: (u64, &[u8]) = (4096 - 10, b"SWAPSPACE2");

/// Why the scratch disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    /// Its size.
    #[error(transparent)]
    TooSmall(#[from] TooSmall),
    /// Itself.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A program.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// An area of it.
    #[error("{area} cannot be read: {source}")]
    Area {
        /// Which.
        area: &'static str,
        /// Why.
        source: io::Error,
    },
    /// No keys.
    #[error("the kernel gives no random bytes: {0}")]
    Random(#[source] io::Error),
}

/// Where the keys come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Made for this boot, and thrown away.
    Throwaway,
    /// Known in advance: for demonstrations.
    Fixed,
}

/// Waits for the kernel's random source, and returns when it is good.
pub(crate) fn random_is_ready() -> Result<(), ScratchError> {
    random().map(drop)
}

/// Opens the disk for a root file system of `rootfs` bytes; returns its areas, with a file system and swap in
/// use, and what was done in a few words.
pub(crate) async fn open(
    disk: &Disk,
    rootfs: u64,
    keys: Keys,
    tools: &Tools,
) -> Result<(Areas, String), ScratchError> {
    let areas = Areas::of(disk.bytes, rootfs)?;
    let erased = match keys {
        Keys::Throwaway => disk.erase()?,
        Keys::Fixed => Erased::Nothing,
    };
    for area in [&areas.scratch, &areas.root, &areas.swap] {
        encrypt(disk, area, keys, tools).await?;
    }
    let kept = match keys {
        Keys::Throwaway => false,
        Keys::Fixed => has(&areas.scratch, EXT4_MAGIC)? && has(&areas.swap, SWAP_MAGIC)?,
    };
    let (file_system, swap) = (text(&areas.scratch), text(&areas.swap));
    if kept {
        // Its last boot ended by losing power. 1: what was wrong has been put right.
        tools
            .run("e2fsck", &["-f", "-y", &file_system], |status| status <= 1)
            .await?;
    } else {
        // No journal: this file system will never be mounted again.
        let options = [
            "-q",
            "-F",
            "-O",
            "^has_journal",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,nodiscard",
        ];
        let label = ["-L", areas.scratch.name, &file_system];
        tools
            .run("mkfs.ext4", &[&options[..], &label].concat(), good)
            .await?;
        tools
            .run("mkswap", &["-L", areas.swap.name, &swap], good)
            .await?;
    }
    tools.run("swapon", &[&swap], good).await?;
    let what = match (keys, kept) {
        (Keys::Throwaway, _) => format!("new keys, new file system and swap; {}", erased.detail()),
        (Keys::Fixed, false) => "FIXED KEYS, new file system and swap".to_owned(),
        (Keys::Fixed, true) => "FIXED KEYS, the last boot's file system and swap KEPT".to_owned(),
    };
    Ok((
        areas,
        format!("{} {} MiB: {what}", disk.path.display(), disk.bytes >> 20),
    ))
}

async fn encrypt(disk: &Disk, area: &Area, keys: Keys, tools: &Tools) -> Result<(), ScratchError> {
    let key = match keys {
        Keys::Throwaway => random()?,
        Keys::Fixed => fixed(area.name),
    };
    let table = area.table(&disk.path.to_string_lossy(), &key);
    // There is no udev to wait for, nor to give the device its name.
    let arguments = ["create", area.name, "--noudevsync", "--noudevrules"];
    tools
        .run_secretly("dmsetup", &arguments, table.as_bytes())
        .await?;
    name(Path::new("/sys/class/block"), area).map_err(|source| ScratchError::Area {
        area: area.name,
        source,
    })
}

/// Gives an area's device the name that everybody knows it by, where nothing else has.
fn name(class: &Path, area: &Area) -> io::Result<()> {
    let path = area.device();
    if path.exists() {
        return Ok(());
    }
    match device_of(class, area.name)? {
        Some(device) => std::os::unix::fs::symlink(Path::new("..").join(device), path),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// The kernel's name of a device: `dm-0`.
fn device_of(class: &Path, name: &str) -> io::Result<Option<std::ffi::OsString>> {
    for entry in std::fs::read_dir(class)? {
        let entry = entry?;
        let found = std::fs::read_to_string(entry.path().join("dm/name"));
        if found.is_ok_and(|found| found.trim() == name) {
            return Ok(Some(entry.file_name()));
        }
    }
    Ok(None)
}

/// A key of random bytes; waits until the kernel has them.
fn random() -> Result<Key, ScratchError> {
    let mut key = Key::new([0; KEY_BYTES]);
    let mut filled = 0;
    while filled < KEY_BYTES {
        match getrandom(&mut key[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ScratchError::Random(error.into())),
        }
    }
    Ok(key)
}

/// A key that anybody can know.
fn fixed(name: &str) -> Key {
    let mut key = Key::new([0; KEY_BYTES]);
    for (byte, (place, letter)) in key.iter_mut().zip((0..).zip(name.bytes().cycle())) {
        *byte = letter ^ place;
    }
    key
}

fn has(area: &Area, (at, magic): (u64, &[u8])) -> Result<bool, ScratchError> {
    holds(&area.device(), at, magic).map_err(|source| ScratchError::Area {
        area: area.name,
        source,
    })
}

fn holds(path: &Path, at: u64, magic: &[u8]) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut found = vec![0; magic.len()];
    file.read_exact(&mut found)?;
    Ok(found == magic)
}

fn text(area: &Area) -> String {
    area.device().to_string_lossy().into_owned()
}

fn good(status: i32) -> bool {
    status == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_new_and_a_fixed_one_is_of_its_area() {
        let keys: Vec<Key> = (0..4).map(|_| random().unwrap()).collect();
        for (index, key) in keys.iter().enumerate() {
            assert!(key.iter().any(|byte| *byte != 0));
            assert!(keys[index + 1..].iter().all(|other| **other != **key));
        }
        assert_eq!(*fixed("panda-root"), *fixed("panda-root"));
        assert_ne!(*fixed("panda-root"), *fixed("panda-swap"));
    }

    #[test]
    fn an_area_is_found_by_its_name() {
        let class = tempfile::tempdir().unwrap();
        for (device, name) in [("dm-0", "panda-root"), ("dm-1", "panda-swap")] {
            let dm = class.path().join(device).join("dm");
            std::fs::create_dir_all(&dm).unwrap();
            std::fs::write(dm.join("name"), format!("{name}\n")).unwrap();
        }
        std::fs::create_dir(class.path().join("vda")).unwrap();
        let found = |name| device_of(class.path(), name).unwrap();
        assert_eq!(found("panda-swap").unwrap(), "dm-1");
        assert_eq!(found("panda"), None);
    }

    #[test]
    fn file_systems_are_known_by_their_magic() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("area");
        std::fs::write(&path, vec![0; 8192]).unwrap();
        assert!(!holds(&path, EXT4_MAGIC.0, EXT4_MAGIC.1).unwrap());
        let mut bytes = vec![0; 8192];
        bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
        bytes[4086..4096].copy_from_slice(b"SWAPSPACE2");
        std::fs::write(&path, bytes).unwrap();
        assert!(holds(&path, EXT4_MAGIC.0, EXT4_MAGIC.1).unwrap());
        assert!(holds(&path, SWAP_MAGIC.0, SWAP_MAGIC.1).unwrap());
        std::fs::write(&path, "short").unwrap();
        assert!(holds(&path, SWAP_MAGIC.0, SWAP_MAGIC.1).is_err());
    }
}
