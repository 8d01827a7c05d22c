//! How good the evidence of a power cut is. The boot chain decides it, the ledger records it, operators
//! see it, and `require_cut` sets the least that a rack accepts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How good the evidence of a power cut is, from weakest to strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grade {
    /// The power driver reads back off, and the port stayed empty.
    Readback,
    /// The board's own USB gadget left within a window after the order.
    Presence,
    /// An independent sense of the rail.
    Sensed,
}

impl Grade {
    /// As written in settings, in the ledger and for operators.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Readback => "readback",
            Self::Presence => "presence",
            Self::Sensed => "sensed",
        }
    }

    /// The grade that [`Grade::as_str`] writes so.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        [Self::Readback, Self::Presence, Self::Sensed]
            .into_iter()
            .find(|grade| grade.as_str() == text)
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Grade;

    #[test]
    fn grades_are_ordered_from_weakest_to_strongest() {
        assert!(Grade::Readback < Grade::Presence);
        assert!(Grade::Presence < Grade::Sensed);
    }

    #[test]
    fn every_grade_is_read_back_as_it_is_written() {
        for grade in [Grade::Readback, Grade::Presence, Grade::Sensed] {
            assert_eq!(Grade::from_text(grade.as_str()), Some(grade));
            let json = serde_json::to_string(&grade).unwrap();
            assert_eq!(json, format!("\"{grade}\""));
        }
        assert_eq!(Grade::from_text("hearsay"), None);
    }
}
