//! Who did what: every order that came over the operators' interface, done or refused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Who asked: what the kernel says of the other end of the socket, and for whom that says it asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The user's number.
    pub uid: u32,
    /// The user's name, where the system knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// For whom, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What was ordered.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum ActionKind {
            $($(#[$doc])* $kind,)*
        }

        impl ActionKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// As it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// An operator's reset.
    Reset = "reset",
    /// Launchpad's.
    LaunchpadReset = "launchpad-reset",
    /// A hold.
    Hold = "hold",
    /// A hold for whoever waits for the build's end.
    Drain = "drain",
    /// A release.
    Release = "release",
    /// Keys were typed on a console.
    Type = "type",
    /// A command over SSH was refused.
    RefusedCommand = "refused-command",
}

/// A text that is no kind of action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no known kind of action")]
pub struct UnknownAction;

impl FromStr for ActionKind {
    type Err = UnknownAction;

    fn from_str(text: &str) -> Result<Self, UnknownAction> {
        let mut kinds = Self::ALL.iter();
        kinds
            .find(|kind| kind.as_str() == text)
            .copied()
            .ok_or(UnknownAction)
    }
}

impl TryFrom<String> for ActionKind {
    type Error = UnknownAction;

    fn try_from(text: String) -> Result<Self, UnknownAction> {
        text.parse()
    }
}

impl From<ActionKind> for String {
    fn from(kind: ActionKind) -> Self {
        kind.as_str().to_owned()
    }
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for kind in ActionKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(*kind));
        }
    }
}
