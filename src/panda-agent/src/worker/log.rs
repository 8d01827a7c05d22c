//! A build's log: taken raw from the build, written sanitised, served while it grows.
//!
//! ```text
//! build's output ──push──▶ LogSanitizer ──▶ file (served by Range)
//!                 │                    └──▶ tail (status)
//!                 └ more than the bound: TooLong, and the build is killed
//! ```
//! Only what is sanitised is ever on the disk or leaves this file.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use panda_protocol::launchpad::log::{LogSanitizer, log_tail};

/// How much of the sanitised log's end is kept for `status`.
const TAIL: usize = 4 * 1024;

/// One build's log.
#[derive(Debug)]
pub(crate) struct BuildLog {
    path: PathBuf,
    max_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    sanitizer: LogSanitizer,
    raw_bytes: u64,
    written: u64,
    tail: Vec<u8>,
}

/// Why a piece of log was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// The log is longer than allowed; the build has to end.
    #[error("the build log has more than {0} bytes")]
    TooLong(u64),
    /// It cannot be written.
    #[error("the build log cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl BuildLog {
    /// Starts a log at `path`, of at most `max_bytes` from the build.
    pub(crate) fn create(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let state = State {
            file: File::create(path)?,
            sanitizer: LogSanitizer::default(),
            raw_bytes: 0,
            written: 0,
            tail: Vec::new(),
        };
        Ok(Self {
            path: path.to_owned(),
            max_bytes,
            state: Mutex::new(state),
        })
    }

    /// Where the sanitised log is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A piece of the build's output.
    pub(crate) fn push(&self, piece: &[u8]) -> Result<(), LogError> {
        let mut state = self.lock();
        let room = self.max_bytes.saturating_sub(state.raw_bytes);
        let fits = usize::try_from(room).map_or(piece, |room| &piece[..piece.len().min(room)]);
        state.raw_bytes += fits.len() as u64;
        state.take(fits)?;
        if fits.len() < piece.len() {
            Err(LogError::TooLong(self.max_bytes))
        } else {
            Ok(())
        }
    }

    /// A line of the worker's own; it does not count towards the bound.
    pub(crate) fn line(&self, text: &str) -> Result<(), LogError> {
        Ok(self.lock().take(format!("{text}\n").as_bytes())?)
    }

    /// The log has ended: what the sanitizer held back is written.
    pub(crate) fn finish(&self) -> Result<(), LogError> {
        let mut state = self.lock();
        let mut out = Vec::new();
        std::mem::take(&mut state.sanitizer).finish(&mut out);
        state.write(&out)?;
        Ok(state.file.sync_all()?)
    }

    /// The end of the sanitised log, as `status` shows it.
    pub(crate) fn tail(&self) -> Vec<u8> {
        let state = self.lock();
        log_tail(&state.tail, state.written == state.tail.len() as u64).to_vec()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut out = Vec::new();
        self.sanitizer.push(piece, &mut out);
        self.write(&out)
    }

    fn write(&mut self, safe: &[u8]) -> io::Result<()> {
        self.file.write_all(safe)?;
        self.written += safe.len() as u64;
        self.tail
            .extend_from_slice(&safe[safe.len().saturating_sub(TAIL)..]);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_and_shown_is_sanitised_whatever_the_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("buildlog");
        let log = BuildLog::create(&path, 1 << 20).unwrap();
        for byte in b"Get:1 http://user:s3cret@ppa.example/x noble\nlast line" {
            log.push(&[*byte]).unwrap();
        }
        log.finish().unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(
            written.contains("http://ppa.example/x noble\nlast line"),
            "{written}"
        );
        assert!(!String::from_utf8_lossy(&log.tail()).contains("s3cret"));
    }

    #[test]
    fn a_log_over_its_bound_keeps_what_fits_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("buildlog");
        let log = BuildLog::create(&path, 5).unwrap();
        log.push(b"1234").unwrap();
        assert!(matches!(log.push(b"5678"), Err(LogError::TooLong(5))));
        log.line(" killed").unwrap();
        log.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "12345 killed\n");
    }

    #[test]
    fn the_tail_is_the_end_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = BuildLog::create(&directory.path().join("buildlog"), 1 << 20).unwrap();
        log.push(b"short\n").unwrap();
        assert_eq!(log.tail(), b"short\n");
        for number in 0..10_000 {
            log.push(format!("line {number}\n").as_bytes()).unwrap();
        }
        let tail = String::from_utf8(log.tail()).unwrap();
        assert!(tail.len() <= 2_048 && tail.starts_with("line ") && tail.ends_with("line 9999\n"));
    }
}
