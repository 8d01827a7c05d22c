//! The state directory: one daemon's alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

use super::RackError;

/// The lock's name in the state directory.
const LOCK: &str = "lock";

/// A state directory that is this daemon's alone, until it is dropped.
#[derive(Debug)]
pub(crate) struct StateLock(#[expect(dead_code, reason = "held, never read")] Flock<File>);

impl StateLock {
    /// Takes the directory `state`, made private where there is none.
    ///
    /// # Errors
    /// [`RackError::State`], [`RackError::InUse`].
    pub(crate) fn take(state: &Path) -> Result<Self, RackError> {
        let failed = |source| RackError::State {
            path: state.to_owned(),
            source,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(|error| match error.kind() {
                // The system's words would be "File exists", which is not what is wrong.
                io::ErrorKind::AlreadyExists => failed(io::ErrorKind::NotADirectory.into()),
                _ => failed(error),
            })?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(state.join(LOCK))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(RackError::InUse {
                path: state.to_owned(),
            }),
            Err((_, error)) => Err(failed(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_that_is_a_file_is_called_so() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::write(&state, "").unwrap();
        let error = StateLock::take(&state).unwrap_err().to_string();
        assert!(
            error.contains("not a directory") && error.contains("directory of its own"),
            "{error}"
        );
        // Neither is one below it.
        let error = StateLock::take(&state.join("below"))
            .unwrap_err()
            .to_string();
        assert!(error.to_lowercase().contains("not a directory"), "{error}");
    }

    #[test]
    fn a_state_directory_has_one_daemon_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let held = StateLock::take(&state).unwrap();
        let error = StateLock::take(&state).unwrap_err().to_string();
        assert!(error.contains("another pandabuildd uses it"), "{error}");
        assert_eq!(
            std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
        drop(held);
        StateLock::take(&state).unwrap();
    }
}
