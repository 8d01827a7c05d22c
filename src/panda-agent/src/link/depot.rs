//! The master's depot, from the board's side: the report that proves the boot is posted until it is
//! accepted, and the worker's input files come from there.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use panda_http::download::{DownloadSettings, Downloader};
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::{PinnedError, certificate_from_pem, client_config};
use panda_http::{ClientError, Endpoint, Identity};
use panda_protocol::boot_toml::Link;
use panda_protocol::link::{
    ALIVE_EVERY, ALIVE_PATH, FAILURE_PATH, Failure, REPORT_PATH, ROOTFS_PATH, TIME_PATH,
};

use super::report::Reporter;
use crate::worker::Depot;

/// Pause after the first refusal or silence; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long one piece of the root file system may take: 4 MiB on a network that twenty boards share.
const PIECE_LIMIT: Duration = Duration::from_secs(60);
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

    /// The master's clock, in milliseconds since 1970 UTC.
    ///
    /// # Errors
    /// No answer, or one that is none.
    pub async fn time(&self) -> Result<i64, ClientError> {
        let (status, body) = self
            .endpoint
            .get(TIME_PATH, MAX_ANSWER, REPORT_LIMIT)
            .await?;
        if status != StatusCode::OK {
            return Err(ClientError::Status(status.as_u16()));
        }
        let text = std::str::from_utf8(&body).ok();
        text.and_then(|text| text.trim().parse().ok())
            .ok_or(ClientError::Malformed("time"))
    }

    /// At most `most` bytes, 1 at least, of the root file system from `from` on.
    ///
    /// # Errors
    /// No answer, or another part than was asked for.
    pub async fn rootfs(&self, from: u64, most: u64) -> Result<Bytes, ClientError> {
        let last = from.saturating_add(most.max(1)) - 1;
        let range = HeaderValue::try_from(format!("bytes={from}-{last}"))
            .map_err(|_| ClientError::Malformed("rootfs"))?;
        let answer = self
            .endpoint
            .send(
                (Method::GET, ROOTFS_PATH),
                HeaderMap::from_iter([(RANGE, range)]),
                Bytes::new(),
                usize::try_from(most).unwrap_or(usize::MAX),
                PIECE_LIMIT,
            )
            .await?;
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            return Err(ClientError::Status(answer.status().as_u16()));
        }
        let begins = format!("bytes {from}-");
        let part = answer.headers().get(CONTENT_RANGE);
        if part.is_none_or(|part| !part.as_bytes().starts_with(begins.as_bytes())) {
            return Err(ClientError::Malformed("rootfs"));
        }
        Ok(answer.into_body())
    }

    /// Says that this boot is under way, again and again, and never returns. A master that does not listen is told all
    /// the same: what it makes of that is its own business.
    pub async fn say_alive(&self) {
        loop {
            let said = self.endpoint.post(
                ALIVE_PATH,
                "text/plain",
                Vec::new(),
                MAX_ANSWER,
                REPORT_LIMIT,
            );
            if let Err(error) = said.await {
                tracing::debug!(depot = %self.address, "the master was not told that this boot is under way: {error}");
            }
            tokio::time::sleep(ALIVE_EVERY).await;
        }
    }

    /// Posts why this boot will not be proven, until the master takes it or refuses it.
    ///
    /// # Errors
    /// What the master answered, when it refused.
    pub async fn fail(&self, failure: &Failure) -> Result<(), String> {
        let mut pause = FIRST_PAUSE;
        loop {
            let posted = self.endpoint.post(
                FAILURE_PATH,
                "application/json",
                failure.encode(),
                MAX_ANSWER,
                REPORT_LIMIT,
            );
            match posted.await {
                Ok((StatusCode::NO_CONTENT | StatusCode::OK, _)) => return Ok(()),
                Ok((status, _)) => return Err(format!("it answered {status}")),
                Err(error) => tracing::warn!(depot = %self.address, "{error}; again in {pause:?}"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
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
