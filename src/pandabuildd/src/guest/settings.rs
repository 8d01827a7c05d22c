//! The guest's settings: how often a board is asked, how long it may be silent, and how much it may send.
//! Part of `rack.toml`.

use std::time::Duration;

use panda_board::settings::Mistakes;
use panda_http::ClientLimits;
use panda_http::endpoint::EndpointSettings;
use serde::{Deserialize, Serialize};

/// `[guest]` of `rack.toml`. Every time is in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GuestSettings {
    /// How often a worker that builds is asked for its status and log.
    pub(crate) poll_ms: u64,
    /// How often a board that waits for a build proves itself again.
    pub(crate) prove_ms: u64,
    /// A waiting board that has not proved itself for so long is reset.
    pub(crate) prove_silent_ms: u64,
    /// A building board that has not answered for so long is lost; a busy one may be slow.
    pub(crate) follow_silent_ms: u64,
    /// Time for a connection.
    pub(crate) connect_ms: u64,
    /// Time for one call.
    pub(crate) call_ms: u64,
    /// Time for the worker to fetch one input.
    pub(crate) input_ms: u64,
    /// Time for all that comes before the worker acknowledges a build.
    pub(crate) dispatch_ms: u64,
    /// Time for one result file.
    pub(crate) file_ms: u64,
    /// The longest a build may take, since the daemon began to follow it.
    pub(crate) build_ms: u64,
    /// Time for all results and the rest of the log.
    pub(crate) collect_ms: u64,
    /// Time for an aborted worker to hand its log over, before its board loses power.
    pub(crate) abort_ms: u64,
    /// The most bytes of a build log; the rest is left out.
    pub(crate) log_max_bytes: u64,
    /// The most bytes of a build's results together.
    pub(crate) results_max_bytes: u64,
}

impl Default for GuestSettings {
    fn default() -> Self {
        Self {
            poll_ms: 2_000,
            prove_ms: 5_000,
            prove_silent_ms: 12_000,
            follow_silent_ms: 90_000,
            connect_ms: 5_000,
            call_ms: 10_000,
            input_ms: 900_000,
            dispatch_ms: 1_800_000,
            file_ms: 1_800_000,
            build_ms: 5 * 24 * 3_600_000,
            collect_ms: 3_600_000,
            abort_ms: 10_000,
            log_max_bytes: 512 << 20,
            results_max_bytes: 8 << 30,
        }
    }
}

/// The longest that anything may be given: thirty days.
const LONGEST_MS: u64 = 30 * 24 * 3_600_000;

impl GuestSettings {
    /// What is wrong with these settings; the configuration's check.
    ///
    /// # Errors
    /// All of it.
    pub(crate) fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let times = [
            ("poll_ms", self.poll_ms),
            ("prove_ms", self.prove_ms),
            ("prove_silent_ms", self.prove_silent_ms),
            ("follow_silent_ms", self.follow_silent_ms),
            ("connect_ms", self.connect_ms),
            ("call_ms", self.call_ms),
            ("input_ms", self.input_ms),
            ("dispatch_ms", self.dispatch_ms),
            ("file_ms", self.file_ms),
            ("build_ms", self.build_ms),
            ("collect_ms", self.collect_ms),
            ("abort_ms", self.abort_ms),
        ];
        for (key, value) in times {
            mistakes.milliseconds(key, value, 1..=LONGEST_MS);
        }
        let sizes = [
            ("log_max_bytes", self.log_max_bytes),
            ("results_max_bytes", self.results_max_bytes),
        ];
        for (key, value) in sizes {
            mistakes.unless(value > 0, key, "expected at least one byte");
        }
        mistakes.end()
    }

    pub(super) fn client_limits(&self) -> ClientLimits {
        ClientLimits {
            call_limit: Duration::from_millis(self.call_ms),
            ensure_limit: Duration::from_millis(self.input_ms),
            file_limit: Duration::from_millis(self.file_ms),
            ..ClientLimits::default()
        }
    }

    pub(super) fn endpoint(&self) -> EndpointSettings {
        EndpointSettings {
            connect_limit: Duration::from_millis(self.connect_ms),
            // `ensurepresent` is silent while the worker fetches; each call has its own limit.
            read_limit: Duration::from_millis(self.input_ms.max(self.call_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_check() {
        assert_eq!(GuestSettings::default().check(), Ok(()));
    }

    #[test]
    fn settings_that_cannot_be_name_their_key() {
        for (text, key) in [
            ("poll_ms = 0", "poll_ms"),
            ("results_max_bytes = 0", "results_max_bytes"),
        ] {
            let settings: GuestSettings = toml::from_str(text).unwrap();
            let problem = settings.check().unwrap_err().to_string();
            assert!(problem.starts_with(&format!("{key}: ")), "{problem}");
        }
        assert!(toml::from_str::<GuestSettings>("poll = 1").is_err());
    }
}
