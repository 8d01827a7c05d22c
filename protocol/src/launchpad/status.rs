//! What a builder says of itself, in both dialects of `status`.

use std::collections::BTreeMap;

use dxr::Value;
use serde::{Deserialize, Serialize};

use super::names::{BuildId, FileMap};

/// Which manager a rack speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Dialect {
    /// Today's: `status` is a struct.
    #[default]
    #[serde(rename = "current")]
    Current,
    /// That of June 2011: `status` is an array.
    #[serde(rename = "2011")]
    Y2011,
}

/// How a build ended, as Launchpad names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BuildStatus {
    /// It was built.
    Ok,
    /// A build dependency is missing; `dependencies` says which.
    DepFail,
    /// The builder gives the build back.
    GivenBack,
    /// The package does not build.
    PackageFail,
    /// The chroot does not work.
    ChrootFail,
    /// The builder does not work.
    BuilderFail,
    /// It was aborted.
    Aborted,
}

/// A finished build: how, with which files, waiting for what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub build_status: BuildStatus,
    /// Its results; empty unless the build got that far.
    pub filemap: FileMap,
    /// The relation a DEPFAIL waits for; else empty.
    pub dependencies: String,
}

impl Outcome {
    /// An outcome with neither files nor dependencies.
    #[must_use]
    pub fn bare(build_status: BuildStatus) -> Self {
        Self { build_status, filemap: FileMap::new(), dependencies: String::new() }
    }
}

/// A builder's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Ready for a build.
    Idle,
    /// A build runs; `logtail` is at most the last 2,048 bytes of its sanitised log.
    Building {
        /// The job's cookie.
        build_id: BuildId,
        /// The end of the log so far.
        logtail: Vec<u8>,
    },
    /// A build is being aborted. 2011 says it between boots too, with no build: the id is then empty.
    Aborting {
        /// The job's cookie, where there is a job.
        build_id: Option<BuildId>,
    },
    /// 2011 only: an aborted build waits for `clean`.
    Aborted {
        /// The job's cookie.
        build_id: BuildId,
    },
    /// A finished build waits for `clean`.
    Waiting {
        /// The job's cookie.
        build_id: BuildId,
        /// How it ended.
        outcome: Outcome,
    },
}

/// A whole answer to `status`.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusReport {
    /// `builder_version`, where known.
    pub version: Option<String>,
    /// The status.
    pub status: Status,
    /// Fields that a build type adds of its own; they never override the protocol's.
    pub extra: BTreeMap<String, Value>,
}

/// An answer to `status` that is none. It quotes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("status answer: {0}")]
pub struct StatusError(pub &'static str);

impl StatusReport {
    /// The answer to `status` in `dialect`.
    #[must_use]
    pub fn to_value(&self, dialect: Dialect) -> Value {
        let _ = dialect;
        Value::Nil
    }

    /// Reads an answer to `status`: a struct is today's dialect, an array 2011's.
    ///
    /// # Errors
    /// A missing field, a wrong type, an unknown status, a file name or sum that is none.
    pub fn from_value(value: &Value) -> Result<Self, StatusError> {
        let _ = value;
        Err(StatusError("not written yet"))
    }
}
