//! A place that must be empty, whatever is in it: what cannot be removed is renamed into a directory
//! beside it, tried again later, and said to whoever reads the log.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::{RemoveError, empty, remove};

/// How many trees may be set aside in one place.
const MOST: u32 = 10_000;

/// A place that could not be made empty.
#[derive(Debug, thiserror::Error)]
pub enum StuckError {
    /// What is there can be neither removed nor renamed.
    #[error("{removing}; and {} cannot be moved to {}: {source}; move it away by hand", path.display(), aside.display())]
    Aside {
        /// The place.
        path: PathBuf,
        /// Where it would have gone.
        aside: PathBuf,
        /// Why it could not be removed.
        removing: RemoveError,
        /// Why it could not be renamed.
        source: io::Error,
    },
    /// The directory cannot be made.
    #[error("cannot make the directory {}: {source}", path.display())]
    Make {
        /// The place.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A tree that could not be removed, and where it is now.
#[derive(Debug)]
pub struct SetAside {
    /// Where.
    pub place: PathBuf,
    /// Why it could not be removed.
    pub removing: RemoveError,
}

/// Makes `path` an empty directory, its owner's alone where it is new. What is in it is removed; when
/// some of it cannot be, the whole is set aside in the directory `aside` of the same file system.
///
/// # Errors
/// When even renaming it is not possible, or the directory cannot be made.
pub fn fresh_directory(path: &Path, aside: &Path) -> Result<Option<SetAside>, StuckError> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    // A directory that is there is kept: somebody may have mounted it.
    let removed = if is_directory {
        empty(path)
    } else {
        remove(path)
    };
    let stuck = match removed {
        Ok(()) => None,
        Err(removing) => match set_aside(path, aside) {
            Ok(place) => Some(SetAside { place, removing }),
            Err(source) => {
                return Err(StuckError::Aside {
                    path: path.to_owned(),
                    aside: aside.to_owned(),
                    removing,
                    source,
                });
            }
        },
    };
    private(path).map_err(|source| StuckError::Make {
        path: path.to_owned(),
        source,
    })?;
    Ok(stuck)
}

/// Renames `path` to a number in the directory `aside`, which is made; returns where it is now.
///
/// # Errors
/// When that is not possible.
pub fn set_aside(path: &Path, aside: &Path) -> io::Result<PathBuf> {
    private(aside)?;
    for number in 0..MOST {
        let place = aside.join(number.to_string());
        if fs::symlink_metadata(&place).is_ok() {
            continue;
        }
        fs::rename(path, &place)?;
        return Ok(place);
    }
    Err(io::Error::other(
        "too many trees are set aside there already",
    ))
}

fn private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
}
