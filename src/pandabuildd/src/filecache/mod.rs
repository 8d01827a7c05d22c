//! The rack's inputs: chroots and source files, one copy for all slots. The front asks for them
//! (`ensurepresent`, `build`), the depot serves them to boards, and a slot's pins keep them from the first
//! `ensurepresent` until the slot's build has ended or it is reset.
//!
//! ```text
//! ensurepresent ─▶ pin in the store ─▶ there? ── pin in the ledger ── "Cache"
//!                                      └─ download, shared, tried again ── pin in the ledger ── "Download"
//!                                                                       └─ no pin ── why not
//! dispatch           ─▶ allow what the build names ─▶ the depot: open_for(slot, file)
//! build ended, reset ─▶ allow nothing, unpin in the store, then in the ledger        start ─▶ the ledger's pins again
//! ```
//!
//! Pins are written by one task in the order in which they were asked for, so that the end of one build
//! never takes away the pins of the next.

//!
//! - `patience`: what is tried again, and for how long
//! - `health`: whether a build would have its inputs at all

mod health;
mod patience;
mod settings;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use panda_http::pinned::{PinnedError, public_client_config};
use panda_http::{ClientError, Downloader, Fetched, ServedFile, Source, Store, StoreError};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{EnsurePresent, Presence};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout_at};

use self::health::Health;
use self::patience::{Failure, Patience};
pub(crate) use self::settings::FilecacheSettings;
use crate::ledger::{Ledger, LedgerError};

/// Changes of pins that may wait to be written.
const QUEUE: usize = 1024;
/// The most inputs that one slot may hold.
const MAX_PINS: usize = 10_000;
/// From how many tries in a row without an answer on a server is thought dead.
const DEAD: u32 = 2;

/// Why there is no file cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilecacheError {
    /// Its directory.
    #[error("file cache: {0}")]
    Store(#[from] StoreError),
    /// Its pins.
    #[error("file cache: {0}")]
    Ledger(#[from] LedgerError),
    /// Its downloads.
    #[error("file cache: {0}")]
    Tls(#[from] PinnedError),
    /// Its downloads.
    #[error("file cache: {0}")]
    Downloader(#[from] ClientError),
}

/// The rack's inputs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Filecache {
    store: Store,
    allowed: Allowed,
    downloader: Downloader,
    settings: Arc<FilecacheSettings>,
    health: Health,
    pins: mpsc::Sender<PinChange>,
}

/// By slot, what its present build names. Not in the ledger: a worker that has its build when the daemon is
/// started has its inputs too.
type Allowed = Arc<Mutex<HashMap<String, BTreeSet<Sha1>>>>;

#[derive(Debug)]
enum PinChange {
    Pin {
        slot: String,
        sha1: Sha1,
        written: oneshot::Sender<Result<(), LedgerError>>,
    },
    Unpin {
        slot: String,
    },
}

impl Filecache {
    /// Opens the cache in `directory` with the pins that the ledger holds.
    ///
    /// # Errors
    /// The directory or the ledger cannot be used, or no TLS client can be made.
    pub(crate) async fn open(
        directory: &Path,
        settings: &FilecacheSettings,
        ledger: Ledger,
    ) -> Result<Self, FilecacheError> {
        let store = Store::open_leaving(directory, settings.max_bytes, settings.free_min_bytes)?;
        for (slot, sha1) in ledger.pins().await? {
            store.pin(&slot, sha1);
        }
        let downloader = Downloader::new(settings.download(), public_client_config()?)?;
        let (pins, changes) = mpsc::channel(QUEUE);
        tokio::spawn(write_pins(ledger, changes));
        Ok(Self {
            health: Health::new(store.clone(), downloader.clone(), settings),
            allowed: Allowed::default(),
            store,
            downloader,
            settings: Arc::new(settings.clone()),
            pins,
        })
    }

    /// Launchpad's `ensurepresent` for `slot`. The download goes on when the caller does not.
    pub(crate) async fn ensure_present(&self, slot: &str, call: EnsurePresent) -> Presence {
        let no = |info: String| Presence::no(info);
        let Some(sha1) = call.sum.sha1() else {
            // Nothing that could be fetched has such a sum.
            let known = if call.url.is_some() {
                StoreError::Mismatch.told()
            } else {
                Presence::NO_URL.into()
            };
            return no(known);
        };
        let Some(url) = call.url else {
            return match self.hold(slot, sha1).await {
                Ok(present) => Presence {
                    present,
                    info: Presence::NO_URL.into(),
                },
                Err(error) => no(error),
            };
        };
        if self.store.pinned(slot) >= MAX_PINS {
            return no(format!("Error: a build may have {MAX_PINS} inputs at most"));
        }
        let fetched = match Source::new(&url, &call.username, &call.password) {
            Ok(source) => self.fetch(slot, sha1, &source).await,
            Err(error) => Err(StoreError::from(error).told()),
        };
        match fetched {
            Ok(fetched) => fetched.into(),
            Err(told) => no(told),
        }
    }

    /// Why a build would not have its inputs now, if so: for Launchpad, without secrets.
    pub(crate) async fn trouble(&self) -> Option<String> {
        self.health.trouble().await
    }

    /// Has the file, and keeps it for `slot`; else the reason, fit for Launchpad. What may pass by itself is
    /// tried again.
    async fn fetch(&self, slot: &str, sha1: Sha1, source: &Source) -> Result<Fetched, String> {
        // A file that does not come is not waited for by a pin, be the caller still there or not.
        let _unless_it_comes = Unpin {
            store: &self.store,
            slot,
            sha1,
        };
        let waiting = self.health.waits(source);
        let mut patience = Patience::new(&self.settings);
        let mut earlier = None;
        loop {
            self.store.pin(slot, sha1);
            let error = match self.once(sha1, source, &patience).await {
                Ok(fetched) => {
                    waiting.well();
                    // Another call for it that failed may have let go.
                    self.store.pin(slot, sha1);
                    if self.store.contains(sha1) {
                        return self.pin(slot, sha1).await.map(|()| fetched);
                    }
                    continue;
                }
                Err(error) => error,
            };
            let pause = patience.next(&error);
            tracing::warn!(slot, %sha1, %error, ?pause, "an input was not fetched");
            match Failure::of(&error) {
                Failure::Server if pause.is_some() && patience.server_failures >= DEAD => {
                    waiting.no_answer();
                }
                Failure::Room => self.health.cannot_write(),
                Failure::Server | Failure::Content | Failure::Final => {}
            }
            match pause {
                Some(pause) => sleep(pause).await,
                // What went wrong before says more than that the time was up in the middle of the last try.
                None => {
                    return Err(match (error, earlier) {
                        (StoreError::Waited(_), Some(earlier)) => earlier,
                        (error, _) => error.told(),
                    });
                }
            }
            earlier = Some(error.told());
        }
    }

    async fn once(
        &self,
        sha1: Sha1,
        source: &Source,
        patience: &Patience,
    ) -> Result<Fetched, StoreError> {
        let fetch = self.store.fetch(sha1, &self.downloader, source);
        timeout_at(patience.until(), fetch)
            .await
            .unwrap_or(Err(StoreError::Waited(self.settings.wait())))
    }

    /// Whether the file is there; if so, it stays for `slot`.
    ///
    /// # Errors
    /// The pin cannot be written; the reason, fit for Launchpad.
    pub(crate) async fn hold(&self, slot: &str, sha1: Sha1) -> Result<bool, String> {
        if !self.store.contains(sha1) {
            return Ok(false);
        }
        self.pin(slot, sha1).await?;
        // It may have been evicted while the pin was written.
        Ok(self.store.contains(sha1))
    }

    async fn pin(&self, slot: &str, sha1: Sha1) -> Result<(), String> {
        let (written, answer) = oneshot::channel();
        let change = PinChange::Pin {
            slot: slot.to_owned(),
            sha1,
            written,
        };
        if self.pins.send(change).await.is_err() {
            return Err("the daemon is stopping".to_owned());
        }
        match answer.await {
            Ok(Ok(())) => {
                self.store.pin(slot, sha1);
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::error!(slot, %error, "a pin cannot be written");
                Err("Error: the master cannot write its ledger".to_owned())
            }
            Err(_) => Err("the daemon is stopping".to_owned()),
        }
    }
    /// The slot's board may have these, and nothing else, until the slot's lease ends.
    pub(crate) fn allow(&self, slot: &str, inputs: BTreeSet<Sha1>) {
        self.allowed().insert(slot.to_owned(), inputs);
    }

    /// Opens a file for the slot's board; none where its build does not name it, or it is not there.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub(crate) async fn open_for(&self, slot: &str, sha1: Sha1) -> io::Result<Option<ServedFile>> {
        let allowed = self
            .allowed()
            .get(slot)
            .is_some_and(|inputs| inputs.contains(&sha1));
        if !allowed {
            return Ok(None);
        }
        self.store.file(sha1).await
    }

    /// Ends the slot's lease: its board may have nothing, and what was kept for it may be evicted.
    pub(crate) fn release(&self, slot: &str) {
        self.allowed().remove(slot);
        self.store.unpin(slot);
        let (pins, slot) = (self.pins.clone(), slot.to_owned());
        match pins.try_send(PinChange::Unpin { slot }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(change)) => {
                // Only pins are left longer than needed by this: the next release takes them too.
                tracing::warn!(?change, "the ledger is slow; pins stay for now");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    fn allowed(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<Sha1>>> {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of a file that has not come when its call is over, however it is.
struct Unpin<'a> {
    store: &'a Store,
    slot: &'a str,
    sha1: Sha1,
}

impl Drop for Unpin<'_> {
    fn drop(&mut self) {
        self.store.unpin_absent(self.slot, self.sha1);
    }
}

async fn write_pins(ledger: Ledger, mut changes: mpsc::Receiver<PinChange>) {
    while let Some(change) = changes.recv().await {
        match change {
            PinChange::Pin {
                slot,
                sha1,
                written,
            } => {
                if written.send(ledger.pin(&slot, sha1).await).is_err() {
                    tracing::debug!(slot, "who asked for a pin has gone");
                }
            }
            PinChange::Unpin { slot } => {
                if let Err(error) = ledger.unpin(&slot).await {
                    tracing::error!(slot, %error, "pins cannot be removed; they stay until the next build ends");
                }
            }
        }
    }
}

/// The state directory's folder for the cache.
pub(crate) const DIRECTORY: &str = "filecache";

#[cfg(test)]
pub(crate) mod tests;
