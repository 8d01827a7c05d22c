//! `[filecache]` of `rack.toml`.

use std::time::Duration;

use panda_board::settings::Mistakes;
use panda_http::download::DownloadSettings;
use panda_protocol::launchpad::Dialect;
use serde::{Deserialize, Serialize};

/// How large the cache may become, and how long a download may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FilecacheSettings {
    /// The most bytes of all inputs together; the least recently used are removed first.
    pub(crate) max_bytes: u64,
    /// The most bytes of one input.
    pub(crate) file_max_bytes: u64,
    /// Time for a connection, in milliseconds.
    pub(crate) connect_ms: u64,
    /// Time between two pieces of an input, in milliseconds.
    pub(crate) read_ms: u64,
    /// Time for a whole input, in milliseconds.
    pub(crate) total_ms: u64,
    /// How long one `ensurepresent` is kept waiting, in milliseconds; a download goes on behind it. Less
    /// than the manager's patience: ten minutes today, 40 s in 2011.
    pub(crate) wait_ms: u64,
    /// The pause before a download that failed is tried again, in milliseconds; it doubles each time.
    pub(crate) retry_first_ms: u64,
    /// The longest such pause, in milliseconds.
    pub(crate) retry_most_ms: u64,
    /// Bytes of the disk that the cache leaves free for everything else; below them no slot takes builds.
    pub(crate) free_min_bytes: u64,
    /// How long slots take no builds because a server does not answer, in milliseconds, unless it does before; then
    /// they take some for twice as long. Less than three of the manager's scans, whatever is written here: 40 s.
    pub(crate) shun_ms: u64,
    /// How often such a server is looked at, and how long it may take to answer that, in milliseconds.
    pub(crate) look_ms: u64,
    /// Which manager the rack speaks to. A setting of the rack, not of this part: whoever assembles the
    /// rack fills it in.
    #[serde(skip)]
    pub(crate) dialect: Dialect,
}

impl Default for FilecacheSettings {
    fn default() -> Self {
        Self {
            max_bytes: 20 << 30,
            file_max_bytes: 4 << 30,
            connect_ms: 15_000,
            read_ms: 60_000,
            total_ms: 1_800_000,
            wait_ms: 540_000,
            retry_first_ms: 1_000,
            retry_most_ms: 15_000,
            free_min_bytes: 64 << 20,
            shun_ms: 40_000,
            look_ms: 5_000,
            dialect: Dialect::Current,
        }
    }
}

/// 2011's manager gives an answer 40 s, whatever `wait_ms` says.
const WAIT_2011: Duration = Duration::from_secs(35);
/// The longest that anything may be given: a day.
const LONGEST_MS: u64 = 24 * 3_600_000;

impl FilecacheSettings {
    /// What is wrong with these settings; the configuration's check.
    ///
    /// # Errors
    /// All of it.
    pub(crate) fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        for (key, value) in [
            ("connect_ms", self.connect_ms),
            ("read_ms", self.read_ms),
            ("total_ms", self.total_ms),
            ("wait_ms", self.wait_ms),
            ("retry_first_ms", self.retry_first_ms),
            ("retry_most_ms", self.retry_most_ms),
            ("shun_ms", self.shun_ms),
            ("look_ms", self.look_ms),
        ] {
            mistakes.milliseconds(key, value, 1..=LONGEST_MS);
        }
        for (key, value) in [
            ("max_bytes", self.max_bytes),
            ("file_max_bytes", self.file_max_bytes),
        ] {
            mistakes.unless(value > 0, key, "expected at least one byte");
        }
        // Else a file that is allowed would be refused when a build needs it.
        if self.max_bytes > 0 && self.file_max_bytes > self.max_bytes {
            let expected = format!(
                "expected at most max_bytes ({}), got {}",
                self.max_bytes, self.file_max_bytes
            );
            mistakes.add("file_max_bytes", expected);
        }
        mistakes.end()
    }

    /// How long one `ensurepresent` is kept waiting.
    pub(super) fn wait(&self) -> Duration {
        let wait = Duration::from_millis(self.wait_ms);
        match self.dialect {
            Dialect::Current => wait,
            Dialect::Y2011 => wait.min(WAIT_2011),
        }
    }

    pub(super) fn download(&self) -> DownloadSettings {
        DownloadSettings {
            connect_limit: Duration::from_millis(self.connect_ms),
            read_limit: Duration::from_millis(self.read_ms),
            total_limit: Duration::from_millis(self.total_ms),
            wait_limit: self.wait(),
            max_bytes: self.file_max_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_may_not_be_larger_than_the_whole_cache() {
        let check = |text: &str| {
            let settings: FilecacheSettings = toml::from_str(text).unwrap();
            settings.check().map_err(|mistakes| mistakes.to_string())
        };
        assert_eq!(check("max_bytes = 7\nfile_max_bytes = 7"), Ok(()));
        assert_eq!(
            check("max_bytes = 7\nfile_max_bytes = 8"),
            Err("file_max_bytes: expected at most max_bytes (7), got 8".to_owned())
        );
    }

    #[test]
    fn in_2011_nobody_waits_longer_than_that_manager_does() {
        let wait = |dialect, wait_ms| {
            let settings = FilecacheSettings {
                dialect,
                wait_ms,
                ..FilecacheSettings::default()
            };
            settings.download().wait_limit.as_millis()
        };
        assert_eq!(wait(Dialect::Current, 540_000), 540_000);
        assert_eq!(wait(Dialect::Y2011, 540_000), 35_000);
        assert_eq!(wait(Dialect::Y2011, 20_000), 20_000);
    }

    #[test]
    fn the_defaults_pass_their_own_check_and_nothing_may_be_zero() {
        assert_eq!(FilecacheSettings::default().check(), Ok(()));
        for key in [
            "max_bytes",
            "file_max_bytes",
            "connect_ms",
            "read_ms",
            "total_ms",
            "wait_ms",
            "retry_first_ms",
            "retry_most_ms",
            "shun_ms",
            "look_ms",
        ] {
            let settings: FilecacheSettings = toml::from_str(&format!("{key} = 0")).unwrap();
            let problem = settings.check().unwrap_err().to_string();
            assert!(problem.starts_with(&format!("{key}: ")), "{problem}");
        }
    }
}
