//! The builder protocol's typed client: the master's guest speaks to a board's worker with it, the agent to a
//! worker that is not ours, and `submit` to any builder. A request goes out and the reply that it names comes
//! back ([`BuilderClient::ask`]), or an error that quotes nothing of either document. The builder may be
//! hostile: everything it says is bounded and checked, and every text that goes on to people is cut and without
//! control characters.

use std::time::Duration;

use bytes::Bytes;
use dxr::Value;
use http::header::{CONTENT_RANGE, HeaderValue, RANGE};
use http::{HeaderMap, Method, StatusCode};
pub use panda_protocol::launchpad::call::clean_text;
use panda_protocol::launchpad::call::{AnswerError, ReplyError};
use panda_protocol::launchpad::xml::{Fault, Limits};
use panda_protocol::launchpad::{
    Abort, BuildCall, BuildReply, Clean, Echo, EnsurePresent, GetInfo, GetProxyInfo, GetStatus,
    Info, Presence, ProxyInfo, Request, StatusReport,
};
use tokio::time::Instant;

use crate::endpoint::{ClientError, Endpoint, FaultText, transport};

/// What calls may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Bounds of an answer's document.
    pub xml: Limits,
    /// Time for a call.
    pub call_limit: Duration,
    /// Time for `ensurepresent`, which may have to fetch a chroot first.
    pub ensure_limit: Duration,
    /// Time for a whole file.
    pub file_limit: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            // The longest honest answer is a status of 10,000 files with long names.
            xml: Limits {
                bytes: 5 << 20,
                ..Limits::default()
            },
            call_limit: Duration::from_secs(30),
            ensure_limit: Duration::from_secs(600),
            file_limit: Duration::from_secs(3600),
        }
    }
}

/// A client of one builder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BuilderClient {
    endpoint: Endpoint,
    limits: ClientLimits,
}

impl BuilderClient {
    /// A client of the builder at `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint, limits: ClientLimits) -> Self {
        Self { endpoint, limits }
    }

    /// Sends a request, and gives the reply that it names.
    ///
    /// # Errors
    /// [`ClientError::Fault`], [`ClientError::Answer`], or there was no answer.
    pub async fn ask<R: Request>(&self, request: R) -> Result<R::Reply, ClientError> {
        let limit = match R::METHOD {
            EnsurePresent::METHOD => self.limits.ensure_limit,
            _ => self.limits.call_limit,
        };
        let document = request.write().map_err(AnswerError::from)?;
        let max = self.limits.xml.bytes;
        let post = self.endpoint.post("/rpc", "text/xml", document, max, limit);
        let (status, answer) = post.await?;
        if status != StatusCode::OK {
            return Err(ClientError::Status(status.as_u16()));
        }
        R::read_answer(&answer, &self.limits.xml)?.map_err(|Fault { code, text }| {
            ClientError::Fault {
                code,
                text: FaultText::new(&text),
            }
        })
    }

    /// Sends values and has them come back the same.
    ///
    /// # Errors
    /// As [`BuilderClient::ask`]; other values.
    pub async fn echo(&self, values: Vec<Value>) -> Result<(), ClientError> {
        if self.ask(Echo(values.clone())).await?.0 == values {
            Ok(())
        } else {
            let other = ReplyError("other values than were sent");
            Err(AnswerError::Reply(Echo::METHOD, other).into())
        }
    }

    /// What the builder is.
    ///
    /// # Errors
    /// As [`BuilderClient::ask`].
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.ask(GetInfo).await
    }

    /// What the builder says of itself, in either dialect.
    ///
    /// # Errors
    /// As [`BuilderClient::ask`].
    pub async fn status(&self) -> Result<StatusReport, ClientError> {
        Ok(self.ask(GetStatus).await?.report)
    }

    /// Has the builder fetch a file.
    ///
    /// # Errors
    /// As [`BuilderClient::ask`].
    pub async fn ensure_present(&self, call: EnsurePresent) -> Result<Presence, ClientError> {
        self.ask(call).await
    }

    /// Starts a build.
    ///
    /// # Errors
    /// As [`BuilderClient::ask`].
    pub async fn build(&self, call: BuildCall) -> Result<BuildReply, ClientError> {
        self.ask(call).await
    }

    /// Aborts the running build; it ends later.
    ///
    /// # Errors
    /// As [`BuilderClient::ask`].
    pub async fn abort(&self) -> Result<(), ClientError> {
        self.ask(Abort).await.map(drop)
    }

    /// Has the builder forget the finished build.
    ///
    /// # Errors
    /// As [`BuilderClient::ask`].
    pub async fn clean(&self) -> Result<(), ClientError> {
        self.ask(Clean).await.map(drop)
    }

    /// What the builder says of the proxy of its running build; none where it has no proxy.
    ///
    /// # Errors
    /// As [`BuilderClient::ask`], but that a fault means that there is no proxy.
    pub async fn proxy_info(&self) -> Result<Option<ProxyInfo>, ClientError> {
        match self.ask(GetProxyInfo).await {
            Ok(proxy) => Ok(Some(proxy)),
            Err(ClientError::Fault { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A whole file of `/filecache/`, which may have at most `max` bytes.
    ///
    /// # Errors
    /// No answer, no such file ([`ClientError::Status`] 404), more than `max` bytes declared.
    pub async fn file(&self, name: &str, max: u64) -> Result<Pieces, ClientError> {
        let response = self.get_file(name, None).await?;
        if response.status() != StatusCode::OK {
            return Err(ClientError::Status(response.status().as_u16()));
        }
        if response
            .content_length()
            .is_some_and(|declared| declared > max)
        {
            return Err(ClientError::TooLong(max));
        }
        Ok(self.pieces(response, 0, max, AtMax::Refuse))
    }

    /// What a file that may be growing has from `from` on, at most `max` bytes of it; none while
    /// there is nothing more.
    ///
    /// # Errors
    /// No answer, no such file ([`ClientError::Status`] 404), another part than was asked for.
    pub async fn file_part(
        &self,
        name: &str,
        from: u64,
        max: u64,
    ) -> Result<Option<Pieces>, ClientError> {
        let last = from.saturating_add(max.max(1)) - 1;
        let response = self
            .get_file(name, Some(format!("bytes={from}-{last}")))
            .await?;
        match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(None),
            StatusCode::PARTIAL_CONTENT if range_start(response.headers()) == Some(from) => {
                Ok(Some(self.pieces(response, 0, max, AtMax::Stop)))
            }
            StatusCode::PARTIAL_CONTENT => Err(ClientError::Malformed("Range")),
            // A worker that knows no ranges sends the file from its beginning.
            StatusCode::OK => Ok(Some(self.pieces(response, from, max, AtMax::Stop))),
            status => Err(ClientError::Status(status.as_u16())),
        }
    }

    pub(crate) fn file_limit(&self) -> Duration {
        self.limits.file_limit
    }

    async fn get_file(
        &self,
        name: &str,
        range: Option<String>,
    ) -> Result<reqwest::Response, ClientError> {
        let range = range.and_then(|range| HeaderValue::try_from(range).ok());
        self.ask_file(Method::GET, name, range).await
    }

    /// A file, or a range of it, as the builder answers it.
    pub(crate) async fn ask_file(
        &self,
        method: Method,
        name: &str,
        range: Option<HeaderValue>,
    ) -> Result<reqwest::Response, ClientError> {
        let mut request = self.endpoint.request(method, &format!("/filecache/{name}"));
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let limit = self.limits.call_limit;
        let response = tokio::time::timeout(limit, request.send()).await;
        response
            .map_err(|_| ClientError::TimedOut(limit))?
            .map_err(|error| transport(&error))
    }

    fn pieces(&self, response: reqwest::Response, skip: u64, max: u64, at_max: AtMax) -> Pieces {
        let limit = self.limits.file_limit;
        Pieces {
            response,
            skip,
            max,
            left: max,
            at_max,
            limit,
            until: Instant::now() + limit,
        }
    }
}

/// A file's bytes as they arrive, bounded in number and time.
#[derive(Debug)]
pub struct Pieces {
    response: reqwest::Response,
    skip: u64,
    max: u64,
    left: u64,
    at_max: AtMax,
    limit: Duration,
    until: Instant,
}

/// What happens when a file has more bytes than wanted.
#[derive(Debug, Clone, Copy)]
enum AtMax {
    Refuse,
    Stop,
}

impl Pieces {
    /// The next piece, never empty; none at the end.
    ///
    /// # Errors
    /// The connection broke or was too slow, or the file is longer than it may be.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if self.left == 0 && matches!(self.at_max, AtMax::Stop) {
                return Ok(None);
            }
            let chunk = tokio::time::timeout_at(self.until, self.response.chunk()).await;
            let chunk = chunk
                .map_err(|_| ClientError::TimedOut(self.limit))?
                .map_err(|error| transport(&error))?;
            let Some(mut piece) = chunk else {
                return Ok(None);
            };
            let skipped = piece
                .len()
                .min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            self.skip -= skipped as u64;
            piece = piece.slice(skipped..);
            if piece.len() as u64 > self.left {
                match self.at_max {
                    AtMax::Refuse => return Err(ClientError::TooLong(self.max)),
                    AtMax::Stop => piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX)),
                }
            }
            self.left -= piece.len() as u64;
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }
}

/// Where the part that a 206 holds begins.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers
        .get(CONTENT_RANGE)?
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?;
    range.split_once('-')?.0.parse().ok()
}
