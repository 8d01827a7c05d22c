//! What a builder says of itself, in both dialects of `status`.
//!
//! Called by whoever serves `status` (write) and whoever follows a builder (read). What is read
//! comes from a hostile board: names, sums and sizes are checked here, once.
//!
//! ```text
//!            today: a struct of                                2011: an array of
//! IDLE       builder_status                                    status, ""
//! BUILDING   … build_id, logtail                               status, build_id, logtail
//! ABORTING   … build_id                                        status, build_id
//! ABORTED    (as WAITING with BuildStatus.ABORTED)             status, build_id
//! WAITING    … build_id, build_status                          status, build_status, build_id
//!            and, for OK, DEPFAIL, PACKAGEFAIL:
//!            … filemap, dependencies                           … filemap, dependencies
//! ```
//! Today's struct may hold `builder_version` too, and fields of the build type's own. `logtail` is
//! base64; text is taken too.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use dxr::Value;
use serde::{Deserialize, Serialize};

use super::names::{BuildId, FileMap, FileName};
use super::xml::is_xml_char;

/// The longest build id, log tail, relation or version that is read, in bytes: far above what a
/// builder has to say, far below what would hurt.
pub const MAX_TEXT: usize = 64 << 10;

/// The most files that one build's results are read to have.
pub const MAX_FILES: usize = 10_000;

/// What `builder_status`, and the methods that answer with one, can say.
pub(super) mod builder_status {
    /// Ready for a build.
    pub(in crate::launchpad) const IDLE: &str = "BuilderStatus.IDLE";
    /// A build runs.
    pub(in crate::launchpad) const BUILDING: &str = "BuilderStatus.BUILDING";
    /// A finished build waits for `clean`.
    pub(in crate::launchpad) const WAITING: &str = "BuilderStatus.WAITING";
    /// A build is being aborted.
    pub(in crate::launchpad) const ABORTING: &str = "BuilderStatus.ABORTING";
    /// 2011 only: an aborted build waits for `clean`.
    pub(in crate::launchpad) const ABORTED: &str = "BuilderStatus.ABORTED";
    /// `build` only: a file is not in the cache.
    pub(in crate::launchpad) const UNKNOWNSUM: &str = "BuilderStatus.UNKNOWNSUM";
    /// `build` only: there is no such build type.
    pub(in crate::launchpad) const UNKNOWNBUILDER: &str = "BuilderStatus.UNKNOWNBUILDER";
}

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

/// A text that is no build status. It does not quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a build status: expected BuildStatus. and one of OK, DEPFAIL, GIVENBACK, PACKAGEFAIL, CHROOTFAIL, BUILDERFAIL, ABORTED"
)]
pub struct BadBuildStatus;

impl BuildStatus {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::DepFail,
        Self::GivenBack,
        Self::PackageFail,
        Self::ChrootFail,
        Self::BuilderFail,
        Self::Aborted,
    ];

    /// As the protocol writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "BuildStatus.OK",
            Self::DepFail => "BuildStatus.DEPFAIL",
            Self::GivenBack => "BuildStatus.GIVENBACK",
            Self::PackageFail => "BuildStatus.PACKAGEFAIL",
            Self::ChrootFail => "BuildStatus.CHROOTFAIL",
            Self::BuilderFail => "BuildStatus.BUILDERFAIL",
            Self::Aborted => "BuildStatus.ABORTED",
        }
    }

    /// Whether a build that ended so tells its files and dependencies.
    #[must_use]
    pub const fn has_results(self) -> bool {
        match self {
            Self::Ok | Self::DepFail | Self::PackageFail => true,
            Self::GivenBack | Self::ChrootFail | Self::BuilderFail | Self::Aborted => false,
        }
    }
}

impl FromStr for BuildStatus {
    type Err = BadBuildStatus;

    fn from_str(text: &str) -> Result<Self, BadBuildStatus> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or(BadBuildStatus)
    }
}

impl fmt::Display for BuildStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
        Self {
            build_status,
            filemap: FileMap::new(),
            dependencies: String::new(),
        }
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

impl Status {
    /// As the field `builder_status` says it: `BuilderStatus.IDLE` and so on.
    #[must_use]
    pub const fn builder_status(&self) -> &'static str {
        match self {
            Self::Idle => builder_status::IDLE,
            Self::Building { .. } => builder_status::BUILDING,
            Self::Aborting { .. } => builder_status::ABORTING,
            Self::Aborted { .. } => builder_status::ABORTED,
            Self::Waiting { .. } => builder_status::WAITING,
        }
    }
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

/// The struct's fields that are the protocol's own, whichever status they belong to.
const PROTOCOL_FIELDS: [&str; 7] = [
    "builder_status",
    "builder_version",
    "build_id",
    "build_status",
    "logtail",
    "filemap",
    "dependencies",
];

impl StatusReport {
    /// A status without version and further fields.
    #[must_use]
    pub fn bare(status: Status) -> Self {
        Self {
            version: None,
            status,
            extra: BTreeMap::new(),
        }
    }

    /// The answer to `status` in `dialect`. 2011's has no place for version and further fields;
    /// today's has no [`Status::Aborted`] and says WAITING with `BuildStatus.ABORTED` instead.
    #[must_use]
    pub fn to_value(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::Current => Value::Struct(self.to_struct()),
            Dialect::Y2011 => Value::Array(to_array(&self.status)),
        }
    }

    fn to_struct(&self) -> BTreeMap<String, Value> {
        let mut fields = self.extra.clone();
        fields.retain(|name, _| !PROTOCOL_FIELDS.contains(&name.as_str()));
        let mut put = |name: &str, value| fields.insert(name.to_owned(), value);

        if let Some(version) = &self.version {
            put("builder_version", shown(version));
        }
        put("builder_status", string(self.status.builder_status()));
        match &self.status {
            Status::Idle => {}
            Status::Building { build_id, logtail } => {
                put("build_id", string(build_id.as_str()));
                put("logtail", Value::Base64(logtail.clone()));
            }
            Status::Aborting { build_id } => {
                put(
                    "build_id",
                    string(build_id.as_ref().map_or("", BuildId::as_str)),
                );
            }
            Status::Aborted { build_id } => {
                put("builder_status", string(builder_status::WAITING));
                put("build_id", string(build_id.as_str()));
                put("build_status", string(BuildStatus::Aborted.as_str()));
            }
            Status::Waiting { build_id, outcome } => {
                put("build_id", string(build_id.as_str()));
                put("build_status", string(outcome.build_status.as_str()));
                if outcome.build_status.has_results() {
                    put("filemap", files_to_value(&outcome.filemap));
                    put("dependencies", shown(&outcome.dependencies));
                }
            }
        }
        fields
    }

    /// Reads an answer to `status`: a struct is today's dialect, an array 2011's.
    ///
    /// # Errors
    /// A missing field, a wrong type, an unknown status, a file name or sum that is none, more than
    /// [`MAX_TEXT`] or [`MAX_FILES`].
    pub fn from_value(value: &Value) -> Result<Self, StatusError> {
        match value {
            Value::Struct(fields) => Self::from_struct(fields),
            Value::Array(items) => from_array(items).map(Self::bare),
            _ => Err(StatusError("neither a struct nor an array")),
        }
    }

    fn from_struct(fields: &BTreeMap<String, Value>) -> Result<Self, StatusError> {
        let field = |name: &str, missing| fields.get(name).ok_or(StatusError(missing));
        let build_id = || read_build_id(field("build_id", "no build_id")?);

        let status = match as_text(field("builder_status", "no builder_status")?)? {
            builder_status::IDLE => Status::Idle,
            builder_status::BUILDING => Status::Building {
                build_id: build_id()?,
                logtail: read_logtail(field("logtail", "no logtail")?)?,
            },
            builder_status::ABORTING => Status::Aborting {
                build_id: read_optional_build_id(field("build_id", "no build_id")?)?,
            },
            builder_status::WAITING => {
                let build_status = read_build_status(field("build_status", "no build_status")?)?;
                let results = if build_status.has_results() {
                    let filemap = field("filemap", "no filemap")?;
                    Some((filemap, field("dependencies", "no dependencies")?))
                } else {
                    None
                };
                Status::Waiting {
                    build_id: build_id()?,
                    outcome: read_outcome(build_status, results)?,
                }
            }
            _ => return Err(StatusError("unknown builder_status")),
        };
        let version = fields
            .get("builder_version")
            .map(as_text)
            .transpose()?
            .map(str::to_owned);
        let extra = fields
            .iter()
            .filter(|(name, _)| !PROTOCOL_FIELDS.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        Ok(Self {
            version,
            status,
            extra,
        })
    }
}

fn to_array(status: &Status) -> Vec<Value> {
    let mut items = vec![string(status.builder_status())];
    match status {
        Status::Idle => items.push(string("")),
        Status::Building { build_id, logtail } => {
            items.extend([string(build_id.as_str()), Value::Base64(logtail.clone())]);
        }
        Status::Aborting { build_id } => {
            items.push(string(build_id.as_ref().map_or("", BuildId::as_str)));
        }
        Status::Aborted { build_id } => items.push(string(build_id.as_str())),
        Status::Waiting { build_id, outcome } => {
            items.extend([
                string(outcome.build_status.as_str()),
                string(build_id.as_str()),
            ]);
            if outcome.build_status.has_results() {
                items.extend([
                    files_to_value(&outcome.filemap),
                    shown(&outcome.dependencies),
                ]);
            }
        }
    }
    items
}

fn from_array(items: &[Value]) -> Result<Status, StatusError> {
    const LENGTH: StatusError = StatusError("an array of the wrong length");
    let (status, rest) = items.split_first().ok_or(LENGTH)?;
    match (as_text(status)?, rest) {
        (builder_status::IDLE, _) => Ok(Status::Idle),
        (builder_status::BUILDING, [build_id, logtail]) => Ok(Status::Building {
            build_id: read_build_id(build_id)?,
            logtail: read_logtail(logtail)?,
        }),
        (builder_status::ABORTING, [build_id]) => Ok(Status::Aborting {
            build_id: read_optional_build_id(build_id)?,
        }),
        (builder_status::ABORTED, [build_id]) => Ok(Status::Aborted {
            build_id: read_build_id(build_id)?,
        }),
        (builder_status::WAITING, [build_status, build_id, results @ ..]) => {
            let build_status = read_build_status(build_status)?;
            let results = match (build_status.has_results(), results) {
                (true, [filemap, dependencies]) => Some((filemap, dependencies)),
                (false, []) => None,
                _ => return Err(LENGTH),
            };
            let build_id = read_build_id(build_id)?;
            Ok(Status::Waiting {
                build_id,
                outcome: read_outcome(build_status, results)?,
            })
        }
        (
            builder_status::BUILDING
            | builder_status::ABORTING
            | builder_status::ABORTED
            | builder_status::WAITING,
            _,
        ) => Err(LENGTH),
        _ => Err(StatusError("unknown builder status")),
    }
}

pub(super) fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// Text that came from a program's output: what XML cannot hold is replaced, lest the whole status
/// could not be told.
pub(super) fn shown(text: &str) -> Value {
    let c = |c| {
        if is_xml_char(c) {
            c
        } else {
            char::REPLACEMENT_CHARACTER
        }
    };
    Value::String(text.chars().map(c).collect())
}

fn files_to_value(files: &FileMap) -> Value {
    let member =
        |(name, sum): (&FileName, &_)| (name.as_str().to_owned(), string(&format!("{sum}")));
    Value::Struct(files.iter().map(member).collect())
}

fn as_text(value: &Value) -> Result<&str, StatusError> {
    match value {
        Value::String(text) if text.len() <= MAX_TEXT => Ok(text),
        Value::String(_) => Err(StatusError("a text of more than 64 KiB")),
        _ => Err(StatusError("a field that should be a string is none")),
    }
}

fn read_build_id(value: &Value) -> Result<BuildId, StatusError> {
    read_optional_build_id(value)?.ok_or(StatusError("an empty build_id"))
}

fn read_optional_build_id(value: &Value) -> Result<Option<BuildId>, StatusError> {
    Ok(BuildId::try_from(as_text(value)?.to_owned()).ok())
}

fn read_build_status(value: &Value) -> Result<BuildStatus, StatusError> {
    as_text(value)?
        .parse()
        .map_err(|_| StatusError("unknown build_status"))
}

fn read_logtail(value: &Value) -> Result<Vec<u8>, StatusError> {
    match value {
        Value::Base64(bytes) if bytes.len() <= MAX_TEXT => Ok(bytes.clone()),
        Value::Base64(_) => Err(StatusError("a logtail of more than 64 KiB")),
        _ => Ok(as_text(value)?.as_bytes().to_vec()),
    }
}

/// An outcome, from filemap and dependencies where its status has them.
fn read_outcome(
    build_status: BuildStatus,
    results: Option<(&Value, &Value)>,
) -> Result<Outcome, StatusError> {
    let Some((files, dependencies)) = results else {
        return Ok(Outcome::bare(build_status));
    };
    let Value::Struct(files) = files else {
        return Err(StatusError("filemap is not a struct"));
    };
    if files.len() > MAX_FILES {
        return Err(StatusError("a filemap of more than 10,000 files"));
    }
    let mut filemap = FileMap::new();
    for (name, sum) in files {
        let name = FileName::try_from(name.clone())
            .map_err(|_| StatusError("filemap holds a name that is not a plain file name"))?;
        let sum = as_text(sum)?
            .parse()
            .map_err(|_| StatusError("filemap holds a sum that is not a SHA-1"))?;
        filemap.insert(name, sum);
    }
    let dependencies = match dependencies {
        Value::Nil => String::new(), // no relation, as Python may say it
        text => as_text(text)?.to_owned(),
    };
    Ok(Outcome {
        build_status,
        filemap,
        dependencies,
    })
}

#[cfg(test)]
mod tests;
