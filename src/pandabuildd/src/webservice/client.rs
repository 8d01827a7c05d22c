//! A builder's entry in Launchpad's web service: looked at, and changed only where it is still what was
//! looked at.
//!
//! ```text
//! > GET /devel/builders/panda01              < 200  ETag: "a-b"  {"clean_status": "Cleaning", …}
//! > PATCH /devel/builders/panda01            < 209  {"clean_status": "Clean", …}
//!   If-Match: "a-b"   {"clean_status": "Clean"}    or 412: it has changed since
//! ```

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use panda_http::Endpoint;
use panda_http::client::clean_text;
use panda_http::endpoint::{ClientError, EndpointSettings};
use panda_http::pinned::{PinnedError, public_client_config};
use serde::Deserialize;
use serde_json::Value;

use super::credentials::{Credentials, CredentialsError};
use super::oauth;
use super::settings::WebServiceSettings;
use crate::failpoint::{self, Point};
use crate::identity::IdentityError;

/// Why the web service did not do what was asked. No message holds a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebServiceError {
    /// The credentials file.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No nonce.
    #[error(transparent)]
    Nonce(#[from] IdentityError),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] PinnedError),
    /// It was not reached, or its answer was too long.
    #[error("Launchpad's web service: {0}")]
    Client(#[from] ClientError),
    /// 401.
    #[error(
        "Launchpad does not take the credentials (401): make new ones, and see this machine's clock"
    )]
    Unauthorized,
    /// 403.
    #[error(
        "the credentials may not change builder {0} (403): their account must be one of Launchpad's buildd admins \
         (for builderok alone, a registry expert will do; owning the builder counts for nothing), with the right to \
         change anything"
    )]
    Forbidden(String),
    /// 404.
    #[error("Launchpad has no builder {0} (404): name it in [webservice.builders]")]
    NotFound(String),
    /// 412.
    #[error("the entry of builder {0} has changed meanwhile (412): it is looked at again")]
    Changed(String),
    /// Credentials are never sent to where a redirect leads.
    #[error("Launchpad's web service redirects ({0}): [webservice] url must be where it leads")]
    Redirected(u16),
    /// Another status.
    #[error("Launchpad's web service: HTTP status {0}")]
    Status(u16),
    /// A success that is no builder's entry.
    #[error(
        "the answer is no builder's entry: [webservice] url must be a web service's root, such as https://api.launchpad.net/devel"
    )]
    NoEntry,
}

/// Whether Launchpad takes a builder for clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CleanStatus {
    /// It may dispatch.
    Clean,
    /// It will have the builder reset.
    Dirty,
    /// It waits for us.
    Cleaning,
    /// None that we know, made fit to be shown.
    Other(String),
}

/// A builder's entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) clean_status: CleanStatus,
    /// Launchpad dispatches to it at all.
    pub(super) enabled: bool,
    etag: HeaderValue,
}

#[derive(Deserialize)]
struct Written {
    clean_status: String,
    builderok: Option<bool>,
    http_etag: Option<String>,
}

/// The web service. It keeps no credentials: each call reads them.
#[derive(Debug)]
pub(crate) struct WebService {
    endpoint: Endpoint,
    settings: WebServiceSettings,
}

impl WebService {
    /// The service of `settings`, whose credentials must be there.
    ///
    /// # Errors
    /// The credentials cannot be used, or there is no TLS.
    pub(crate) fn new(settings: WebServiceSettings) -> Result<Self, WebServiceError> {
        Credentials::load(&settings.credentials)?;
        let limit = Duration::from_millis(settings.call_ms);
        let limits = EndpointSettings {
            connect_limit: limit,
            read_limit: limit,
        };
        let endpoint = Endpoint::new(settings.url.as_str(), public_client_config()?, limits)?;
        Ok(Self { endpoint, settings })
    }

    /// Its settings.
    pub(super) fn settings(&self) -> &WebServiceSettings {
        &self.settings
    }

    /// A builder's entry as it is now.
    pub(super) async fn look(&self, builder: &str) -> Result<Entry, WebServiceError> {
        let answer = self
            .call(Method::GET, builder, HeaderMap::new(), Bytes::new())
            .await?;
        entry(&answer).ok_or(WebServiceError::NoEntry)
    }

    /// Changes a builder's entry where it is still what was seen. The entry after that, where it is told.
    pub(super) async fn change(
        &self,
        builder: &str,
        seen: &Entry,
        changes: &Value,
    ) -> Result<Option<Entry>, WebServiceError> {
        let mut headers = HeaderMap::new();
        headers.insert(IF_MATCH, seen.etag.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = changes.to_string().into();
        failpoint::before(Point::WebChange);
        let answer = self.call(Method::PATCH, builder, headers, body).await?;
        failpoint::after(Point::WebChange);
        Ok(entry(&answer))
    }

    async fn call(
        &self,
        method: Method,
        builder: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Bytes>, WebServiceError> {
        let credentials = Credentials::load(&self.settings.credentials)?;
        let realm = self.settings.url.as_str();
        headers.insert(AUTHORIZATION, oauth::authorization(&credentials, realm)?);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let path = format!("/builders/{builder}");
        let (max, limit) = (
            self.settings.answer_max_bytes,
            Duration::from_millis(self.settings.call_ms),
        );
        let answer = self
            .endpoint
            .send((method, &path), headers, body, max, limit)
            .await?;
        let name = || builder.to_owned();
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED => Err(WebServiceError::Unauthorized),
            StatusCode::FORBIDDEN => Err(WebServiceError::Forbidden(name())),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(WebServiceError::NotFound(name())),
            StatusCode::PRECONDITION_FAILED => Err(WebServiceError::Changed(name())),
            status if status.is_redirection() => Err(WebServiceError::Redirected(status.as_u16())),
            status => Err(WebServiceError::Status(status.as_u16())),
        }
    }
}

/// The entry that an answer is; none where it is something else.
fn entry(answer: &Response<Bytes>) -> Option<Entry> {
    let written: Written = serde_json::from_slice(answer.body()).ok()?;
    let etag = match answer.headers().get(ETAG) {
        Some(etag) => etag.clone(),
        None => HeaderValue::from_str(&written.http_etag?).ok()?,
    };
    let clean_status = match written.clean_status.as_str() {
        "Clean" => CleanStatus::Clean,
        "Dirty" => CleanStatus::Dirty,
        "Cleaning" => CleanStatus::Cleaning,
        other => CleanStatus::Other(clean_text(other).chars().take(40).collect()),
    };
    Some(Entry {
        clean_status,
        enabled: written.builderok.unwrap_or(true),
        etag,
    })
}
