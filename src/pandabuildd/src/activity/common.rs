//! What the activities of one slot's board stand on: its drivers, what its last cut has shown, the secrets
//! of a boot, and the way to its agent.

use std::future::Future;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use panda_http::Identity;
use panda_http::pinned::PinnedError;
use panda_protocol::boot_toml::{self, BootToml, RootFs};
use panda_protocol::launchpad::BuildCall;
use panda_protocol::link::Report;
use panda_slot::{AttemptNo, BootNo, Lost};
use tokio::sync::{Mutex, MutexGuard as BoardGuard};

use super::error::ActivityError;
use super::parts::Parts;
use crate::boot::{Awaited, BoardParts, Evidence, Journal, Powered, Proof, wait_for_unawaited_rom};
use crate::depot::Awaiting;
use crate::guest::{Guest, Link};
use crate::ledger::{BootSecrets, Ledger, Step};

/// One slot's board and all that is done with it.
pub(super) struct Common {
    pub(super) parts: Parts,
    master: Identity,
    pub(super) drivers: Arc<BoardParts>,
    /// Held by the one activity that has the board.
    pub(super) board: Mutex<()>,
    /// The board that was cut, with what that showed, until it is booted.
    dark: StdMutex<Option<(BootNo, Evidence)>>,
    /// What the agent of the last proven boot said of itself.
    report: StdMutex<Option<Report>>,
}

impl Common {
    pub(super) fn new(parts: Parts) -> Result<Self, PinnedError> {
        let master = Identity::from_pem(&parts.master.certificate_pem, &parts.master.key_pem)?;
        let journal = LedgerJournal {
            ledger: parts.ledger.clone(),
            slot: parts.slot.clone(),
        };
        let drivers = Arc::new(BoardParts {
            power: parts.power.clone(),
            port: parts.port.clone(),
            sense: parts.sense.clone(),
            families: parts.boot.families(),
            family: Some(parts.image.manifest().family),
            settings: parts.boot.clone(),
            journal: Arc::new(journal),
        });
        Ok(Self {
            parts,
            master,
            drivers,
            board: Mutex::default(),
            dark: StdMutex::default(),
            report: StdMutex::default(),
        })
    }

    /// Takes the board from its present boot, whose agent is let in no more.
    pub(super) async fn take_board(&self) -> BoardGuard<'_, ()> {
        let board = self.board.lock().await;
        self.parts.depot.dismiss(&self.parts.slot);
        *lock(&self.dark) = None;
        *lock(&self.report) = None;
        board
    }

    /// Keeps a board that was cut for `boot`.
    pub(super) fn keep_dark(&self, boot: BootNo, evidence: Evidence) {
        *lock(&self.dark) = Some((boot, evidence));
    }

    /// The board that was cut for this boot, and for no other.
    pub(super) fn take_dark(&self, boot: BootNo) -> Option<Evidence> {
        let taken = lock(&self.dark).take();
        let (number, evidence) = taken?;
        (number == boot).then_some(evidence)
    }

    /// What the board has to show in this boot.
    pub(super) fn awaited(&self, secrets: &BootSecrets) -> Result<Awaited, ActivityError> {
        let Parts {
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
    pub(super) async fn walk(
        &self,
        powered: Powered,
        awaited: Awaited,
        secrets: &BootSecrets,
    ) -> Result<Proof, ActivityError> {
        let Parts {
            image, expected, ..
        } = &self.parts;
        let started = powered
            .rom()
            .await?
            .identify(expected)
            .await?
            .hand_over(image, self.boot_toml(secrets))
            .await?;
        Ok(started.handshake(awaited).await?)
    }

    /// What this boot is told. The time is put in when it is sent.
    fn boot_toml(&self, secrets: &BootSecrets) -> BootToml {
        let Parts {
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

    /// What the agent of the last proven boot said of itself.
    pub(super) fn report(&self) -> Option<Report> {
        lock(&self.report).clone()
    }

    pub(super) fn keep_report(&self, report: Report) {
        *lock(&self.report) = Some(report);
    }

    /// The build on the board, and what Launchpad asked for.
    pub(super) async fn guest(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
    ) -> Result<(Guest, BuildCall), ActivityError> {
        let Parts {
            slot,
            ledger,
            results,
            guest: settings,
            ..
        } = &self.parts;
        let record = ledger.attempt(slot, attempt).await?;
        let call = record
            .and_then(|record| record.call)
            .ok_or(ActivityError::NoCall(attempt))?;
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
    pub(super) async fn link(&self, boot: BootNo) -> Result<Link, ActivityError> {
        let Parts {
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
        let Parts {
            slot, depot, image, ..
        } = &self.parts;
        let rootfs = image
            .manifest()
            .rootfs
            .as_ref()
            .map(|part| image.path(part));
        depot.admit(slot, secrets, rootfs)
    }

    pub(super) async fn secrets(&self, boot: BootNo) -> Result<BootSecrets, ActivityError> {
        let Parts { slot, ledger, .. } = &self.parts;
        ledger
            .boot_secrets(slot, boot)
            .await?
            .ok_or(ActivityError::NoSecrets(boot))
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
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
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
