//! The kernel's own file systems, and the directories that they go on.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

const NONE: Option<&str> = None;

/// A mount that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {what} on {}: {source}", at.display())]
pub(crate) struct MountError {
    what: String,
    at: PathBuf,
    source: io::Error,
}

/// This is not where a boot may happen.
#[derive(Debug, thiserror::Error)]
#[error("/ is no ramdisk but {0:?}; a boot makes disks new, and does so nowhere else")]
pub(crate) struct NoRamdisk(String);

/// Fails where `/` is not a ramdisk: started there by mistake, a boot would erase a machine's disk.
pub(crate) fn in_a_ramdisk() -> Result<(), NoRamdisk> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    match root_kind(&mounts) {
        "rootfs" => Ok(()),
        kind => Err(NoRamdisk(kind.to_owned())),
    }
}

/// The kind of file system that is on `/`: the last one mounted there.
fn root_kind(mounts: &str) -> &str {
    let on_root = |line: &'_ str| line.split(' ').nth(1) == Some("/");
    let last = mounts.lines().rfind(|line| on_root(line));
    last.and_then(|line| line.split(' ').nth(2))
        .unwrap_or_default()
}

/// What a ramdisk's first process needs to see anything at all.
pub(crate) fn first() -> Result<(), MountError> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let dull = quiet | MsFlags::MS_NODEV;
    filesystem("proc", Path::new("/proc"), dull, NONE)?;
    filesystem("sysfs", Path::new("/sys"), dull, NONE)?;
    filesystem("devtmpfs", Path::new("/dev"), quiet, Some("mode=0755"))?;
    let run = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    filesystem("tmpfs", Path::new("/run"), run, Some("mode=0755,size=10%"))
}

/// What programs of a whole system expect as well.
pub(crate) fn second() -> Result<(), MountError> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let pts = Some("mode=0620,gid=5,ptmxmode=0666");
    filesystem("devpts", Path::new("/dev/pts"), quiet, pts)?;
    let shm = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    filesystem("tmpfs", Path::new("/dev/shm"), shm, Some("mode=1777"))
}

/// Mounts `kind`, which is its own source, on `at`, which is made where it is missing.
pub(crate) fn filesystem(
    kind: &str,
    at: &Path,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), MountError> {
    mount_on(Some(Path::new(kind)), at, Some(kind), flags, options)
}

/// Mounts the block device `from`.
pub(crate) fn device(
    from: &Path,
    kind: &str,
    at: &Path,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), MountError> {
    mount_on(Some(from), at, Some(kind), flags, options)
}

/// Shows what is at `from` at `at` too.
pub(crate) fn bind(from: &Path, at: &Path) -> Result<(), MountError> {
    mount_on(Some(from), at, None, MsFlags::MS_BIND, NONE)
}

/// Moves a mount.
pub(crate) fn shift(from: &Path, to: &Path) -> Result<(), MountError> {
    mount_on(Some(from), to, None, MsFlags::MS_MOVE, NONE)
}

fn mount_on(
    from: Option<&Path>,
    at: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), MountError> {
    let failed = |source| MountError {
        what: from.map_or_else(String::new, |from| from.display().to_string()),
        at: at.to_owned(),
        source,
    };
    // In a read-only file system it must be there already, and the mount says so where it is not.
    match std::fs::create_dir_all(at) {
        Err(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => {
            return Err(failed(error));
        }
        Ok(()) | Err(_) => {}
    }
    mount(from, at, kind, flags, options).map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramdisk_is_told_from_a_machine_that_runs_already() {
        let ramdisk = "none / rootfs rw,size=480000k 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(root_kind(ramdisk), "rootfs");
        let machine = format!("{ramdisk}/dev/vda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n");
        assert_eq!(root_kind(&machine), "ext4");
        assert_eq!(root_kind(""), "");
        // This test does not run in one.
        assert!(in_a_ramdisk().is_err());
    }
}
