//! How good the evidence of a power cut is. The boot chain decides it, the ledger records it, operators
//! see it, and `require_cut` sets the least that a rack accepts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How good the evidence of a power cut is, from weakest to strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// The power driver reads back off, and the port stayed empty.
    Readback,
    /// The board's own USB gadget left within a window after the order.
    Presence,
    /// An independent sense of the rail.
    Sensed,
}

/// A text that is no grade. It does not quote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected readback, presence or sensed")]
pub struct UnknownGrade;

impl Grade {
    /// Every grade, from weakest to strongest.
    pub const ALL: [Self; 3] = [Self::Readback, Self::Presence, Self::Sensed];

    /// As written in settings, in the ledger and for operators.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Readback => "readback",
            Self::Presence => "presence",
            Self::Sensed => "sensed",
        }
    }
}

impl FromStr for Grade {
    type Err = UnknownGrade;

    fn from_str(text: &str) -> Result<Self, UnknownGrade> {
        let mut grades = Self::ALL.into_iter();
        grades
            .find(|grade| grade.as_str() == text)
            .ok_or(UnknownGrade)
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grades_are_ordered_from_weakest_to_strongest() {
        assert!(Grade::ALL.is_sorted());
        assert!(Grade::Readback < Grade::Presence);
        assert!(Grade::Presence < Grade::Sensed);
    }

    #[test]
    fn every_grade_is_read_back_as_it_is_written() {
        for grade in Grade::ALL {
            assert_eq!(grade.as_str().parse(), Ok(grade));
            let json = serde_json::to_string(&grade).unwrap();
            assert_eq!(json, format!("\"{grade}\""));
        }
        assert_eq!("hearsay".parse::<Grade>(), Err(UnknownGrade));
    }
}
