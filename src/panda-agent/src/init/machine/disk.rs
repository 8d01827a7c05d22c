//! The scratch disk itself: found by what is there, waited for (a USB disk comes late), and erased before use
//! where it can do that.
//!
//! The throw-away key makes everything that went through the last boot's file systems and swap unreadable, on
//! any disk. Erasing is for what is left: a build that is root can write to the disk *below* the encryption. A disk
//! that can write zeroes by itself does so in a moment; one that cannot (an old USB disk) would take hours, and keeps
//! such bytes. They are then nowhere that this boot looks at by itself; whether it was erased is told to the master.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};

use super::areas::SECTOR;

/// Where a disk may be: QEMU's, and a Panda's USB disk.
const NAMES: &[&str] = &["vda", "sda"];
/// How long it may take to come: a USB disk has to spin up.
const APPEARS_LIMIT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long erasing may take: a disk that needs longer is doing it the slow way.
const ERASE_LIMIT: Duration = Duration::from_secs(20);
/// How much is erased between two looks at the time.
const ERASE_PIECE: u64 = 1 << 30;

/// Why there is no scratch disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// None came.
    #[error(
        "no scratch disk ({}) within {} s; is it attached, and its module in the ramdisk?",
        NAMES.join(", "),
        APPEARS_LIMIT.as_secs()
    )]
    None,
    /// It cannot be read or written.
    #[error("the scratch disk {}: {source}", path.display())]
    Io {
        /// The disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The scratch disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Its device.
    pub(crate) path: PathBuf,
    /// Its size.
    pub(crate) bytes: u64,
}

/// How much of a disk was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Erased {
    /// All of it.
    Whole,
    /// From its beginning, up to there: time was up.
    UpTo(u64),
    /// Nothing: it cannot.
    Nothing,
}

impl Erased {
    /// In a few words.
    pub(crate) fn detail(self) -> String {
        match self {
            Self::Whole => "the disk was erased".to_owned(),
            Self::UpTo(bytes) => format!("the disk was erased up to {} MiB in time", bytes >> 20),
            Self::Nothing => "the disk cannot erase itself".to_owned(),
        }
    }
}

/// Waits for the disk.
pub(crate) async fn find() -> Result<Disk, DiskError> {
    let deadline = Instant::now() + APPEARS_LIMIT;
    loop {
        if let Some(disk) = look(Path::new("/sys/class/block"), Path::new("/dev")) {
            return Ok(disk);
        }
        if Instant::now() >= deadline {
            return Err(DiskError::None);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn look(class: &Path, dev: &Path) -> Option<Disk> {
    NAMES.iter().find_map(|name| {
        let sectors = fs::read_to_string(class.join(name).join("size")).ok()?;
        let path = dev.join(name);
        let bytes = sectors.trim().parse::<u64>().ok()?.checked_mul(SECTOR)?;
        // A card reader without a card has a size of nothing.
        (bytes > 0 && path.exists()).then_some(Disk { path, bytes })
    })
}

impl Disk {
    /// Erases it, as far as it can in time.
    pub(crate) fn erase(&self) -> Result<Erased, DiskError> {
        let failed = |source| DiskError::Io {
            path: self.path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .open(&self.path)
            .map_err(failed)?;
        erase(&file, self.bytes, Instant::now() + ERASE_LIMIT).map_err(failed)
    }
}

/// Zeroes by the device's own means. Unlike other ways to ask for it, this one fails where the device has none, and
/// never writes the zeroes one by one.
fn erase(file: &File, bytes: u64, deadline: Instant) -> io::Result<Erased> {
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut done = 0;
    while done < bytes {
        if Instant::now() >= deadline {
            return Ok(Erased::UpTo(done));
        }
        let piece = ERASE_PIECE.min(bytes - done);
        match fallocate(file, how, done, piece) {
            Ok(()) => done += piece,
            Err(rustix::io::Errno::OPNOTSUPP) if done == 0 => return Ok(Erased::Nothing),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Erased::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_is_what_is_there_and_has_a_size() {
        let directory = tempfile::tempdir().unwrap();
        let (class, dev) = (directory.path().join("class"), directory.path().join("dev"));
        fs::create_dir_all(&dev).unwrap();
        let disk = |name: &str, sectors: &str| {
            fs::create_dir_all(class.join(name)).unwrap();
            fs::write(class.join(name).join("size"), sectors).unwrap();
            fs::write(dev.join(name), "").unwrap();
        };
        assert_eq!(look(&class, &dev), None);
        disk("sda", "0\n");
        disk("sr0", "2048\n");
        assert_eq!(look(&class, &dev), None, "no card in the reader");
        disk("sda", "16777216\n");
        let found = look(&class, &dev).unwrap();
        assert_eq!((found.path, found.bytes), (dev.join("sda"), 8 << 30));
        disk("vda", &u64::MAX.to_string());
        assert_eq!(look(&class, &dev).unwrap().path, dev.join("sda"));
    }

    #[test]
    fn an_erased_disk_is_all_zeroes_and_one_that_ran_out_of_time_says_how_far_it_came() {
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, vec![0xa5; 1 << 20]).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let late = erase(&file, 1 << 20, Instant::now()).unwrap();
        assert_eq!(late, Erased::UpTo(0));
        let erased = erase(&file, 1 << 20, Instant::now() + ERASE_LIMIT).unwrap();
        let zeroes = fs::read(&path).unwrap().iter().all(|byte| *byte == 0);
        match erased {
            Erased::Whole => assert!(zeroes),
            // A file system that cannot punch holes: it must say so.
            Erased::Nothing => assert!(!zeroes),
            Erased::UpTo(_) => panic!("out of time"),
        }
    }
}
