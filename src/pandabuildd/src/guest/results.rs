//! A slot's results on the master's disk: one directory for each attempt that is running or kept. The
//! guest writes them, the front serves them. They never enter the store that inputs are served from.
//!
//! ```text
//! STATE/slots/panda01/attempt-7/buildlog       sanitised, as Launchpad gets it
//!                               buildlog.at    how far it has come (see `log`)
//!                               words.xml      what else the worker says of its build (see `extras`)
//!                               <sha1>         a result, there only when its hash was right
//!                               .draft-*       one that is arriving
//! ```

use std::fs;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::extras::Extras;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::log::log_tail;
use panda_slot::{AttemptNo, Slot};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use crate::failpoint::{self, Point};

/// The build log's name in an attempt's directory, and in Launchpad's protocol.
pub(crate) const LOG_NAME: &str = "buildlog";
/// How much of the log's end is looked at for its tail: more than a tail, so that a whole line is found.
const TAIL_BYTES: u64 = 4096;
const PREFIX: &str = "attempt-";

/// Where a slot's results are. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Results {
    directory: Arc<Path>,
}

impl Results {
    /// The results of `slot` under the state directory, made there; attempts other than `keep` are of
    /// an earlier life and are removed.
    ///
    /// # Errors
    /// A directory that cannot be made, read or cleaned.
    pub(crate) fn at(state: &Path, slot: &str, keep: &[AttemptNo]) -> io::Result<Self> {
        let directory = state.join("slots").join(slot);
        fs::create_dir_all(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let kept = keep
                .iter()
                .any(|attempt| *name == *directory_name(*attempt));
            if !kept && name.to_string_lossy().contains(PREFIX) {
                failpoint::around(Point::ResultsSweep, String::new, || {
                    fs::remove_dir_all(entry.path())
                })?;
            }
        }
        Ok(Self {
            directory: directory.into(),
        })
    }

    /// The attempts whose results a slot in this state needs.
    #[must_use]
    pub(crate) fn needed_by(slot: &Slot) -> Vec<AttemptNo> {
        let live = slot.live().map(|build| build.attempt);
        let kept = slot.kept.as_ref().map(|kept| kept.attempt);
        live.into_iter().chain(kept).collect()
    }

    /// An attempt's directory.
    #[must_use]
    pub(crate) fn attempt(&self, attempt: AttemptNo) -> PathBuf {
        self.directory.join(directory_name(attempt))
    }

    /// Where an attempt's sanitised log is; it grows while the build runs.
    #[must_use]
    pub(crate) fn log_path(&self, attempt: AttemptNo) -> PathBuf {
        self.attempt(attempt).join(LOG_NAME)
    }

    /// The end of an attempt's log, as `logtail` shows it; empty while there is none.
    pub(crate) async fn tail(&self, attempt: AttemptNo) -> Vec<u8> {
        match read_end(&self.log_path(attempt)).await {
            Ok((end, whole)) => log_tail(&end, whole).to_vec(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, %attempt, "the build log cannot be read");
                Vec::new()
            }
        }
    }

    /// What the worker of an attempt has said of its build beyond the protocol's own.
    pub(crate) async fn extras(&self, attempt: AttemptNo) -> Extras {
        Extras::read(&self.attempt(attempt)).await
    }

    /// Opens an attempt's log; none while there is none.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub(crate) async fn open_log(&self, attempt: AttemptNo) -> io::Result<Option<File>> {
        open(&self.log_path(attempt)).await
    }

    /// Opens a result of an attempt by its SHA-1; none where there is none.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub(crate) async fn open(&self, attempt: AttemptNo, sha1: Sha1) -> io::Result<Option<File>> {
        open(&self.attempt(attempt).join(sha1.to_string())).await
    }

    /// Drops an attempt's results. They are out of the way at once; their space is freed behind it.
    pub(crate) fn drop_attempt(&self, attempt: AttemptNo) {
        let path = self.attempt(attempt);
        let aside = self.directory.join(format!("dropped-{PREFIX}{attempt}"));
        let moved = failpoint::around(Point::ResultsDrop, String::new, || {
            fs::rename(&path, &aside)
        });
        match moved {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "results cannot be dropped");
                return;
            }
        }
        let remove = move || {
            let removed = failpoint::around(Point::ResultsRemove, String::new, || {
                fs::remove_dir_all(&aside)
            });
            if let Err(error) = removed {
                tracing::error!(path = %aside.display(), %error, "dropped results cannot be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }

    /// Makes an attempt's directory, and removes what was arriving in it when it was last left.
    pub(super) fn prepare(&self, attempt: AttemptNo) -> io::Result<PathBuf> {
        let directory = self.attempt(attempt);
        failpoint::around(Point::ResultsPrepare, String::new, || {
            fs::create_dir_all(&directory)
        })?;
        fs::File::open(&self.directory)?.sync_all()?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(panda_http::draft::PREFIX)
            {
                failpoint::around(Point::ResultsSweep, String::new, || {
                    fs::remove_file(entry.path())
                })?;
            }
        }
        Ok(directory)
    }
}

fn directory_name(attempt: AttemptNo) -> std::ffi::OsString {
    format!("{PREFIX}{attempt}").into()
}

async fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path).await {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last bytes of a file, and whether they are all of it.
async fn read_end(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let mut file = File::open(path).await?;
    let length = file.metadata().await?.len();
    let from = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from)).await?;
    let mut end = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut end).await?;
    Ok((end, from == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(results: &Results, attempt: AttemptNo, name: &str, text: &str) {
        fs::write(results.prepare(attempt).unwrap().join(name), text).unwrap();
    }

    #[tokio::test]
    async fn a_start_keeps_only_the_attempts_that_the_slot_knows() {
        let state = tempfile::tempdir().unwrap();
        let results = Results::at(state.path(), "panda01", &[]).unwrap();
        for attempt in [1, 2, 12].map(AttemptNo::new) {
            write(&results, attempt, LOG_NAME, "log\n");
        }
        fs::create_dir(state.path().join("slots/panda01/dropped-attempt-3")).unwrap();
        let results = Results::at(state.path(), "panda01", &[AttemptNo::new(2)]).unwrap();
        let left: Vec<_> = fs::read_dir(state.path().join("slots/panda01"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["attempt-2"]);
        assert_eq!(results.tail(AttemptNo::new(2)).await, b"log\n");
        assert_eq!(results.tail(AttemptNo::new(1)).await, b"");
    }

    #[tokio::test]
    async fn dropped_results_are_gone_and_others_stay() {
        let state = tempfile::tempdir().unwrap();
        let results = Results::at(state.path(), "panda01", &[]).unwrap();
        let sha1 = Sha1::of(b"result");
        write(&results, AttemptNo::new(1), &sha1.to_string(), "result");
        write(&results, AttemptNo::new(2), &sha1.to_string(), "result");
        assert!(
            results
                .open(AttemptNo::new(1), sha1)
                .await
                .unwrap()
                .is_some()
        );
        results.drop_attempt(AttemptNo::new(1));
        results.drop_attempt(AttemptNo::new(7));
        assert!(
            results
                .open(AttemptNo::new(1), sha1)
                .await
                .unwrap()
                .is_none()
        );
        assert!(
            results
                .open(AttemptNo::new(2), sha1)
                .await
                .unwrap()
                .is_some()
        );
        assert!(
            results
                .open(AttemptNo::new(2), Sha1::of(b"another"))
                .await
                .unwrap()
                .is_none()
        );
        assert!(results.open_log(AttemptNo::new(2)).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_tail_is_short_and_begins_with_a_whole_line() {
        let state = tempfile::tempdir().unwrap();
        let results = Results::at(state.path(), "panda01", &[]).unwrap();
        let text: String = (0..2000).map(|line| format!("line {line}\n")).collect();
        write(&results, AttemptNo::new(1), LOG_NAME, &text);
        let tail = String::from_utf8(results.tail(AttemptNo::new(1)).await).unwrap();
        assert!(tail.len() <= 2048 && tail.len() > 2000, "{}", tail.len());
        assert!(tail.starts_with("line "), "{tail}");
        assert!(text.ends_with(&tail));
    }

    #[test]
    fn preparing_an_attempt_removes_what_was_arriving() {
        let state = tempfile::tempdir().unwrap();
        let results = Results::at(state.path(), "panda01", &[]).unwrap();
        write(&results, AttemptNo::new(1), ".draft-x", "half");
        write(&results, AttemptNo::new(1), LOG_NAME, "log\n");
        // The second `write` has prepared the directory again.
        assert!(!results.attempt(AttemptNo::new(1)).join(".draft-x").exists());
        assert!(results.log_path(AttemptNo::new(1)).exists());
    }
}
