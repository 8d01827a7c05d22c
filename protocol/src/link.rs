//! What agent and master say to each other beside the builder protocol, as JSON over mutual TLS.
//!
//! The agent is a client of the master's *depot*:
//! - `POST /report` with a [`Report`]: the proof of boot. 204, or 403 when this boot is not awaited.
//! - `POST /failure` with a [`Failure`]: why this boot will never be proven. The same answers.
//! - `POST /alive`, empty, every [`ALIVE_EVERY`] until the report is taken: the boot is under way. 204.
//! - `GET /time`: the master's clock, in milliseconds since 1970 UTC, as digits.
//! - `GET /input/<sha1>`: an input file of this boot's build. 404 when it may not have it.
//! - `GET /rootfs`: the root file system that `boot.toml` names. 404 where it names none.
//!
//! The master is the only client of the agent's *link*:
//! - `GET /boot`: a fresh [`Report`].
//! - `POST /rpc`, `GET /filecache/<name>`: the worker's builder protocol.
//!
//! A report comes from the board, so it is an attacker's until the handshake has said whose it is, and
//! its texts stay so: [`Report::decode`] and [`Failure::decode`] bound and check all of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checks::{is_boot_id, is_label, is_line};
use crate::digest::Sha256;

/// Path of the agent's report at the depot.
pub const REPORT_PATH: &str = "/report";
/// Path of a boot's failure at the depot.
pub const FAILURE_PATH: &str = "/failure";
/// Path at the depot of what a board says while it boots.
pub const ALIVE_PATH: &str = "/alive";
/// How often it says so. A master that has heard it takes silence for the board's death.
pub const ALIVE_EVERY: Duration = Duration::from_secs(3);
/// Path of the master's clock at the depot.
pub const TIME_PATH: &str = "/time";
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
    /// The boot's steps on the board, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<BootStep>,
    /// What makes the image unfit for anything but a demonstration, each as a label: [`FIXED_DISK_KEY`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insecure: Vec<String>,
}

/// The most build types that a report may announce.
pub const MAX_BUILD_TYPES: usize = 32;
/// The most steps that a board may tell of.
pub const MAX_STEPS: usize = 24;
/// The most bytes of a step's detail.
pub const MAX_DETAIL: usize = 200;
/// The most bytes of a failure's reason.
pub const MAX_REASON: usize = 1000;
/// The longest that a step may say it took: a day, in milliseconds.
pub const MAX_STEP_MS: u64 = 86_400_000;
/// The most that a report may say is insecure.
pub const MAX_INSECURE: usize = 4;
/// In [`Report::insecure`]: the image's disk key is fixed, and its file systems are kept across boots.
pub const FIXED_DISK_KEY: &str = "fixed-disk-key";

/// One step of a boot, as the board saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootStep {
    /// Its name: `modules`, `network`, `rootfs`, ….
    pub name: String,
    /// How long it took, in milliseconds; the first, `kernel`, is from the kernel's start.
    pub elapsed_ms: u64,
    /// What it did, in a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Why a boot will never be proven: posted in the place of its report, as far as the board has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The boot's id, from `boot.toml`.
    pub boot: String,
    /// The image's id, from `boot.toml`.
    pub image: Sha256,
    /// The step that failed.
    pub step: String,
    /// Why: one line.
    pub reason: String,
    /// The steps before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<BootStep>,
}

/// A line that [`Report::decode`] and [`Failure::decode`] take: control characters as blanks, cut to `max` bytes.
#[must_use]
pub fn line(text: &str, max: usize) -> String {
    let mut line = String::new();
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > max {
            break;
        }
        line.push(c);
    }
    line
}

fn are_steps(steps: &[BootStep]) -> bool {
    steps.len() <= MAX_STEPS
        && steps.iter().all(|step| {
            is_label(&step.name)
                && step.elapsed_ms <= MAX_STEP_MS
                && (step.detail.is_empty() || is_line(&step.detail, MAX_DETAIL))
        })
}

impl Failure {
    /// Reads a failure.
    ///
    /// # Errors
    /// When it is too long, no JSON of this shape, or a text in it is not what it must be.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_REPORT {
            return Err(ReportError::TooLong);
        }
        let failure: Self = serde_json::from_slice(bytes).map_err(|_| ReportError::Shape)?;
        let checks = [
            (is_boot_id(&failure.boot), "boot"),
            (is_label(&failure.step), "step"),
            (is_line(&failure.reason, MAX_REASON), "reason"),
            (are_steps(&failure.steps), "steps"),
        ];
        match checks.into_iter().find(|(good, _)| !good) {
            Some((_, key)) => Err(ReportError::Value(key)),
            None => Ok(failure),
        }
    }

    /// Writes a failure.
    #[must_use]
    pub fn encode(&self) -> String {
        // As in `Report::encode`.
        serde_json::to_string(self).unwrap_or_default()
    }
}

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
            (are_steps(&report.steps), "steps"),
            (
                report.insecure.len() <= MAX_INSECURE
                    && report.insecure.iter().all(|label| is_label(label)),
                "insecure",
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

    #[test]
    fn hostile_steps_are_refused() {
        let with = |steps: &str| {
            let bytes = GOOD.replacen('{', &format!(r#"{{"steps":{steps},"#), 1);
            Report::decode(bytes.as_bytes()).map(|report| report.steps.len())
        };
        let step = r#"{"name":"modules","elapsed_ms":1}"#;
        assert_eq!(with(&format!("[{step},{step}]")), Ok(2));
        let wrong = Err(ReportError::Value("steps"));
        for steps in [
            format!("[{}]", vec![step; MAX_STEPS + 1].join(",")),
            step.replace("modules", "a b").replacen('{', "[{", 1) + "]",
            format!(r#"[{{"name":"a","elapsed_ms":{}}}]"#, MAX_STEP_MS + 1),
            r#"[{"name":"a","elapsed_ms":1,"detail":"\u001b[2J"}]"#.to_owned(),
            format!(
                r#"[{{"name":"a","elapsed_ms":1,"detail":"{}"}}]"#,
                "x".repeat(MAX_DETAIL + 1)
            ),
        ] {
            assert_eq!(with(&steps), wrong, "{steps}");
        }
    }

    #[test]
    fn a_hostile_failure_is_refused_and_not_quoted() {
        let good = concat!(
            r#"{"boot":"0123456789abcdef0123456789abcdef","#,
            r#""image":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","#,
            r#""step":"rootfs","reason":"another digest"}"#,
        );
        assert_eq!(
            Failure::decode(good.as_bytes()).unwrap().reason,
            "another digest"
        );
        for (from, to, expected) in [
            (
                "0123456789abcdef01",
                "../../../../../..",
                ReportError::Value("boot"),
            ),
            ("rootfs", "root fs", ReportError::Value("step")),
            ("another digest", "", ReportError::Value("reason")),
            ("another digest", "a\\u000ab", ReportError::Value("reason")),
            (
                "another digest",
                &"x".repeat(MAX_REASON + 1),
                ReportError::Value("reason"),
            ),
            ("\"reason\"", "\"more\":1,\"reason\"", ReportError::Shape),
        ] {
            let bytes = good.replacen(from, to, 1);
            assert_eq!(Failure::decode(bytes.as_bytes()), Err(expected), "{to}");
        }
        assert_eq!(
            Failure::decode(&vec![b' '; MAX_REPORT + 1]),
            Err(ReportError::TooLong)
        );
        assert_eq!(line(" a\nb\u{1b}é ", 5), "a b ");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            boot in "[0-9a-f]{32}", image: [u8; 32], rootfs: Option<[u8; 32]>, uptime_ms: u64,
            clock_unix_ms: i64, agent in "[ -~é]{1,60}", arch in "[a-z]{1,9}",
            build_types in prop::collection::vec("[a-z-]{1,20}", 0..9), steps in steps(),
            insecure in prop::collection::vec("[a-z]{1,20}", 0..4),
        ) {
            let report = Report {
                boot, image: Sha256::from_bytes(image), rootfs: rootfs.map(Sha256::from_bytes),
                uptime_ms, clock_unix_ms, agent, arch, build_types, steps, insecure,
            };
            prop_assert_eq!(Report::decode(report.encode().as_bytes()), Ok(report));
        }

        #[test]
        fn a_failure_that_is_written_is_read_back(
            boot in "[0-9a-f]{32}", image: [u8; 32], step in "[a-z]{1,9}", reason in ".{1,2000}", steps in steps(),
        ) {
            let reason = format!("x{}", line(&reason, MAX_REASON - 1));
            let failure = Failure { boot, image: Sha256::from_bytes(image), step, reason, steps };
            prop_assert_eq!(Failure::decode(failure.encode().as_bytes()), Ok(failure));
        }
    }

    fn steps() -> impl Strategy<Value = Vec<BootStep>> {
        let step = ("[a-z]{1,12}", 0..=MAX_STEP_MS, "[ -~é]{0,99}").prop_map(
            |(name, elapsed_ms, detail)| BootStep {
                name,
                elapsed_ms,
                detail,
            },
        );
        prop::collection::vec(step, 0..=MAX_STEPS)
    }
}
