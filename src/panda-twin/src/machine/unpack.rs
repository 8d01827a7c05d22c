//! Unpacks a ramdisk for the process machine, as a kernel would: archives in order, so that a later file of
//! the same name wins. The archive reader lets through only directories, regular files and plain relative
//! paths, and the target is a new directory of ours: nothing can lead outside.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use panda_protocol::cpio::{self, Node};

use super::MachineError;

/// Unpacks `ramdisk` into the new directory `root`.
///
/// # Errors
/// When the ramdisk is no archive, or something cannot be written.
pub(super) fn unpack(ramdisk: &[u8], root: &Path) -> Result<(), MachineError> {
    DirBuilder::new()
        .mode(0o700)
        .create(root)
        .map_err(MachineError::io("create", root))?;
    for entry in cpio::read(ramdisk)? {
        let path = root.join(entry.path.as_str());
        match entry.node {
            Node::Directory => directory(&path, entry.permissions),
            Node::File(bytes) => file(&path, entry.permissions, bytes),
        }
        .map_err(MachineError::io("unpack", &path))?;
    }
    Ok(())
}

/// Writes a file that must not be followed anywhere: what has its name goes first.
pub(super) fn file(path: &Path, permissions: u32, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    // Set-user-id bits mean nothing here, and would on the host.
    file.set_permissions(Permissions::from_mode(permissions & 0o777))
}

/// Makes a directory that its owner can use, whatever the archive says.
fn directory(path: &Path, permissions: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    fs::set_permissions(path, Permissions::from_mode(permissions & 0o777 | 0o700))
}

#[cfg(test)]
mod tests {
    use panda_protocol::cpio::{ArchivePath, Writer};

    use super::*;

    fn path(text: &str) -> ArchivePath {
        ArchivePath::try_from(text).unwrap()
    }

    #[test]
    fn later_archives_win_and_set_user_id_is_dropped() {
        let mut first = Writer::new();
        first.file(&path("etc/boot.toml"), 0o400, b"old").unwrap();
        first.file(&path("bin/su"), 0o4755, b"su").unwrap();
        let mut second = Writer::new();
        second.file(&path("etc/boot.toml"), 0o400, b"new").unwrap();
        let ramdisk = [first.finish(), second.finish()].concat();
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        unpack(&ramdisk, &root).unwrap();
        assert_eq!(fs::read(root.join("etc/boot.toml")).unwrap(), b"new");
        let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode();
        assert_eq!(mode("etc/boot.toml") & 0o7777, 0o400);
        assert_eq!(mode("bin/su") & 0o7777, 0o755);
    }

    #[test]
    fn a_file_in_the_place_of_a_directory_is_an_error() {
        let mut archive = Writer::new();
        archive.file(&path("a"), 0o600, b"").unwrap();
        archive.file(&path("a/b"), 0o600, b"").unwrap();
        let place = tempfile::tempdir().unwrap();
        let error = unpack(&archive.finish(), &place.path().join("root")).unwrap_err();
        assert!(
            matches!(error, MachineError::Io { what: "unpack", .. }),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let error = unpack(&[0x1f; 300], &place.path().join("root")).unwrap_err();
        assert!(matches!(error, MachineError::Ramdisk(_)), "{error}");
    }
}
