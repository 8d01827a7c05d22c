//! Why a boot fails. Each message ends in the ledger and on the operators' screens, so it says what was
//! found, what was expected, and holds no secret.

use std::time::Duration;

use panda_board::family::{FamilyError, FamilyFailure};
use panda_board::{PipeError, PowerError};
use panda_protocol::digest::Sha256;

use crate::guest::LinkError;
use crate::ledger::Grade;

/// A step that failed, by name.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {error}")]
pub(crate) struct Failure {
    step: &'static str,
    error: StepError,
}

impl From<FamilyFailure> for Failure {
    fn from(failure: FamilyFailure) -> Self {
        Self::new(failure.step.as_str(), StepError::Family(failure.error))
    }
}

/// What a failure means for the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureCause {
    /// Trying again may help.
    Passing,
    /// It is another board; trying again cannot help.
    WrongChip,
}

impl Failure {
    pub(super) fn new(step: &'static str, error: StepError) -> Self {
        Self { step, error }
    }

    /// The step's name, as in the ledger.
    #[cfg(test)]
    pub(super) fn step(&self) -> &'static str {
        self.step
    }

    /// Why it failed.
    #[must_use]
    pub(crate) fn error(&self) -> &StepError {
        &self.error
    }

    /// The same, for good.
    #[cfg(test)]
    pub(super) fn into_error(self) -> StepError {
        self.error
    }

    /// What it means for the slot.
    #[must_use]
    pub(crate) fn cause(&self) -> FailureCause {
        match self.error {
            StepError::WrongChip { .. }
            | StepError::WrongPublicId { .. }
            | StepError::OtherFamily { .. } => FailureCause::WrongChip,
            _ => FailureCause::Passing,
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// It took too long.
    #[error("not done within {limit:?}")]
    TimedOut {
        /// Its limit.
        limit: Duration,
    },
    /// The power driver.
    #[error(transparent)]
    Power(#[from] PowerError),
    /// A transfer to the board.
    #[error("{what}: {source}")]
    Pipe {
        /// What was being transferred.
        what: &'static str,
        /// The cause.
        source: PipeError,
    },
    /// The port cannot be seen, so nothing about the board can be known.
    #[error("the port cannot be seen; its driver's log says why")]
    PortUnseen,
    /// Something is on the port of a board without power.
    #[error(
        "{found} is on the port although the board's power is off: it is fed by something else, \
             or another device is on its port"
    )]
    PortOccupied {
        /// What is there, or was.
        found: String,
    },
    /// The driver still reads back power.
    #[error("the driver reads the power back as still on")]
    StillOn,
    /// The independent sense still sees power.
    #[error("the supply rail still carries power")]
    RailAlive,
    /// The evidence of a cut is weaker than the rack accepts.
    #[error("the evidence of the cut is {found}, and require_cut asks for {required}")]
    WeakEvidence {
        /// What was found.
        found: String,
        /// What is required.
        required: Grade,
    },
    /// No ROM came.
    #[error("no boot ROM on the port within {window:?} of power on")]
    NoRom {
        /// How long it was awaited.
        window: Duration,
    },
    /// A device whose arrival was seen before power on.
    #[error("{found} was on the port before power on")]
    StaleArrival {
        /// What is there.
        found: String,
    },
    /// A device came that is no boot ROM.
    #[error("{found} came to the port in place of a boot ROM")]
    NotRom {
        /// What came.
        found: String,
    },
    /// A boot ROM of another family than the slot's image is for.
    #[error(
        "{found} came to the port, and the slot's image is for boards of family {expected}; plug the slot's own board \
         in, or give the slot an image for this one"
    )]
    OtherFamily {
        /// What came.
        found: String,
        /// The image's family.
        expected: String,
    },
    /// What the board's family has to say.
    #[error(transparent)]
    Family(#[from] FamilyError),
    /// Another chip than the slot's.
    #[error(
        "the board's chip is {found}, and the slot's is {expected}; if the board was exchanged \
             on purpose, change the slot's chip in rack.toml"
    )]
    WrongChip {
        /// What the slot is configured for.
        expected: String,
        /// What answered.
        found: String,
    },
    /// Another board than the slot's.
    #[error(
        "the board's public ID is {found}, and the slot's is {expected}; if the board was \
             exchanged on purpose, change the slot's public_id in rack.toml"
    )]
    WrongPublicId {
        /// What the slot is configured for.
        expected: String,
        /// What answered.
        found: String,
    },
    /// The board stays on the port: it did not start what it was sent.
    #[error("the board is still on the port {limit:?} after it had all of what it is to start")]
    NotReleased {
        /// How long it was awaited.
        limit: Duration,
    },
    /// A ROM came while the agent was awaited.
    #[error("a boot ROM came to the port while the agent was awaited: the board has restarted")]
    Restarted,
    /// No report came.
    #[error("no report from the agent within {limit:?}")]
    NoReport {
        /// How long it was awaited.
        limit: Duration,
    },
    /// Nothing at all was heard of it.
    #[error("nothing was heard of the board within {limit:?} of its kernel's start")]
    NoWord {
        /// How long it was awaited.
        limit: Duration,
    },
    /// What was heard was of another boot.
    #[error(
        "nothing was heard of the board within {limit:?} of its kernel's start, but an agent called with the certificate \
         of the boot before: was what was sent not started, or is the board never without power?"
    )]
    OutdatedBoot {
        /// How long it was awaited.
        limit: Duration,
    },
    /// It said that it boots, and then nothing more.
    #[error("the board fell silent while it booted: nothing was heard of it for {limit:?}")]
    FellSilent {
        /// How long.
        limit: Duration,
    },
    /// Another boot took this boot's place at the depot.
    #[error("the boot is no longer awaited at the depot")]
    Superseded,
    /// The image's gadget did not come.
    #[error(
        "the image's gadget is not on the port {limit:?} after its boot: does the image keep the one up that boot.gadget \
         names? Without it no cut has the evidence that boot.require_cut demands"
    )]
    NoGadget {
        /// How long it was awaited.
        limit: Duration,
    },
    /// A report that does not fit this boot.
    #[error("the agent's report names another {what} than this boot's")]
    WrongReport {
        /// What differs.
        what: &'static str,
    },
    /// The board says why it will not come.
    #[error("the board failed at its step \"{step}\": {reason}")]
    Board {
        /// The step's name on the board.
        step: String,
        /// Why, in the board's own words.
        reason: String,
    },
    /// The agent's worker is of another architecture.
    #[error(
        "the agent announces a worker for {found}, and the image's manifest says {expected}; the \
             image's agent.toml and manifest.toml must agree"
    )]
    WrongArch {
        /// What the manifest says.
        expected: String,
        /// What the agent says.
        found: String,
    },
    /// The agent verified another root file system.
    #[error("the agent verified root file system {found}, and the image's is {expected}")]
    WrongRootFs {
        /// What the manifest says.
        expected: String,
        /// What the agent says.
        found: String,
    },
    /// The link to the agent.
    #[error("link: {0}")]
    Link(#[from] LinkError),
    /// The step could not be recorded.
    #[error("could not be recorded in the ledger: {0}")]
    Journal(String),
}

/// Maps a pipe error with what was being transferred.
pub(super) fn pipe(what: &'static str) -> impl FnOnce(PipeError) -> StepError {
    move |source| StepError::Pipe { what, source }
}

/// A digest or its absence, for a message.
pub(super) fn digest_or_none(digest: Option<Sha256>) -> String {
    digest.map_or_else(|| "none".to_owned(), |digest| digest.to_string())
}
