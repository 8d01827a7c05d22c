//! `build`: start a build. It is answered at once; the work goes on behind the reply.
//!
//! ```text
//! > build_id, build type, chroot sha1, filemap {name: sha1}, args {…}
//! < ["BuilderStatus.BUILDING", build_id]
//!   ["BuilderStatus.UNKNOWNBUILDER", "livefs not in ['binarypackage']"]
//!   ["BuilderStatus.UNKNOWNSUM", "CHROOTSUM -> 91adca07…"]
//! ```

use std::collections::BTreeMap;
use std::fmt;

use dxr::Value;

use super::{Call, CallError, Reply, ReplyError, Request, clean_text};
use crate::launchpad::names::{BuildId, FileName, Sum};
use crate::launchpad::status::{MAX_TEXT, builder_status, shown, string};

/// The most characters of a caller's own text that a reply says back.
const MAX_REPEATED: usize = 100;

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

impl Request for BuildCall {
    const METHOD: &'static str = "build";
    type Reply = BuildReply;
}

impl From<BuildCall> for Call {
    fn from(request: BuildCall) -> Self {
        Self::Build(Box::new(request))
    }
}

impl BuildCall {
    pub(super) fn from_arguments(params: Vec<Value>) -> Result<Self, CallError> {
        let [build_id, build_type, chroot, filemap, args]: [Value; 5] =
            params
                .try_into()
                .map_err(|params: Vec<_>| CallError::Count {
                    method: Self::METHOD,
                    expected: 5,
                    got: params.len(),
                })?;
        let argument = |argument, problem| CallError::Argument {
            method: Self::METHOD,
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

    pub(super) fn arguments(&self) -> Vec<Value> {
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

/// The reply to `build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildReply {
    /// The build has begun.
    Building {
        /// The one that was asked for.
        build_id: BuildId,
    },
    /// The builder does not know this type of build; what it says of it.
    UnknownBuilder(String),
    /// The builder lacks a file; what it says of it.
    UnknownSum(String),
}

/// What a build needs a file for, as the protocol names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// The chroot tarball.
    Chroot,
    /// A file of the filemap.
    File,
}

impl BuildReply {
    /// The builder knows only the build types `known`.
    #[must_use]
    pub fn unknown_builder(build_type: &str, known: &[String]) -> Self {
        let known: Vec<String> = known.iter().map(|name| format!("'{name}'")).collect();
        Self::UnknownBuilder(format!(
            "{} not in [{}]",
            repeated(build_type),
            known.join(", ")
        ))
    }

    /// The builder lacks these files.
    #[must_use]
    pub fn unknown_sums(missing: &[(Needed, Sum)]) -> Self {
        let missing = missing.iter().map(|(needed, sum)| {
            let kind = match needed {
                Needed::Chroot => "CHROOTSUM",
                Needed::File => "FILESUM",
            };
            format!("{kind} -> {}", repeated(&sum.0))
        });
        Self::UnknownSum(missing.collect::<Vec<_>>().join(", "))
    }

    /// Whether the build has begun.
    #[must_use]
    pub const fn is_building(&self) -> bool {
        matches!(self, Self::Building { .. })
    }
}

impl Reply for BuildReply {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        let [Value::String(status), info] = super::array(value, "not an array of two")? else {
            return Err(ReplyError("does not begin with a status"));
        };
        let Value::String(info) = info else {
            return Err(ReplyError("says nothing beside its status"));
        };
        match status.as_str() {
            builder_status::BUILDING if info.len() > MAX_TEXT => {
                Err(ReplyError("a build_id of more than 64 KiB"))
            }
            builder_status::BUILDING => BuildId::try_from(info)
                .map(|build_id| Self::Building { build_id })
                .map_err(|_| ReplyError("an empty build_id")),
            builder_status::UNKNOWNBUILDER => Ok(Self::UnknownBuilder(clean_text(&info))),
            builder_status::UNKNOWNSUM => Ok(Self::UnknownSum(clean_text(&info))),
            _ => Err(ReplyError("an unknown status")),
        }
    }

    fn encode(self) -> Value {
        let (status, info) = match self {
            Self::Building { build_id } => (builder_status::BUILDING, string(build_id.as_str())),
            Self::UnknownBuilder(info) => (builder_status::UNKNOWNBUILDER, shown(&info)),
            Self::UnknownSum(info) => (builder_status::UNKNOWNSUM, shown(&info)),
        };
        Value::Array(vec![string(status), info])
    }
}

/// A caller's own text, as a reply may say it back.
fn repeated(given: &str) -> String {
    given
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REPEATED)
        .collect()
}
