//! What the hands do, activity by activity, without the slot's events: the boot chain, the worker on the
//! board, and what both need of ledger and depot. Called by [`super::Rig`] only.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use panda_http::Identity;
use panda_http::pinned::PinnedError;
use panda_protocol::boot_toml::{self, BootToml, RootFs};
use panda_protocol::launchpad::BuildCall;
use panda_protocol::link::Report;
use panda_slot::{AttemptNo, Board, BootNo, Lost, Rejoin};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::parts::RigParts;
use crate::boot::{
    Awaited, Bench, Chain, Evidence, Failure, Journal, Powered, Proof, order,
    wait_for_unawaited_rom,
};
use crate::depot::Awaiting;
use crate::failpoint::{self, Point};
use crate::guest::{self, Dispatched, Guest, Link, LinkError, Proving, dispatch};
use crate::identity::{self, IdentityError, KeyAndCertificate};
use crate::ledger::{BootSecrets, Ledger, LedgerError, Step};

/// How often power off is tried when nobody waits for it.
const OFF_TRIES: u32 = 5;
/// The pause between two such tries.
const OFF_PAUSE: Duration = Duration::from_secs(2);

/// One slot's board and all that is done with it.
pub(super) struct Work {
    pub(super) parts: RigParts,
    master: Identity,
    bench: Arc<Bench>,
    /// Held by the one activity that has the board.
    board: Mutex<()>,
    /// The board that was cut, with what that showed, until it is booted.
    dark: StdMutex<Option<(BootNo, Evidence)>>,
    /// What the agent of the last proven boot said of itself.
    pub(super) report: StdMutex<Option<Report>>,
}

/// Why an activity of the rig could not do its work; the board is not to blame.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
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
    #[error("power on: no cut that showed too little precedes this boot")]
    NotWeak,
    #[error("the ledger has no key of boot {0}; the board must be reset")]
    NoSecrets(BootNo),
    #[error("the ledger has no arguments of attempt {0}; its build cannot be given to a worker")]
    NoCall(AttemptNo),
}

impl WorkError {
    pub(super) fn lost(&self) -> Lost {
        match self {
            Self::Link(error) => error.lost(),
            other => Lost::Refused(other.to_string()),
        }
    }
}

impl Work {
    pub(super) fn new(parts: RigParts) -> Result<Self, PinnedError> {
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
        Ok(Self {
            parts,
            master,
            bench,
            board: Mutex::default(),
            dark: StdMutex::default(),
            report: StdMutex::default(),
        })
    }

    /// Cuts power, with a new boot's identity in the ledger before anything else happens. Says what is missing where
    /// the cut has shown less than the rack demands.
    pub(super) async fn cut(&self, boot: BootNo) -> Result<Option<String>, WorkError> {
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
        let evidence = order(Chain::new(self.bench.clone(), boot))
            .await?
            .evidence()
            .await?;
        let missing = match &evidence {
            Evidence::Enough(_) => None,
            Evidence::Weak(weak) => Some(weak.failure().to_string()),
        };
        *lock(&self.dark) = Some((boot, evidence));
        Ok(missing)
    }

    /// Boots the board whose cut has shown too little, only until its gadget is up.
    pub(super) async fn prepare(&self, boot: BootNo) -> Result<(), WorkError> {
        let _board = self.board.lock().await;
        let Some(Evidence::Weak(weak)) = self.take_dark(boot) else {
            return Err(WorkError::NotWeak);
        };
        let secrets = self.secrets(boot).await?;
        let awaited = self.awaited(&secrets)?;
        let proof = self.walk(weak.power_on().await?, awaited, &secrets).await?;
        Ok(proof.gadget().await?)
    }

    /// Boots the board whose cut is evidenced, up to its proof.
    pub(super) async fn boot(&self, boot: BootNo) -> Result<(), WorkError> {
        let _board = self.board.lock().await;
        let Some(Evidence::Enough(dark)) = self.take_dark(boot) else {
            return Err(WorkError::NotDark);
        };
        let secrets = self.secrets(boot).await?;
        let awaited = self.awaited(&secrets)?;
        let proof = self.walk(dark.power_on().await?, awaited, &secrets).await?;
        *lock(&self.report) = Some(proof.into_report());
        Ok(())
    }

    /// The board that was cut for this boot, and for no other.
    fn take_dark(&self, boot: BootNo) -> Option<Evidence> {
        let taken = lock(&self.dark).take();
        let (number, evidence) = taken?;
        (number == boot).then_some(evidence)
    }

    /// What the board has to show in this boot.
    fn awaited(&self, secrets: &BootSecrets) -> Result<Awaited, WorkError> {
        let RigParts {
            image, guest, link, ..
        } = &self.parts;
        Ok(Awaited {
            reports: self.admit(secrets)?,
            link: Link::new(*link, &self.master, secrets, guest)?,
            arch: image.manifest().arch.clone(),
            rootfs: image.manifest().rootfs.as_ref().map(|part| part.sha256),
        })
    }

    /// From power to the proof.
    async fn walk(
        &self,
        powered: Powered,
        awaited: Awaited,
        secrets: &BootSecrets,
    ) -> Result<Proof, WorkError> {
        let RigParts {
            image, expected, ..
        } = &self.parts;
        let started = powered
            .rom()
            .await?
            .identify(expected)
            .await?
            .second_stage(image)
            .await?
            .boot_image(image, self.boot_toml(secrets))
            .await?;
        Ok(started.handshake(awaited).await?)
    }

    /// What this boot is told. The time is put in when it is sent.
    fn boot_toml(&self, secrets: &BootSecrets) -> BootToml {
        let RigParts {
            slot,
            link_listen,
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
                listen: link_listen.to_string(),
                depot: depot_address.to_string(),
                master_certificate: master.certificate_pem.clone(),
                certificate: secrets.certificate_pem.clone(),
                key: secrets.key_pem.clone(),
            },
            rootfs: rootfs.map(|part| RootFs {
                sha256: part.sha256,
                bytes: part.bytes,
            }),
            worker: image.manifest().worker.clone(),
        }
    }

    /// Has the board prove itself until it does not; calls `proved` for each proof.
    pub(super) async fn prove(&self, boot: BootNo, proved: impl FnMut()) -> Lost {
        let proofs = async {
            let lost = self.proofs(boot, proved).await;
            Err::<Infallible, Lost>(lost.unwrap_or_else(|error| error.lost()))
        };
        let Err(why) = self.unless_rebooted(proofs).await;
        why
    }

    async fn proofs(&self, boot: BootNo, proved: impl FnMut()) -> Result<Lost, WorkError> {
        let proving = self.proving().await?;
        let link = self.link(boot).await?;
        if lock(&self.report).is_none() {
            // After the daemon's start: what the agent said of itself then is not known here.
            if let Ok(report) = link.report().await {
                *lock(&self.report) = Some(report);
            }
        }
        Ok(guest::prove(&link, proving, &self.parts.guest, proved).await)
    }

    /// What the board has to prove: one that had a build when the daemon was stopped is not idle.
    async fn proving(&self) -> Result<Proving, WorkError> {
        let RigParts { slot, ledger, .. } = &self.parts;
        let state = ledger.load_slot(slot).await?;
        Ok(match state.map(|slot| slot.board) {
            Some(Board::Rejoining(Rejoin::Running(_) | Rejoin::Collecting(_))) => Proving::Boot,
            _ => Proving::Idle,
        })
    }

    /// Gives the worker its build, unless it has it, and follows it to its end.
    pub(super) async fn run(
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
            failpoint::before(Point::GuestAcknowledge);
            acknowledge();
            failpoint::after(Point::GuestAcknowledge);
        }
        guest::follow(&guest).await
    }

    /// The build on the board, and what Launchpad asked for.
    pub(super) async fn guest(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
    ) -> Result<(Guest, BuildCall), WorkError> {
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
            .ok_or(WorkError::NoCall(attempt))?;
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
    async fn link(&self, boot: BootNo) -> Result<Link, WorkError> {
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

    async fn secrets(&self, boot: BootNo) -> Result<BootSecrets, WorkError> {
        let RigParts { slot, ledger, .. } = &self.parts;
        ledger
            .boot_secrets(slot, boot)
            .await?
            .ok_or(WorkError::NoSecrets(boot))
    }

    /// Does something with a board that runs, as long as no boot ROM is on its port.
    pub(super) async fn unless_rebooted<T>(
        &self,
        activity: impl Future<Output = Result<T, Lost>>,
    ) -> Result<T, Lost> {
        tokio::select! {
            ended = activity => ended,
            () = wait_for_unawaited_rom(self.parts.port.watch()) => Err(Lost::Rebooted),
        }
    }

    /// Cuts power and leaves it off.
    pub(super) async fn power_off(&self) {
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

pub(super) fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
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
