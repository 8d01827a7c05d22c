//! Whether a build that was dispatched now would have its inputs. While it would not, a slot that is ready says
//! so by a Fault in the place of IDLE: a failed scan costs nothing, and a dispatch that fails costs builder and job.
//!
//! ```text
//! disk    short of `free_min_bytes`, what may go evicted first  ─▶ trouble, until there is room
//!         a file could not be written                           ─▶ trouble, until one can
//! server  a dispatch that goes on had two tries in a row
//!         without an answer                                     ─▶ trouble, until it answers a look, a file came,
//!                                                                  the dispatch is over, or the spell is
//!
//! servers' trouble is told in spells, whatever any caller's URLs do:
//!
//!   first no answer
//!        │◀─ spell: `shun_ms`, at most 40 s ─▶│◀──── rest: twice as long ────▶│  the next may begin
//!   scan ×        ×        ×                  ○        ○        ○        ○
//! ```
//!
//! The manager looks at a builder every 15 s and counts the fifth failed scan in a row. A spell holds three of its
//! scans at most, and the rest after it at least two: so **a slot that is ready is IDLE at least once in any four
//! scans**. Only a dispatch that goes on can begin a spell: a server that nobody waits for is nobody's trouble. A
//! dispatch that comes in a rest waits behind its own tries, which counts nothing for as long as the manager waits.
//!
//! What a slot says of it names no server: that is one caller's text, and would stand in another slot's status. The
//! daemon's log has it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use panda_http::{Downloader, Source, Store};
use tokio::time::{Instant, sleep};

use super::settings::FilecacheSettings;

/// The most servers that are looked after; there are two or three.
const MAX_SERVERS: usize = 16;
/// The longest that servers' trouble is told without a rest: less than three of the manager's scans take.
const LONGEST_SPELL: Duration = Duration::from_secs(40);
/// How many times as long as a spell the rest after it is.
const REST: u32 = 2;
/// What a slot says while a server does not answer.
const NO_SERVER: &str = "inputs cannot be fetched: a server that a build needs does not answer; the daemon's log says which";

/// What is known of the cache's disk and of the servers. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    downloader: Downloader,
    spell: Duration,
    look: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Servers that do not answer, with the dispatches that wait for them; never without any.
    servers: HashMap<String, BTreeSet<u64>>,
    /// Servers that are looked after.
    looked_after: BTreeSet<String>,
    /// When the last spell began.
    spell: Option<Instant>,
    /// How many dispatches there were: each has its number.
    dispatches: u64,
    /// The last file could not be written.
    unwritable: bool,
    /// What was said last, so that it is logged once.
    said: Option<String>,
}

/// One call's wait for a file. What it has said of its server counts until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    health: &'a Health,
    source: &'a Source,
    number: u64,
}

impl Health {
    pub(super) fn new(store: Store, downloader: Downloader, settings: &FilecacheSettings) -> Self {
        Self(Arc::new(Shared {
            store,
            downloader,
            spell: Duration::from_millis(settings.shun_ms).min(LONGEST_SPELL),
            look: Duration::from_millis(settings.look_ms),
            state: Mutex::default(),
        }))
    }

    /// Why a build would not have its inputs now, if so; for Launchpad, without secrets and any caller's text.
    pub(super) async fn trouble(&self) -> Option<String> {
        let health = self.clone();
        let disk = tokio::task::spawn_blocking(move || health.disk()).await;
        let now = Instant::now();
        let mut state = self.lock();
        let trouble = disk
            .unwrap_or_default()
            .or_else(|| self.server_trouble(&state, now).map(str::to_owned));
        if trouble != state.said {
            match &trouble {
                Some(why) => tracing::error!(why, "no slot takes builds"),
                None => tracing::info!("slots take builds again"),
            }
            state.said.clone_from(&trouble);
        }
        trouble
    }

    fn server_trouble(&self, state: &State, now: Instant) -> Option<&'static str> {
        let in_spell = state
            .spell
            .is_some_and(|began| now.duration_since(began) < self.0.spell);
        (in_spell && !state.servers.is_empty()).then_some(NO_SERVER)
    }

    /// A file could not be written.
    pub(super) fn cannot_write(&self) {
        self.lock().unwritable = true;
    }

    /// A call begins to wait for a file from `source`.
    pub(super) fn waits<'a>(&'a self, source: &'a Source) -> Waiting<'a> {
        let mut state = self.lock();
        state.dispatches += 1;
        Waiting {
            health: self,
            source,
            number: state.dispatches,
        }
    }

    /// Looks at the server until it answers, or nobody waits for it any more.
    async fn look_after(&self, source: &Source) {
        let place = source.origin();
        loop {
            sleep(self.0.look).await;
            if self.nobody_waits(&place) {
                return;
            }
            if self.0.downloader.answers(source, self.0.look).await {
                self.lock().servers.remove(&place);
            }
        }
    }

    /// Whether nobody waits for the server: then it is not looked after any more.
    fn nobody_waits(&self, place: &str) -> bool {
        let mut state = self.lock();
        let nobody = !state.servers.contains_key(place);
        if nobody {
            state.looked_after.remove(place);
        }
        nobody
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

impl Waiting<'_> {
    /// The server did not answer. It is looked after from now on, and a spell begins unless there was one lately.
    pub(super) fn no_answer(&self) {
        let place = self.source.origin();
        let (spell, now) = (self.health.0.spell, Instant::now());
        let mut state = self.health.lock();
        if !state.servers.contains_key(&place) && state.servers.len() >= MAX_SERVERS {
            return;
        }
        let waiting = state.servers.entry(place.clone()).or_default();
        waiting.insert(self.number);
        let is_new = state.looked_after.insert(place);
        let rested = state
            .spell
            .is_none_or(|began| now.duration_since(began) >= spell * (1 + REST));
        if rested {
            state.spell = Some(now);
        }
        drop(state);
        if is_new {
            let (health, source) = (self.health.clone(), self.source.clone());
            tokio::spawn(async move { health.look_after(&source).await });
        }
    }

    /// The server has given a file.
    pub(super) fn well(&self) {
        self.health.lock().servers.remove(&self.source.origin());
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let place = self.source.origin();
        let mut state = self.health.lock();
        if let Some(waiting) = state.servers.get_mut(&place) {
            waiting.remove(&self.number);
            if waiting.is_empty() {
                state.servers.remove(&place);
            }
        }
    }
}
