//! The real hands of one slot: a board, the depot, the worker on it, the results on disk. The slot's task
//! starts activities here and hears of them by events; each activity bounds its own time and always
//! reports, whatever happens to it.
//!
//! ```text
//! slot task ──cut──▶ order ▶ evidence ──CutSeen──▶ (dark board kept here) ──boot──▶ … ──Proved
//!           ──prove──▶ every few seconds            guest ──▶ dispatch ▶ follow      collect, abort
//! ```
//!
//! One activity at a time has the board: a cut waits until a boot that it cancels has let go of it.
//! A boot ROM on the port while none is awaited ends proofs and builds alike.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use panda_board::{Port, Power};
use panda_http::Identity;
use panda_http::pinned::PinnedError;
use panda_protocol::boot_toml::{self, BootToml, Network, RootFs};
use panda_protocol::link::Report;
use panda_slot::{AttemptNo, Board, BootNo, Event, Lost, Rejoin};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::boot::{
    Awaited, Bench, BootSettings, Chain, Dark, ExpectedBoard, Failure, FailureCause, Journal,
    Sense, order, wait_for_unawaited_rom,
};
use crate::depot::{Awaiting, Depot, Inputs};
use crate::guest::{
    self, Dispatched, Guest, GuestSettings, Link, LinkError, Proving, Results, dispatch,
};
use crate::identity::{self, IdentityError, KeyAndCertificate};
use crate::images::Image;
use crate::ledger::{BootSecrets, Ledger, LedgerError, Step};
use crate::slot::hands::{Events, Hands};

/// How often power off is tried when nobody waits for it.
const OFF_TRIES: u32 = 5;
/// The pause between two such tries.
const OFF_PAUSE: Duration = Duration::from_secs(2);

/// Everything that one slot's hands need.
pub struct RigParts {
    /// The slot's name.
    pub slot: String,
    /// Where the board's agent listens.
    pub link: SocketAddr,
    /// Where boards reach the depot.
    pub depot_address: SocketAddr,
    /// The board's network.
    pub network: Network,
    /// Which board belongs on the port.
    pub expected: ExpectedBoard,
    /// The board's supply.
    pub power: Arc<dyn Power>,
    /// The port of its OTG.
    pub port: Arc<dyn Port>,
    /// A sense of its rail, where there is one.
    pub sense: Option<Arc<dyn Sense>>,
    /// What it boots.
    pub image: Arc<Image>,
    /// The master's identity.
    pub master: Arc<KeyAndCertificate>,
    /// The ledger.
    pub ledger: Ledger,
    /// The depot.
    pub depot: Depot,
    /// The rack's inputs.
    pub inputs: Arc<dyn Inputs>,
    /// The slot's results.
    pub results: Results,
    /// Limits of a boot.
    pub boot: BootSettings,
    /// Limits of a guest.
    pub guest: GuestSettings,
}

impl fmt::Debug for RigParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RigParts")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// One slot's hands. Cheap to clone.
#[derive(Clone)]
pub struct Rig {
    inner: Arc<Inner>,
}

struct Inner {
    parts: RigParts,
    master: Identity,
    bench: Arc<Bench>,
    /// Held by the one activity that has the board.
    board: Mutex<()>,
    /// The board whose cut is evidenced, until it is booted.
    dark: StdMutex<Option<(BootNo, Dark)>>,
    /// What the agent of the last proven boot said of itself.
    report: StdMutex<Option<Report>>,
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig")
            .field("slot", &self.inner.parts.slot)
            .finish_non_exhaustive()
    }
}

/// Why an activity of the rig could not do its work; the board is not to blame.
#[derive(Debug, thiserror::Error)]
enum RigError {
    #[error(transparent)]
    Step(#[from] Failure),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Pinned(#[from] PinnedError),
    #[error("link: {0}")]
    Link(#[from] LinkError),
    #[error("power on: no evidenced cut precedes this boot")]
    NotDark,
    #[error("the ledger has no key of boot {0}; the board must be reset")]
    NoSecrets(BootNo),
    #[error("the ledger has no arguments of attempt {0}; its build cannot be given to a worker")]
    NoCall(AttemptNo),
}

impl RigError {
    fn lost(&self) -> Lost {
        match self {
            Self::Link(error) => error.lost(),
            other => Lost::Refused(other.to_string()),
        }
    }
}

impl Rig {
    /// The hands of the slot that `parts` describe.
    ///
    /// # Errors
    /// A master's certificate that cannot be used.
    pub fn new(parts: RigParts) -> Result<Self, PinnedError> {
        let master = Identity::from_pem(&parts.master.certificate_pem, &parts.master.key_pem)?;
        let journal = LedgerJournal {
            ledger: parts.ledger.clone(),
            slot: parts.slot.clone(),
        };
        let bench = Arc::new(Bench {
            power: parts.power.clone(),
            port: parts.port.clone(),
            sense: parts.sense.clone(),
            settings: parts.boot.clone(),
            journal: Arc::new(journal),
        });
        let (dark, report) = (StdMutex::default(), StdMutex::default());
        let inner = Inner {
            parts,
            master,
            bench,
            board: Mutex::default(),
            dark,
            report,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// What the agent of the last proven boot said of itself: architecture and build types.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        lock(&self.inner.report).clone()
    }

    /// Starts an activity that ends with the event it returns, or with `failed` should it panic.
    fn start<F>(&self, events: Events, failed: Event, activity: F) -> JoinHandle<()>
    where
        F: Future<Output = Event> + Send + 'static,
    {
        let slot = self.inner.parts.slot.clone();
        tokio::spawn(async move {
            let event = match AssertUnwindSafe(activity).catch_unwind().await {
                Ok(event) => event,
                Err(_) => {
                    tracing::error!(slot, "an activity has panicked; see standard error");
                    failed
                }
            };
            send(&events, event);
        })
    }
}

impl Hands for Rig {
    fn cut(&self, boot: BootNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let failed = Event::CutFailed {
            boot,
            reason: INTERNAL.to_owned(),
        };
        self.start(events, failed, async move {
            match inner.cut(boot).await {
                Ok(()) => Event::CutSeen { boot },
                Err(error) => Event::CutFailed {
                    boot,
                    reason: error.to_string(),
                },
            }
        })
    }

    fn boot(&self, boot: BootNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let failed = Event::BootFailed {
            boot,
            reason: INTERNAL.to_owned(),
        };
        self.start(events, failed, async move {
            match inner.boot(boot).await {
                Ok(()) => Event::Proved { boot },
                Err(error) => {
                    let reason = error.to_string();
                    match error {
                        RigError::Step(step) if step.cause() == FailureCause::WrongChip => {
                            Event::WrongChip { boot, reason }
                        }
                        _ => Event::BootFailed { boot, reason },
                    }
                }
            }
        })
    }

    fn prove(&self, boot: BootNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let proofs = events.clone();
        let failed = Event::Lost {
            boot,
            why: Lost::Refused(INTERNAL.to_owned()),
        };
        self.start(events, failed, async move {
            let mut first = Some(Event::Proved { boot });
            let proved = || {
                if let Some(event) = first.take() {
                    send(&proofs, event);
                }
            };
            let why = inner.prove(boot, proved).await;
            Event::Lost { boot, why }
        })
    }

    fn guest(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
        acknowledged: bool,
        events: Events,
    ) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let acknowledgements = events.clone();
        let failed = Event::Lost {
            boot,
            why: Lost::Refused(INTERNAL.to_owned()),
        };
        self.start(events, failed, async move {
            let acknowledge = || send(&acknowledgements, Event::Acknowledged { attempt, boot });
            let run = inner.run(boot, attempt, acknowledged, acknowledge);
            match inner.unless_rebooted(run).await {
                Ok(()) => Event::Finished { attempt, boot },
                Err(why) => Event::Lost { boot, why },
            }
        })
    }

    fn collect(&self, boot: BootNo, attempt: AttemptNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let failed = Event::Lost {
            boot,
            why: Lost::Refused(INTERNAL.to_owned()),
        };
        self.start(events, failed, async move {
            let collect = async {
                let (guest, _) = inner
                    .guest(boot, attempt)
                    .await
                    .map_err(|error| error.lost())?;
                guest::collect(&guest).await
            };
            match inner.unless_rebooted(collect).await {
                Ok(outcome) => Event::Collected {
                    attempt,
                    boot,
                    outcome,
                },
                Err(why) => Event::Lost { boot, why },
            }
        })
    }

    fn abort(&self, boot: BootNo, attempt: AttemptNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let ended = Event::AbortEnded { attempt, boot };
        self.start(events, ended.clone(), async move {
            match inner.guest(boot, attempt).await {
                Ok((guest, _)) => guest::abort(&guest).await,
                Err(error) => {
                    let slot = &inner.parts.slot;
                    tracing::warn!(slot, attempt, %error, "the worker cannot be told to abort");
                }
            }
            ended
        })
    }

    fn power_off(&self) -> JoinHandle<()> {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.power_off().await })
    }

    fn drop_kept(&self, attempt: AttemptNo) {
        self.inner.parts.results.drop_attempt(attempt);
    }

    fn build_ended(&self, attempt: AttemptNo) {
        let inner = self.inner.clone();
        let RigParts {
            slot,
            depot,
            inputs,
            ..
        } = &inner.parts;
        depot.allow(slot, HashSet::new());
        inputs.release(slot);
        let task = inner.clone();
        drop(tokio::spawn(async move {
            let RigParts { slot, ledger, .. } = &task.parts;
            if let Err(error) = ledger.end_attempt(slot, attempt).await {
                tracing::error!(slot, attempt, %error, "a build's arguments cannot be forgotten");
            }
        }));
    }

    fn alert(&self, reason: &str) {
        let slot = &self.inner.parts.slot;
        tracing::error!(slot, reason, "the slot needs an operator");
    }
}

impl Inner {
    /// Cuts power, with a new boot's identity in the ledger before anything else happens.
    async fn cut(&self, boot: BootNo) -> Result<(), RigError> {
        let _board = self.board.lock().await;
        let RigParts {
            slot,
            depot,
            ledger,
            image,
            ..
        } = &self.parts;
        depot.dismiss(slot);
        *lock(&self.dark) = None;
        *lock(&self.report) = None;
        let made = KeyAndCertificate::make()?;
        let secrets = BootSecrets {
            id: identity::new_boot_id()?,
            image: image.id(),
            certificate_pem: made.certificate_pem,
            key_pem: made.key_pem,
        };
        ledger.begin_boot(slot, boot, secrets).await?;
        let dark = order(Chain::new(self.bench.clone(), boot))
            .await?
            .evidence()
            .await?;
        *lock(&self.dark) = Some((boot, dark));
        Ok(())
    }

    async fn boot(&self, boot: BootNo) -> Result<(), RigError> {
        let _board = self.board.lock().await;
        let taken = lock(&self.dark).take();
        let Some((_, dark)) = taken.filter(|(number, _)| *number == boot) else {
            return Err(RigError::NotDark);
        };
        let secrets = self.secrets(boot).await?;
        let RigParts {
            image,
            expected,
            guest,
            link,
            ..
        } = &self.parts;
        let awaited = Awaited {
            reports: self.admit(&secrets)?,
            link: Link::new(*link, &self.master, &secrets, guest)?,
            rootfs: image.manifest().rootfs.as_ref().map(|part| part.sha256),
        };
        let started = dark
            .power_on()
            .await?
            .rom()
            .await?
            .identify(expected)
            .await?
            .second_stage(image)
            .await?
            .boot_image(image, self.boot_toml(&secrets))
            .await?;
        let proof = started.handshake(awaited).await?;
        *lock(&self.report) = Some(proof.into_report());
        Ok(())
    }

    /// What this boot is told. The time is put in when it is sent.
    fn boot_toml(&self, secrets: &BootSecrets) -> BootToml {
        let RigParts {
            slot,
            link,
            depot_address,
            network,
            image,
            master,
            ..
        } = &self.parts;
        let rootfs = image.manifest().rootfs.as_ref();
        BootToml {
            version: boot_toml::VERSION,
            boot: secrets.id.clone(),
            slot: slot.clone(),
            image: secrets.image,
            time_unix_ms: 0,
            network: network.clone(),
            link: boot_toml::Link {
                listen: link.to_string(),
                depot: depot_address.to_string(),
                master_certificate: master.certificate_pem.clone(),
                certificate: secrets.certificate_pem.clone(),
                key: secrets.key_pem.clone(),
            },
            rootfs: rootfs.map(|part| RootFs {
                sha256: part.sha256,
                bytes: part.bytes,
            }),
        }
    }

    async fn prove(&self, boot: BootNo, proved: impl FnMut()) -> Lost {
        let proofs = async {
            let proving = self.proving().await?;
            let link = self.link(boot).await?;
            if lock(&self.report).is_none()
                && let Ok(report) = link.report().await
            {
                *lock(&self.report) = Some(report);
            }
            Ok::<_, RigError>(guest::prove(&link, proving, &self.parts.guest, proved).await)
        };
        let lost = self.unless_rebooted(async {
            Ok::<Lost, Lost>(match proofs.await {
                Ok(lost) => lost,
                Err(error) => error.lost(),
            })
        });
        match lost.await {
            Ok(why) | Err(why) => why,
        }
    }

    /// What the board has to prove: one that had a build when the daemon was stopped is not idle.
    async fn proving(&self) -> Result<Proving, RigError> {
        let RigParts { slot, ledger, .. } = &self.parts;
        let state = ledger.load_slot(slot).await?;
        Ok(match state.map(|slot| slot.board) {
            Some(Board::Rejoining(Rejoin::Running(_) | Rejoin::Collecting(_))) => Proving::Boot,
            _ => Proving::Idle,
        })
    }

    /// Gives the worker its build, unless it has it, and follows it to its end.
    async fn run(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
        acknowledged: bool,
        acknowledge: impl FnOnce(),
    ) -> Result<(), Lost> {
        let (guest, call) = self
            .guest(boot, attempt)
            .await
            .map_err(|error| error.lost())?;
        if !acknowledged {
            let RigParts {
                slot,
                depot,
                depot_address,
                ..
            } = &self.parts;
            let inputs = guest::inputs(&call).unwrap_or_default();
            depot.allow(slot, inputs.into_iter().collect());
            match dispatch(&guest, &call, &depot_address.to_string()).await? {
                Dispatched::Begun => tracing::info!(slot, attempt, boot, "the build has begun"),
                Dispatched::Joined => {
                    tracing::info!(slot, attempt, boot, "the worker has the build already");
                }
            }
            acknowledge();
        }
        guest::follow(&guest).await
    }

    async fn guest(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
    ) -> Result<(Guest, panda_protocol::launchpad::BuildCall), RigError> {
        let RigParts {
            slot,
            ledger,
            results,
            guest: settings,
            ..
        } = &self.parts;
        let record = ledger.attempt(slot, attempt).await?;
        let call = record
            .and_then(|record| record.call)
            .ok_or(RigError::NoCall(attempt))?;
        let guest = Guest {
            link: self.link(boot).await?,
            results: results.clone(),
            attempt,
            build_id: call.build_id.clone(),
            settings: settings.clone(),
        };
        Ok((guest, call))
    }

    /// The way to the agent of a boot, which the depot lets in too; after the daemon's start it does not
    /// know it yet.
    async fn link(&self, boot: BootNo) -> Result<Link, RigError> {
        let RigParts {
            slot,
            depot,
            link,
            guest,
            ..
        } = &self.parts;
        let secrets = self.secrets(boot).await?;
        if !depot.admits(slot, &secrets.id) {
            // Its report has come before; nobody waits for another.
            drop(self.admit(&secrets)?);
        }
        Ok(Link::new(*link, &self.master, &secrets, guest)?)
    }

    fn admit(&self, secrets: &BootSecrets) -> Result<Awaiting, PinnedError> {
        let RigParts {
            slot, depot, image, ..
        } = &self.parts;
        let rootfs = image
            .manifest()
            .rootfs
            .as_ref()
            .map(|part| image.path(part));
        depot.admit(slot, secrets, rootfs)
    }

    async fn secrets(&self, boot: BootNo) -> Result<BootSecrets, RigError> {
        let RigParts { slot, ledger, .. } = &self.parts;
        ledger
            .boot_secrets(slot, boot)
            .await?
            .ok_or(RigError::NoSecrets(boot))
    }

    /// Does something with a board that runs, as long as no boot ROM is on its port.
    async fn unless_rebooted<T>(
        &self,
        activity: impl Future<Output = Result<T, Lost>>,
    ) -> Result<T, Lost> {
        tokio::select! {
            ended = activity => ended,
            () = wait_for_unawaited_rom(self.parts.port.watch()) => Err(Lost::Rebooted),
        }
    }

    async fn power_off(&self) {
        let _board = self.board.lock().await;
        let RigParts {
            slot,
            depot,
            power,
            boot,
            ..
        } = &self.parts;
        depot.dismiss(slot);
        *lock(&self.dark) = None;
        *lock(&self.report) = None;
        let limit = Duration::from_millis(boot.power_ms);
        for left in (0..OFF_TRIES).rev() {
            match timeout(limit, power.off()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::warn!(slot, %error, left, "power off failed"),
                Err(_) => tracing::warn!(slot, ?limit, left, "power off was not answered"),
            }
            sleep(OFF_PAUSE).await;
        }
        tracing::error!(
            slot,
            "the board's power cannot be switched off; see to it by hand"
        );
    }
}

/// What a panic is called towards the slot.
const INTERNAL: &str = "an internal error of the daemon; its log says more";

fn send(events: &Events, event: Event) {
    if events.send(event).is_err() {
        tracing::debug!("the slot's task has ended; an event of its board is dropped");
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records a slot's steps in the ledger.
struct LedgerJournal {
    ledger: Ledger,
    slot: String,
}

#[async_trait]
impl Journal for LedgerJournal {
    async fn record(&self, boot: BootNo, step: Step) -> Result<(), String> {
        self.ledger
            .record_step(&self.slot, boot, step)
            .await
            .map_err(|error| error.to_string())
    }
}
