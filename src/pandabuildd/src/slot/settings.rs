//! How often a slot tries things, and how long it waits: the `[slot_task]` part of `rack.toml`.

use std::time::Duration;

use panda_protocol::launchpad::Dialect;
use panda_slot::Limits;
use serde::{Deserialize, Serialize};

/// How often a slot tries things, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// Attempts of one reset (cut and boot) before the board is Failed.
    pub(crate) attempts: u32,
    /// How often a build that the worker has not acknowledged moves to a new boot.
    pub(crate) moves: u32,
    /// How long a `clean` waits for its board. Today's manager calls `clean` for builders that are not
    /// virtualised only, and waits 40 s for the answer; waiting longer here would only answer a caller
    /// who has gone. (2011's `clean` never waits.)
    pub(crate) clean_wait_seconds: u64,
    /// The pause before a Failed board is tried again for the first time; it doubles each time.
    pub(crate) retry_first_seconds: u64,
    /// The longest such pause.
    pub(crate) retry_most_seconds: u64,
    /// Whether a board loses power as soon as its results are in, and not only when Launchpad asks for the
    /// reset. Without it every build costs its builder the time of a reset more, and a board that has run
    /// somebody's build stays powered; it is there to compare the two.
    pub(crate) eager_reset: bool,
    /// Which manager the rack speaks to. A setting of the rack, not of this part: whoever assembles the
    /// rack fills it in.
    #[serde(skip)]
    pub(crate) dialect: Dialect,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempts: 3,
            moves: 2,
            clean_wait_seconds: 35,
            retry_first_seconds: 60,
            retry_most_seconds: 3600,
            eager_reset: true,
            dialect: Dialect::Current,
        }
    }
}

/// A setting that cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key}: expected {allowed}")]
pub(crate) struct SettingsError {
    /// The setting.
    pub(crate) key: &'static str,
    /// What it may be.
    pub(crate) allowed: &'static str,
}

impl Settings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first setting that cannot be meant.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let bad = |key, allowed| Err(SettingsError { key, allowed });
        if !(1..=100).contains(&self.attempts) {
            return bad("attempts", "1 to 100");
        }
        if self.moves > 100 {
            return bad("moves", "at most 100");
        }
        if !(1..=3600).contains(&self.clean_wait_seconds) {
            return bad("clean_wait_seconds", "1 to 3600");
        }
        if !(1..=86_400).contains(&self.retry_first_seconds) {
            return bad("retry_first_seconds", "1 to 86400");
        }
        if !(self.retry_first_seconds..=604_800).contains(&self.retry_most_seconds) {
            return bad("retry_most_seconds", "retry_first_seconds to 604800");
        }
        Ok(())
    }

    /// What the machine needs to know of these.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            attempts: self.attempts,
            moves: self.moves,
            dialect: self.dialect,
        }
    }

    /// How long a `clean` waits.
    pub(super) fn clean_wait(&self) -> Duration {
        Duration::from_secs(self.clean_wait_seconds)
    }

    /// The pause before a Failed board is tried again, after `pauses` earlier ones.
    pub(super) fn retry_pause(&self, pauses: u32) -> Duration {
        let factor = 1_u64.checked_shl(pauses).unwrap_or(u64::MAX);
        let seconds = self.retry_first_seconds.saturating_mul(factor);
        Duration::from_secs(seconds.min(self.retry_most_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let settings = Settings::default();
        let seconds: Vec<u64> = [0, 1, 2, 5, 6, 63, 64, u32::MAX]
            .map(|n| settings.retry_pause(n).as_secs())
            .into();
        assert_eq!(seconds, [60, 120, 240, 1920, 3600, 3600, 3600, 3600]);
    }

    #[test]
    fn settings_that_cannot_be_meant_are_named_with_what_is_allowed() {
        assert_eq!(Settings::default().check(), Ok(()));
        let rows = [
            ("attempts = 0", "attempts: expected 1 to 100"),
            ("moves = 101", "moves: expected at most 100"),
            (
                "clean_wait_seconds = 0",
                "clean_wait_seconds: expected 1 to 3600",
            ),
            (
                "retry_first_seconds = 0",
                "retry_first_seconds: expected 1 to 86400",
            ),
            (
                "retry_most_seconds = 59",
                "retry_most_seconds: expected retry_first_seconds to 604800",
            ),
        ];
        for (text, expected) in rows {
            let settings: Settings = toml::from_str(text).unwrap();
            assert_eq!(settings.check().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let error = toml::from_str::<Settings>("clean_wait_second = 3").unwrap_err();
        assert!(error.to_string().contains("clean_wait_seconds"), "{error}");
    }
}
