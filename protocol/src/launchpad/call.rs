//! The builder protocol's methods: what is called, with which arguments, to and from XML-RPC values.

use std::collections::BTreeMap;
use std::fmt;

use dxr::Value;

use super::names::{BuildId, FileName, Sum};

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
        f.debug_struct("EnsurePresent").field("sum", &self.sum).finish_non_exhaustive()
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

impl Call {
    /// The call that `method` with `params` is.
    ///
    /// # Errors
    /// An unknown method, a wrong number of arguments, or an argument of a wrong type.
    pub fn decode(method: &str, params: Vec<Value>) -> Result<Self, CallError> {
        let _ = params;
        Err(CallError::UnknownMethod(method.to_owned()))
    }

    /// The method's name and the arguments as values: the inverse of [`Call::decode`].
    #[must_use]
    pub fn encode(&self) -> (&'static str, Vec<Value>) {
        ("echo", Vec::new())
    }
}
