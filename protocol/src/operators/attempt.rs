//! A build attempt with its times, its end, and what it moved, as the ledger holds it and operators see it.
//!
//! ```text
//! begin ─▶ dispatch ─▶ first byte of log ─▶ … ─▶ end, with its outcome
//! ```
//!
//! A time that has not come yet, or that was not recorded (by an older version, or because the daemon was not
//! there to see it), is none. Times are the master's wall clock, in milliseconds since 1970 UTC.

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptNo, BootNo};
use crate::launchpad::{BuildId, BuildStatus};

/// A build attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptHistory {
    /// Its number.
    pub attempt: AttemptNo,
    /// The boot that it runs on, or ran on last.
    pub boot: BootNo,
    /// The job's cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<BuildId>,
    /// When it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_unix_ms: Option<i64>,
    /// When the worker had acknowledged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatched_unix_ms: Option<i64>,
    /// When the first byte of its log had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_log_unix_ms: Option<i64>,
    /// When it had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_unix_ms: Option<i64>,
    /// How it ended, as it was kept for Launchpad. None while it runs, and for one that was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<BuildStatus>,
    /// What it moved, so far.
    #[serde(default)]
    pub moved: Moved,
}

/// Bytes that an attempt moved between master and board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Moved {
    /// Inputs, to the board.
    pub inputs: u64,
    /// Results, from the board.
    pub results: u64,
    /// Its log, from the board.
    pub log: u64,
}

impl AttemptHistory {
    /// An attempt of which nothing else is known.
    #[must_use]
    pub const fn new(attempt: AttemptNo, boot: BootNo) -> Self {
        Self {
            attempt,
            boot,
            build_id: None,
            began_unix_ms: None,
            dispatched_unix_ms: None,
            first_log_unix_ms: None,
            ended_unix_ms: None,
            outcome: None,
            moved: Moved {
                inputs: 0,
                results: 0,
                log: 0,
            },
        }
    }

    /// How long it took from its begin to its end, in milliseconds, where both are known.
    #[must_use]
    pub fn took_ms(&self) -> Option<u64> {
        let took = self.ended_unix_ms?.checked_sub(self.began_unix_ms?)?;
        u64::try_from(took).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_read_as_it_is_written() {
        let bare = AttemptHistory::new(AttemptNo::new(4), BootNo::new(9));
        let json = serde_json::to_string(&bare).unwrap();
        assert_eq!(
            json,
            r#"{"attempt":4,"boot":9,"moved":{"inputs":0,"results":0,"log":0}}"#
        );
        let whole = AttemptHistory {
            build_id: Some("PACKAGEBUILD-1".to_owned().try_into().unwrap()),
            began_unix_ms: Some(1_000),
            dispatched_unix_ms: Some(1_200),
            first_log_unix_ms: Some(1_300),
            ended_unix_ms: Some(9_000),
            outcome: Some(BuildStatus::Ok),
            ..bare
        };
        let json = serde_json::to_string(&whole).unwrap();
        assert_eq!(
            serde_json::from_str::<AttemptHistory>(&json).unwrap(),
            whole
        );
        assert_eq!(whole.took_ms(), Some(8_000));
    }

    #[test]
    fn an_end_before_the_begin_is_no_duration() {
        let back = AttemptHistory {
            began_unix_ms: Some(9),
            ended_unix_ms: Some(8),
            ..AttemptHistory::new(AttemptNo::new(1), BootNo::new(1))
        };
        assert_eq!(back.took_ms(), None);
    }
}
