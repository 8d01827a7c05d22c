//! Why an activity could not do its work. Where a step of the boot failed, the board may be to blame;
//! everything else is the master's own trouble.

use panda_http::pinned::PinnedError;
use panda_slot::{AttemptNo, BootNo, Event, Lost};

use crate::boot::{Failure, FailureCause};
use crate::guest::LinkError;
use crate::identity::IdentityError;
use crate::ledger::LedgerError;

/// Why an activity could not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActivityError {
    #[error(transparent)]
    Step(#[from] Failure),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Pinned(#[from] PinnedError),
    #[error("link: {0}")]
    Link(#[from] LinkError),
    #[error("power on: no evidenced cut precedes this boot")]
    NotDark,
    #[error("power on: no cut that showed too little precedes this boot")]
    NotWeak,
    #[error("the ledger has no key of boot {0}; the board must be reset")]
    NoSecrets(BootNo),
    #[error("the ledger has no arguments of attempt {0}; its build cannot be given to a worker")]
    NoCall(AttemptNo),
}

impl ActivityError {
    /// What it means for a board that was up.
    pub(super) fn lost(&self) -> Lost {
        match self {
            Self::Link(error) => error.lost(),
            other => Lost::Refused(other.to_string()),
        }
    }

    /// Why the board is not up after this boot.
    pub(super) fn not_booted(&self, boot: BootNo) -> Event {
        let reason = self.to_string();
        match self {
            Self::Step(step) if step.cause() == FailureCause::WrongChip => {
                Event::WrongChip { boot, reason }
            }
            _ => Event::BootFailed { boot, reason },
        }
    }
}
