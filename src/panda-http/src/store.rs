//! A content store: files named by their SHA-1, within a bound of bytes. The master's filecache and
//! the worker's are such stores.
//!
//! ```text
//!             draft ──write──▶ (reserved, hashed) ──finish──▶ file   ◀── pin(owner)
//!   absent ──┤                                                 │
//!             fetch: one download a file, whoever asks         ▼ least recently used, not pinned
//!                                                            evicted
//! ```
//!
//! - A file has its name only when its bytes are on the disk and its hash is right, so what a crash
//!   leaves is either whole or a draft, and drafts are removed when the store is opened.
//! - Drafts reserve their bytes first, so that concurrent ones do not overfill the store together.
//! - Callers that ask for one file share one download. It outlives them. If it fails, each of the
//!   others tries again with its *own* source, since only that one's credentials may be wrong. These
//!   tries come one after another, so each caller's whole wait is bounded: behind a server that hangs,
//!   the last of many is told so no later than the first.
//! - Pins are by owner (a slot's build). They may come before the file, and are not kept across a
//!   restart: the owner's ledger pins again. The order of use is kept, as modification times.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::Presence;
use tokio_util::sync::CancellationToken;

use crate::download::{DownloadError, Downloader, Sink, Source};
use crate::draft::{Draft, DraftError, PREFIX};
use crate::failpoint;
use crate::ranges::ServedFile;

/// A content store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    max: u64,
    /// Bytes of the disk that are left free.
    leave: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<Sha1, Entry>,
    pins: HashMap<String, HashSet<Sha1>>,
    /// Downloads under way; cancelled means ended.
    downloads: HashMap<Sha1, CancellationToken>,
    /// Bytes of all files.
    bytes: u64,
    /// Bytes that drafts may still become.
    reserved: u64,
    /// Counts uses: the order of use.
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: u64,
    used: u64,
}

/// How a file came to be present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// It was there.
    Cached,
    /// It was downloaded, for this caller or for one that it joined.
    Downloaded,
}

impl From<Fetched> for Presence {
    fn from(fetched: Fetched) -> Self {
        Self::yes(match fetched {
            Fetched::Cached => Self::CACHE,
            Fetched::Downloaded => Self::DOWNLOAD,
        })
    }
}

/// Why a file is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store's directory cannot be used.
    #[error("{}: {source}; the store needs a directory of its own that it may write", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is no room, and nothing that may go.
    #[error(
        "the file cache is full: {needed} more bytes do not fit beside what running builds need; raise its limit of {max} bytes"
    )]
    Full {
        /// How many bytes were wanted.
        needed: u64,
        /// The store's bound.
        max: u64,
    },
    /// The disk has no room, and nothing may go that would make it.
    #[error(
        "the file cache's disk is full: {free} bytes are free, and {needed} are needed beside {leave} that stay free"
    )]
    Disk {
        /// How many bytes were wanted.
        needed: u64,
        /// How many are free.
        free: u64,
        /// How many stay free.
        leave: u64,
    },
    /// The bytes have another hash.
    #[error("the file's SHA-1 is not the expected one")]
    Mismatch,
    /// The download failed.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// It took longer than the caller is kept waiting.
    #[error("the file is not here after {} s; what is being downloaded goes on, ask again", .0.as_secs())]
    Waited(Duration),
    /// It cannot be written.
    #[error("the file cannot be stored: {0}")]
    Io(#[from] io::Error),
    /// The program is stopping.
    #[error("the download was cut short")]
    Interrupted,
}

impl StoreError {
    /// What Launchpad is told in the answer to `ensurepresent`.
    #[must_use]
    pub fn told(&self) -> String {
        match self {
            Self::Mismatch => Presence::MISMATCH.to_owned(),
            _ => format!("{}{self}", Presence::UNREACHABLE),
        }
    }
}

impl From<DraftError> for StoreError {
    fn from(error: DraftError) -> Self {
        match error {
            DraftError::Mismatch => Self::Mismatch,
            DraftError::Io(error) => Self::Io(error),
        }
    }
}

impl Store {
    /// Opens the store in `directory`, making it if need be: at most `max` bytes. Drafts that a crash
    /// has left are removed; files whose name is no SHA-1 are left alone and not counted.
    ///
    /// # Errors
    /// [`StoreError::Directory`].
    pub fn open(directory: &Path, max: u64) -> Result<Self, StoreError> {
        Self::open_leaving(directory, max, 0)
    }

    /// As [`Store::open`]; `leave` bytes of the disk stay free for others, whatever `max` is.
    ///
    /// # Errors
    /// [`StoreError::Directory`].
    pub fn open_leaving(directory: &Path, max: u64, leave: u64) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Directory {
            directory: directory.to_owned(),
            source,
        };
        fs::create_dir_all(directory).map_err(failed)?;
        let found = scan(directory).map_err(failed)?;
        let mut state = State::default();
        for (sha1, bytes) in found {
            state.insert(sha1, bytes);
        }
        let shared = Shared {
            directory: directory.to_owned(),
            max,
            leave,
            state: Mutex::new(state),
        };
        Ok(Self(Arc::new(shared)))
    }

    /// Whether the file is there.
    #[must_use]
    pub fn contains(&self, sha1: Sha1) -> bool {
        self.0.lock().files.contains_key(&sha1)
    }

    /// The file's path, where it is there; it stays while it is pinned. A use.
    #[must_use]
    pub fn path(&self, sha1: Sha1) -> Option<PathBuf> {
        self.0.lock().take_up(sha1, &self.0)
    }

    /// Opens the file, where it is there. A use.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub async fn file(&self, sha1: Sha1) -> io::Result<Option<ServedFile>> {
        match self.path(sha1) {
            Some(path) => ServedFile::open(&path).await,
            None => Ok(None),
        }
    }

    /// Keeps the file, there already or coming, until `owner` lets go.
    pub fn pin(&self, owner: &str, sha1: Sha1) {
        self.0
            .lock()
            .pins
            .entry(owner.to_owned())
            .or_default()
            .insert(sha1);
    }

    /// Lets go of all that `owner` has pinned.
    pub fn unpin(&self, owner: &str) {
        self.0.lock().pins.remove(owner);
    }

    /// Lets go of a file that `owner` has pinned, if it is not there.
    pub fn unpin_absent(&self, owner: &str, sha1: Sha1) {
        let mut state = self.0.lock();
        if state.files.contains_key(&sha1) {
            return;
        }
        if let Some(pins) = state.pins.get_mut(owner) {
            pins.remove(&sha1);
            if pins.is_empty() {
                state.pins.remove(owner);
            }
        }
    }

    /// How many files `owner` has pinned.
    #[must_use]
    pub fn pinned(&self, owner: &str) -> usize {
        self.0.lock().pins.get(owner).map_or(0, HashSet::len)
    }

    /// Sees to it that as much of the disk is free as is to stay free, by what nobody has pinned.
    ///
    /// # Errors
    /// [`StoreError::Disk`]: not enough may go; or the disk cannot be examined.
    pub fn relieve(&self) -> Result<(), StoreError> {
        self.0.lock().make_room(0, &self.0)
    }

    /// A new file, written by the caller.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn draft(&self) -> Result<StoreDraft, StoreError> {
        let draft = Draft::new(&self.0.directory)?;
        Ok(StoreDraft {
            draft,
            reservation: Reservation {
                shared: self.0.clone(),
                bytes: 0,
            },
        })
    }

    /// Has the file: it is there, or is downloaded from `source`, or a download of it that is under
    /// way is joined. The download goes on when the caller does not.
    ///
    /// # Errors
    /// The download from this caller's own source failed, or the downloader's `wait_limit` is over.
    pub async fn fetch(
        &self,
        sha1: Sha1,
        downloader: &Downloader,
        source: &Source,
    ) -> Result<Fetched, StoreError> {
        let limit = downloader.wait_limit();
        tokio::time::timeout(limit, self.join_or_lead(sha1, downloader, source))
            .await
            .unwrap_or(Err(StoreError::Waited(limit)))
    }

    async fn join_or_lead(
        &self,
        sha1: Sha1,
        downloader: &Downloader,
        source: &Source,
    ) -> Result<Fetched, StoreError> {
        let mut found = Fetched::Cached;
        loop {
            match self.begin(sha1) {
                Begin::Present => return Ok(found),
                Begin::Join(ended) => ended.cancelled().await,
                Begin::Lead(download) => {
                    let (store, downloader, source) =
                        (self.clone(), downloader.clone(), source.clone());
                    let task = tokio::spawn(async move {
                        let outcome = store.download(sha1, &downloader, &source).await;
                        drop(download);
                        outcome
                    });
                    return task.await.map_err(|_| StoreError::Interrupted)?;
                }
            }
            found = Fetched::Downloaded;
        }
    }

    fn begin(&self, sha1: Sha1) -> Begin {
        let mut state = self.0.lock();
        if state.take_up(sha1, &self.0).is_some() {
            return Begin::Present;
        }
        if let Some(ended) = state.downloads.get(&sha1) {
            return Begin::Join(ended.clone());
        }
        let ended = CancellationToken::new();
        state.downloads.insert(sha1, ended.clone());
        Begin::Lead(Download {
            shared: self.0.clone(),
            sha1,
            ended,
        })
    }

    async fn download(
        &self,
        sha1: Sha1,
        downloader: &Downloader,
        source: &Source,
    ) -> Result<Fetched, StoreError> {
        let mut draft = self.draft()?;
        downloader.fetch(source, &mut draft).await?;
        draft.finish(sha1).await?;
        Ok(Fetched::Downloaded)
    }
}

enum Begin {
    Present,
    Join(CancellationToken),
    Lead(Download),
}

/// A download's place in [`State::downloads`]; dropping it wakes those that joined.
struct Download {
    shared: Arc<Shared>,
    sha1: Sha1,
    ended: CancellationToken,
}

impl Drop for Download {
    fn drop(&mut self) {
        self.shared.lock().downloads.remove(&self.sha1);
        self.ended.cancel();
    }
}

/// A file on its way into the store. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct StoreDraft {
    draft: Draft,
    reservation: Reservation,
}

impl StoreDraft {
    /// Makes room for a file of `bytes` bytes.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub fn reserve(&mut self, bytes: u64) -> Result<(), StoreError> {
        self.reservation.grow(bytes)
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Io`].
    pub async fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        self.reservation
            .grow(self.draft.length() + piece.len() as u64)?;
        Ok(self.draft.write(piece).await?)
    }

    /// Puts it into the store, if its hash is `sha1`.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`], [`StoreError::Io`].
    pub async fn finish(self, sha1: Sha1) -> Result<(), StoreError> {
        let finished = self.draft.finish(sha1).await?;
        let mut reservation = self.reservation;
        let place = move || {
            let shared = reservation.shared.clone();
            let mut state = shared.lock();
            let bytes = finished.length();
            finished.place(&shared.path(sha1))?;
            state.reserved -= std::mem::take(&mut reservation.bytes);
            state.insert(sha1, bytes);
            drop(state);
            fs::File::open(&shared.directory)?.sync_all()
        };
        let placed = tokio::task::spawn_blocking(place).await;
        Ok(placed.map_err(|_| StoreError::Interrupted)??)
    }
}

impl Sink for StoreDraft {
    async fn expect(&mut self, bytes: u64) -> Result<(), DownloadError> {
        self.reserve(bytes)
            .map_err(|error| DownloadError::Sink(error.to_string()))
    }

    async fn write(&mut self, piece: &Bytes) -> Result<(), DownloadError> {
        Self::write(self, piece)
            .await
            .map_err(|error| DownloadError::Sink(error.to_string()))
    }
}

/// Bytes that a draft may fill; given back when dropped.
#[derive(Debug)]
struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reservation {
    fn grow(&mut self, to: u64) -> Result<(), StoreError> {
        let Some(more) = to.checked_sub(self.bytes) else {
            return Ok(());
        };
        self.shared.lock().make_room(more, &self.shared)?;
        self.bytes = to;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.lock().reserved -= self.bytes;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, sha1: Sha1) -> PathBuf {
        self.directory.join(sha1.to_string())
    }

    /// How many bytes of the disk are free, where that matters.
    fn free(&self) -> io::Result<Option<u64>> {
        if self.leave == 0 {
            return Ok(None);
        }
        let disk = nix::sys::statvfs::statvfs(&self.directory)?;
        let free = wide(disk.blocks_available()).saturating_mul(wide(disk.fragment_size()));
        Ok(Some(free))
    }
}

impl State {
    fn insert(&mut self, sha1: Sha1, bytes: u64) {
        self.uses += 1;
        let entry = Entry {
            bytes,
            used: self.uses,
        };
        let before = self
            .files
            .insert(sha1, entry)
            .map_or(0, |entry| entry.bytes);
        self.bytes = self.bytes + bytes - before;
    }

    /// Notes a use of a file that is there. One that somebody else has removed is forgotten.
    fn take_up(&mut self, sha1: Sha1, shared: &Shared) -> Option<PathBuf> {
        self.uses += 1;
        self.files.get_mut(&sha1)?.used = self.uses;
        let path = shared.path(sha1);
        match fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(sha1);
                return None;
            }
            // Only the order of use is lost at the next start.
            Err(error) => tracing::debug!(%sha1, %error, "a use is not noted"),
            Ok(()) => {}
        }
        Some(path)
    }

    fn forget(&mut self, sha1: Sha1) {
        self.bytes -= self.files.remove(&sha1).map_or(0, |entry| entry.bytes);
    }

    /// Reserves `more` bytes of store and disk, evicting what must go; evicts nothing if that would not be enough.
    fn make_room(&mut self, more: u64, shared: &Shared) -> Result<(), StoreError> {
        let wanted = self
            .bytes
            .saturating_add(self.reserved)
            .saturating_add(more);
        let free = shared.free()?;
        let over = wanted.saturating_sub(shared.max);
        let short = free.map_or(0, |free| {
            more.saturating_add(shared.leave).saturating_sub(free)
        });
        let mut excess = over.max(short);
        if excess > 0 {
            let pinned: HashSet<_> = self.pins.values().flatten().copied().collect();
            let mut loose: Vec<_> = self
                .files
                .iter()
                .map(|(sha1, entry)| (*sha1, *entry))
                .collect();
            loose.retain(|(sha1, _)| !pinned.contains(sha1));
            let may_go = loose.iter().map(|(_, entry)| entry.bytes).sum::<u64>();
            if may_go < over {
                return Err(StoreError::Full {
                    needed: more,
                    max: shared.max,
                });
            }
            if may_go < short {
                return Err(StoreError::Disk {
                    needed: more,
                    free: free.unwrap_or(0),
                    leave: shared.leave,
                });
            }
            loose.sort_by_key(|(_, entry)| entry.used);
            for (sha1, entry) in loose {
                if excess == 0 {
                    break;
                }
                failpoint::around(failpoint::EVICT, || remove(&shared.path(sha1)))?;
                self.forget(sha1);
                excess = excess.saturating_sub(entry.bytes);
            }
        }
        self.reserved += more;
        Ok(())
    }
}

/// The kernel's numbers have 32 bits on a board and 64 elsewhere.
fn wide(number: impl Into<u64>) -> u64 {
    number.into()
}

/// The files of a store's directory, the least recently used first; removes drafts.
fn scan(directory: &Path) -> io::Result<Vec<(Sha1, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(PREFIX) {
            failpoint::around(failpoint::SWEEP, || remove(&entry.path()))?;
        } else if let Ok(sha1) = name.parse::<Sha1>() {
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                found.push((metadata.modified()?, sha1, metadata.len()));
            }
        }
    }
    found.sort();
    Ok(found
        .into_iter()
        .map(|(_, sha1, bytes)| (sha1, bytes))
        .collect())
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
