//! Going through a tree, deepest first. Of the way down only the last [`LEVELS`](super::LEVELS)
//! directories stay open; one that was closed is found again through its child's `..`, and read from
//! its beginning: what is done there is gone.
//!
//! A directory is finished when a whole reading of it has found nothing to remove. What could not be removed is remembered
//! by its inode, and not tried again.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::entry::{Taken, take};
use super::{DIRECTORY, LEVELS, RemoveError};

/// The most entries that are remembered as not removable; with more of them the work is given up.
const MAX_STUCK: usize = 1 << 18;

struct Level {
    /// Its one descriptor: what is removed is named from it too.
    entries: Dir,
    inode: u64,
    /// In its parent; not known of one that was closed meanwhile.
    name: Option<CString>,
    /// Something was removed or entered since its reading began.
    found: bool,
    /// Something in it cannot be removed.
    left: bool,
}

impl Level {
    fn new(directory: OwnedFd, name: Option<CString>) -> Result<Self, Errno> {
        Ok(Self {
            inode: fstat(&directory)?.st_ino,
            entries: Dir::new(directory)?,
            name,
            found: false,
            left: false,
        })
    }

    fn take(&self, name: &CStr, kind: FileType) -> Result<Taken, Errno> {
        take(self.entries.fd()?, name, kind)
    }

    /// The next entry that is neither the directory itself nor the one above it.
    fn next(&mut self) -> Option<Result<(CString, FileType, u64), Errno>> {
        loop {
            match self.entries.read()? {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => {
                    return Some(Ok((
                        entry.file_name().to_owned(),
                        entry.file_type(),
                        entry.ino(),
                    )));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

struct Walk<'a> {
    top: &'a Path,
    levels: VecDeque<Level>,
    /// How many levels above the first open one have been closed.
    closed: usize,
    /// What cannot be removed: an entry by its directory's inode and its own, a directory by 0 and its own.
    stuck: BTreeSet<(u64, u64)>,
    left: u64,
    first: Option<(PathBuf, Errno)>,
}

/// Removes everything in `directory`, which is at `path`.
pub(crate) fn empty(directory: OwnedFd, path: &Path) -> Result<(), RemoveError> {
    let mut walk = Walk {
        top: path,
        levels: VecDeque::new(),
        closed: 0,
        stuck: BTreeSet::new(),
        left: 0,
        first: None,
    };
    if let Err(error) = Level::new(directory, None).and_then(|top| walk.run(top)) {
        walk.note(None, error);
    }
    match walk.first {
        None => Ok(()),
        Some((first, error)) => Err(RemoveError {
            left: walk.left,
            first,
            source: io::Error::from(error),
        }),
    }
}

impl Walk<'_> {
    fn run(&mut self, top: Level) -> Result<(), Errno> {
        self.levels.push_back(top);
        while let Some(level) = self.levels.back_mut() {
            match level.next() {
                Some(Ok((name, kind, inode))) => self.entry(&name, kind, inode)?,
                Some(Err(error)) => {
                    self.note(None, error);
                    self.finish()?;
                }
                None if level.found => {
                    level.found = false;
                    level.entries.rewind();
                }
                None => self.finish()?,
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &CStr, kind: FileType, inode: u64) -> Result<(), Errno> {
        let Some(level) = self.levels.back_mut() else {
            return Ok(());
        };
        let key = (level.inode, inode);
        if !self.stuck.is_empty() && self.stuck.contains(&key) {
            level.left = true;
            return Ok(());
        }
        let mut taken = level.take(name, kind);
        if matches!(taken, Err(Errno::MFILE | Errno::NFILE)) && self.levels.len() > 1 {
            self.close_first();
            taken = match self.levels.back() {
                Some(level) => level.take(name, kind),
                None => taken,
            };
        }
        let entered = match taken {
            Ok(Taken::Gone) => Ok(None),
            Ok(Taken::Enter(directory)) => Level::new(directory, Some(name.to_owned())).map(Some),
            Err(error) => Err(error),
        };
        match entered {
            Ok(None) => self.found(),
            Ok(Some(level)) if self.stuck.contains(&(0, level.inode)) => self.leave(),
            Ok(Some(level)) => {
                self.found();
                self.levels.push_back(level);
                if self.levels.len() > LEVELS {
                    self.close_first();
                }
            }
            Err(error) => {
                self.leave();
                self.note(Some(name), error);
                if self.stuck.len() >= MAX_STUCK {
                    return Err(error);
                }
                self.stuck.insert(key);
            }
        }
        Ok(())
    }

    /// A directory has nothing more to remove: on with the one above it.
    fn finish(&mut self) -> Result<(), Errno> {
        let Some(done) = self.levels.pop_back() else {
            return Ok(());
        };
        if self.levels.is_empty() && self.closed == 0 {
            return Ok(());
        }
        if done.left {
            self.stuck.insert((0, done.inode));
        }
        let Some(parent) = self.levels.back_mut() else {
            let flags = OFlags::RDONLY | DIRECTORY | OFlags::NOFOLLOW;
            let parent = openat(done.entries.fd()?, c"..", flags, Mode::empty())?;
            self.closed -= 1;
            // Its reading from the beginning removes the one that is done, or finds it among the stuck.
            self.levels.push_back(Level::new(parent, None)?);
            return Ok(());
        };
        if done.left {
            parent.left = true;
            return Ok(());
        }
        let Some(name) = done.name else {
            return Ok(());
        };
        match parent.take(&name, FileType::Directory) {
            Ok(Taken::Gone) => {}
            // Something came back, or was not shown: the parent's next reading enters it once more.
            Ok(Taken::Enter(_)) => parent.found = true,
            Err(error) => {
                parent.left = true;
                self.stuck.insert((0, done.inode));
                self.note(Some(&name), error);
            }
        }
        Ok(())
    }

    fn close_first(&mut self) {
        if self.levels.pop_front().is_some() {
            self.closed += 1;
        }
    }

    fn found(&mut self) {
        if let Some(level) = self.levels.back_mut() {
            level.found = true;
        }
    }

    fn leave(&mut self) {
        if let Some(level) = self.levels.back_mut() {
            level.left = true;
        }
    }

    /// Remembers what could not be removed; `name` is of the deepest open directory.
    fn note(&mut self, name: Option<&CStr>, error: Errno) {
        self.left += 1;
        if self.first.is_some() {
            return;
        }
        let mut path = self.top.to_owned();
        if self.closed > 0 {
            path.push("…");
        }
        let names = self.levels.iter().filter_map(|level| level.name.as_deref());
        for name in names.chain(name) {
            path.push(OsStr::from_bytes(name.to_bytes()));
        }
        self.first = Some((path, error));
    }
}
