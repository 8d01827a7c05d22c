//! `[webservice]` of `rack.toml`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use panda_board::settings::Mistakes;
use serde::Deserialize;
use url::{Host, Url};

/// Launchpad's web service, for reset protocol 2.0.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebServiceSettings {
    /// The service's root with its version.
    #[serde(default = "production")]
    pub(crate) url: Url,
    /// The file with the credentials, in launchpadlib's format; for the daemon's user alone.
    pub(crate) credentials: PathBuf,
    /// The names of builders in Launchpad, by slot, where they are not the slots' own.
    #[serde(default)]
    pub(crate) builders: BTreeMap<String, String>,
    /// Whether a slot that has failed is disabled in Launchpad, with its reason.
    #[serde(default)]
    pub(crate) report_failures: bool,
    /// The pause between two looks at a builder's entry; it doubles each time.
    #[serde(default = "first_pause_ms")]
    pub(crate) first_pause_ms: u64,
    /// The longest such pause.
    #[serde(default = "most_pause_ms")]
    pub(crate) most_pause_ms: u64,
    /// Time for one call.
    #[serde(default = "call_ms")]
    pub(crate) call_ms: u64,
    /// The most bytes of an answer.
    #[serde(default = "answer_max_bytes")]
    pub(crate) answer_max_bytes: usize,
}

#[expect(clippy::expect_used, reason = "the text is a URL")]
fn production() -> Url {
    Url::parse("https://api.launchpad.net/devel").expect("a constant URL")
}

fn first_pause_ms() -> u64 {
    2_000
}

fn most_pause_ms() -> u64 {
    60_000
}

fn call_ms() -> u64 {
    30_000
}

fn answer_max_bytes() -> usize {
    256 * 1024
}

/// The longest that anything may be given: an hour.
const LONGEST_MS: u64 = 3_600_000;

impl WebServiceSettings {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// All of it.
    pub(crate) fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let local = match self.url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(_)) | None => false,
        };
        let safe = self.url.scheme() == "https" || (self.url.scheme() == "http" && local);
        let bare = self.url.username().is_empty()
            && self.url.password().is_none()
            && self.url.query().is_none()
            && self.url.fragment().is_none();
        if !safe || !bare || !self.url.has_host() {
            mistakes.add("url", "expected https:// (http:// only to this machine's own 127.0.0.1 or [::1]: credentials go \
                 there), without user, password or query, such as \"https://api.launchpad.net/devel\"");
        }
        for (slot, builder) in &self.builders {
            if !is_builder(builder) {
                let expected =
                    format!("{slot}: expected a builder's name in Launchpad: a-z, 0-9, +, . and -");
                mistakes.add("builders", expected);
            }
        }
        for (key, value) in [
            ("first_pause_ms", self.first_pause_ms),
            ("most_pause_ms", self.most_pause_ms),
            ("call_ms", self.call_ms),
        ] {
            mistakes.milliseconds(key, value, 1..=LONGEST_MS);
        }
        if self.most_pause_ms < self.first_pause_ms {
            mistakes.add("most_pause_ms", "expected at least first_pause_ms");
        }
        if !(4096..=16 << 20).contains(&self.answer_max_bytes) {
            mistakes.add("answer_max_bytes", "expected 4096 to 16777216");
        }
        mistakes.end()
    }

    /// The name in Launchpad of the builder that `slot` is.
    #[must_use]
    pub(crate) fn builder<'a>(&'a self, slot: &'a str) -> &'a str {
        self.builders.get(slot).map_or(slot, String::as_str)
    }

    /// The pause after `pause`.
    pub(super) fn grown(&self, pause: Duration) -> Duration {
        let most = Duration::from_millis(self.most_pause_ms);
        let first = Duration::from_millis(self.first_pause_ms);
        (pause * 2).clamp(first, most)
    }
}

/// A name as Launchpad allows it.
fn is_builder(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> WebServiceSettings {
        toml::from_str(&format!("credentials = \"/c\"\n{text}")).unwrap()
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let example = include_str!("../../rack.example.toml");
        let (_, after) = example.split_once("# [webservice]\n").unwrap();
        let block: Vec<&str> = after
            .lines()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.contains(" = "))
            .collect();
        let shown: WebServiceSettings = toml::from_str(&block.join("\n")).unwrap();
        assert_eq!(shown.check(), Ok(()));
        assert_eq!(
            shown.credentials,
            PathBuf::from("/etc/pandabuildd/launchpad")
        );
        assert_eq!(shown.builder("panda01"), "rack1-panda01");
        let defaults = WebServiceSettings {
            credentials: shown.credentials.clone(),
            builders: shown.builders.clone(),
            ..parse("")
        };
        assert_eq!(shown, defaults);
        assert!(block.len() > 7, "{block:?}");
    }

    #[test]
    fn what_cannot_be_meant_or_would_show_credentials_is_refused_by_its_key() {
        for text in [
            "url = \"http://api.launchpad.net/devel\"",
            "url = \"http://localhost/devel\"",
            "url = \"ftp://127.0.0.1/\"",
            "url = \"https://user:secret@api.launchpad.net/devel\"",
            "builders = { panda01 = \"../people\" }",
            "first_pause_ms = 0",
            "call_ms = 3600001",
            "most_pause_ms = 1",
            "answer_max_bytes = 1",
        ] {
            let key = text.split(' ').next().unwrap();
            let error = parse(text).check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}: ")), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(
            parse("url = \"http://127.0.0.1:8085/devel\"").check(),
            Ok(())
        );
    }

    #[test]
    fn builders_are_of_slots_that_are_there_and_no_two_slots_are_one() {
        let parse = |builders: &str| {
            let slot = |name, port| {
                let twin = |what| {
                    format!("{what} = {{ driver = \"twin\", socket = \"{name}.{what}\" }}\n")
                };
                format!(
                    "[[slot]]\nname = \"{name}\"\nlink = \"127.0.0.1:{port}\"\n{}{}",
                    twin("power"),
                    twin("pipe")
                )
            };
            let text = format!(
                "[rack]\nname = \"r\"\nstate_dir = \"s\"\nimage = \"i\"\n[front]\nlisten = \"127.0.0.1:1\"\n\
                 [depot]\nlisten = \"127.0.0.1:2\"\n[webservice]\ncredentials = \"lp\"\n{builders}\n{}{}",
                slot("panda01", 3),
                slot("panda02", 4)
            );
            crate::config::Config::parse(&text, std::path::Path::new("/etc/rack.toml"))
        };
        let config = parse("builders = { panda01 = \"x\" }").unwrap();
        let settings = config.webservice.unwrap();
        assert_eq!(settings.credentials, PathBuf::from("/etc/lp"));
        assert_eq!(
            ["panda01", "panda02"].map(|slot| settings.builder(slot)),
            ["x", "panda02"]
        );
        for (builders, problem) in [
            ("builders = { panda03 = \"x\" }", "there is no such slot"),
            (
                "builders = { panda01 = \"panda02\" }",
                "are both \"panda02\"",
            ),
            (
                "builders = { panda01 = \"-\" }",
                "expected a builder's name",
            ),
            ("url = \"http://lp.example/\"", "expected https://"),
        ] {
            let error = parse(builders).unwrap_err().to_string();
            assert!(
                error.starts_with("/etc/rack.toml: line 11: webservice."),
                "{error}"
            );
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let settings = parse("first_pause_ms = 10\nmost_pause_ms = 35");
        let mut pause = Duration::ZERO;
        let grown = std::array::from_fn(|_| {
            pause = settings.grown(pause);
            pause.as_millis()
        });
        assert_eq!(grown, [10, 20, 35, 35]);
    }
}
