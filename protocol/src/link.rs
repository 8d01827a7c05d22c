//! What agent and master say to each other beside the builder protocol, as JSON over mutual TLS.
//!
//! The agent is a client of the master's *depot*:
//! - `POST /report` with a [`Report`]: the proof of boot. 204, or 403 when this boot is not awaited.
//! - `GET /input/<sha1>`: an input file of this boot's build. 404 when it may not have it.
//! - `GET /rootfs`: the root file system that `boot.toml` names. 404 where it names none.
//!
//! The master is the only client of the agent's *link*:
//! - `GET /boot`: a fresh [`Report`].
//! - `POST /rpc`, `GET /filecache/<name>`: the worker's builder protocol.
//!
//! A report comes from the board, so it is an attacker's until the handshake has said whose it is, and
//! its texts stay so: [`Report::decode`] bounds and checks all of it.

use serde::{Deserialize, Serialize};

use crate::checks::{is_boot_id, is_label, is_line};
use crate::digest::Sha256;

/// Path of the agent's report at the depot.
pub const REPORT_PATH: &str = "/report";
/// Path prefix of input files at the depot.
pub const INPUT_PATH: &str = "/input/";
/// Path of the root file system at the depot.
pub const ROOTFS_PATH: &str = "/rootfs";
/// Path of the agent's report at the link.
pub const BOOT_PATH: &str = "/boot";
/// The most bytes of a report.
pub const MAX_REPORT: usize = 16 * 1024;

/// What an agent says of the boot it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The boot's id, from `boot.toml`.
    pub boot: String,
    /// The image's id, from `boot.toml`.
    pub image: Sha256,
    /// Digest of the root file system that it verified, where the image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Sha256>,
    /// Milliseconds since the machine started.
    pub uptime_ms: u64,
    /// The board's clock, in milliseconds since 1970 UTC.
    pub clock_unix_ms: i64,
    /// The agent's version.
    pub agent: String,
    /// The worker's architecture tag, `armhf`.
    pub arch: String,
    /// The build types that the worker announces.
    pub build_types: Vec<String>,
}

/// The most build types that a report may announce.
pub const MAX_BUILD_TYPES: usize = 32;

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// When it is too long, no JSON of this shape, or a text in it is not what it must be.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_REPORT {
            return Err(ReportError::TooLong);
        }
        // The parser's own message may quote the report.
        let report: Self = serde_json::from_slice(bytes).map_err(|_| ReportError::Shape)?;
        let checks = [
            (is_boot_id(&report.boot), "boot"),
            (is_line(&report.agent, 128), "agent"),
            (is_label(&report.arch), "arch"),
            (
                report.build_types.len() <= MAX_BUILD_TYPES
                    && report.build_types.iter().all(|name| is_line(name, 64)),
                "build_types",
            ),
        ];
        match checks.into_iter().find(|(good, _)| !good) {
            Some((_, key)) => Err(ReportError::Value(key)),
            None => Ok(report),
        }
    }

    /// Writes a report.
    #[must_use]
    pub fn encode(&self) -> String {
        // serde_json fails only on map keys that are no strings; a report has no map.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What is wrong with a report. It does not quote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Over the bound.
    #[error("the agent's report has more than {MAX_REPORT} bytes")]
    TooLong,
    /// Not JSON of this shape.
    #[error("the agent's report is of another shape; were master and image built together?")]
    Shape,
    /// A text that cannot be.
    #[error("the agent's report has a wrong `{0}`")]
    Value(&'static str),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = concat!(
        r#"{"boot":"0123456789abcdef0123456789abcdef","#,
        r#""image":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","#,
        r#""uptime_ms":7700,"clock_unix_ms":1700000000123,"agent":"panda-agent 0.1.0","#,
        r#""arch":"armhf","build_types":["binarypackage"]}"#,
    );

    #[test]
    fn a_report_is_these_bytes() {
        let report = Report::decode(GOOD.as_bytes()).unwrap();
        assert_eq!(report.image, Sha256::of(b""));
        assert_eq!(report.build_types, ["binarypackage"]);
        assert_eq!(report.encode(), GOOD);
    }

    #[test]
    fn a_hostile_report_is_refused_and_not_quoted() {
        let many = format!("[{}]", vec!["\"a\""; 33].join(","));
        for (from, to, expected) in [
            (
                "0123456789abcdef01",
                "../../../../../..",
                ReportError::Value("boot"),
            ),
            (
                "panda-agent 0.1.0",
                "a\\u001b[2J",
                ReportError::Value("agent"),
            ),
            ("armhf", "", ReportError::Value("arch")),
            (
                "\"binarypackage\"",
                "\"\"",
                ReportError::Value("build_types"),
            ),
            (
                "[\"binarypackage\"]",
                &many,
                ReportError::Value("build_types"),
            ),
            ("7700", "-1", ReportError::Shape),
            ("\"arch\"", "\"more\":1,\"arch\"", ReportError::Shape),
        ] {
            assert!(GOOD.contains(from));
            let bytes = GOOD.replacen(from, to, 1);
            assert_eq!(Report::decode(bytes.as_bytes()), Err(expected), "{to}");
        }
        assert_eq!(
            Report::decode(&vec![b' '; MAX_REPORT + 1]),
            Err(ReportError::TooLong)
        );
        assert_eq!(
            Report::decode(&vec![b'['; MAX_REPORT]),
            Err(ReportError::Shape)
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            boot in "[0-9a-f]{32}", image: [u8; 32], rootfs: Option<[u8; 32]>, uptime_ms: u64,
            clock_unix_ms: i64, agent in "[ -~é]{1,60}", arch in "[a-z]{1,9}",
            build_types in prop::collection::vec("[a-z-]{1,20}", 0..9),
        ) {
            let report = Report {
                boot, image: Sha256::from_bytes(image), rootfs: rootfs.map(Sha256::from_bytes),
                uptime_ms, clock_unix_ms, agent, arch, build_types,
            };
            prop_assert_eq!(Report::decode(report.encode().as_bytes()), Ok(report));
        }
    }
}
