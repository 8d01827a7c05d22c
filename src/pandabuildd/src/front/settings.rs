//! `[front]` of `rack.toml`.

use std::net::SocketAddr;
use std::time::Duration;

use panda_board::settings::Mistakes;
use panda_http::{ServerSettings, ServiceLimits};
use panda_protocol::launchpad::xml::Limits;
use serde::{Deserialize, Serialize};

/// Where Launchpad finds the rack, and what its calls may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FrontSettings {
    /// The address that all slots share: a call's `Host` names the slot. Without it, slots have only
    /// their own.
    pub(crate) listen: Option<SocketAddr>,
    /// Connections at once, at each address that is listened on.
    pub(crate) connections: usize,
    /// Connections at once from one address. Launchpad opens up to 128.
    pub(crate) connections_per_address: usize,
    /// The most bytes of a call.
    pub(crate) call_max_bytes: usize,
    /// Time for a call's bytes to arrive, in milliseconds.
    pub(crate) call_ms: u64,
    /// How long an answer may find nobody who reads it, in milliseconds.
    pub(crate) write_ms: u64,
    /// How long calls in flight may take when the daemon is told to stop, in milliseconds.
    pub(crate) drain_ms: u64,
}

impl Default for FrontSettings {
    fn default() -> Self {
        Self {
            listen: None,
            connections: 512,
            connections_per_address: 256,
            call_max_bytes: Limits::default().bytes,
            call_ms: 30_000,
            write_ms: 60_000,
            drain_ms: 20_000,
        }
    }
}

/// The longest that anything may be given: an hour.
const LONGEST_MS: u64 = 3_600_000;
/// A call smaller than this cannot start a build.
const LEAST_CALL: usize = 16 * 1024;

impl FrontSettings {
    /// What is wrong with these settings; the configuration's check.
    ///
    /// # Errors
    /// All of it.
    pub(crate) fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        for (key, value) in [
            ("call_ms", self.call_ms),
            ("write_ms", self.write_ms),
            ("drain_ms", self.drain_ms),
        ] {
            mistakes.milliseconds(key, value, 1..=LONGEST_MS);
        }
        for (key, value) in [
            ("connections", self.connections),
            ("connections_per_address", self.connections_per_address),
        ] {
            mistakes.unless(value > 0, key, "expected at least 1");
        }
        let most = Limits::default().bytes * 8;
        if !(LEAST_CALL..=most).contains(&self.call_max_bytes) {
            let expected = format!(
                "expected {LEAST_CALL} to {most}, got {}",
                self.call_max_bytes
            );
            mistakes.add("call_max_bytes", expected);
        }
        mistakes.end()
    }

    /// For the accept loop.
    #[must_use]
    pub(crate) fn server(&self) -> ServerSettings {
        ServerSettings {
            connections: self.connections,
            connections_per_address: self.connections_per_address,
            write_limit: Duration::from_millis(self.write_ms),
            drain: Duration::from_millis(self.drain_ms),
            ..ServerSettings::default()
        }
    }

    /// For the calls.
    #[must_use]
    pub(crate) fn service(&self) -> ServiceLimits {
        ServiceLimits {
            xml: Limits {
                bytes: self.call_max_bytes,
                ..Limits::default()
            },
            body_limit: Duration::from_millis(self.call_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_check_and_each_bound_holds() {
        assert_eq!(FrontSettings::default().check(), Ok(()));
        for text in [
            "call_ms = 0",
            "drain_ms = 99999999",
            "connections = 0",
            "call_max_bytes = 10",
        ] {
            let settings: FrontSettings = toml::from_str(text).unwrap();
            let key = text.split(' ').next().unwrap();
            assert!(
                settings
                    .check()
                    .unwrap_err()
                    .to_string()
                    .starts_with(&format!("{key}: "))
            );
        }
    }
}
