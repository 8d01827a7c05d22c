//! The daemon's view of the worker on a board: the board's only client. From the first build on everything
//! that comes from there is an attacker's, so each file here bounds and checks what it takes, and what does
//! not fit ends as [`panda_slot::Lost`]. Called by the slot's activities ([`crate::activity`]).
//!
//! ```text
//! prove ──(Fresh: every few seconds)
//! dispatch ──Acknowledged──▶ follow ──Finished──▶ collect ──Collected
//!                              │ log, by Range while it grows
//!                              └──(Launchpad's abort)──▶ abort ──AbortEnded
//! ```
//!
//! # Layout
//! - `link`: the authenticated connection to one board's agent in one boot
//! - [mod@prove]: a board that has run nothing proves itself again
//! - [mod@dispatch], [mod@follow], [mod@collect], [mod@abort]: a build's life on its board
//! - `log`: the build log on its way here; `extras`: what else the worker says of its build; `results`: a
//!   slot's results on the master's disk

mod abort;
mod collect;
mod dispatch;
mod extras;
mod follow;
mod link;
mod log;
mod prove;
mod results;
mod settings;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
pub(crate) mod toy;

pub(crate) use abort::abort;
pub(crate) use collect::collect;
pub(crate) use dispatch::inputs;
pub(crate) use dispatch::{Dispatched, dispatch};
pub(crate) use extras::Extras;
pub(crate) use follow::follow;
pub(crate) use link::difference;
pub(crate) use link::{Link, LinkError};
pub(crate) use prove::{Proving, prove};
pub(crate) use results::{LOG_NAME, Results};
pub(crate) use settings::GuestSettings;

use panda_http::ClientError;
use panda_protocol::launchpad::BuildId;
use panda_slot::{AttemptNo, Lost};

/// One build on one board.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The board.
    pub(crate) link: Link,
    /// Where its results and log go.
    pub(crate) results: Results,
    /// Which attempt of the slot it is.
    pub(crate) attempt: AttemptNo,
    /// The job's cookie: what the worker must name.
    pub(crate) build_id: BuildId,
    /// Limits.
    pub(crate) settings: GuestSettings,
}

/// What an error from the board means for the slot: no answer is silence, an answer that is none is a lie,
/// anything else a refusal.
pub(crate) fn lost(error: &ClientError) -> Lost {
    match error {
        error if error.is_silence() => Lost::Silent,
        ClientError::Status(GONE) => gone(),
        ClientError::Answer(_) | ClientError::Malformed(_) | ClientError::TooLong(_) => {
            Lost::Lied(error.to_string())
        }
        ClientError::Fault { code, .. } => {
            Lost::Refused(format!("the worker answers fault {code}"))
        }
        _ => Lost::Refused(error.to_string()),
    }
}

/// HTTP status: the worker's program has ended.
pub(crate) const GONE: u16 = 410;

/// A worker that has ended takes its boot with it: nothing starts it again.
pub(crate) fn gone() -> Lost {
    Lost::Refused("the worker's program on the board has ended".to_owned())
}

/// The worker names another build than its own.
pub(crate) fn wrong_build() -> Lost {
    Lost::Lied("the worker names another build than the one it was given".to_owned())
}

/// Something on the master's own disk failed; the build cannot go on.
pub(crate) fn disk(what: &str, error: &std::io::Error) -> Lost {
    Lost::Refused(format!("on the master: {what}: {error}"))
}
