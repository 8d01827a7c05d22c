//! Keeps what boards say on their serial consoles, for people: recorded with the time, in a log for each boot,
//! bounded, without secrets (`clean`). Nothing is decided by it. Each slot's recorder is started by
//! [`crate::rack`]; `pandabuildd console` reads the logs over the operators' socket.
//!
//! ```text
//! operator's keys ─────────────┐
//! driver (serial, TCP, twin) ◀┴─bytes─▶ clean ─lines─▶ log of this boot ─▶ operators' socket
//!     ▲ opened again after a growing pause     ▲ secrets of this boot and its build, from the ledger
//! ```

mod clean;
mod log;
mod secrets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use panda_board::Console;
use panda_board::driver::ConsoleDriver;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub(crate) use self::clean::Secrets;
pub(crate) use self::clean::harmless;
pub(crate) use self::log::{ConsoleLog, DIRECTORY};
pub(crate) use self::secrets::{Current, follow};
use clean::Cleaner;

/// The logs of every slot that has a console, by the slot's name.
pub(crate) type Consoles = BTreeMap<String, ConsoleLog>;

/// After so long a silence the beginning of a line is shown.
const QUIET: Duration = Duration::from_millis(500);
/// The same while somebody types, and how long after a key somebody does.
const QUIET_TYPING: Duration = Duration::from_millis(50);
const TYPING: Duration = Duration::from_secs(30);
/// A console must take keys within this.
const WRITE: Duration = Duration::from_secs(5);
/// The pauses before a console that went away is opened again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One slot's recorder.
#[derive(Debug)]
pub(crate) struct Recorder {
    source: Arc<dyn ConsoleDriver>,
    writer: log::Writer,
    current: watch::Receiver<Current>,
    keys: mpsc::Receiver<log::Keys>,
    /// When somebody last typed.
    typed: Option<Instant>,
}

impl Recorder {
    /// Of the console `source`, into logs in `directory`; `current` says which boot it is.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn new(
        source: Arc<dyn ConsoleDriver>,
        directory: &Path,
        current: watch::Receiver<Current>,
    ) -> io::Result<(Self, ConsoleLog)> {
        let (writer, log, keys) = log::open(directory)?;
        let recorder = Self {
            source,
            writer,
            current,
            keys,
            typed: None,
        };
        Ok((recorder, log))
    }

    /// Records until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.record() => {}
        }
    }

    async fn record(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let said = match self.source.open().await {
                Ok(mut console) => match self.record_open(console.as_mut()).await {
                    Ok(said) => said,
                    Err(error) => {
                        tracing::error!(%error, "a console's log cannot be written");
                        false
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, "a console cannot be opened");
                    false
                }
            };
            if said {
                pause = FIRST_PAUSE;
            }
            self.pause(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits before the next try; whoever types meanwhile is told.
    async fn pause(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                Some(keys) = self.keys.recv() => {
                    let refused = Err("the console is not open; it is tried again".to_owned());
                    answer(keys.taken, refused);
                }
            }
        }
    }

    /// Until the console goes away: whether it has said anything.
    async fn record_open(&mut self, console: &mut dyn Console) -> io::Result<bool> {
        let mut cleaner = Cleaner::default();
        let mut said = false;
        loop {
            let quiet = match self.typed {
                Some(at) if at.elapsed() < TYPING => QUIET_TYPING,
                _ => QUIET,
            };
            let next = async {
                if cleaner.holds() {
                    timeout(quiet, console.read()).await.ok()
                } else {
                    Some(console.read().await)
                }
            };
            let read = tokio::select! {
                read = next => read,
                Some(keys) = self.keys.recv() => {
                    self.typed = Some(Instant::now());
                    let written = match timeout(WRITE, console.write(&keys.bytes)).await {
                        Ok(written) => written.map_err(|error| error.to_string()),
                        Err(_) => Err("the console takes nothing".to_owned()),
                    };
                    answer(keys.taken, written);
                    continue;
                }
            };
            let Current { boot, secrets } = self.current.borrow().clone();
            let stamp = stamp();
            let mut text = String::new();
            match read {
                Some(Ok(bytes)) => {
                    if !std::mem::replace(&mut said, true) {
                        text = format!("{stamp} --- console opened ---\n");
                    }
                    cleaner.push(&bytes, &secrets, &stamp, &mut text);
                }
                Some(Err(error)) => {
                    cleaner.finish(&secrets, &stamp, &mut text);
                    if said {
                        tracing::debug!(%error, "a console went away");
                        text += &format!("{stamp} --- console went away ---\n");
                        self.writer.append(boot, &text).await?;
                    }
                    return Ok(said);
                }
                None => cleaner.quiet(&secrets, &stamp, &mut text),
            }
            if !text.is_empty() {
                self.writer.append(boot, &text).await?;
            }
        }
    }
}

fn answer(taken: tokio::sync::oneshot::Sender<Result<(), String>>, result: Result<(), String>) {
    if taken.send(result).is_err() {
        tracing::debug!("whoever typed has gone");
    }
}

fn stamp() -> String {
    let now = jiff::Timestamp::now();
    now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
