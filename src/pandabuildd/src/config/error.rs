//! What is wrong with a `rack.toml`, with its file, line and key.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What is wrong with a `rack.toml`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no configuration.
    #[error("{}: more than {max} bytes; this is no rack.toml", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
    /// It is not TOML, or has an unknown key, a missing one, or one of another type. The parser's text shows
    /// line and key, and what is allowed.
    #[error("{}: {error}{}", path.display(), address_hint(error))]
    Shape {
        /// The file.
        path: PathBuf,
        /// What and where.
        error: Box<toml::de::Error>,
    },
    /// A value that cannot be, or two that do not fit together.
    #[error("{}: line {line}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

/// What the standard library's complaint about an address leaves out: what one looks like.
fn address_hint(error: &toml::de::Error) -> &'static str {
    if error.message().starts_with("invalid socket address") {
        "expected IP:PORT, such as 127.0.0.1:8221 or [::1]:8221; host names are not looked up\n"
    } else {
        ""
    }
}

/// A problem and where it is in the text.
#[derive(Debug)]
pub(super) struct Problem {
    /// Where the value, or the table that holds the key, is.
    span: Range<usize>,
    /// The key; where the span is its table's, its last part is looked for from there.
    key: String,
    problem: String,
    in_table: bool,
}

impl Problem {
    /// Of the value at `span`.
    pub(super) fn at(
        span: Range<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self {
            span,
            key: key.into(),
            problem: problem.into(),
            in_table: false,
        }
    }

    /// Of a key in the table `table` at `span`; `text` is `key: what is expected`, as rooms say it.
    pub(super) fn within(span: Range<usize>, table: &str, text: &str) -> Self {
        let (key, problem) = text.split_once(": ").unwrap_or(("", text));
        Self {
            span,
            key: format!("{table}.{key}"),
            problem: problem.to_owned(),
            in_table: true,
        }
    }

    pub(super) fn located(self, text: &str, path: &Path) -> ConfigError {
        let table = line_of(text, self.span.start);
        let line = if self.in_table {
            let last = self.key.rsplit('.').next().unwrap_or_default();
            let written = |line: &str| {
                line.trim_start()
                    .strip_prefix(last)
                    .is_some_and(|rest| rest.trim_start().starts_with('='))
            };
            // Not beyond the table: the next header begins another.
            let after = text.lines().enumerate().skip(table - 1);
            let after = after.take_while(|(at, line)| *at < table || !line.starts_with('['));
            after
                .map(|(at, line)| (at + 1, line))
                .find(|(_, line)| written(line))
                .map_or(table, |(at, _)| at)
        } else {
            table
        };
        ConfigError::Value {
            path: path.to_owned(),
            line,
            key: self.key,
            problem: self.problem,
        }
    }
}

/// The line, from 1, of the byte at `at`.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}
