//! Whether a build that was dispatched now would have its inputs. While it would not, a slot that is ready says
//! so by a Fault in the place of IDLE: a failed scan costs nothing, and a dispatch that fails costs builder and job.
//!
//! ```text
//! disk    short of `free_min_bytes`, what may go evicted first  ─▶ trouble, until there is room
//!         a file could not be written                           ─▶ trouble, until one can
//! server  two tries in a row without an answer                  ─▶ trouble, until it answers a look,
//!                                                                  `shun_ms` are over, or a file came
//! ```
//!
//! A server's trouble ends after a while whatever it does: the manager counts the fifth failed scan in a row, and
//! not every build needs that server. A dispatch then waits behind its own tries, which counts nothing either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use panda_http::{Downloader, Source, Store};
use tokio::time::{Instant, sleep};

use super::settings::FilecacheSettings;

/// The most servers that are looked after; there are two or three.
const MAX_SERVERS: usize = 16;

/// What is known of the cache's disk and of the servers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    downloader: Downloader,
    shun: Duration,
    look: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Servers that do not answer, and why that is thought.
    servers: HashMap<String, String>,
    /// The last file could not be written.
    unwritable: bool,
    /// What was said last, so that it is logged once.
    said: Option<String>,
}

impl Health {
    pub(super) fn new(store: Store, downloader: Downloader, settings: &FilecacheSettings) -> Self {
        Self(Arc::new(Shared {
            store,
            downloader,
            shun: Duration::from_millis(settings.shun_ms),
            look: Duration::from_millis(settings.look_ms),
            state: Mutex::default(),
        }))
    }

    /// Why a build would not have its inputs now, if so; for Launchpad, without secrets.
    pub(super) async fn trouble(&self) -> Option<String> {
        let health = self.clone();
        let disk = tokio::task::spawn_blocking(move || health.disk()).await;
        let mut state = self.lock();
        let trouble = disk
            .unwrap_or_default()
            .or_else(|| state.servers.values().next().cloned());
        if trouble != state.said {
            match &trouble {
                Some(why) => tracing::error!(why, "no slot takes builds"),
                None => tracing::info!("slots take builds again"),
            }
            state.said.clone_from(&trouble);
        }
        trouble
    }

    /// A file could not be written.
    pub(super) fn cannot_write(&self) {
        self.lock().unwritable = true;
    }

    /// A server did not answer; it is looked after from now on.
    pub(super) fn no_answer(&self, source: &Source, why: &str) {
        let place = source.origin();
        let reason = format!("inputs cannot be fetched: {why}");
        let mut state = self.lock();
        if state.servers.contains_key(&place) || state.servers.len() >= MAX_SERVERS {
            return;
        }
        state.servers.insert(place.clone(), reason);
        drop(state);
        let (health, source) = (self.clone(), source.clone());
        tokio::spawn(async move {
            health.look_after(&source).await;
            health.answers(&place);
        });
    }

    /// The server has given a file.
    pub(super) fn well(&self, source: &Source) {
        self.answers(&source.origin());
    }

    fn answers(&self, place: &str) {
        self.lock().servers.remove(place);
    }

    /// Returns when the server answers again, or has been shunned long enough.
    async fn look_after(&self, source: &Source) {
        let until = Instant::now() + self.0.shun;
        while Instant::now() + self.0.look < until {
            sleep(self.0.look).await;
            if !self.lock().servers.contains_key(&source.origin()) {
                return;
            }
            if self.0.downloader.answers(source, self.0.look).await {
                return;
            }
        }
        tokio::time::sleep_until(until).await;
    }

    fn disk(&self) -> Option<String> {
        let store = &self.0.store;
        if let Err(error) = store.relieve() {
            return Some(error.to_string());
        }
        if !self.lock().unwritable {
            return None;
        }
        match store.draft() {
            Ok(_) => {
                self.lock().unwritable = false;
                None
            }
            Err(error) => Some(error.to_string()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
