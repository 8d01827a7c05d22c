//! `clean`: forget the finished build.
//!
//! ```text
//! <  "BuilderStatus.IDLE"
//! ```

use dxr::Value;

use super::{Call, Reply, ReplyError, Request};
use crate::launchpad::status::{builder_status, string};

/// `clean`: forget the finished build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clean;

impl Request for Clean {
    const METHOD: &'static str = "clean";
    type Reply = Cleaned;
}

impl From<Clean> for Call {
    fn from(_: Clean) -> Self {
        Self::Clean
    }
}

/// The reply to `clean`: the builder keeps nothing any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned;

impl Reply for Cleaned {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        match value {
            Value::String(status) if status == builder_status::IDLE => Ok(Self),
            _ => Err(ReplyError("not BuilderStatus.IDLE")),
        }
    }

    fn encode(self) -> Value {
        string(builder_status::IDLE)
    }
}
