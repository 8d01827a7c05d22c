//! What settings of `rack.toml` have in common, whoever owns them: they are read from a table ([`read`]), and their values
//! are checked. Both tell everything that is wrong, not the first thing.

mod read;

use std::fmt;
use std::ops::RangeInclusive;

pub use self::read::{Misread, Reading, read};

/// One thing that is wrong with settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, of the table that the settings were read from.
    pub key: String,
    /// What is wrong with its value, and what is expected.
    pub text: String,
}

impl Mistake {
    /// Of the value of `key`.
    pub fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            text: text.into(),
        }
    }
}

impl std::error::Error for Mistake {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// Everything that is wrong with settings, in the order in which it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Notes a mistake.
    pub fn add(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.0.push(Mistake::new(key, text));
    }

    /// Notes one unless the value of `key` is `right`; `expected` says what would be.
    pub fn unless(&mut self, right: bool, key: &str, expected: impl Into<String>) {
        if !right {
            self.add(key, expected);
        }
    }

    /// Notes one where a number of milliseconds is out of its range.
    pub fn milliseconds(&mut self, key: &str, value: u64, range: RangeInclusive<u64>) {
        let (least, most) = range.into_inner();
        if !(least..=most).contains(&value) {
            self.add(
                key,
                format!("expected {least} to {most} milliseconds, got {value}"),
            );
        }
    }

    /// Notes what is wrong with `checked`, where something is, and gives it where nothing is.
    pub fn note<T>(&mut self, checked: Result<T, Mistake>) -> Option<T> {
        match checked {
            Ok(right) => Some(right),
            Err(mistake) => {
                self.0.push(mistake);
                None
            }
        }
    }

    /// All of them, as a check's result.
    ///
    /// # Errors
    /// There are some.
    pub fn end(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl IntoIterator for Mistakes {
    type Item = Mistake;
    type IntoIter = std::vec::IntoIter<Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl std::error::Error for Mistakes {}

/// One a line.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().enumerate() {
            let between = if at == 0 { "" } else { "\n" };
            write!(f, "{between}{mistake}")?;
        }
        Ok(())
    }
}
