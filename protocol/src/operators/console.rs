//! A slot's console: `GET /v1/slots/NAME/console` reads on from a place, waiting for more where asked to;
//! `POST` there types.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use super::query::{Query, with_query};
use super::request::{
    MAX_WAIT_SECONDS, Method, Request, check_wait, from_json, slot_path, to_json,
};
use crate::ids::BootNo;

/// The most bytes that are typed at once.
pub const MAX_KEYS: usize = 4096;

/// Where in a slot's console logs a reader is; written `BOOT.PART.OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    /// The boot.
    pub boot: BootNo,
    /// The part of its log.
    pub part: u32,
    /// Bytes into it.
    pub offset: u64,
}

/// A text that is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected BOOT.PART.OFFSET, three numbers")]
pub struct BadPlace;

/// Asks for some of what a slot's console has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadConsole {
    /// The slot.
    pub slot: String,
    /// In this boot only.
    pub boot: Option<BootNo>,
    /// From there on; from the last boot's, or that boot's, beginning where none is given.
    pub from: Option<Place>,
    /// Where there is nothing yet, wait for it, at most this long, at most [`MAX_WAIT_SECONDS`].
    pub wait_seconds: Option<u64>,
}

/// Some of what it has said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleText {
    /// Whole lines, or the beginning of the last one; nothing at the end.
    pub text: String,
    /// Where to go on; none while there is no log at all.
    pub next: Option<Place>,
}

/// Types something on a slot's console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeKeys {
    /// The slot.
    pub slot: String,
    /// The keys' bytes, 1 to [`MAX_KEYS`].
    pub keys: Vec<u8>,
}

/// The console has taken them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Typed {
    /// How many bytes.
    pub bytes: usize,
}

/// The keys as they are sent: as text, or any bytes in base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl ReadConsole {
    pub(super) fn decode(slot: &str, query: &mut Query) -> Result<Self, Problem> {
        let wait_seconds = query.take("wait_seconds", "a number of seconds")?;
        check_wait("wait_seconds", wait_seconds, MAX_WAIT_SECONDS)?;
        Ok(Self {
            slot: slot.to_owned(),
            boot: query.take("boot", "a boot's number")?,
            from: query.take("from", "the `next` of an earlier answer, such as 12.0.345")?,
            wait_seconds,
        })
    }
}

impl Request for ReadConsole {
    type Answer = ConsoleText;
    const METHOD: Method = Method::Get;

    fn target(&self) -> String {
        with_query(
            slot_path(&self.slot, "console"),
            &[
                ("boot", self.boot.map(|boot| boot.to_string())),
                ("from", self.from.map(|place| place.to_string())),
                (
                    "wait_seconds",
                    self.wait_seconds.map(|wait| wait.to_string()),
                ),
            ],
        )
    }
}

impl TypeKeys {
    pub(super) fn decode(slot: &str, body: &[u8]) -> Result<Self, Problem> {
        let keys = match from_json(body)? {
            Keys {
                text: Some(text),
                base64: None,
            } => text.into_bytes(),
            Keys {
                text: None,
                base64: Some(text),
            } => {
                let bytes = STANDARD.decode(text);
                bytes.map_err(|error| Problem::malformed(format!("base64: {error}")))?
            }
            _ => {
                return Err(Problem::malformed(
                    "body: expected one of `text` and `base64`",
                ));
            }
        };
        if !(1..=MAX_KEYS).contains(&keys.len()) {
            let detail = format!("expected 1 to {MAX_KEYS} bytes, as many as are typed at once");
            return Err(Problem::malformed(detail));
        }
        Ok(Self {
            slot: slot.to_owned(),
            keys,
        })
    }
}

impl Request for TypeKeys {
    type Answer = Typed;
    const METHOD: Method = Method::Post;

    fn target(&self) -> String {
        slot_path(&self.slot, "console")
    }

    fn body(&self) -> Vec<u8> {
        to_json(&Keys {
            text: None,
            base64: Some(STANDARD.encode(&self.keys)),
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.boot, self.part, self.offset)
    }
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let mut words = text.split('.');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (Some(boot), Some(part), Some(offset), None) = (number(), number(), number(), number())
        else {
            return Err(BadPlace);
        };
        let part = part.try_into().map_err(|_| BadPlace)?;
        let boot = BootNo::new(boot);
        let place = Self { boot, part, offset };
        // `+1`, or a word that is none after three.
        if place.to_string() == text {
            Ok(place)
        } else {
            Err(BadPlace)
        }
    }
}

impl TryFrom<String> for Place {
    type Error = BadPlace;

    fn try_from(text: String) -> Result<Self, BadPlace> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written_and_nothing_else_is_one() {
        let place = Place {
            boot: BootNo::new(12),
            part: 0,
            offset: 345,
        };
        assert_eq!(serde_json::to_string(&place).unwrap(), "\"12.0.345\"");
        assert_eq!("12.0.345".parse(), Ok(place));
        for text in [
            "",
            "12",
            "12.0",
            "12.0.345.6",
            "12.0.x",
            "+1.0.0",
            "1.4294967296.0",
            "1.0.0.",
        ] {
            assert_eq!(text.parse::<Place>(), Err(BadPlace), "{text}");
        }
    }

    #[test]
    fn keys_come_as_text_or_as_base64_and_within_their_bounds() {
        let keys =
            |body: &str| TypeKeys::decode("panda01", body.as_bytes()).map(|typed| typed.keys);
        assert_eq!(keys(r#"{"text":"ls\r"}"#).unwrap(), b"ls\r");
        assert_eq!(keys(r#"{"base64":"/wM="}"#).unwrap(), b"\xff\x03");
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(MAX_KEYS + 1));
        for body in [
            "",
            "{}",
            r#"{"text":""}"#,
            r#"{"text":"a","base64":"/wM="}"#,
            r#"{"base64":"?"}"#,
            &long,
        ] {
            assert!(keys(body).is_err(), "{body}");
        }
    }
}
