//! The builder protocol's methods: what is called, with which arguments, to and from XML-RPC values.
//!
//! Called by whoever serves the protocol (decode) and whoever speaks to a builder (encode).
//!
//! ```text
//! echo           any values
//! ensurepresent  sha1 string, url string or nil [, username string or nil [, password string or nil]]
//! build          build_id string, build_type string, chroot string, filemap {name: sum}, args {…}
//! info, status, status_dict, abort, clean, proxy_info    nothing
//! ```

use std::collections::BTreeMap;
use std::fmt;

use dxr::Value;

use super::names::{BuildId, FileName, Sum};
use super::status::MAX_TEXT;
use super::xml::Fault;

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

/// `build`'s arguments. `Debug` does not show `args`: they hold archive passwords.
#[derive(Clone, PartialEq)]
pub struct BuildCall {
    /// The job's cookie.
    pub build_id: BuildId,
    /// `binarypackage`, or another that the worker announces.
    pub build_type: String,
    /// The chroot tarball's sum.
    pub chroot: Sum,
    /// The input files.
    pub filemap: BTreeMap<FileName, Sum>,
    /// Everything else, passed on untouched.
    pub args: BTreeMap<String, Value>,
}

impl fmt::Debug for BuildCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildCall")
            .field("build_id", &self.build_id)
            .field("build_type", &self.build_type)
            .field("chroot", &self.chroot)
            .field("filemap", &self.filemap)
            .finish_non_exhaustive()
    }
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
            "echo" => Ok(Self::Echo(params)),
            "info" => none("info", &params, Self::Info),
            "status" => none("status", &params, Self::Status),
            "status_dict" => none("status_dict", &params, Self::StatusDict),
            "ensurepresent" => EnsurePresent::decode(params).map(Self::EnsurePresent),
            "build" => BuildCall::decode(params).map(|build| Self::Build(Box::new(build))),
            "abort" => none("abort", &params, Self::Abort),
            "clean" => none("clean", &params, Self::Clean),
            "proxy_info" => none("proxy_info", &params, Self::ProxyInfo),
            unknown => Err(CallError::UnknownMethod(printable(unknown))),
        }
    }

    /// The method's name and the arguments as values: the inverse of [`Call::decode`].
    #[must_use]
    pub fn encode(&self) -> (&'static str, Vec<Value>) {
        match self {
            Self::Echo(values) => ("echo", values.clone()),
            Self::Info => ("info", Vec::new()),
            Self::Status => ("status", Vec::new()),
            Self::StatusDict => ("status_dict", Vec::new()),
            Self::EnsurePresent(call) => ("ensurepresent", call.encode()),
            Self::Build(call) => ("build", call.encode()),
            Self::Abort => ("abort", Vec::new()),
            Self::Clean => ("clean", Vec::new()),
            Self::ProxyInfo => ("proxy_info", Vec::new()),
        }
    }
}

impl EnsurePresent {
    fn decode(params: Vec<Value>) -> Result<Self, CallError> {
        const METHOD: &str = "ensurepresent";
        let got = params.len();
        if !(2..=4).contains(&got) {
            return Err(CallError::Count {
                method: METHOD,
                expected: 4,
                got,
            });
        }
        let argument = |argument, problem| CallError::Argument {
            method: METHOD,
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

    fn encode(&self) -> Vec<Value> {
        vec![
            Value::String(self.sum.0.clone()),
            self.url.clone().map_or(Value::Nil, Value::String),
            Value::String(self.username.clone()),
            Value::String(self.password.clone()),
        ]
    }
}

impl BuildCall {
    fn decode(params: Vec<Value>) -> Result<Self, CallError> {
        const METHOD: &str = "build";
        let [build_id, build_type, chroot, filemap, args]: [Value; 5] =
            params
                .try_into()
                .map_err(|params: Vec<_>| CallError::Count {
                    method: METHOD,
                    expected: 5,
                    got: params.len(),
                })?;
        let argument = |argument, problem| CallError::Argument {
            method: METHOD,
            argument,
            problem,
        };
        let text = |name, value| match value {
            Value::String(text) => Ok(text),
            _ => Err(argument(name, "must be a string")),
        };

        let build_id = text("build_id", build_id)?;
        // A longer one could not be told in `status`.
        if build_id.len() > MAX_TEXT {
            return Err(argument("build_id", "must be at most 65,536 bytes"));
        }
        let build_id =
            BuildId::try_from(build_id).map_err(|_| argument("build_id", "must not be empty"))?;
        let Value::Struct(sums) = filemap else {
            return Err(argument(
                "filemap",
                "must be a struct of file names and sums",
            ));
        };
        let mut filemap = BTreeMap::new();
        for (name, sum) in sums {
            let name = FileName::try_from(name).map_err(|_| {
                argument(
                    "filemap",
                    "holds a name that is not one plain path component of 1 to 255 bytes",
                )
            })?;
            let Value::String(sum) = sum else {
                return Err(argument("filemap", "holds a sum that is not a string"));
            };
            filemap.insert(name, Sum(sum));
        }
        let Value::Struct(args) = args else {
            return Err(argument("args", "must be a struct"));
        };
        Ok(Self {
            build_id,
            build_type: text("build_type", build_type)?,
            chroot: Sum(text("chroot", chroot)?),
            filemap,
            args,
        })
    }

    fn encode(&self) -> Vec<Value> {
        let filemap = self
            .filemap
            .iter()
            .map(|(name, sum)| (name.as_str().to_owned(), Value::String(sum.0.clone())));
        vec![
            Value::String(self.build_id.as_str().to_owned()),
            Value::String(self.build_type.clone()),
            Value::String(self.chroot.0.clone()),
            Value::Struct(filemap.collect()),
            Value::Struct(self.args.clone()),
        ]
    }
}

/// `call`, if there are no arguments.
fn none(method: &'static str, params: &[Value], call: Call) -> Result<Call, CallError> {
    match params.len() {
        0 => Ok(call),
        got => Err(CallError::Count {
            method,
            expected: 0,
            got,
        }),
    }
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
