//! What things are called: numbers of boots and attempts, a boot's id, a slot's name, and the label that
//! several of them are. Each is a type of its own, so that a boot is never taken for an attempt and a text
//! that was not checked never for a name. Everything that speaks of slots uses them; serde writes them as
//! the number or the text alone.

use std::borrow::Borrow;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::checks::{is_boot_id, is_label};

macro_rules! number {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(
            Debug,
            Clone,
            Copy,
            Default,
            PartialEq,
            Eq,
            PartialOrd,
            Ord,
            Hash,
            Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Before the first one: what a slot that never had any counts from.
            pub const NONE: Self = Self(0);

            /// The one with this number.
            #[must_use]
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// Its number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after it. The last number there is stays itself; nothing counts so far.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }
    };
}

number!(
    BootNo,
    "Number of a boot of a slot: one power-on of its board. Grows by one with every cut; never reused."
);
number!(
    AttemptNo,
    "Number of a build attempt of a slot. Grows by one with every accepted build; never reused."
);

/// A text that is no name of the wanted kind. It does not quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct BadName {
    expected: &'static str,
}

macro_rules! name {
    ($name:ident, $check:expr, $expected:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Its text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                if $check(&text) {
                    Ok(Self(text))
                } else {
                    Err(BadName {
                        expected: $expected,
                    })
                }
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }
    };
}

name!(
    BootId,
    is_boot_id,
    "a boot's id: 32 lower-case hexadecimal digits",
    "A boot's id: 32 lower-case hexadecimal digits of randomness. Known to master and board alone until the boot is over."
);
name!(
    SlotName,
    is_label,
    "a slot's name: 1 to 63 of a-z, 0-9 and -, neither first nor last a -",
    "A slot's name: one label of a host name, as `rack.toml` gives it."
);
name!(
    Label,
    is_label,
    "a label: 1 to 63 of a-z, 0-9 and -, neither first nor last a -",
    "A short word that names a thing: a family of boards, a chip, an architecture, a step that a board tells of."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_numbers_to_serde_and_grow_by_one() {
        let boot = BootNo::NONE.next().next();
        assert_eq!((boot, boot.to_string().as_str()), (BootNo::new(2), "2"));
        assert_eq!(serde_json::to_string(&boot).unwrap(), "2");
        assert_eq!(serde_json::from_str::<AttemptNo>("7").unwrap().get(), 7);
        assert_eq!("12".parse(), Ok(AttemptNo::new(12)));
        assert!("-1".parse::<BootNo>().is_err());
        assert_eq!(BootNo::new(u64::MAX).next(), BootNo::new(u64::MAX));
    }

    #[test]
    fn a_boots_id_is_32_lower_case_hexadecimal_digits() {
        let good = "0123456789abcdef0123456789abcdef";
        assert_eq!(good.parse::<BootId>().unwrap(), *good);
        for bad in [
            "",
            &good[1..],
            &good.to_uppercase(),
            &format!("{good}0"),
            "../../../../../../../../../../..",
        ] {
            assert!(bad.parse::<BootId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slots_name_is_one_label_of_a_host_name() {
        for good in ["panda01", "a", "1", "x-1"] {
            let name: SlotName = good.parse().unwrap();
            assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{good}\""));
        }
        for bad in [
            "",
            "-a",
            "a-",
            "Panda",
            "a.b",
            "a/b",
            "a b",
            &"x".repeat(64),
        ] {
            let json = serde_json::to_string(bad).unwrap();
            let error = serde_json::from_str::<SlotName>(&json)
                .unwrap_err()
                .to_string();
            assert!(error.contains("a slot's name"), "{error}");
        }
    }

    #[test]
    fn a_name_is_shown_in_the_width_that_is_asked_for() {
        assert_eq!(format!("{:4}|", "ab".parse::<Label>().unwrap()), "ab  |");
    }
}
