//! Whether there is room on a disk, asked before minutes are spent on filling it.

use std::path::Path;

use anyhow::{Context as _, bail};
use nix::sys::statvfs::statvfs;

/// Checks that `bytes` more fit where `path` is or will be.
///
/// # Errors
/// They do not, or the disk cannot be asked.
pub(crate) fn check(path: &Path, bytes: u64) -> anyhow::Result<()> {
    let there = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("."));
    let disk = statvfs(there).with_context(|| there.display().to_string())?;
    enough(
        path,
        bytes,
        wide(disk.blocks_available()).saturating_mul(wide(disk.fragment_size())),
    )
}

/// Whatever width this machine counts a file system's blocks in.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

fn enough(path: &Path, bytes: u64, free: u64) -> anyhow::Result<()> {
    if free < bytes {
        bail!(
            "{}: {} MiB are needed, and its disk has {} MiB left; make room, or choose another place (PANDABUILDD_CACHE \
             for the cache, --output for an image)",
            path.display(),
            bytes.div_ceil(1 << 20),
            free >> 20
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_too_full_is_said_with_both_figures() {
        let error = enough(Path::new("/cache"), 3 << 30, 5 << 20)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("/cache: 3072 MiB are needed, and its disk has 5 MiB left"),
            "{error}"
        );
        enough(Path::new("/cache"), 5, 5).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_asked_for_by_the_one_above() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("not/yet/there");
        check(&path, 1).unwrap();
        assert!(check(&path, u64::MAX).is_err());
    }
}
