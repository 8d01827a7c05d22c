//! `info`: what the builder is.
//!
//! ```text
//! < ["1.0", "armhf", ["binarypackage", …]]
//! ```

use dxr::Value;

use super::{Call, Reply, ReplyError, Request, clean_text};
use crate::launchpad::status::shown;

/// `info`: version, architecture, build types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetInfo;

impl Request for GetInfo {
    const METHOD: &'static str = "info";
    type Reply = Info;
}

impl From<GetInfo> for Call {
    fn from(_: GetInfo) -> Self {
        Self::Info
    }
}

/// The most build types that are read.
const MAX_BUILD_TYPES: usize = 100;

/// The reply to `info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The protocol's version: [`Info::VERSION`].
    pub version: String,
    /// The architecture tag.
    pub arch: String,
    /// The build types that the builder knows.
    pub build_types: Vec<String>,
}

impl Info {
    /// The protocol's version, the same in 2011 and today.
    pub const VERSION: &'static str = "1.0";

    /// What a builder for `arch` that knows `build_types` says.
    #[must_use]
    pub fn new(arch: &str, build_types: Vec<String>) -> Self {
        Self {
            version: Self::VERSION.to_owned(),
            arch: arch.to_owned(),
            build_types,
        }
    }
}

impl Reply for Info {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        let [version, arch, types] = super::array(value, "not an array of three")?;
        let Value::Array(types) = types else {
            return Err(ReplyError("its build types are not an array"));
        };
        let text = |value: &Value| match value {
            Value::String(text) => Ok(clean_text(text)),
            _ => Err(ReplyError("holds something else than texts")),
        };
        Ok(Self {
            version: text(&version)?,
            arch: text(&arch)?,
            build_types: types
                .iter()
                .take(MAX_BUILD_TYPES)
                .map(text)
                .collect::<Result<_, _>>()?,
        })
    }

    fn encode(self) -> Value {
        let types = self.build_types.iter().map(|name| shown(name)).collect();
        Value::Array(vec![
            shown(&self.version),
            shown(&self.arch),
            Value::Array(types),
        ])
    }
}
