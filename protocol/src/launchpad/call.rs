//! The builder protocol's methods, one file each: what it is called by, what it takes, and the reply it names.
//!
//! Called by whoever serves the protocol (a call is decoded, its reply encoded) and by whoever speaks to a
//! builder (the other way round): the master's front and the board's worker, the guest, the relay and `submit`
//! all speak through these types, so each is written down once.
//!
//! ```text
//! method         takes                                              replies
//! echo           any values                                         the same values
//! info           -                                                  Info
//! status         -                                                  StatusReply, in either dialect
//! status_dict    -                                                  StatusReport, as a struct
//! ensurepresent  sha1, url or nil [, username [, password]]         Presence
//! build          build_id, build type, chroot, filemap, args        BuildReply
//! abort          -                                                  Aborting
//! clean          -                                                  Cleaned
//! proxy_info     -                                                  ProxyInfo
//! ```
//! Instead of its reply each may be answered by a [`Fault`].

mod abort;
mod build;
mod clean;
mod echo;
mod ensure_present;
mod info;
mod proxy_info;
mod status;

use dxr::Value;

pub use self::abort::{Abort, Aborting};
pub use self::build::{BuildCall, BuildReply, Needed};
pub use self::clean::{Clean, Cleaned};
pub use self::echo::{Echo, Echoed};
pub use self::ensure_present::{EnsurePresent, Presence};
pub use self::info::{GetInfo, Info};
pub use self::proxy_info::{GetProxyInfo, ProxyInfo};
pub use self::status::{GetStatus, GetStatusDict, StatusReply};
use super::status::StatusError;
use super::xml::{self, Fault, Limits, XmlError};

/// A request of the builder protocol, which names its reply.
pub trait Request: Into<Call> {
    /// The method's name on the wire.
    const METHOD: &'static str;
    /// What a builder that does it says.
    type Reply: Reply;

    /// The request as a document.
    ///
    /// # Errors
    /// It holds a value that XML-RPC cannot.
    fn write(self) -> Result<String, XmlError> {
        let (method, arguments) = self.into().encode();
        xml::encode_call(method, &arguments)
    }

    /// The answer to it that a document is.
    ///
    /// # Errors
    /// It is no answer, or not to this request.
    fn read_answer(document: &[u8], limits: &Limits) -> Result<Answered<Self>, AnswerError> {
        match xml::decode_answer(document, limits)? {
            Ok(value) => match Self::Reply::decode(value) {
                Ok(reply) => Ok(Ok(reply)),
                Err(error) => Err(AnswerError::Reply(Self::METHOD, error)),
            },
            Err(fault) => Ok(Err(fault)),
        }
    }
}

/// What a builder answers to a request.
pub trait Reply: Sized {
    /// The reply that a value is.
    ///
    /// # Errors
    /// It is not of this reply's shape.
    fn decode(value: Value) -> Result<Self, ReplyError>;

    /// The value that says it: the inverse of [`Reply::decode`], but that what XML cannot hold is replaced.
    fn encode(self) -> Value;
}

/// The reply to a request, or the fault in its place.
pub type Answered<R> = Result<<R as Request>::Reply, Fault>;

/// A value that is not the reply that was asked for. It quotes nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReplyError(pub &'static str);

impl From<StatusError> for ReplyError {
    fn from(error: StatusError) -> Self {
        Self(error.0)
    }
}

/// A document that is not an answer to what was asked. It quotes nothing of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is no XML-RPC answer within bounds.
    #[error("malformed answer: {0}")]
    Xml(#[from] XmlError),
    /// It answers something else.
    #[error("invalid answer to {0}: {1}")]
    Reply(&'static str, ReplyError),
}

/// One call of the builder protocol.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// `echo`: answers its arguments.
    Echo(Vec<Value>),
    /// `info`: version, architecture, build types.
    Info,
    /// `status`, in the rack's dialect.
    Status,
    /// `status_dict`: the struct form in either dialect; our own addition for tools.
    StatusDict,
    /// `ensurepresent`: have a file in the cache.
    EnsurePresent(EnsurePresent),
    /// `build`: start a build.
    Build(Box<BuildCall>),
    /// `abort`: end the running build.
    Abort,
    /// `clean`: forget the finished build.
    Clean,
    /// `proxy_info`: of the running build.
    ProxyInfo,
}

/// Why a call is answered with a fault. No variant quotes an argument.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Fault 8001: `procedure NAME not found`; the name is cut to 100 printable characters.
    #[error("procedure {0} not found")]
    UnknownMethod(String),
    /// Fault 8002: a wrong number of arguments.
    #[error("{method}: expected {expected} arguments, got {got}")]
    Count {
        /// The method called.
        method: &'static str,
        /// How many it takes.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// Fault 8002: an argument of the wrong type or with an impossible value.
    #[error("{method}: argument {argument} {problem}")]
    Argument {
        /// The method called.
        method: &'static str,
        /// The argument's name.
        argument: &'static str,
        /// What is wrong with it and what is expected.
        problem: &'static str,
    },
}

/// How much of an unknown method's name is told back, in characters.
const SHOWN_NAME: usize = 100;

impl CallError {
    /// The fault to answer with.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let code = match self {
            Self::UnknownMethod(_) => Fault::UNKNOWN_METHOD,
            Self::Count { .. } | Self::Argument { .. } => Fault::FAILURE,
        };
        Fault {
            code,
            text: self.to_string(),
        }
    }
}

impl Call {
    /// The call that `method` with `params` is.
    ///
    /// # Errors
    /// An unknown method, a wrong number of arguments, or an argument of a wrong type.
    pub fn decode(method: &str, params: Vec<Value>) -> Result<Self, CallError> {
        match method {
            Echo::METHOD => Ok(Self::Echo(params)),
            GetInfo::METHOD => none(&params, GetInfo),
            GetStatus::METHOD => none(&params, GetStatus),
            GetStatusDict::METHOD => none(&params, GetStatusDict),
            EnsurePresent::METHOD => EnsurePresent::from_arguments(params).map(Into::into),
            BuildCall::METHOD => BuildCall::from_arguments(params).map(Into::into),
            Abort::METHOD => none(&params, Abort),
            Clean::METHOD => none(&params, Clean),
            GetProxyInfo::METHOD => none(&params, GetProxyInfo),
            unknown => Err(CallError::UnknownMethod(printable(unknown))),
        }
    }

    /// The method's name.
    #[must_use]
    pub const fn method(&self) -> &'static str {
        match self {
            Self::Echo(_) => Echo::METHOD,
            Self::Info => GetInfo::METHOD,
            Self::Status => GetStatus::METHOD,
            Self::StatusDict => GetStatusDict::METHOD,
            Self::EnsurePresent(_) => EnsurePresent::METHOD,
            Self::Build(_) => BuildCall::METHOD,
            Self::Abort => Abort::METHOD,
            Self::Clean => Clean::METHOD,
            Self::ProxyInfo => GetProxyInfo::METHOD,
        }
    }

    /// The method's name and the arguments as values: the inverse of [`Call::decode`].
    #[must_use]
    pub fn encode(&self) -> (&'static str, Vec<Value>) {
        let arguments = match self {
            Self::Echo(values) => values.clone(),
            Self::EnsurePresent(call) => call.arguments(),
            Self::Build(call) => call.arguments(),
            Self::Info
            | Self::Status
            | Self::StatusDict
            | Self::Abort
            | Self::Clean
            | Self::ProxyInfo => Vec::new(),
        };
        (self.method(), arguments)
    }
}

/// `request`, if there are no arguments.
fn none<R: Request>(params: &[Value], request: R) -> Result<Call, CallError> {
    match params.len() {
        0 => Ok(request.into()),
        got => Err(CallError::Count {
            method: R::METHOD,
            expected: 0,
            got,
        }),
    }
}

/// The items of an array of `N`.
fn array<const N: usize>(value: Value, problem: &'static str) -> Result<[Value; N], ReplyError> {
    match value {
        Value::Array(items) => items.try_into().map_err(|_| ReplyError(problem)),
        _ => Err(ReplyError(problem)),
    }
}

/// The most characters of a builder's text that are kept.
const MAX_SHOWN: usize = 500;

/// A text from outside, for people: at most 500 characters, control characters as spaces.
#[must_use]
pub fn clean_text(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_SHOWN).collect()
}

/// The beginning of an unknown method's name, fit for a fault and for a log line.
fn printable(name: &str) -> String {
    let shown = |c: char| c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ';
    name.chars()
        .take(SHOWN_NAME)
        .map(|c| if shown(c) { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests;
