//! The authenticated connection to one board's agent, in one boot: TLS in which both sides know the
//! other's certificate. An answer over it *is* from that boot; what it says is checked all the same.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use panda_http::pinned::{self, Identity, PinnedError};
use panda_http::{BuilderClient, ClientError, Endpoint};
use panda_protocol::digest::Sha256;
use panda_protocol::launchpad::Status;
use panda_protocol::link::{BOOT_PATH, MAX_REPORT, Report, ReportError};
use panda_slot::Lost;

use super::settings::GuestSettings;
use crate::ledger::BootSecrets;

/// Why the agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The boot's or the master's certificate cannot be used.
    #[error(transparent)]
    Pinned(#[from] PinnedError),
    /// No answer, or one that is none.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The agent's report is none.
    #[error(transparent)]
    Malformed(#[from] ReportError),
    /// The agent reports another boot or image than its certificate stands for.
    #[error("the agent's report names another {0} than this boot's")]
    WrongReport(&'static str),
    /// The worker of a board that was given no build is not idle.
    #[error("the worker was given no build, and says {0}, not IDLE")]
    NotIdle(&'static str),
}

impl LinkError {
    /// The agent could not be reached, as against having answered something wrong.
    #[must_use]
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Client(error) if error.is_silence())
    }

    /// What it means for the slot.
    #[must_use]
    pub(crate) fn lost(&self) -> Lost {
        match self {
            Self::Pinned(_) => Lost::Refused(self.to_string()),
            Self::Client(error) => super::lost(error),
            Self::Malformed(_) | Self::WrongReport(_) | Self::NotIdle(_) => {
                Lost::Lied(self.to_string())
            }
        }
    }
}

/// A connection to the agent of one boot. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    endpoint: Endpoint,
    worker: BuilderClient,
    boot: String,
    image: Sha256,
    call_limit: Duration,
}

impl Link {
    /// To the agent at `address`, in the boot that `secrets` identify.
    ///
    /// # Errors
    /// A certificate that cannot be used.
    pub(crate) fn new(
        address: SocketAddr,
        master: &Identity,
        secrets: &BootSecrets,
        settings: &GuestSettings,
    ) -> Result<Self, LinkError> {
        let peer = pinned::certificate_from_pem(&secrets.certificate_pem)?;
        let tls = pinned::client_config(master, peer)?;
        let endpoint = Endpoint::pinned(address, tls, settings.endpoint())?;
        Ok(Self {
            worker: BuilderClient::new(endpoint.clone(), settings.client_limits()),
            endpoint,
            boot: secrets.id.clone(),
            image: secrets.image,
            call_limit: Duration::from_millis(settings.call_ms),
        })
    }

    /// Asks the agent for its report, and checks that it is of this boot and image.
    ///
    /// # Errors
    /// No answer, or one that is none or of another boot.
    pub(crate) async fn report(&self) -> Result<Report, LinkError> {
        let (status, body) = self
            .endpoint
            .get(BOOT_PATH, MAX_REPORT, self.call_limit)
            .await?;
        if status != StatusCode::OK {
            return Err(ClientError::Status(status.as_u16()).into());
        }
        let report = Report::decode(&body)?;
        match difference(&report, &self.boot, self.image) {
            Some(what) => Err(LinkError::WrongReport(what)),
            None => Ok(report),
        }
    }

    /// Asks the worker, and checks that it is idle.
    ///
    /// # Errors
    /// No answer, one that is none, or another status.
    pub(crate) async fn idle(&self) -> Result<(), LinkError> {
        match self.worker.status().await?.status {
            Status::Idle => Ok(()),
            Status::Building { .. } => Err(LinkError::NotIdle("BUILDING")),
            Status::Aborting { .. } => Err(LinkError::NotIdle("ABORTING")),
            Status::Aborted { .. } => Err(LinkError::NotIdle("ABORTED")),
            Status::Waiting { .. } => Err(LinkError::NotIdle("WAITING")),
        }
    }

    /// The worker behind the agent.
    #[must_use]
    pub(crate) fn worker(&self) -> &BuilderClient {
        &self.worker
    }
}

/// What a report names that is not this boot's, if anything.
pub(crate) fn difference(report: &Report, boot: &str, image: Sha256) -> Option<&'static str> {
    if report.boot != boot {
        Some("boot")
    } else if report.image != image {
        Some("image")
    } else {
        None
    }
}
