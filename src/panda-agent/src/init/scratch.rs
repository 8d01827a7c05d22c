//! The scratch disk, wiped before a boot uses it: it survives power-off, and the build before this
//! one may have left anything there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::tree;

/// Why the scratch disk was not wiped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    /// It is no directory of its own: a link could lead the wiping elsewhere.
    #[error("the scratch disk {} must be a directory, and no link to one", .0.display())]
    NoDirectory(PathBuf),
    /// Something of it could not be removed.
    #[error("the scratch disk cannot be wiped: {}: {source}", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Removes everything in `directory` and nothing else: links are removed, not followed.
pub(crate) fn wipe(directory: &Path) -> Result<(), ScratchError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ScratchError::Remove { path, source }
    };
    if !fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
        return Err(ScratchError::NoDirectory(directory.to_owned()));
    }
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let entry = entry.map_err(failed(directory))?;
        let path = entry.path();
        // The type of the entry itself, never of what a link leads to.
        let is_directory = entry.file_type().map_err(failed(&path))?.is_dir();
        let removed = if is_directory {
            tree::remove(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn everything_goes_and_nothing_outside_does() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let scratch = directory.path().join("scratch");
        fs::create_dir_all(scratch.join("deep/er")).unwrap();
        fs::write(scratch.join("deep/er/file"), "x").unwrap();
        fs::write(scratch.join("\u{fffd}odd"), "x").unwrap();
        symlink(&outside, scratch.join("link")).unwrap();
        symlink(&outside, scratch.join("deep/link")).unwrap();
        symlink(outside.join("kept"), scratch.join("file-link")).unwrap();
        wipe(&scratch).unwrap();
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "x");
    }

    #[test]
    fn a_scratch_that_is_a_link_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("kept"), "x").unwrap();
        let link = directory.path().join("scratch");
        symlink(&target, &link).unwrap();
        assert!(matches!(wipe(&link), Err(ScratchError::NoDirectory(_))));
        assert!(target.join("kept").exists());
        assert!(matches!(
            wipe(&directory.path().join("none")),
            Err(ScratchError::NoDirectory(_))
        ));
    }
}
