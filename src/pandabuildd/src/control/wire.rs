//! What goes over the control socket: one line of JSON asks, one line answers, and so on until either
//! side closes.
//!
//! ```text
//! > {"version":1,"ask":{"slots":{"fresh_within_seconds":null}}}
//! < {"version":1,"answer":{"slots":{"slots":[…],"in_time":true}}}
//! > {"version":1,"ask":{"reset":{"slot":"panda01","force":false,"wait_seconds":600}}}
//! < {"version":1,"answer":{"refused":{"reason":"…"}}}
//! ```
//!
//! Both ends come from one release and live on one machine, so another version is refused, not guessed at.

use panda_slot::BootNo;
use serde::{Deserialize, Serialize};

use crate::console::Place;
use crate::ledger::BootHistory;

/// The version that this code speaks.
pub const VERSION: u32 = 1;
/// The most bytes of a question's line.
pub const MAX_ASK: usize = 64 * 1024;
/// The most bytes of an answer's line.
pub const MAX_ANSWER: usize = 64 << 20;
/// The most bytes that are typed at once.
pub const MAX_KEYS: usize = 4096;
/// The most boots that one answer tells.
pub const MAX_BOOTS: u32 = 1000;

/// A question's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// How every slot is.
    Slots {
        /// Wait until all are Fresh, at most this long.
        fresh_within_seconds: Option<u64>,
    },
    /// Reset a slot.
    Reset {
        /// Its name.
        slot: String,
        /// Even when it has a build, or results that Launchpad has not fetched.
        force: bool,
        /// Wait until it is Fresh or has failed, at most this long.
        wait_seconds: Option<u64>,
    },
    /// Launchpad's own reset, whatever the slot has.
    PpaReset {
        /// The slot's name, or any host name of its, or such a name's first label.
        name: String,
        /// Wait until a dispatch would be served, at most this long; else Launchpad is told through its
        /// web service.
        wait_ms: Option<u64>,
    },
    /// Some of what a slot's console has said.
    Console {
        /// The slot.
        slot: String,
        /// In this boot only.
        boot: Option<BootNo>,
        /// From there on; from the last boot's, or that boot's, beginning where none is given.
        from: Option<Place>,
        /// Where there is nothing yet, wait for it, at most this long.
        wait_seconds: Option<u64>,
    },
    /// Type something on a slot's console.
    Type {
        /// The slot.
        slot: String,
        /// The keys' bytes, at most [`MAX_KEYS`].
        keys: Vec<u8>,
    },
    /// Record that a command over SSH was refused.
    SshRefused {
        /// Where it came from, as sshd says.
        from: String,
        /// The command.
        command: String,
    },
    /// The last resets, each with its chain.
    Boots {
        /// Of this slot only.
        slot: Option<String>,
        /// At most so many, the latest.
        limit: u32,
    },
}

/// An answer's line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// [`VERSION`].
    pub version: u32,
    /// The answer.
    pub answer: Answer,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// To [`Ask::Slots`].
    Slots {
        /// In the order of `rack.toml`.
        slots: Vec<SlotInfo>,
        /// Whether what was waited for came in time; true where nothing was.
        in_time: bool,
    },
    /// To [`Ask::Console`].
    Console {
        /// Whole lines, or the beginning of the last one; nothing at the end.
        text: String,
        /// Where to go on; none while there is no log at all.
        next: Option<Place>,
    },
    /// To [`Ask::SshRefused`].
    Recorded,
    /// To [`Ask::Type`]: the console has taken it.
    Typed,
    /// To [`Ask::Reset`] and [`Ask::PpaReset`].
    Reset {
        /// How the slot is now.
        slot: SlotInfo,
        /// Where the reset stands.
        end: ResetEnd,
    },
    /// To [`Ask::Boots`], the latest first.
    Boots {
        /// The resets.
        boots: Vec<BootHistory>,
    },
    /// No.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
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

/// A slot, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
pub struct KeptInfo {
    /// The job's cookie.
    pub build_id: String,
    /// `BuildStatus.OK`, …
    pub build_status: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_written_as_the_picture_says() {
        let ask = Ask::Reset {
            slot: "panda01".into(),
            force: false,
            wait_seconds: Some(600),
        };
        let line = serde_json::to_string(&Question {
            version: VERSION,
            ask,
        })
        .unwrap();
        assert_eq!(
            line,
            r#"{"version":1,"ask":{"reset":{"slot":"panda01","force":false,"wait_seconds":600}}}"#
        );
    }

    #[test]
    fn unknown_questions_and_fields_are_refused() {
        for line in [
            r#"{"version":1,"ask":{"format":{}}}"#,
            r#"{"version":1,"ask":{"slots":{"fresh_within_seconds":null,"x":1}}}"#,
            r#"{"version":1}"#,
        ] {
            assert!(serde_json::from_str::<Question>(line).is_err(), "{line}");
        }
    }
}
