//! The operators' interface as HTTP: every request names its method, its path and the type of its answer; the daemon
//! decodes what came with [`decode`], command line and pages encode with [`Request`]. The table is `docs/operators.md`'s.
//!
//! ```text
//! GET  /v1/version                        POST /v1/slots/NAME/reset     {"force":false,"wait_seconds":600}
//! GET  /v1/slots                          POST /v1/slots/NAME/hold      {"reason":"new supply"}
//! GET  /v1/slots/NAME                     POST /v1/slots/NAME/drain     {"reason":"new supply","wait_seconds":3600}
//! GET  /v1/slots/NAME/boots               POST /v1/slots/NAME/release   {}
//! GET  /v1/slots/NAME/console             POST /v1/slots/NAME/console   {"text":"ls\r"}
//! GET  /v1/boots                          POST /v1/launchpad-reset      {"name":"panda01","wait_ms":25000}
//!                                         POST /v1/refused-commands     {"from":"…","command":"…"}
//! ```
//!
//! A good answer is 200 and the request's own type as JSON; anything else is a [`Problem`]. Requests with keys that this
//! version does not know are refused; answers may have more keys than whoever reads them knows.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::boots::GetBoots;
use super::console::{ReadConsole, TypeKeys};
use super::orders::{Drain, Hold, LaunchpadReset, RecordRefusal, Release, Reset};
use super::problem::{Problem, ProblemKind};
use super::query::Query;
use super::slots::{GetSlot, GetSlots};
use super::version::GetVersion;

/// What every path of this version begins with.
pub const PREFIX: &str = "/v1";
/// The most bytes of a request's body.
pub const MAX_BODY: usize = 64 * 1024;
/// The most bytes of an answer.
pub const MAX_ANSWER: usize = 64 << 20;
/// The most bytes of a path with its query.
pub const MAX_TARGET: usize = 4096;
/// The longest that a request may let the daemon wait, in seconds: a day.
pub const MAX_WAIT_SECONDS: u64 = 24 * 3600;
/// The header in which a program says for whom it asks, such as the holder of an SSH key: one line, see
/// [`MAX_ON_BEHALF_OF`]. It is recorded beside what the kernel says, never instead.
pub const ON_BEHALF_OF: &str = "on-behalf-of";
/// The most bytes of [`ON_BEHALF_OF`], printable ASCII.
pub const MAX_ON_BEHALF_OF: usize = 200;

/// A method of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Changes nothing.
    Get,
    /// An order.
    Post,
}

impl Method {
    /// As HTTP writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// A request.
pub trait Request {
    /// What a good answer holds.
    type Answer: Serialize + DeserializeOwned;
    /// Its method.
    const METHOD: Method;

    /// Its path and query.
    fn target(&self) -> String;

    /// Its body; nothing where it has none.
    fn body(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// A request that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// [`GetVersion`]
    Version(GetVersion),
    /// [`GetSlots`]
    Slots(GetSlots),
    /// [`GetSlot`]
    Slot(GetSlot),
    /// [`GetBoots`]
    Boots(GetBoots),
    /// [`ReadConsole`]
    ReadConsole(ReadConsole),
    /// [`TypeKeys`]
    TypeKeys(TypeKeys),
    /// [`Reset`]
    Reset(Reset),
    /// [`Hold`]
    Hold(Hold),
    /// [`Drain`]
    Drain(Drain),
    /// [`Release`]
    Release(Release),
    /// [`LaunchpadReset`]
    LaunchpadReset(LaunchpadReset),
    /// [`RecordRefusal`]
    RecordRefusal(RecordRefusal),
}

/// What `method`, `target` (path and query) and `body` ask for.
///
/// # Errors
/// The problem that the daemon answers with.
pub fn decode(method: &str, target: &str, body: &[u8]) -> Result<Operation, Problem> {
    if target.len() > MAX_TARGET {
        let detail = format!("a path with its query may have at most {MAX_TARGET} bytes");
        return Err(Problem::new(ProblemKind::UriTooLong, detail));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let words = words(path)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let place = Place::of(&words)?;
    let method = place.method(method)?;
    if method == Method::Get && !body.is_empty() {
        return Err(Problem::malformed("GET takes no body"));
    }
    let mut query = Query::parse(query)?;
    let operation = place.operation(method, &mut query, body)?;
    query.finish()?;
    Ok(operation)
}

/// The words of a path, of which the first is the version.
fn words(path: &str) -> Result<Vec<String>, Problem> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let decode = |word| percent_decode_str(word).decode_utf8().map(String::from);
    let words: Result<Vec<_>, _> = path.split('/').map(decode).collect();
    words.map_err(|_| Problem::malformed("the path is no UTF-8"))
}

/// What has a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place<'a> {
    Version,
    Slots,
    Slot(&'a str),
    SlotBoots(&'a str),
    Console(&'a str),
    Reset(&'a str),
    Hold(&'a str),
    Drain(&'a str),
    Release(&'a str),
    Boots,
    LaunchpadReset,
    RefusedCommands,
}

impl<'a> Place<'a> {
    fn of(words: &[&'a str]) -> Result<Self, Problem> {
        let rest = match words {
            ["v1", rest @ ..] => rest,
            [version, ..] if is_version(version) => {
                let detail =
                    format!("{version:.20}: this daemon speaks v1; its paths begin with /v1/");
                return Err(Problem::new(ProblemKind::NoSuchVersion, detail));
            }
            _ => return Err(no_such_path()),
        };
        Ok(match rest {
            ["version"] => Self::Version,
            ["slots"] => Self::Slots,
            ["slots", slot] if !slot.is_empty() => Self::Slot(slot),
            ["slots", slot, "boots"] => Self::SlotBoots(slot),
            ["slots", slot, "console"] => Self::Console(slot),
            ["slots", slot, "reset"] => Self::Reset(slot),
            ["slots", slot, "hold"] => Self::Hold(slot),
            ["slots", slot, "drain"] => Self::Drain(slot),
            ["slots", slot, "release"] => Self::Release(slot),
            ["boots"] => Self::Boots,
            ["launchpad-reset"] => Self::LaunchpadReset,
            ["refused-commands"] => Self::RefusedCommands,
            _ => return Err(no_such_path()),
        })
    }

    /// The methods that it has.
    const fn methods(self) -> &'static [Method] {
        match self {
            Self::Version | Self::Slots | Self::Slot(_) | Self::SlotBoots(_) | Self::Boots => {
                &[Method::Get]
            }
            Self::Console(_) => &[Method::Get, Method::Post],
            Self::Reset(_)
            | Self::Hold(_)
            | Self::Drain(_)
            | Self::Release(_)
            | Self::LaunchpadReset
            | Self::RefusedCommands => &[Method::Post],
        }
    }

    fn method(self, text: &str) -> Result<Method, Problem> {
        let methods = self.methods();
        let found = methods.iter().find(|method| method.as_str() == text);
        found.copied().ok_or_else(|| {
            let allow: Vec<String> = methods
                .iter()
                .map(|known| known.as_str().to_owned())
                .collect();
            let detail = format!("this path has {} only", allow.join(" and "));
            Problem {
                allow,
                ..Problem::new(ProblemKind::MethodNotAllowed, detail)
            }
        })
    }

    fn operation(
        self,
        method: Method,
        query: &mut Query,
        body: &[u8],
    ) -> Result<Operation, Problem> {
        Ok(match (self, method) {
            (Self::Version, _) => Operation::Version(GetVersion),
            (Self::Slots, _) => Operation::Slots(GetSlots::decode(query)?),
            (Self::Slot(slot), _) => Operation::Slot(GetSlot {
                slot: slot.to_owned(),
            }),
            (Self::SlotBoots(slot), _) => Operation::Boots(GetBoots::decode(Some(slot), query)?),
            (Self::Boots, _) => Operation::Boots(GetBoots::decode(None, query)?),
            (Self::Console(slot), Method::Get) => {
                Operation::ReadConsole(ReadConsole::decode(slot, query)?)
            }
            (Self::Console(slot), Method::Post) => {
                Operation::TypeKeys(TypeKeys::decode(slot, body)?)
            }
            (Self::Reset(slot), _) => Operation::Reset(Reset::decode(slot, body)?),
            (Self::Hold(slot), _) => Operation::Hold(Hold::decode(slot, body)?),
            (Self::Drain(slot), _) => Operation::Drain(Drain::decode(slot, body)?),
            (Self::Release(slot), _) => Operation::Release(Release::decode(slot, body)?),
            (Self::LaunchpadReset, _) => Operation::LaunchpadReset(LaunchpadReset::decode(body)?),
            (Self::RefusedCommands, _) => Operation::RecordRefusal(RecordRefusal::decode(body)?),
        })
    }
}

/// `v2` and the like.
fn is_version(word: &str) -> bool {
    word.strip_prefix('v')
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn no_such_path() -> Problem {
    Problem::new(
        ProblemKind::NoSuchPath,
        "nothing has this path; /v1/slots lists the slots, docs/operators.md all paths",
    )
}

/// What stands as it is in a word of a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The path of something of a slot's; of the slot itself where `what` is empty.
pub(super) fn slot_path(slot: &str, what: &str) -> String {
    let slot = utf8_percent_encode(slot, PLAIN);
    if what.is_empty() {
        format!("{PREFIX}/slots/{slot}")
    } else {
        format!("{PREFIX}/slots/{slot}/{what}")
    }
}

/// A body of JSON, which an empty one is too: of no keys.
pub(super) fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    // An array of values in the order of the keys would do for serde.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::malformed("body: expected an object, `{…}`"));
    }
    serde_json::from_slice(body).map_err(|error| Problem::malformed(format!("body: {error}")))
}

/// The same, to be sent. What is sent is plain data, which JSON can hold.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A wait in its bounds.
pub(super) fn check_wait(key: &str, wait: Option<u64>, most: u64) -> Result<(), Problem> {
    match wait {
        Some(wait) if wait > most => Err(Problem::malformed(format!(
            "{key}: expected at most {most}"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
