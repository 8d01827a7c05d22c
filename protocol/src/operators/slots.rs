//! How slots are: `GET /v1/slots`, `GET /v1/slots/NAME`.

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::query::{Query, with_query};
use super::request::{MAX_WAIT_SECONDS, Method, PREFIX, Request, check_wait, slot_path};
use crate::ids::BootNo;

/// Asks how every slot is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GetSlots {
    /// Wait until all are Fresh, at most this long, at most [`MAX_WAIT_SECONDS`].
    pub fresh_within_seconds: Option<u64>,
}

/// How every slot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// In the order of `rack.toml`.
    pub slots: Vec<SlotInfo>,
    /// Whether what was waited for came in time; true where nothing was.
    pub in_time: bool,
}

/// Asks how one slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetSlot {
    /// Its name, as the caller has it.
    pub slot: String,
}

/// A slot, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInfo {
    /// Its name.
    pub slot: String,
    /// The host names that Launchpad knows it by.
    pub hosts: Vec<String>,
    /// The board's life in a word: `fresh`, `running`, ….
    pub state: String,
    /// More of it: the attempt of a reset, the build, the reason of a failure.
    pub detail: String,
    /// Its last boot's number.
    pub boot: BootNo,
    /// The running build's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    /// The build whose results are kept for Launchpad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptInfo>,
    /// Why an operator holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// What Launchpad is told: `BuilderStatus.…`, or `Fault: ` and the reason.
    pub told: String,
}

/// Results that wait for Launchpad.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptInfo {
    /// The job's cookie.
    pub build_id: String,
    /// `BuildStatus.OK`, …
    pub build_status: String,
}

impl GetSlots {
    pub(super) fn decode(query: &mut Query) -> Result<Self, Problem> {
        let key = "fresh_within_seconds";
        let fresh_within_seconds = query.take(key, "a number of seconds")?;
        check_wait(key, fresh_within_seconds, MAX_WAIT_SECONDS)?;
        Ok(Self {
            fresh_within_seconds,
        })
    }
}

impl Request for GetSlots {
    type Answer = Slots;
    const METHOD: Method = Method::Get;

    fn target(&self) -> String {
        let within = self.fresh_within_seconds.map(|seconds| seconds.to_string());
        with_query(
            format!("{PREFIX}/slots"),
            &[("fresh_within_seconds", within)],
        )
    }
}

impl Request for GetSlot {
    type Answer = SlotInfo;
    const METHOD: Method = Method::Get;

    fn target(&self) -> String {
        slot_path(&self.slot, "")
    }
}
