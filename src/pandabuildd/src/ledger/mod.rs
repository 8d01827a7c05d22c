//! The ledger: what must survive a `kill -9`, in one SQLite file. Slots with their states, boots with
//! their secrets and steps, build attempts, pins of input files.
//!
//! Called by each slot's task (which commits a state before anything else happens), by the boot chain
//! (which records its steps), by the depot and the front. One file, WAL, `synchronous=FULL`, readable by
//! its owner only. Everything is done on tokio's blocking threads, one statement at a time: what is written over one
//! connection, with its failpoint on both sides, and what is read over another, which cannot write.
//!
//! What holds passwords or keys is forgotten early: a build's arguments in the commit in which the slot
//! no longer has the build, a boot's key in the commit in which the slot has a later boot or no power.
//!
//! - `grade`: how good the evidence of a cut is
//! - `records`: what goes in and comes out
//! - `schema`: the file, its tables and their migrations
//! - `slots`, `boots`, `duties`: the statements

mod boots;
mod duties;
mod grade;
mod records;
mod schema;
mod slots;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use panda_protocol::digest::Sha1;
use panda_slot::{AttemptNo, BootNo, Slot};
use rusqlite::Connection;

use crate::failpoint::{self, Point};

pub(crate) use grade::Grade;
pub(crate) use records::{AttemptRecord, BootHistory, BootSecrets, NewAttempt, Step};

/// How many boots of a slot are remembered with their steps.
pub(crate) const KEPT_BOOTS: u32 = 200;
/// How many steps of one boot are recorded; a chain has about ten.
pub(crate) const MAX_STEPS: u32 = 100;

/// What went wrong with the ledger. No variant holds what was to be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// The file cannot be made, or its rights cannot be set.
    #[error("{path}: cannot make the ledger: {source}; check the state directory and its owner")]
    File {
        /// The ledger's path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a ledger.
    #[error("{path} is not a ledger of pandabuildd; move it away, or name another state directory")]
    Foreign {
        /// The ledger's path.
        path: PathBuf,
    },
    /// A newer pandabuildd has written the file.
    #[error(
        "{path} was written by a newer pandabuildd (schema {found}, this one knows {known}); \
         install that version, or move the file away to start without its history"
    )]
    Newer {
        /// The ledger's path.
        path: PathBuf,
        /// The schema found.
        found: u32,
        /// The newest schema known.
        known: u32,
    },
    /// SQLite failed.
    #[error(
        "cannot {doing} the ledger: {source}; check the disk, and that no other daemon uses it"
    )]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A record cannot be read: written by something else, or the disk is bad.
    #[error("the ledger's record of {what} is damaged; move the ledger away to start afresh")]
    Damaged {
        /// Which record.
        what: String,
    },
    /// A build's arguments cannot be written down.
    #[error("the build's arguments cannot be written down: {0}")]
    Unwritable(panda_protocol::launchpad::xml::XmlError),
    /// The blocking thread did not finish.
    #[error("the ledger's work was cut short; the daemon is stopping")]
    Interrupted,
}

/// The ledger. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub(crate) struct Ledger {
    /// First, so that the one that may write is closed last, and tidies up.
    reader: Arc<Mutex<Connection>>,
    writer: Arc<Mutex<Connection>>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ledger")
    }
}

impl Ledger {
    /// Opens the ledger at `path`, making it where there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// The file cannot be made, is not a ledger, or is newer than this daemon.
    pub(crate) fn open(path: &Path) -> Result<Self, LedgerError> {
        let writer = Arc::new(Mutex::new(schema::open(path)?));
        let reader = Arc::new(Mutex::new(schema::open_to_read(path)?));
        Ok(Self { reader, writer })
    }

    /// The committed state of a slot; none where it was never seen.
    ///
    /// # Errors
    /// The ledger cannot be read, or the record is damaged.
    pub(crate) async fn load_slot(&self, name: &str) -> Result<Option<Slot>, LedgerError> {
        let name = name.to_owned();
        self.read(move |db| slots::load(db, &name)).await
    }

    /// Commits a slot's new state, and a build accepted with it, in one transaction. Arguments of builds
    /// that the slot no longer has and keys of boots that are over are forgotten in the same one.
    ///
    /// # Errors
    /// Nothing was changed: the ledger cannot be written.
    pub(crate) async fn commit(
        &self,
        name: &str,
        slot: &Slot,
        accepted: Option<NewAttempt>,
    ) -> Result<(), LedgerError> {
        let (name, slot) = (name.to_owned(), slot.clone());
        let state = state_of(&slot);
        self.write(
            Point::CommitSlot,
            move || state.clone(),
            move |db| slots::commit(db, &name, &slot, accepted.as_ref()),
        )
        .await
    }

    /// Records the beginning of a boot with its secrets, and forgets the oldest boots of the slot.
    ///
    /// # Errors
    /// The ledger cannot be written, or the slot has had this boot already.
    pub(crate) async fn begin_boot(
        &self,
        slot: &str,
        boot: BootNo,
        secrets: BootSecrets,
    ) -> Result<(), LedgerError> {
        let slot = slot.to_owned();
        self.write(Point::CommitBoot, String::new, move |db| {
            boots::begin(db, &slot, boot, &secrets)
        })
        .await
    }

    /// The secrets of a boot; none once it is over.
    ///
    /// # Errors
    /// The ledger cannot be read, or the record is damaged.
    pub(crate) async fn boot_secrets(
        &self,
        slot: &str,
        boot: BootNo,
    ) -> Result<Option<BootSecrets>, LedgerError> {
        let slot = slot.to_owned();
        self.read(move |db| boots::secrets(db, &slot, boot)).await
    }

    /// Records a step of a boot that has begun. Steps of a boot that is not remembered, and those after
    /// the first [`MAX_STEPS`], are dropped.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub(crate) async fn record_step(
        &self,
        slot: &str,
        boot: BootNo,
        step: Step,
    ) -> Result<(), LedgerError> {
        let slot = slot.to_owned();
        let name = step.name.clone();
        self.write(
            Point::CommitStep,
            move || name.clone(),
            move |db| boots::record_step(db, &slot, boot, &step),
        )
        .await
    }

    /// The last boots of a slot, or of all, newest first, at most `limit`.
    ///
    /// # Errors
    /// The ledger cannot be read, or a record is damaged.
    pub(crate) async fn boots(
        &self,
        slot: Option<&str>,
        limit: u32,
    ) -> Result<Vec<BootHistory>, LedgerError> {
        let slot = slot.map(ToOwned::to_owned);
        self.read(move |db| boots::history(db, slot.as_deref(), limit))
            .await
    }

    /// A build attempt; none where it is not remembered.
    ///
    /// # Errors
    /// The ledger cannot be read, or the record is damaged.
    pub(crate) async fn attempt(
        &self,
        slot: &str,
        attempt: AttemptNo,
    ) -> Result<Option<AttemptRecord>, LedgerError> {
        let slot = slot.to_owned();
        self.read(move |db| slots::attempt(db, &slot, attempt))
            .await
    }

    /// Forgets an attempt's arguments: they hold passwords. A commit without the build does so too.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub(crate) async fn end_attempt(
        &self,
        slot: &str,
        attempt: AttemptNo,
    ) -> Result<(), LedgerError> {
        let slot = slot.to_owned();
        self.write(Point::CommitAttemptEnd, String::new, move |db| {
            slots::end_attempt(db, &slot, attempt)
        })
        .await
    }

    /// Pins an input file to a slot.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub(crate) async fn pin(&self, slot: &str, sha1: Sha1) -> Result<(), LedgerError> {
        let slot = slot.to_owned();
        self.write(Point::CommitPin, String::new, move |db| {
            slots::pin(db, &slot, sha1)
        })
        .await
    }

    /// Unpins everything that is pinned to a slot.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub(crate) async fn unpin(&self, slot: &str) -> Result<(), LedgerError> {
        let slot = slot.to_owned();
        self.write(Point::CommitUnpin, String::new, move |db| {
            slots::unpin(db, &slot)
        })
        .await
    }

    /// All pins, by slot.
    ///
    /// # Errors
    /// The ledger cannot be read, or a record is damaged.
    pub(crate) async fn pins(&self) -> Result<Vec<(String, Sha1)>, LedgerError> {
        self.read(slots::pins).await
    }

    /// Records that Launchpad is to be told when the slot is clean again; void once the slot has had an
    /// attempt after `attempt`.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub(crate) async fn begin_duty(
        &self,
        slot: &str,
        attempt: AttemptNo,
    ) -> Result<(), LedgerError> {
        let slot = slot.to_owned();
        self.write(Point::CommitDuty, String::new, move |db| {
            duties::begin(db, &slot, attempt)
        })
        .await
    }

    /// The last attempt before such a duty; none where there is no duty.
    ///
    /// # Errors
    /// The ledger cannot be read, or the record is damaged.
    pub(crate) async fn duty(&self, slot: &str) -> Result<Option<AttemptNo>, LedgerError> {
        let slot = slot.to_owned();
        self.read(move |db| duties::load(db, &slot)).await
    }

    /// Forgets a slot's duty.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub(crate) async fn end_duty(&self, slot: &str) -> Result<(), LedgerError> {
        let slot = slot.to_owned();
        self.write(Point::CommitDutyEnd, String::new, move |db| {
            duties::end(db, &slot)
        })
        .await
    }

    /// Reads, on a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let connection = Arc::clone(&self.reader);
        blocking(move || work(&lock(&connection))).await
    }

    /// Writes, on a blocking thread, past `point`. It runs to its end even if the caller goes away.
    async fn write<T: Send + 'static>(
        &self,
        point: Point,
        detail: impl Fn() -> String + Send + 'static,
        work: impl FnOnce(&mut Connection) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let connection = Arc::clone(&self.writer);
        blocking(move || failpoint::around(point, detail, || work(&mut lock(&connection)))).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| LedgerError::Interrupted)?
}

/// A panic in the midst of a statement leaves a connection that is still sound: an open transaction is rolled
/// back as it is dropped.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slot's state in a word or a few, for the failpoint of its commit.
fn state_of(slot: &Slot) -> String {
    let mut words = vec![slot.board.name()];
    if slot.live().is_some_and(|build| build.acknowledged) {
        words.push("acknowledged");
    }
    if let Some(kept) = &slot.kept {
        words.push(if kept.cleaning.is_some() {
            "cleaning"
        } else {
            "kept"
        });
    }
    words.join(" ")
}

#[cfg(test)]
impl Ledger {
    /// [`Ledger::load_slot`], for a caller that is not asynchronous.
    pub(crate) fn load_slot_now(&self, name: &str) -> Option<Slot> {
        slots::load(&lock(&self.reader), name).unwrap()
    }

    /// No clone is left, and no statement is under way.
    pub(crate) fn is_last(&self) -> bool {
        Arc::strong_count(&self.reader) == 1 && Arc::strong_count(&self.writer) == 1
    }

    /// From now on nothing can be written, or it can again, as if the disk were full.
    pub(crate) fn refuse_writes(&self, refuse: bool) {
        lock(&self.writer)
            .pragma_update(None, "query_only", refuse)
            .unwrap();
    }
}

/// A number as SQLite holds it. Ours count from 0 by one and never come near the end.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A boot's number, as [`number`].
fn boot_number(boot: BootNo) -> i64 {
    number(boot.get())
}

/// An attempt's number, as [`number`].
fn attempt_number(attempt: AttemptNo) -> i64 {
    number(attempt.get())
}

/// The number of a boot in a row; none where it cannot be one.
fn boot_of(number: i64) -> Option<BootNo> {
    u64::try_from(number).ok().map(BootNo::new)
}

/// The number of an attempt in a row; none where it cannot be one.
fn attempt_of(number: i64) -> Option<AttemptNo> {
    u64::try_from(number).ok().map(AttemptNo::new)
}

fn reading(source: rusqlite::Error) -> LedgerError {
    LedgerError::Sqlite {
        doing: "read",
        source,
    }
}

fn writing(source: rusqlite::Error) -> LedgerError {
    LedgerError::Sqlite {
        doing: "write",
        source,
    }
}
