//! HTTP to one fixed peer: a builder by its URL, or the other end of the link by its address. The
//! peer may be hostile: answers are bounded in bytes and time, redirects are not followed, no proxy
//! is taken from the environment, and no error shows the URL (it may hold a password).

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use panda_protocol::launchpad::call::{AnswerError, clean_text};
use reqwest::{RequestBuilder, Response};
use rustls::ClientConfig;
use url::Url;

use crate::download::describe;

/// Where a peer is, and the connections to it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    http: reqwest::Client,
    /// Without user, query and fragment; its path has no slash at its end.
    base: Url,
}

/// Why a peer's answer was not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The base URL is none that can be spoken to.
    #[error("the builder's URL must be http:// or https:// with a host")]
    Url,
    /// The client cannot be made.
    #[error("no HTTP client: {0}")]
    Client(String),
    /// No connection, or it broke.
    #[error("{0}")]
    Transport(String),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// An HTTP status other than the wanted one.
    #[error("HTTP status {0}")]
    Status(u16),
    /// More bytes than allowed.
    #[error("the answer has more than {0} bytes")]
    TooLong(u64),
    /// The builder answered with a fault. Its text is not shown by itself: see [`FaultText`].
    #[error("the builder answers fault {code}")]
    Fault {
        /// The fault's code.
        code: i32,
        /// What the builder says of it.
        text: FaultText,
    },
    /// The answer is no XML-RPC document within bounds, or not of the kind that the request has.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The answer is not of the kind that was asked for, where it is none of the builder protocol.
    #[error("malformed answer to {0}")]
    Malformed(&'static str),
}

impl ClientError {
    /// Whether the peer could not be reached, as against having answered something wrong.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Transport(_) | Self::TimedOut(_))
    }
}

/// A fault's text: cut, and without control characters. It is the builder's, and may quote a build's arguments,
/// which hold passwords: so no error shows it by itself, and whoever knows that it may be shown takes it.
#[derive(Clone, PartialEq, Eq)]
pub struct FaultText(String);

impl FaultText {
    pub(crate) fn new(text: &str) -> Self {
        Self(clean_text(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for FaultText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// How long connections may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Time for TCP and TLS to connect.
    pub connect_limit: Duration,
    /// Time between two pieces of an answer.
    pub read_limit: Duration,
}

impl Default for EndpointSettings {
    fn default() -> Self {
        Self {
            connect_limit: Duration::from_secs(10),
            read_limit: Duration::from_secs(30),
        }
    }
}

impl Endpoint {
    /// A builder by its URL, `http://panda01.rack.example:8221`; `tls` is for `https`.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Client`].
    pub fn new(
        url: &str,
        tls: ClientConfig,
        settings: EndpointSettings,
    ) -> Result<Self, ClientError> {
        let mut base = Url::parse(url).map_err(|_| ClientError::Url)?;
        let fits = matches!(base.scheme(), "http" | "https") && base.has_host();
        if !fits || base.set_username("").is_err() || base.set_password(None).is_err() {
            return Err(ClientError::Url);
        }
        base.set_query(None);
        base.set_fragment(None);
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        let http = http_builder(tls, settings).build();
        let http = http.map_err(|error| ClientError::Client(describe(&error)))?;
        Ok(Self { http, base })
    }

    /// The builder that goes by the name `host` at `address`, over plain HTTP, whatever the name resolves to.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Client`].
    pub fn named(
        host: &str,
        address: SocketAddr,
        tls: ClientConfig,
        settings: EndpointSettings,
    ) -> Result<Self, ClientError> {
        let mut endpoint = Self::new(
            &format!("http://{host}:{}", address.port()),
            tls.clone(),
            settings,
        )?;
        let http = http_builder(tls, settings).resolve(host, address).build();
        endpoint.http = http.map_err(|error| ClientError::Client(describe(&error)))?;
        Ok(endpoint)
    }

    /// The peer at `address`, over TLS with `tls` (see [`crate::pinned::client_config`]): names play
    /// no part.
    ///
    /// # Errors
    /// [`ClientError::Client`].
    pub fn pinned(
        address: SocketAddr,
        tls: ClientConfig,
        settings: EndpointSettings,
    ) -> Result<Self, ClientError> {
        Self::new(&format!("https://{address}"), tls, settings)
    }

    /// The URL of `path` (which begins with a slash) at this peer.
    #[must_use]
    pub fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!("{}{path}", self.base.path().trim_end_matches('/'));
        url.set_path(&path);
        url
    }

    /// `GET path`: status and body, the body at most `max` bytes, all within `limit`.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::TimedOut`], [`ClientError::TooLong`].
    pub async fn get(
        &self,
        path: &str,
        max: usize,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let response = self.exchange(self.request(Method::GET, path), max, limit);
        Ok(whole(response.await?))
    }

    /// `POST path`: as [`Endpoint::get`].
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::TimedOut`], [`ClientError::TooLong`].
    pub async fn post(
        &self,
        path: &str,
        content_type: &'static str,
        body: impl Into<Bytes>,
        max: usize,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let request = self
            .request(Method::POST, path)
            .header(http::header::CONTENT_TYPE, content_type)
            .body(body.into());
        Ok(whole(self.exchange(request, max, limit).await?))
    }

    /// `method path` with `headers` and `body`: as [`Endpoint::get`], with the answer's headers.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::TimedOut`], [`ClientError::TooLong`].
    pub async fn send(
        &self,
        (method, path): (Method, &str),
        headers: HeaderMap,
        body: Bytes,
        max: usize,
        limit: Duration,
    ) -> Result<http::Response<Bytes>, ClientError> {
        let request = self.request(method, path).headers(headers).body(body);
        self.exchange(request, max, limit).await
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path))
    }

    async fn exchange(
        &self,
        request: RequestBuilder,
        max: usize,
        limit: Duration,
    ) -> Result<http::Response<Bytes>, ClientError> {
        let exchange = async {
            let mut response = request.send().await.map_err(|error| transport(&error))?;
            let status = response.status();
            let headers = std::mem::take(response.headers_mut());
            let mut answer = http::Response::new(bounded(response, max).await?);
            *answer.status_mut() = status;
            *answer.headers_mut() = headers;
            Ok(answer)
        };
        tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| ClientError::TimedOut(limit))?
    }
}

fn whole(response: http::Response<Bytes>) -> (StatusCode, Bytes) {
    (response.status(), response.into_body())
}

async fn bounded(mut response: Response, max: usize) -> Result<Bytes, ClientError> {
    let too_long = ClientError::TooLong(max as u64);
    if response
        .content_length()
        .is_some_and(|declared| declared > max as u64)
    {
        return Err(too_long);
    }
    let mut bytes = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(|error| transport(&error))? {
        if piece.len() > max - bytes.len() {
            return Err(too_long);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

pub(crate) fn transport(error: &reqwest::Error) -> ClientError {
    ClientError::Transport(describe(error))
}

/// An HTTP client that follows nothing, uses no proxy and speaks HTTP/1 only, with a connection for each
/// request: a server may close one that it has kept, just as it is used again, and what is fetched is too rare
/// for that risk.
pub(crate) fn http_client(
    tls: ClientConfig,
    settings: EndpointSettings,
) -> reqwest::Result<reqwest::Client> {
    http_builder(tls, settings)
        .pool_max_idle_per_host(0)
        .build()
}

fn http_builder(tls: ClientConfig, settings: EndpointSettings) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(settings.connect_limit)
        .read_timeout(settings.read_limit)
        .pool_idle_timeout(Duration::from_secs(20))
}
