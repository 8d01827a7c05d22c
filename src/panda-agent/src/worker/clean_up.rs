//! What is done with a build's files when it is over: they are removed, whatever it has done to them,
//! and what cannot be removed never stops the next build or the next start. Called by the worker.

use std::path::{Path, PathBuf};

use panda_tree::StuckError;

/// Makes `builds` an empty directory. What an earlier worker left there and cannot be removed is moved to `stuck`, where
/// each start tries again.
pub(super) fn fresh(builds: &Path, stuck: &Path) -> Result<(), StuckError> {
    retry(stuck);
    if let Some(aside) = panda_tree::fresh_directory(builds, stuck)? {
        tracing::warn!(
            place = %aside.place.display(), error = %aside.removing,
            "an earlier build's files cannot be removed: they were moved aside, and take up room there until they are \
             removed by hand"
        );
    }
    Ok(())
}

/// Removes a build's files in the background: an unpacked chroot takes a while. What is stuck is tried again.
pub(super) fn later(path: PathBuf, stuck: PathBuf) {
    tokio::task::spawn_blocking(move || {
        remove(&path);
        retry(&stuck);
    });
}

/// Removes a build's files, and returns when that is done: their room is wanted.
pub(super) async fn now(path: PathBuf) {
    let done = tokio::task::spawn_blocking(move || remove(&path)).await;
    if let Err(error) = done {
        tracing::warn!(%error, "a build's files may be there still");
    }
}

fn remove(path: &Path) {
    if let Err(error) = panda_tree::remove(path) {
        tracing::warn!(path = %path.display(), %error, "a build's files cannot be removed; the next start tries again");
    }
}

fn retry(stuck: &Path) {
    match panda_tree::remove(stuck) {
        Ok(()) => {}
        Err(error) => {
            tracing::warn!(path = %stuck.display(), %error, "what was moved aside still cannot be removed");
        }
    }
}
