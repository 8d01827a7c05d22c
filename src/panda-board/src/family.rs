//! The seam between the chain of a boot, which knows no family, and the families of boards, which know no chain:
//!
//! ```text
//! chain   cut ▶ evidence ▶ power on ▶ rom ──▶ identity ──▶ hand-over steps ──▶ port released ▶ handshake ▶ proof
//! family                               roms    identify     hand_over            (the chain sees the port emptied)
//! ```
//!
//! A family gets a [`Session`]: the open pipe, a deadline, and where its steps are recorded; and for the hand-over a
//! [`Payload`]: what the image holds for it, part by part, with this boot's own archive. Its settings are its own, and
//! given to it when it is made ([`Families::new`], the table of families of this crate).
//!
//! A family whose ROM leaves the port between two of its steps and comes again (a file server after a first stage)
//! asks the session to [`Session::reopen`] it. Called by the daemon's boot and by `pandabuildd boot`.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use panda_protocol::digest::Sha256;
use panda_protocol::family::{FamilyName, RomUsb};
use panda_protocol::manifest::Machine;
use panda_protocol::operators::{HandOver, Identity, Sent};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::paced::Pacing;
use crate::settings::Mistakes;
use crate::{Device, Pipe, PipeError, Port, Presence, omap4};

/// A family of boards, as the chain sees it.
#[async_trait]
pub trait Family: Send + Sync + fmt::Debug {
    /// Its name.
    fn name(&self) -> FamilyName;

    /// The USB devices that are its boot ROM.
    fn roms(&self) -> &'static [RomUsb];

    /// Asks the ROM who it is.
    ///
    /// # Errors
    /// A transfer's, or an invalid answer.
    async fn identify(&self, board: &mut Session<'_>) -> Result<Identity, FamilyError>;

    /// Hands the board what the payload holds, in recorded steps, and returns what was started last. That the board
    /// then leaves the port is seen by the chain; it proves nothing.
    ///
    /// # Errors
    /// The step that failed, and why.
    async fn hand_over(
        &self,
        board: &mut Session<'_>,
        payload: &dyn Payload,
    ) -> Result<Sent, FamilyFailure>;

    /// How long the hand-over of so many bytes may take at most, all its steps together.
    fn hand_over_limit(&self, bytes: u64) -> Duration;

    /// What is to be said of a payload that will be handed over, though with little hope.
    fn warnings(&self, _part: &str, _bytes: &[u8]) -> Vec<String> {
        Vec::new()
    }
}

/// Settings of every family: each its own table of `[boot]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FamilySettings {
    /// `[boot.families.omap4]`.
    pub omap4: omap4::Settings,
}

impl FamilySettings {
    /// What is wrong with them; keys begin with the family's name.
    ///
    /// # Errors
    /// All of it.
    pub fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        for mistake in self.omap4.check().err().into_iter().flatten() {
            mistakes.add(format!("omap4.{}", mistake.key), mistake.text);
        }
        mistakes.end()
    }
}

/// The families that there are.
#[derive(Debug, Clone)]
pub struct Families(Vec<Arc<dyn Family>>);

impl Families {
    /// All of them, with these settings; a new family is a line here.
    #[must_use]
    pub fn new(settings: &FamilySettings, pacing: Pacing) -> Self {
        Self::of(vec![Arc::new(omap4::Omap4::new(
            settings.omap4.clone(),
            pacing,
        ))])
    }

    /// These.
    #[must_use]
    pub const fn of(families: Vec<Arc<dyn Family>>) -> Self {
        Self(families)
    }

    /// What each of them has to say of a part that will be handed over, though with little hope.
    #[must_use]
    pub fn warnings(&self, part: &str, bytes: &[u8]) -> Vec<String> {
        let all = self
            .0
            .iter()
            .flat_map(|family| family.warnings(part, bytes));
        all.collect()
    }

    /// The one of this name.
    #[must_use]
    pub fn named(&self, name: FamilyName) -> Option<&Arc<dyn Family>> {
        self.0.iter().find(|family| family.name() == name)
    }

    /// The one whose boot ROM this device says it is, by its numbers alone.
    #[must_use]
    pub fn calling_itself(&self, device: Device) -> Option<(&Arc<dyn Family>, &'static RomUsb)> {
        let is = |rom: &&RomUsb| rom.vendor == device.vendor && rom.product == device.product;
        self.0
            .iter()
            .find_map(|family| Some((family, family.roms().iter().find(is)?)))
    }

    /// The one whose boot ROM this device is, as far as its descriptors tell.
    #[must_use]
    pub fn of_rom(&self, device: Device) -> Option<&Arc<dyn Family>> {
        let (family, rom) = self.calling_itself(device)?;
        (rom.interface_class == device.interface_class).then_some(family)
    }
}

/// What an image holds for a board, for one boot.
#[async_trait]
pub trait Payload: Send + Sync {
    /// What the image runs on: bounds differ where that is no real board.
    fn machine(&self) -> Machine;
    /// The kernel's command line.
    fn cmdline(&self) -> &str;
    /// The page size, for families that send one image of pages.
    fn page_size(&self) -> u32;
    /// What is known of the part of this name.
    fn part(&self, name: &str) -> Option<PartFacts>;
    /// Opens that part.
    ///
    /// # Errors
    /// No such part, or it cannot be read.
    async fn open(&self, name: &str) -> Result<Box<dyn PartStream>, FamilyError>;
    /// The archive that tells this boot what it is (`boot.toml` in a cpio), to be appended to the ramdisk. Composed
    /// when it is asked for: it holds the time.
    ///
    /// # Errors
    /// It cannot be made.
    fn boot_archive(&self) -> Result<Vec<u8>, FamilyError>;
}

/// A part of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartFacts {
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// A part that is being read, checked on the way: the last piece comes only when the whole is what it should be.
#[async_trait]
pub trait PartStream: Send {
    /// The next piece; none at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FamilyError>;
}

/// A payload in memory: for boards that are booted by hand, and for tests.
#[derive(Debug, Clone)]
pub struct MemoryPayload {
    machine: Machine,
    cmdline: String,
    page_size: u32,
    parts: BTreeMap<&'static str, (PartFacts, Arc<Vec<u8>>)>,
    archive: Vec<u8>,
}

impl MemoryPayload {
    /// One without parts.
    #[must_use]
    pub fn new(machine: Machine, cmdline: &str, page_size: u32) -> Self {
        Self {
            machine,
            cmdline: cmdline.to_owned(),
            page_size,
            parts: BTreeMap::new(),
            archive: Vec::new(),
        }
    }

    /// Adds a part.
    pub fn add(&mut self, name: &'static str, bytes: Vec<u8>) {
        let facts = PartFacts {
            bytes: bytes.len() as u64,
            sha256: Sha256::of(&bytes),
        };
        self.parts.insert(name, (facts, Arc::new(bytes)));
    }

    /// The bytes of a part.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.parts.get(name).map(|(_, bytes)| bytes.as_slice())
    }

    /// Its parts.
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        let parts = self.parts.iter();
        parts.map(|(name, (_, bytes))| (*name, bytes.as_slice()))
    }
}

#[async_trait]
impl Payload for MemoryPayload {
    fn machine(&self) -> Machine {
        self.machine
    }

    fn cmdline(&self) -> &str {
        &self.cmdline
    }

    fn page_size(&self) -> u32 {
        self.page_size
    }

    fn part(&self, name: &str) -> Option<PartFacts> {
        self.parts.get(name).map(|(facts, _)| *facts)
    }

    async fn open(&self, name: &str) -> Result<Box<dyn PartStream>, FamilyError> {
        let part = self.parts.get(name);
        let (_, bytes) = part.ok_or_else(|| FamilyError::Unfit(format!("there is no {name}")))?;
        Ok(Box::new(InMemory(Some(bytes.clone()))))
    }

    fn boot_archive(&self) -> Result<Vec<u8>, FamilyError> {
        Ok(self.archive.clone())
    }
}

/// Hands out all of it at once.
struct InMemory(Option<Arc<Vec<u8>>>);

#[async_trait]
impl PartStream for InMemory {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, FamilyError> {
        Ok(self.0.take().map(Arc::unwrap_or_clone))
    }
}

/// Reads a small part whole.
///
/// # Errors
/// The part's.
pub async fn whole(payload: &dyn Payload, name: &str) -> Result<Vec<u8>, FamilyError> {
    let mut stream = payload.open(name).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Where a family's steps are recorded.
#[async_trait]
pub trait Steps: Send + Sync {
    /// A step begins.
    fn begins(&self, _name: HandOver) {}
    /// A step has ended; the next begins when this returns.
    ///
    /// # Errors
    /// It could not be recorded, and so has failed.
    async fn ended(&self, step: EndedStep) -> Result<(), String>;
    /// So much of the running step's bytes has been sent.
    fn sent(&self, _bytes: u64, _of: u64) {}
}

/// A family's step, as it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedStep {
    /// Which.
    pub name: HandOver,
    /// How long it took.
    pub elapsed: Duration,
    /// What it has to say, for people.
    pub detail: String,
    /// What was sent.
    pub sent: Option<Sent>,
    /// Why it failed, where it did.
    pub error: Option<String>,
}

/// What a step that went well has to say.
#[derive(Debug, Clone, Default)]
pub struct StepNote {
    /// For people.
    pub detail: String,
    /// What was sent.
    pub sent: Option<Sent>,
}

impl StepNote {
    /// So many bytes of this digest.
    #[must_use]
    pub fn sent(sent: Sent) -> Self {
        Self {
            detail: format!("{} bytes, SHA-256 {}", sent.bytes, sent.sha256),
            sent: Some(sent),
        }
    }
}

/// Runs a step: bounds its time, and records it, good or bad.
///
/// # Errors
/// The work's, its time-out, or that it could not be recorded.
pub async fn step<T>(
    steps: &dyn Steps,
    name: HandOver,
    limit: Duration,
    work: impl Future<Output = Result<(T, StepNote), FamilyError>> + Send,
) -> Result<T, FamilyFailure> {
    steps.begins(name);
    let started = Instant::now();
    let outcome = match timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(FamilyError::TimedOut { limit }),
    };
    let (outcome, note, error) = match outcome {
        Ok((value, note)) => (Ok(value), note, None),
        Err(error) => {
            let text = error.to_string();
            (Err(error), StepNote::default(), Some(text))
        }
    };
    let recorded = steps.ended(EndedStep {
        name,
        elapsed: started.elapsed(),
        detail: note.detail,
        sent: note.sent,
        error,
    });
    let recorded = recorded.await.map_err(FamilyError::NotRecorded);
    let outcome = outcome.and_then(|value| recorded.map(|()| value));
    outcome.map_err(|error| FamilyFailure { step: name, error })
}

/// A board whose boot ROM is open.
pub struct Session<'a> {
    /// The pipe to it.
    pub pipe: &'a mut Box<dyn Pipe>,
    /// When all must be done.
    pub deadline: Instant,
    /// Where steps are recorded.
    pub steps: &'a dyn Steps,
    /// The port it is on.
    pub port: &'a dyn Port,
    /// Which arrival on that port it is.
    pub arrival: &'a mut u64,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session<'_> {
    /// Waits until the device has left the port and one of these ROMs has come again, and opens that.
    ///
    /// # Errors
    /// It does not come before `deadline`, something else comes, or it cannot be opened.
    pub async fn reopen(&mut self, roms: &[RomUsb], deadline: Instant) -> Result<(), FamilyError> {
        let last = *self.arrival;
        let mut presence: watch::Receiver<Presence> = self.port.watch();
        let again =
            |seen: &Presence| matches!(seen, Presence::Device(device) if device.arrival > last);
        let began = Instant::now();
        let device = match timeout_at(deadline, presence.wait_for(again)).await {
            Ok(Ok(seen)) => match *seen {
                Presence::Device(device) => device,
                Presence::Empty | Presence::Unknown => return Err(FamilyError::gone("reopening")),
            },
            Ok(Err(_)) => return Err(FamilyError::gone("reopening")),
            Err(_) => {
                return Err(FamilyError::TimedOut {
                    limit: began.elapsed(),
                });
            }
        };
        let known = roms.iter().any(|rom| {
            (rom.vendor, rom.product, rom.interface_class)
                == (device.vendor, device.product, device.interface_class)
        });
        if !known {
            return Err(FamilyError::Answer(format!(
                "a device {:04x}:{:04x} came in place of the boot ROM's next stage",
                device.vendor, device.product
            )));
        }
        let opened = self.port.open(device.arrival).await;
        *self.pipe = opened.map_err(|source| FamilyError::Pipe {
            what: "opening the next stage",
            source,
        })?;
        *self.arrival = device.arrival;
        Ok(())
    }
}

/// A hand-over step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", step.as_str())]
pub struct FamilyFailure {
    /// Which.
    pub step: HandOver,
    /// Why.
    pub error: FamilyError,
}

/// Why a family could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum FamilyError {
    /// It took too long.
    #[error("not done within {limit:?}")]
    TimedOut {
        /// Its limit.
        limit: Duration,
    },
    /// A transfer to the board.
    #[error("{what}: {source}")]
    Pipe {
        /// What was being transferred.
        what: &'static str,
        /// The cause.
        source: PipeError,
    },
    /// What the board answered is invalid.
    #[error("{0}")]
    Answer(String),
    /// What the payload holds cannot be handed over.
    #[error("{0}")]
    Unfit(String),
    /// A part of the payload.
    #[error(transparent)]
    Part(Box<dyn Error + Send + Sync>),
    /// The step could not be recorded.
    #[error("could not be recorded in the ledger: {0}")]
    NotRecorded(String),
}

impl FamilyError {
    const fn gone(what: &'static str) -> Self {
        Self::Pipe {
            what,
            source: PipeError::Gone,
        }
    }

    /// Maps a pipe's error, with what was being transferred.
    pub fn pipe(what: &'static str) -> impl FnOnce(PipeError) -> Self {
        move |source| Self::Pipe { what, source }
    }
}
