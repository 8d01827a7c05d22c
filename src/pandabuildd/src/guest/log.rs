//! The build log on its way here: pulled by Range while it grows, sanitised, appended to the attempt's
//! `buildlog`. Beside it, `buildlog.at` says how far both sides have come, so that after a restart nothing
//! is doubled and nothing lost:
//!
//! ```text
//! worker's log   ....line\nline\n | half a li
//! here           ....line\nline\n |              mark: raw = bytes there, clean = bytes here, up to |
//! ```
//!
//! A mark lies behind a whole line, because there the sanitiser holds nothing back. Who takes the log up
//! again cuts `buildlog` to the mark and asks from there on. The log's size is bounded: when it has more,
//! a line says so and the rest is left out.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use panda_http::{BuilderClient, ClientError};
use panda_protocol::launchpad::log::LogSanitizer;
use serde::{Deserialize, Serialize};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use super::results::LOG_NAME;
use super::settings::GuestSettings;
use crate::failpoint::{self, Point};

/// How much is asked for at once.
const PIECE: u64 = 1 << 20;
/// A piece that is shorter than this is small: the next one is not asked for at once.
const SMALL_PIECE: u64 = 64 << 10;
/// The pause after a small piece.
const SMALL_PAUSE: Duration = Duration::from_millis(100);
/// Suffix of the file that holds the mark.
const MARK: &str = "buildlog.at";
/// The most bytes of a mark; one of ours has about fifty.
const MAX_MARK: usize = 1024;

/// Why the log was not had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// From the board.
    #[error("build log: {0}")]
    Client(#[from] ClientError),
    /// On the master's disk.
    #[error("build log: {0}")]
    Io(#[from] io::Error),
}

/// How far the log has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    /// Bytes of the worker's log.
    raw: u64,
    /// Bytes of our own, for those.
    clean: u64,
    /// It has ended, or was ended because it was too long.
    done: bool,
}

/// An attempt's log.
#[derive(Debug)]
pub(crate) struct LogPuller {
    directory: PathBuf,
    file: File,
    sanitizer: LogSanitizer,
    mark: Mark,
    /// Bytes taken of the worker's log, the unfinished line included.
    raw: u64,
    /// Bytes written to our own.
    clean: u64,
    max: u64,
    /// Time for one piece.
    limit: Duration,
}

impl LogPuller {
    /// The log in `directory`, taken up at its mark; a log without a mark begins anew.
    pub(crate) async fn resume(directory: &Path, settings: &GuestSettings) -> io::Result<Self> {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(LOG_NAME))
            .await?;
        let length = file.metadata().await?.len();
        // A mark beyond the log's end is older or newer than the log: the disk lost one of them.
        let mark = read_mark(directory)
            .await
            .filter(|mark| mark.clean <= length);
        let mark = mark.unwrap_or_default();
        failpoint::before(Point::LogBegin);
        file.set_len(mark.clean).await?;
        failpoint::after(Point::LogBegin);
        file.seek(SeekFrom::Start(mark.clean)).await?;
        Ok(Self {
            directory: directory.to_owned(),
            file,
            sanitizer: LogSanitizer::default(),
            mark,
            raw: mark.raw,
            clean: mark.clean,
            max: settings.log_max_bytes,
            limit: Duration::from_millis(settings.call_ms),
        })
    }

    /// A new log, in the place of any other: the build begins on a new boot.
    pub(crate) async fn start(directory: &Path, settings: &GuestSettings) -> io::Result<Self> {
        failpoint::before(Point::LogForget);
        let removed = tokio::fs::remove_file(directory.join(MARK)).await;
        failpoint::after(Point::LogForget);
        match removed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Self::resume(directory, settings).await
    }

    /// Pulls what there is, a piece; whether there may be more. It bounds its own time; a limit around it
    /// could cut a write in two.
    pub(crate) async fn pull(&mut self, worker: &BuilderClient) -> Result<bool, LogError> {
        if self.mark.done {
            return Ok(false);
        }
        let piece = match timeout(self.limit, fetch(worker, self.raw))
            .await
            .unwrap_or(Err(ClientError::TimedOut(self.limit)))
        {
            Ok(piece) => piece,
            // The worker has not begun its log yet.
            Err(ClientError::Status(404)) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if piece.is_empty() {
            return Ok(false);
        }
        let room = self.max.saturating_sub(self.raw);
        let taken = piece.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.take(&piece[..taken]).await?;
        if taken < piece.len() {
            self.cut_off().await?;
        }
        Ok(!self.mark.done)
    }

    /// The worker's log has ended: pulls the rest, lets the last unfinished line go, and brings it all
    /// to the disk. A worker that hands it over byte by byte does not keep the master busy.
    pub(crate) async fn finish(&mut self, worker: &BuilderClient) -> Result<(), LogError> {
        loop {
            let before = self.raw;
            if !self.pull(worker).await? {
                break;
            }
            if self.raw - before < SMALL_PIECE {
                sleep(SMALL_PAUSE).await;
            }
        }
        self.close().await?;
        Ok(())
    }

    /// As [`LogPuller::finish`], with what has come so far.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        if !self.mark.done {
            let mut out = Vec::new();
            self.sanitizer.finish(&mut out);
            self.end_with(&out).await?;
        }
        Ok(())
    }

    async fn take(&mut self, piece: &[u8]) -> io::Result<()> {
        let whole_lines = piece
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let (lines, rest) = piece.split_at(whole_lines);
        let mut out = Vec::new();
        if !lines.is_empty() {
            self.sanitizer.push(lines, &mut out);
            self.write(&out).await?;
            self.raw += lines.len() as u64;
            self.file.flush().await?;
            self.mark = Mark {
                raw: self.raw,
                clean: self.clean,
                done: false,
            };
            write_mark(&self.directory, self.mark).await?;
        }
        if !rest.is_empty() {
            out.clear();
            self.sanitizer.push(rest, &mut out);
            self.write(&out).await?;
            self.raw += rest.len() as u64;
            self.file.flush().await?;
        }
        Ok(())
    }

    async fn cut_off(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        self.sanitizer.finish(&mut out);
        let max = self.max;
        out.extend_from_slice(
            format!("\n[pandabuildd: the log has more than {max} bytes; the rest is left out]\n")
                .as_bytes(),
        );
        self.end_with(&out).await
    }

    /// Writes the last of it, brings it all to the disk, and marks it as done.
    async fn end_with(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes).await?;
        self.file.flush().await?;
        failpoint::before(Point::LogEnd);
        self.file.sync_all().await?;
        failpoint::after(Point::LogEnd);
        self.mark = Mark {
            raw: self.raw,
            clean: self.clean,
            done: true,
        };
        write_mark(&self.directory, self.mark).await?;
        File::open(&self.directory).await?.sync_all().await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        failpoint::before(Point::LogLines);
        self.file.write_all(bytes).await?;
        failpoint::after(Point::LogLines);
        self.clean += bytes.len() as u64;
        Ok(())
    }
}

async fn fetch(worker: &BuilderClient, from: u64) -> Result<Vec<u8>, ClientError> {
    let mut piece = Vec::new();
    if let Some(mut pieces) = worker.file_part(LOG_NAME, from, PIECE).await? {
        while let Some(bytes) = pieces.next().await? {
            piece.extend_from_slice(&bytes);
        }
    }
    Ok(piece)
}

/// The mark, where there is one that can be read.
async fn read_mark(directory: &Path) -> Option<Mark> {
    let bytes = tokio::fs::read(directory.join(MARK)).await.ok()?;
    if bytes.len() > MAX_MARK {
        return None;
    }
    serde_json::from_slice(&bytes).ok()
}

/// Replaces the mark as a whole. It needs no flush to the disk: a mark that is older than the log is
/// as good, and one that does not fit is not believed.
async fn write_mark(directory: &Path, mark: Mark) -> io::Result<()> {
    let beside = directory.join("buildlog.at.new");
    failpoint::before(Point::LogMark);
    tokio::fs::write(&beside, serde_json::to_vec(&mark)?).await?;
    tokio::fs::rename(&beside, directory.join(MARK)).await?;
    failpoint::after(Point::LogMark);
    Ok(())
}
