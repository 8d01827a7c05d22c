//! Why a request was not done, as a JSON problem object (RFC 9457): `application/problem+json`.
//!
//! ```text
//! HTTP/1.1 404 Not Found
//! {"type":"no-such-slot","status":404,"title":"no such slot",
//!  "detail":"no slot \"panda99\"; this rack has panda01, panda02","slots":["panda01","panda02"]}
//! ```
//!
//! The daemon makes them, whatever asks it reads them. `type` is for programs, `detail` for people: it says what is wrong
//! and what to do, and holds no secret.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a problem.
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// The request is not as this interface has it: its query, its body, a header.
    Malformed,
    /// Nothing has this path.
    NoSuchPath,
    /// The path is of a version that the daemon does not speak.
    NoSuchVersion,
    /// The rack has no such slot.
    NoSuchSlot,
    /// What the slot does not have: a console, the log of a boot.
    NothingThere,
    /// The path has no such method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    TooSlow,
    /// The slot refuses, or cannot.
    Refused,
    /// The body has too many bytes.
    TooLarge,
    /// The path and query have too many bytes.
    UriTooLong,
    /// The daemon failed.
    Failed,
    /// The daemon is stopping.
    Stopping,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ProblemKind {
    /// The HTTP status of such an answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::NoSuchPath | Self::NoSuchVersion | Self::NoSuchSlot | Self::NothingThere => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::Refused => 409,
            Self::TooLarge => 413,
            Self::UriTooLong => 414,
            Self::Failed | Self::Unknown => 500,
            Self::Stopping => 503,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Malformed => "malformed request",
            Self::NoSuchPath => "no such path",
            Self::NoSuchVersion => "no such version of the interface",
            Self::NoSuchSlot => "no such slot",
            Self::NothingThere => "nothing there",
            Self::MethodNotAllowed => "method not allowed",
            Self::TooSlow => "request too slow",
            Self::Refused => "refused",
            Self::TooLarge => "request too large",
            Self::UriTooLong => "path too long",
            Self::Failed => "the daemon failed",
            Self::Stopping => "the daemon is stopping",
            Self::Unknown => "unknown problem",
        }
    }
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind it is.
    #[serde(rename = "type")]
    pub kind: ProblemKind,
    /// The HTTP status.
    pub status: u16,
    /// The kind in words.
    pub title: String,
    /// What is wrong, and what to do.
    pub detail: String,
    /// With [`ProblemKind::NoSuchSlot`]: the slots that are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<String>,
    /// With [`ProblemKind::MethodNotAllowed`]: the methods that the path has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
}

impl Problem {
    /// One of this kind.
    #[must_use]
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            status: kind.status(),
            title: kind.title().to_owned(),
            detail: detail.into(),
            slots: Vec::new(),
            allow: Vec::new(),
        }
    }

    /// The request is not as this interface has it.
    #[must_use]
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Malformed, detail)
    }

    /// The rack has no slot of this name; it has those that are `known`.
    #[must_use]
    pub fn no_such_slot<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let slots: Vec<String> = known.map(str::to_owned).collect();
        let shown: String = name.chars().take(MAX_REPEATED).collect();
        let detail = format!("no slot {shown:?}; this rack has {}", slots.join(", "));
        Self {
            slots,
            ..Self::new(ProblemKind::NoSuchSlot, detail)
        }
    }

    /// The daemon is about to end.
    #[must_use]
    pub fn stopping() -> Self {
        Self::new(
            ProblemKind::Stopping,
            "the daemon is stopping: try again when it is back",
        )
    }
}

/// The most characters of a name that a problem repeats.
const MAX_REPEATED: usize = 100;

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_written_as_the_picture_says() {
        let problem = Problem::no_such_slot("panda99", ["panda01", "panda02"].into_iter());
        assert_eq!(
            serde_json::to_string(&problem).unwrap(),
            r#"{"type":"no-such-slot","status":404,"title":"no such slot","detail":"no slot \"panda99\"; this rack has panda01, panda02","slots":["panda01","panda02"]}"#
        );
    }

    #[test]
    fn a_problem_of_another_version_is_read() {
        let json = r#"{"type":"on-fire","status":500,"title":"t","detail":"d","more":1}"#;
        let problem: Problem = serde_json::from_str(json).unwrap();
        assert_eq!(problem.kind, ProblemKind::Unknown);
        assert_eq!(problem.to_string(), "d");
    }

    #[test]
    fn a_name_that_nobody_has_is_repeated_in_one_short_line() {
        let problem = Problem::no_such_slot(&"x\n".repeat(5000), ["panda01"].into_iter());
        assert!(problem.detail.len() < 300 && !problem.detail.contains('\n'));
    }
}
