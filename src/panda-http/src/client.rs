//! The builder protocol's typed client: the master's guest speaks to a board's worker with it, and
//! `submit` to any builder. The builder may be hostile: everything it says is bounded and checked
//! here, and every text that goes on to people is cut and without control characters.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use dxr::Value;
use http::header::{CONTENT_RANGE, HeaderValue, RANGE};
use http::{HeaderMap, Method, StatusCode};
use panda_protocol::launchpad::xml::{self, Fault, Limits};
use panda_protocol::launchpad::{BuildCall, Call, EnsurePresent, StatusReport};
use tokio::time::Instant;

use crate::endpoint::{ClientError, Endpoint, transport};

/// The most characters of a text from a builder that are kept.
const MAX_TEXT: usize = 500;
/// The most build types that a builder may announce.
const MAX_BUILD_TYPES: usize = 100;

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

/// The answer to `info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The protocol's version, `1.0`.
    pub version: String,
    /// The architecture tag.
    pub arch: String,
    /// The build types that the builder knows.
    pub build_types: Vec<String>,
}

/// The answer to `ensurepresent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Whether the builder has the file.
    pub present: bool,
    /// What the builder says of it.
    pub info: String,
}

/// The answer to `build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildAnswer {
    /// The build has begun.
    Building,
    /// The builder does not know this type of build; what it says of it.
    UnknownBuilder(String),
    /// The builder lacks a file; what it says of it.
    UnknownSum(String),
}

impl BuilderClient {
    /// A client of the builder at `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint, limits: ClientLimits) -> Self {
        Self { endpoint, limits }
    }

    /// Sends values and has them come back the same.
    ///
    /// # Errors
    /// No answer, a fault, or other values.
    pub async fn echo(&self, values: Vec<Value>) -> Result<(), ClientError> {
        match self
            .call(&Call::Echo(values.clone()), self.limits.call_limit)
            .await?
        {
            Value::Array(same) if same == values => Ok(()),
            _ => Err(ClientError::Malformed("echo")),
        }
    }

    /// What the builder is.
    ///
    /// # Errors
    /// No answer, a fault, or an answer that is none.
    pub async fn info(&self) -> Result<Info, ClientError> {
        let malformed = || ClientError::Malformed("info");
        let answer = self.call(&Call::Info, self.limits.call_limit).await?;
        let [version, arch, Value::Array(types)] = &array::<3>(answer).ok_or_else(malformed)?
        else {
            return Err(malformed());
        };
        let types = types.iter().take(MAX_BUILD_TYPES).map(text);
        Ok(Info {
            version: text(version).ok_or_else(malformed)?,
            arch: text(arch).ok_or_else(malformed)?,
            build_types: types.collect::<Option<_>>().ok_or_else(malformed)?,
        })
    }

    /// What the builder says of itself, in either dialect.
    ///
    /// # Errors
    /// No answer, a fault, or an answer that is none.
    pub async fn status(&self) -> Result<StatusReport, ClientError> {
        let answer = self.call(&Call::Status, self.limits.call_limit).await?;
        Ok(StatusReport::from_value(&answer)?)
    }

    /// Has the builder fetch a file.
    ///
    /// # Errors
    /// No answer, a fault, or an answer that is none.
    pub async fn ensure_present(&self, call: EnsurePresent) -> Result<Presence, ClientError> {
        let answer = self
            .call(&Call::EnsurePresent(call), self.limits.ensure_limit)
            .await?;
        match array::<2>(answer) {
            Some([Value::Boolean(present), info]) => Ok(Presence {
                present,
                info: text(&info).unwrap_or_default(),
            }),
            _ => Err(ClientError::Malformed("ensurepresent")),
        }
    }

    /// Starts a build.
    ///
    /// # Errors
    /// No answer, a fault, or an answer that is none.
    pub async fn build(&self, call: BuildCall) -> Result<BuildAnswer, ClientError> {
        let malformed = ClientError::Malformed("build");
        let answer = self
            .call(&Call::Build(Box::new(call)), self.limits.call_limit)
            .await?;
        let Some([Value::String(status), info]) = array::<2>(answer) else {
            return Err(malformed);
        };
        let info = text(&info).unwrap_or_default();
        match status.as_str() {
            "BuilderStatus.BUILDING" => Ok(BuildAnswer::Building),
            "BuilderStatus.UNKNOWNBUILDER" => Ok(BuildAnswer::UnknownBuilder(info)),
            "BuilderStatus.UNKNOWNSUM" => Ok(BuildAnswer::UnknownSum(info)),
            _ => Err(malformed),
        }
    }

    /// Aborts the running build; it ends later.
    ///
    /// # Errors
    /// No answer, a fault, or an answer that is none.
    pub async fn abort(&self) -> Result<(), ClientError> {
        match self.call(&Call::Abort, self.limits.call_limit).await? {
            Value::String(status) if status == "BuilderStatus.ABORTING" => Ok(()),
            _ => Err(ClientError::Malformed("abort")),
        }
    }

    /// Has the builder forget the finished build.
    ///
    /// # Errors
    /// No answer, a fault, or an answer that is none.
    pub async fn clean(&self) -> Result<(), ClientError> {
        match self.call(&Call::Clean, self.limits.call_limit).await? {
            Value::String(status) if status == "BuilderStatus.IDLE" => Ok(()),
            _ => Err(ClientError::Malformed("clean")),
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

    /// What the builder says of the proxy of its running build; none where it has no proxy.
    ///
    /// # Errors
    /// No answer, or an answer that is none.
    pub async fn proxy_info(&self) -> Result<Option<BTreeMap<String, Value>>, ClientError> {
        match self.call(&Call::ProxyInfo, self.limits.call_limit).await {
            Ok(Value::Struct(fields)) => Ok(Some(fields)),
            Ok(_) => Err(ClientError::Malformed("proxy_info")),
            Err(ClientError::Fault { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn call(&self, call: &Call, limit: Duration) -> Result<Value, ClientError> {
        self.exchange(call, limit)
            .await?
            .map_err(|Fault { code, text }| ClientError::Fault {
                code,
                text: clean_text(&text),
            })
    }

    /// A call and its answer, as they are.
    pub(crate) async fn forward(&self, call: &Call) -> Result<Result<Value, Fault>, ClientError> {
        let limit = match call {
            Call::EnsurePresent(_) => self.limits.ensure_limit,
            _ => self.limits.call_limit,
        };
        self.exchange(call, limit).await
    }

    async fn exchange(
        &self,
        call: &Call,
        limit: Duration,
    ) -> Result<Result<Value, Fault>, ClientError> {
        let (method, params) = call.encode();
        let document = xml::encode_call(method, &params)?;
        let post = self
            .endpoint
            .post("/rpc", "text/xml", document, self.limits.xml.bytes, limit);
        let (status, answer) = post.await?;
        if status != StatusCode::OK {
            return Err(ClientError::Status(status.as_u16()));
        }
        Ok(xml::decode_answer(&answer, &self.limits.xml)?)
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

fn array<const N: usize>(value: Value) -> Option<[Value; N]> {
    match value {
        Value::Array(values) => values.try_into().ok(),
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(clean_text(text)),
        _ => None,
    }
}

/// At most 500 characters, control characters as spaces.
#[must_use]
pub fn clean_text(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_TEXT).collect()
}
