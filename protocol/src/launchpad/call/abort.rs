//! `abort`: end the running build. Answered before it has ended.
//!
//! ```text
//! <  "BuilderStatus.ABORTING"
//! ```

use dxr::Value;

use super::{Call, Reply, ReplyError, Request};
use crate::launchpad::status::{builder_status, string};

/// `abort`: end the running build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abort;

impl Request for Abort {
    const METHOD: &'static str = "abort";
    type Reply = Aborting;
}

impl From<Abort> for Call {
    fn from(_: Abort) -> Self {
        Self::Abort
    }
}

/// The reply to `abort`: it is being done; the status says when it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Aborting;

impl Reply for Aborting {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        match value {
            Value::String(status) if status == builder_status::ABORTING => Ok(Self),
            _ => Err(ReplyError("not BuilderStatus.ABORTING")),
        }
    }

    fn encode(self) -> Value {
        string(builder_status::ABORTING)
    }
}
