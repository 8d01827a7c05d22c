//! `status` and `status_dict`: what the builder says of itself. The report is
//! [`crate::launchpad::status`]'s; here stand the two calls and in which dialect each is answered.
//!
//! ```text
//! status       in the rack's dialect: a struct today, an array in 2011
//! status_dict  a struct in either: our own addition, for tools
//! ```

use dxr::Value;

use super::{Call, Reply, ReplyError, Request};
use crate::launchpad::status::{Dialect, StatusReport};

/// `status`, in the rack's dialect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetStatus;

impl Request for GetStatus {
    const METHOD: &'static str = "status";
    type Reply = StatusReply;
}

impl From<GetStatus> for Call {
    fn from(_: GetStatus) -> Self {
        Self::Status
    }
}

/// `status_dict`: the struct in either dialect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GetStatusDict;

impl Request for GetStatusDict {
    const METHOD: &'static str = "status_dict";
    type Reply = StatusReport;
}

impl From<GetStatusDict> for Call {
    fn from(_: GetStatusDict) -> Self {
        Self::StatusDict
    }
}

/// The reply to `status`.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusReply {
    /// How it is written.
    pub dialect: Dialect,
    /// What it says.
    pub report: StatusReport,
}

impl Reply for StatusReply {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        let dialect = match value {
            Value::Array(_) => Dialect::Y2011,
            _ => Dialect::Current,
        };
        let report = StatusReport::from_value(&value)?;
        Ok(Self { dialect, report })
    }

    fn encode(self) -> Value {
        self.report.to_value(self.dialect)
    }
}

impl Reply for StatusReport {
    fn decode(value: Value) -> Result<Self, ReplyError> {
        match value {
            Value::Struct(_) => Ok(Self::from_value(&value)?),
            _ => Err(ReplyError("not a struct")),
        }
    }

    fn encode(self) -> Value {
        self.to_value(Dialect::Current)
    }
}
