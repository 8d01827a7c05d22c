//! What is wrong with a `rack.toml`: each problem with its file, line and key, what is expected and what to do, and all of
//! them at once, in the order of their lines.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use panda_board::settings::Misread;
use toml::de::{DeTable, DeValue};

/// What is wrong with a `rack.toml`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
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
    /// It is not TOML, or its values cannot be, or do not fit together.
    #[error(transparent)]
    Wrong(#[from] Problems),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    /// The file.
    pub(crate) path: PathBuf,
    /// The line, from 1.
    pub(crate) line: usize,
    /// The key: `slot.power.relay`. Empty where the text is no TOML.
    pub(crate) key: String,
    /// What is wrong, what is expected, and what to do.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {}: ", self.path.display(), self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// All that is wrong, at least one thing, in the order of the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// These, sorted; none where there are none.
    pub(crate) fn of(mut problems: Vec<Problem>) -> Option<Self> {
        // Two at one line stay in the order in which they were found.
        problems.sort_by_key(|problem| problem.line);
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// How many.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl std::error::Error for Problems {}

/// One a line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let between = if at == 0 { "" } else { "\n" };
            write!(f, "{between}{problem}")?;
        }
        Ok(())
    }
}

/// What has been found to be wrong so far. Places are bytes of the text.
#[derive(Debug)]
pub(super) struct Found<'a> {
    text: &'a str,
    path: &'a Path,
    problems: Vec<Problem>,
}

impl<'a> Found<'a> {
    /// Nothing yet, of `text`, which is at `path`.
    pub(super) const fn new(text: &'a str, path: &'a Path) -> Self {
        Self {
            text,
            path,
            problems: Vec::new(),
        }
    }

    /// What is wrong with `key`, at the byte `at`.
    pub(super) fn add(&mut self, at: usize, key: impl Into<String>, text: impl Into<String>) {
        self.problems.push(Problem {
            path: self.path.to_owned(),
            line: line_of(self.text, at),
            key: key.into(),
            text: text.into(),
        });
    }

    /// What of the table `table` cannot be read.
    pub(super) fn misread(&mut self, table: &str, wrong: Vec<Misread>) {
        for Misread { span, key, text } in wrong {
            let key = key.map_or_else(|| table.to_owned(), |key| format!("{table}.{key}"));
            let hint = address_hint(&text);
            self.add(span.start, key, format!("{text}{hint}"));
        }
    }

    /// All of it.
    pub(super) fn end(self) -> Option<Problems> {
        Problems::of(self.problems)
    }
}

/// What the standard library's complaint about an address leaves out: what one looks like.
fn address_hint(text: &str) -> &'static str {
    if text.starts_with("invalid socket address") {
        "; expected IP:PORT, such as 127.0.0.1:8221 or [::1]:8221; host names are not looked up"
    } else {
        ""
    }
}

/// The line, from 1, of the byte at `at`.
fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Where each key of a file is written, for what is found out later than its check: `slot.0.power.device`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places {
    path: PathBuf,
    lines: BTreeMap<String, usize>,
}

impl Places {
    pub(super) fn of(document: &DeTable<'_>, text: &str, path: &Path) -> Self {
        let mut lines = BTreeMap::new();
        note_table(document, "", text, &mut lines);
        let path = path.to_owned();
        Self { path, lines }
    }

    /// A problem with the value at `at`: of the nearest table around it where it is not written. Shown as `key`.
    pub(crate) fn problem(&self, at: &str, key: &str, text: impl Into<String>) -> Problem {
        let around = std::iter::successors(Some(at), |at| Some(at.rsplit_once('.')?.0));
        let line = around.into_iter().find_map(|at| self.lines.get(at));
        Problem {
            path: self.path.clone(),
            line: line.copied().unwrap_or(1),
            key: key.to_owned(),
            text: text.into(),
        }
    }
}

fn note_table(table: &DeTable<'_>, within: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let place = format!("{within}{}", key.get_ref());
        note(value.get_ref(), value.span().start, place, text, lines);
    }
}

fn note(
    value: &DeValue<'_>,
    at: usize,
    place: String,
    text: &str,
    lines: &mut BTreeMap<String, usize>,
) {
    match value {
        DeValue::Table(table) => note_table(table, &format!("{place}."), text, lines),
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                let place = format!("{place}.{index}");
                note(value.get_ref(), value.span().start, place, text, lines);
            }
        }
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => {}
    }
    lines.insert(place, line_of(text, at));
}
