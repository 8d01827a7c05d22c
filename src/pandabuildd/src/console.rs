//! Keeps what a board says on its serial console, for people: `STATE/slots/NAME/console.log`, at most two files
//! of [`MAX_BYTES`]. Nothing is decided by it. The bytes are the board's own, control characters included; the
//! file is for its owner's eyes (`less` shows them harmlessly). Started for each slot by [`crate::rack`].

use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use panda_board::Console as _;
use panda_board::twin::TwinConsole;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// The log's name in the slot's directory.
pub const LOG: &str = "console.log";
/// The most bytes of a log before it becomes the older one.
pub const MAX_BYTES: u64 = 4 << 20;
/// Before a console that went away is opened again.
const PAUSE: Duration = Duration::from_secs(2);

/// Appends what comes from the console at `socket` to `log`, until `stop`.
pub async fn keep(socket: PathBuf, log: PathBuf, stop: CancellationToken) {
    let kept = async {
        loop {
            if let Err(error) = keep_open(&socket, &log).await {
                tracing::debug!(console = %socket.display(), %error, "opening the console again");
            }
            sleep(PAUSE).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = kept => {}
    }
}

/// Until the console goes away, or the log cannot be written.
async fn keep_open(
    socket: &Path,
    log: &Path,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut console = TwinConsole::connect(socket).await?;
    let mut log = Log::open(log).await?;
    let opened = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    log.append(format!("\n--- console opened {opened} ---\n").as_bytes())
        .await?;
    loop {
        log.append(&console.read().await?).await?;
    }
}

/// A log that never grows beyond its bound.
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file: File::from_std(file),
            bytes,
        })
    }

    async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes >= MAX_BYTES {
            tokio::fs::rename(&self.path, self.path.with_extension("log.1")).await?;
            *self = Self::open(&self.path.clone()).await?;
        }
        self.file.write_all(bytes).await?;
        self.file.flush().await?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_goes_on_where_it_was_and_makes_room_when_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOG);
        Log::open(&path)
            .await
            .unwrap()
            .append(b"one\n")
            .await
            .unwrap();
        let mut log = Log::open(&path).await.unwrap();
        log.append(b"two\n").await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
        log.bytes = MAX_BYTES;
        log.append(b"three\n").await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"three\n");
        assert_eq!(
            std::fs::read(path.with_extension("log.1")).unwrap(),
            b"one\ntwo\n"
        );
    }

    #[tokio::test]
    async fn what_the_console_says_is_kept_until_the_stop() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, path) = (
            directory.path().join("console.sock"),
            directory.path().join(LOG),
        );
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(keep(socket, path.clone(), stop.clone()));
        let (mut board, _) = listener.accept().await.unwrap();
        board.write_all(b"Linux version 3.2\n").await.unwrap();
        while !std::fs::read_to_string(&path)
            .unwrap_or_default()
            .ends_with("Linux version 3.2\n")
        {
            tokio::task::yield_now().await;
        }
        assert!(
            std::fs::read_to_string(&path)
                .unwrap()
                .contains("--- console opened ")
        );
        stop.cancel();
        keeping.await.unwrap();
    }
}
