//! The scratch disk, wiped before a boot uses it: it survives power-off, and the build before this
//! one may have left anything there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where what cannot be removed goes: nothing of a boot has this name.
const STUCK: &str = "stuck";

/// Why the scratch disk was not wiped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScratchError {
    /// It is no directory of its own: a link could lead the wiping elsewhere.
    #[error("the scratch disk {} must be a directory, and no link to one", .0.display())]
    NoDirectory(PathBuf),
    /// Something of it could be neither removed nor moved aside.
    #[error("the scratch disk cannot be wiped: {}: {source}", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Removes everything in `directory` and nothing else: links are removed, not followed. What cannot be removed is moved
/// aside within it, where this boot does not look; returns what there is to say of that.
pub(crate) fn wipe(directory: &Path) -> Result<String, ScratchError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ScratchError::Remove { path, source }
    };
    if !fs::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
        return Err(ScratchError::NoDirectory(directory.to_owned()));
    }
    let Err(error) = panda_tree::empty(directory) else {
        return Ok(String::new());
    };
    let stuck = directory.join(STUCK);
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        if path != stuck {
            panda_tree::set_aside(&path, &stuck).map_err(failed(&path))?;
        }
    }
    tracing::warn!(place = %stuck.display(), %error, "the scratch disk is not wiped whole: remove the rest by hand");
    Ok(format!("{error}; moved to {}", stuck.display()))
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
    fn what_cannot_be_removed_is_moved_aside_and_the_boot_goes_on() {
        use std::os::unix::fs::chown;
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: changing who one is needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let scratch = directory.path().join("scratch");
        fs::create_dir_all(scratch.join("worker/builds/roots")).unwrap();
        fs::write(scratch.join("worker/builds/roots/file"), "x").unwrap();
        for path in ["", "worker", "worker/builds"] {
            chown(scratch.join(path), Some(65_534), Some(65_534)).unwrap();
        }
        chown(directory.path(), Some(65_534), Some(65_534)).unwrap();
        nix::unistd::seteuid(65_534.into()).unwrap();
        for _ in 0..2 {
            let said = wipe(&scratch).unwrap();
            assert!(
                said.contains("roots/file") && said.contains("stuck"),
                "{said}"
            );
            assert_eq!(
                fs::read_dir(&scratch).unwrap().count(),
                1,
                "only what is set aside"
            );
            assert!(!scratch.join("worker").exists());
        }
        nix::unistd::seteuid(0.into()).unwrap();
        assert_eq!(wipe(&scratch).unwrap(), "");
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
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
