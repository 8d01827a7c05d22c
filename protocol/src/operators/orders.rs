//! What operators order: resets, holds, releases; and Launchpad's own reset.

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::request::{
    MAX_WAIT_SECONDS, Method, PREFIX, Request, check_wait, from_json, slot_path, to_json,
};
use super::slots::SlotInfo;
use crate::checks::is_line;

/// The most bytes of a reason.
pub const MAX_REASON: usize = 500;
/// The most bytes of a name, of an address and of a command that are taken as they came.
const MAX_NAME: usize = 16 * 1024;

/// Cuts a slot's power and boots it from the known-good image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// The slot; in the path.
    #[serde(skip)]
    pub slot: String,
    /// Even when it has a build, or results that Launchpad has not fetched.
    #[serde(default)]
    pub force: bool,
    /// Wait until it is Fresh or has failed, at most this long, at most [`MAX_WAIT_SECONDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u64>,
}

/// How far a reset is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetAnswer {
    /// How the slot is now.
    pub slot: SlotInfo,
    /// Where the reset stands.
    pub end: ResetEnd,
}

/// Where a reset stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetEnd {
    /// The slot is Fresh.
    Fresh,
    /// It is under way; nobody waited for its end, or not long enough.
    UnderWay,
    /// The board has failed, or is off.
    Failed,
}

/// Launchpad's own reset, whatever the slot has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchpadReset {
    /// The slot's name, or any host name of its, or such a name's first label.
    pub name: String,
    /// Wait until a dispatch would be served, at most this long; else Launchpad is told through its web service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}

/// Takes a slot out of service: its board loses power. A build in it goes on to its end first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The slot; in the path.
    #[serde(skip)]
    pub slot: String,
    /// Why, for everybody who looks: one line of at most [`MAX_REASON`] bytes.
    pub reason: String,
}

/// As [`Hold`], for whoever waits for the build's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// The slot; in the path.
    #[serde(skip)]
    pub slot: String,
    /// Why, as with [`Hold::reason`].
    pub reason: String,
    /// Wait until its build has ended and its board is without power, at most this long, at most [`MAX_WAIT_SECONDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_seconds: Option<u64>,
}

/// A held slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldAnswer {
    /// How the slot is now. Its `build_id` is a build that goes on to its end.
    pub slot: SlotInfo,
    /// Where the hold stands.
    pub end: HoldEnd,
}

/// Where a hold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldEnd {
    /// The board has no power, or has failed, which is no different.
    Off,
    /// A build goes on to its end, or power is being cut; nobody waited for it, or not long enough.
    UnderWay,
    /// Somebody has released the slot meanwhile.
    Released,
}

/// Puts a held or failed slot back into service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The slot; in the path.
    #[serde(skip)]
    pub slot: String,
}

/// Records that a command over SSH was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordRefusal {
    /// Where it came from, as sshd says.
    pub from: String,
    /// The command.
    pub command: String,
}

/// It is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {}

impl Reset {
    pub(super) fn decode(slot: &str, body: &[u8]) -> Result<Self, Problem> {
        let order: Self = from_json(body)?;
        check_wait("wait_seconds", order.wait_seconds, MAX_WAIT_SECONDS)?;
        let slot = slot.to_owned();
        Ok(Self { slot, ..order })
    }
}

impl LaunchpadReset {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Problem> {
        let order: Self = from_json(body)?;
        check_wait("wait_ms", order.wait_ms, MAX_WAIT_SECONDS * 1000)?;
        check_length("name", &order.name)?;
        Ok(order)
    }
}

impl Hold {
    pub(super) fn decode(slot: &str, body: &[u8]) -> Result<Self, Problem> {
        let order: Self = from_json(body)?;
        check_reason(&order.reason)?;
        let slot = slot.to_owned();
        Ok(Self { slot, ..order })
    }
}

impl Drain {
    pub(super) fn decode(slot: &str, body: &[u8]) -> Result<Self, Problem> {
        let order: Self = from_json(body)?;
        check_reason(&order.reason)?;
        check_wait("wait_seconds", order.wait_seconds, MAX_WAIT_SECONDS)?;
        let slot = slot.to_owned();
        Ok(Self { slot, ..order })
    }
}

impl Release {
    pub(super) fn decode(slot: &str, body: &[u8]) -> Result<Self, Problem> {
        let _nothing: Self = from_json(body)?;
        let slot = slot.to_owned();
        Ok(Self { slot })
    }
}

impl RecordRefusal {
    pub(super) fn decode(body: &[u8]) -> Result<Self, Problem> {
        let refusal: Self = from_json(body)?;
        check_length("from", &refusal.from)?;
        check_length("command", &refusal.command)?;
        Ok(refusal)
    }
}

fn check_reason(reason: &str) -> Result<(), Problem> {
    if is_line(reason.trim(), MAX_REASON) {
        return Ok(());
    }
    Err(Problem::malformed(format!(
        "reason: expected one line of 1 to {MAX_REASON} bytes that says why"
    )))
}

fn check_length(key: &str, text: &str) -> Result<(), Problem> {
    if text.len() <= MAX_NAME {
        return Ok(());
    }
    Err(Problem::malformed(format!(
        "{key}: expected at most {MAX_NAME} bytes"
    )))
}

impl Request for Reset {
    type Answer = ResetAnswer;
    const METHOD: Method = Method::Post;

    fn target(&self) -> String {
        slot_path(&self.slot, "reset")
    }

    fn body(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Request for LaunchpadReset {
    type Answer = ResetAnswer;
    const METHOD: Method = Method::Post;

    fn target(&self) -> String {
        format!("{PREFIX}/launchpad-reset")
    }

    fn body(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Request for Hold {
    type Answer = HoldAnswer;
    const METHOD: Method = Method::Post;

    fn target(&self) -> String {
        slot_path(&self.slot, "hold")
    }

    fn body(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Request for Drain {
    type Answer = HoldAnswer;
    const METHOD: Method = Method::Post;

    fn target(&self) -> String {
        slot_path(&self.slot, "drain")
    }

    fn body(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Request for Release {
    type Answer = SlotInfo;
    const METHOD: Method = Method::Post;

    fn target(&self) -> String {
        slot_path(&self.slot, "release")
    }
}

impl Request for RecordRefusal {
    type Answer = Recorded;
    const METHOD: Method = Method::Post;

    fn target(&self) -> String {
        format!("{PREFIX}/refused-commands")
    }

    fn body(&self) -> Vec<u8> {
        to_json(self)
    }
}
