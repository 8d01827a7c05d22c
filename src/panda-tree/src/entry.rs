//! One entry of a directory: removed, or opened because it has something in it. All the obstacles that
//! a build can put in the way are cleared here.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use nix::mount::{MntFlags, umount2};
use rustix::fs::{
    AtFlags, FileType, IFlags, Mode, OFlags, ResolveFlags, chmodat, fchmod, fstat, ioctl_getflags,
    ioctl_setflags, openat, openat2, statat, unlinkat,
};
use rustix::io::{Errno, Result};

/// How many mounts may lie over each other in one place.
const MOUNTS: usize = 256;
/// What its owner needs to empty a directory.
const OWNER: Mode = Mode::RWXU;

/// What became of an entry.
pub(crate) enum Taken {
    /// It is not there any more.
    Gone,
    /// It is a directory with something in it.
    Enter(OwnedFd),
}

/// Removes `name` of `directory`, or opens it.
pub(crate) fn take(directory: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<Taken> {
    let kind = match kind {
        FileType::Unknown => match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => FileType::from_raw_mode(found.st_mode),
            Err(Errno::NOENT) => return Ok(Taken::Gone),
            Err(error) => return Err(error),
        },
        kind => kind,
    };
    if kind != FileType::Directory {
        return unlink(directory, name, kind).map(|()| Taken::Gone);
    }
    match unlink(directory, name, kind) {
        Ok(()) => Ok(Taken::Gone),
        Err(Errno::NOTEMPTY | Errno::EXIST) => enter(directory, name).map(Taken::Enter),
        Err(error) => Err(error),
    }
}

fn unlink(directory: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<()> {
    let flags = if kind == FileType::Directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    let (mut flags_cleared, mut opened_up, mut unmounted) = (false, false, 0);
    loop {
        match unlinkat(directory, name, flags) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::PERM) if !flags_cleared => {
                flags_cleared = true;
                clear_flags(directory);
                clear_flags_of(directory, name, kind);
            }
            Err(Errno::ACCESS) if !opened_up => {
                opened_up = true;
                fchmod(directory, OWNER)?;
            }
            Err(Errno::BUSY) if unmounted < MOUNTS => {
                unmounted += 1;
                unmount(directory, name)?;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Opens a directory of this file system, never one that is mounted there.
fn enter(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let (mut opened_up, mut unmounted) = (false, 0);
    loop {
        match openat2(directory, name, flags, Mode::empty(), resolve) {
            Ok(opened) => return Ok(opened),
            Err(Errno::ACCESS) if !opened_up => {
                opened_up = true;
                // The directory's own way in, then the entry's; which was missing is not said.
                if fchmod(directory, OWNER).is_err()
                    || chmodat(directory, name, OWNER, AtFlags::empty()).is_err()
                {
                    return Err(Errno::ACCESS);
                }
            }
            Err(Errno::XDEV) if unmounted < MOUNTS => {
                unmounted += 1;
                unmount(directory, name)?;
            }
            // A sandbox that does not know this call: a mount of the same file system is not seen then.
            Err(Errno::NOSYS) => {
                let opened = openat(directory, name, flags, Mode::empty())?;
                return if fstat(&opened)?.st_dev == fstat(directory)?.st_dev {
                    Ok(opened)
                } else {
                    Err(Errno::XDEV)
                };
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes away what is mounted at `name`; what was mounted stays as it is.
fn unmount(directory: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mounted = openat(directory, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", mounted.as_raw_fd());
    umount2(path.as_str(), MntFlags::MNT_DETACH)
        .map_err(|error| Errno::from_raw_os_error(error as i32))
}

/// Only files and directories have flags, and opening anything else may do something.
fn clear_flags_of(directory: BorrowedFd<'_>, name: &CStr, kind: FileType) {
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return;
    }
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    if let Ok(opened) = openat(directory, name, flags, Mode::empty()) {
        clear_flags(&opened);
    }
}

/// Makes changeable what `chattr` has made immutable or append-only. Where that is not possible the
/// removal says so.
fn clear_flags(file: impl AsFd) {
    let fixed = IFlags::IMMUTABLE | IFlags::APPEND;
    if let Ok(flags) = ioctl_getflags(&file)
        && flags.intersects(fixed)
        && ioctl_setflags(&file, flags.difference(fixed)).is_err()
    {
        // Nothing to do but to try the removal again, which will fail.
    }
}
