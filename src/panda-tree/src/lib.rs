//! Removing a directory that a build has had, whatever it has done to it. The agent calls this for
//! builds that are over and for a scratch disk, the twin for a board's RAM: nothing of the build runs
//! any more, but what it left is hostile.
//!
//! ```text
//! path ──▶ open levels, at most LEVELS ──▶ unlink, rmdir ──▶ gone
//!            │ deeper: the topmost is closed,     │ EPERM: inode flags off   (chattr +i, +a)
//!            │ and found again through ".."       │ EACCES: mode 0700        (a worker that is not root)
//!            └ never across a mount               │ EBUSY, another mount: unmount
//!                                                 └ else: left, counted, and on to the next
//! ```
//! Neither the depth nor the width of a tree costs descriptors, stack or memory: 15,000 directories in each other need as
//! much as twenty. Links are removed and never followed, and what is mounted in the tree is unmounted, never emptied: it
//! may be somebody's home.
//!
//! What cannot be removed all the same is [set aside](set_aside), so that the next one has a clean place.

mod aside;
mod entry;
mod levels;

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, open};

pub use aside::{SetAside, StuckError, fresh_directory, set_aside};

/// How many directories are open at once, one below the other.
const LEVELS: usize = 24;

/// Something could not be removed; everything else is gone.
#[derive(Debug, thiserror::Error)]
#[error("{left} entries cannot be removed, the first of them {}: {source}", first.display())]
pub struct RemoveError {
    /// How many entries are left of those that could not be removed themselves.
    pub left: u64,
    /// The first of them; with `…` for directories above it whose names are no longer known.
    pub first: PathBuf,
    /// Why that one could not be removed.
    pub source: io::Error,
}

/// Removes what is at `path`: a directory with everything in it, or a file or link. Nothing there is
/// as good.
///
/// # Errors
/// When something is left; all else of the tree is gone then.
pub fn remove(path: &Path) -> Result<(), RemoveError> {
    let failed = |error: rustix::io::Errno| RemoveError {
        left: 1,
        first: path.to_owned(),
        source: error.into(),
    };
    let (Some(name), parent) = (path.file_name(), path.parent()) else {
        return Err(failed(rustix::io::Errno::INVAL));
    };
    let parent = parent
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let parent = match open(parent, OFlags::RDONLY | DIRECTORY, Mode::empty()) {
        Ok(parent) => parent,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let name = CString::new(name.as_bytes()).map_err(|_| failed(rustix::io::Errno::INVAL))?;
    match entry::take(parent.as_fd(), &name, FileType::Unknown) {
        Ok(entry::Taken::Gone) => Ok(()),
        Ok(entry::Taken::Enter(directory)) => {
            let emptied = levels::empty(directory, path);
            match entry::take(parent.as_fd(), &name, FileType::Directory) {
                Ok(entry::Taken::Gone) => Ok(()),
                Ok(entry::Taken::Enter(_)) => emptied.and(Err(failed(rustix::io::Errno::NOTEMPTY))),
                Err(error) => emptied.and(Err(failed(error))),
            }
        }
        Err(error) => Err(failed(error)),
    }
}

/// Removes everything in `directory`, and keeps it. It must be a directory, and no link to one.
///
/// # Errors
/// When something is left; all else is gone then.
pub fn empty(directory: &Path) -> Result<(), RemoveError> {
    let flags = OFlags::RDONLY | DIRECTORY | OFlags::NOFOLLOW;
    match open(directory, flags, Mode::empty()) {
        Ok(opened) => levels::empty(opened, directory),
        Err(error) => Err(RemoveError {
            left: 1,
            first: directory.to_owned(),
            source: error.into(),
        }),
    }
}

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
