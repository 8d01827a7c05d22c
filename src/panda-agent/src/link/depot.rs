//! The master's depot, from the board's side: the report that proves the boot is posted until it is
//! accepted, and the worker's input files come from there.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use panda_http::download::{DownloadSettings, Downloader};
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::{PinnedError, certificate_from_pem, client_config};
use panda_http::{ClientError, Endpoint, Identity};
use panda_protocol::boot_toml::Link;
use panda_protocol::link::REPORT_PATH;

use super::report::Reporter;
use crate::worker::Depot;

/// Pause after the first refusal or silence; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// The most bytes of an answer to a report that are read.
const MAX_ANSWER: usize = 4 * 1024;

/// Why the depot cannot be spoken to at all.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    /// The certificates.
    #[error("boot.toml, link: {0}")]
    Certificates(#[from] PinnedError),
    /// The address.
    #[error("boot.toml, link.depot: expected ADDRESS:PORT")]
    Address,
    /// No client.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// A client of the depot.
#[derive(Debug, Clone)]
pub struct DepotClient {
    endpoint: Endpoint,
    downloader: Downloader,
    address: SocketAddr,
}

impl DepotClient {
    /// The depot that `link` names.
    ///
    /// # Errors
    /// See [`DepotError`].
    pub fn new(link: &Link) -> Result<Self, DepotError> {
        let address = link.depot.parse().map_err(|_| DepotError::Address)?;
        let identity = Identity::from_pem(&link.certificate, &link.key)?;
        let tls = client_config(&identity, certificate_from_pem(&link.master_certificate)?)?;
        Ok(Self {
            endpoint: Endpoint::pinned(address, tls.clone(), EndpointSettings::default())?,
            downloader: Downloader::new(DownloadSettings::default(), tls)?,
            address,
        })
    }

    /// Where a worker finds its input files.
    #[must_use]
    pub fn depot(&self) -> Depot {
        Depot {
            url: format!("https://{}/", self.address),
            downloader: self.downloader.clone(),
        }
    }

    /// Posts the report until the master takes it.
    pub async fn prove(&self, reporter: &Reporter) {
        let mut pause = FIRST_PAUSE;
        loop {
            let said = match serde_json::to_vec(&reporter.report()) {
                Ok(report) => {
                    let posted = self.endpoint.post(
                        REPORT_PATH,
                        "application/json",
                        report,
                        MAX_ANSWER,
                        REPORT_LIMIT,
                    );
                    match posted.await {
                        Ok((StatusCode::NO_CONTENT | StatusCode::OK, _)) => {
                            tracing::info!("the master has taken the report");
                            return;
                        }
                        Ok((status, _)) => format!("it answered {status}"),
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            tracing::warn!(depot = %self.address, "the master has not taken the report: {said}; again in {pause:?}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
