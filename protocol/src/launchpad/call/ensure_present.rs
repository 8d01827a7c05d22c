//! `ensurepresent`: have a file in the builder's cache.
//!
//! ```text
//! > sha1, url or nil [, username [, password]]
//! < [true, "Cache"]        [false, "Digests did not match, removing again!"]
//! ```

use std::fmt;

use dxr::Value;

use super::{Call, CallError, Reply, ReplyError, Request, clean_text};
use crate::launchpad::names::Sum;
use crate::launchpad::status::shown;

/// `ensurepresent`'s arguments. `Debug` does not show credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct EnsurePresent {
    /// The file's SHA-1, as written.
    pub sum: Sum,
    /// Where to fetch it; none asks only whether it is there.
    pub url: Option<String>,
    /// HTTP basic authentication's user name; empty with a password is normal.
    pub username: String,
    /// HTTP basic authentication's password.
    pub password: String,
}

impl fmt::Debug for EnsurePresent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnsurePresent")
            .field("sum", &self.sum)
            .finish_non_exhaustive()
    }
}

impl Request for EnsurePresent {
    const METHOD: &'static str = "ensurepresent";
    type Reply = Presence;
}

impl From<EnsurePresent> for Call {
    fn from(request: EnsurePresent) -> Self {
        Self::EnsurePresent(request)
    }
}

impl EnsurePresent {
    pub(super) fn from_arguments(params: Vec<Value>) -> Result<Self, CallError> {
        let got = params.len();
        if !(2..=4).contains(&got) {
            return Err(CallError::Count {
                method: Self::METHOD,
                expected: 4,
                got,
            });
        }
        let argument = |argument, problem| CallError::Argument {
            method: Self::METHOD,
            argument,
            problem,
        };
        let mut params = params.into_iter();
        let mut next = || params.next().unwrap_or(Value::Nil);
        let Value::String(sum) = next() else {
            return Err(argument("sha1", "must be a string"));
        };
        let mut optional = |name| match next() {
            Value::String(text) => Ok(Some(text)),
            Value::Nil => Ok(None),
            _ => Err(argument(name, "must be a string or nil")),
        };
        Ok(Self {
            sum: Sum(sum),
            url: optional("url")?,
            username: optional("username")?.unwrap_or_default(),
            password: optional("password")?.unwrap_or_default(),
        })
    }

    pub(super) fn arguments(&self) -> Vec<Value> {
        vec![
            Value::String(self.sum.0.clone()),
            self.url.clone().map_or(Value::Nil, Value::String),
            Value::String(self.username.clone()),
            Value::String(self.password.clone()),
        ]
    }
}

/// The reply to `ensurepresent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Whether the builder has the file.
    pub present: bool,
    /// How it came, or why not, for people; it must hold no secret.
    pub info: String,
}

impl Presence {
    /// It was there already.
    pub const CACHE: &'static str = "Cache";
    /// It was fetched.
    pub const DOWNLOAD: &'static str = "Download";
    /// Nothing was to be fetched; whether it is there is said beside.
    pub const NO_URL: &'static str = "No URL";
    /// What came was not what the sum says.
    pub const MISMATCH: &'static str = "Digests did not match, removing again!";
    /// It could not be fetched; what went wrong follows.
    pub const UNREACHABLE: &'static str = "Error accessing Librarian: ";

    /// The file is there; `info` says how it came.
    #[must_use]
    pub fn yes(info: &str) -> Self {
        Self {
            present: true,
            info: info.to_owned(),
        }
    }

    /// The file is not there; `info` says why.
    #[must_use]
    pub fn no(info: impl Into<String>) -> Self {
        Self {
            present: false,
            info: info.into(),
        }
    }
}

impl Reply for Presence {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        let [present, info] = super::array(value, "not an array of two")?;
        let Value::Boolean(present) = present else {
            return Err(ReplyError(
                "does not say by a boolean whether the file is there",
            ));
        };
        // A builder that says no more than that is understood.
        let info = match info {
            Value::String(info) => clean_text(&info),
            _ => String::new(),
        };
        Ok(Self { present, info })
    }

    fn encode(self) -> Value {
        Value::Array(vec![Value::Boolean(self.present), shown(&self.info)])
    }
}
