//! A board's scratch disk: a sparse file of raw bytes, made once and then left to the machine. It keeps what was
//! written across power cuts, byte for byte, as a real disk does; what becomes of it is the next boot's business.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::MachineError;
use crate::console::Console;

/// Sees to it that the disk is there.
pub(super) fn ensure(path: &Path, bytes: u64, console: &Console) -> Result<(), MachineError> {
    let failed = |source| MachineError::Disk {
        path: path.to_owned(),
        bytes,
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            return Err(failed(io::Error::other("it is no regular file")));
        }
        Ok(found) if found.len() != bytes => console.note(&format!(
            "the scratch disk has {} bytes and stays as it is, although {bytes} are set; remove {} to have another",
            found.len(),
            path.display()
        )),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(path, bytes).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    let found = fs::metadata(path).map_err(failed)?;
    let missing = found.len().saturating_sub(found.blocks() * 512);
    let free = free(path).map_err(failed)?;
    if free < missing {
        console.note(&format!(
            "the scratch disk may still grow by {} MiB, and its file system has only {} MiB left; writes beyond \
             that will fail",
            missing >> 20,
            free >> 20
        ));
    }
    Ok(())
}

/// Made beside and renamed, so that half a disk is never taken for one.
fn make(path: &Path, bytes: u64) -> io::Result<()> {
    let beside = path.with_extension("new");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.set_len(bytes)?;
    fs::rename(&beside, path)
}

/// What the file system of a path has left for us.
fn free(path: &Path) -> io::Result<u64> {
    let system = statvfs(path)?;
    #[allow(clippy::useless_conversion, reason = "their width is the system's")]
    let (blocks, size) = (
        u64::from(system.blocks_available()),
        u64::from(system.fragment_size()),
    );
    Ok(blocks.saturating_mul(size))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_disk_is_made_sparse_and_then_kept_whatever_size_is_set() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("scratch.img");
        let console = Console::new();
        ensure(&path, 1 << 30, &console).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.len(), made.mode() & 0o777), (1 << 30, 0o600));
        assert!(made.blocks() * 512 < 1 << 20);
        let mut disk = OpenOptions::new().write(true).open(&path).unwrap();
        disk.write_all(b"marks").unwrap();
        ensure(&path, 2 << 30, &console).unwrap();
        let mut bytes = [0; 5];
        fs::File::open(&path)
            .unwrap()
            .read_exact(&mut bytes)
            .unwrap();
        assert_eq!(&bytes, b"marks");
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 30);
    }

    #[test]
    fn what_cannot_be_a_disk_is_named_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("scratch.img");
        // Larger than any file can be.
        let error = ensure(&path, u64::MAX, &Console::new()).unwrap_err();
        assert!(
            error.to_string().contains("scratch.img") && error.to_string().contains("make room"),
            "{error}"
        );
        fs::create_dir(&path).unwrap();
        let error = ensure(&path, 1 << 20, &Console::new()).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }
}
