//! What the daemon records of its boards and builds, and tells those who run it: the ledger holds these
//! types, the operators' interface gives them, command line, pages and metrics read them. A step's name, the
//! evidence of a cut and a chip's identity are values here; the sentence beside each is for people alone, and
//! nothing reads it.
//!
//! - [`StepName`]: the steps of a boot, with one spelling each
//! - [`Grade`]: how good the evidence of a power cut is
//! - [`Fact`]: what a step has seen
//! - [`Step`], [`BootHistory`]: a boot with its chain
//! - [`AttemptHistory`]: a build attempt with its times, its end, and what it moved
//!
//! And how they ask for it, over HTTP (`docs/operators.md`):
//!
//! - [`Request`]: a request with its method, its path and the type of its answer; [`decode`] reads one
//! - [`GetSlots`], [`GetBoots`], [`ReadConsole`], …: how things are; [`Reset`], [`Hold`], …: orders
//! - [`Asker`], [`ActionKind`]: who did what; [`Problem`]: why something was not done

mod actions;
mod attempt;
mod boot;
mod boots;
mod console;
mod fact;
mod grade;
mod orders;
mod problem;
mod query;
mod request;
mod slots;
mod step;
mod version;

pub use actions::{ActionKind, Asker, UnknownAction};
pub use attempt::{AttemptHistory, Moved};
pub use boot::{BootHistory, Step};
pub use boots::{Boots, DEFAULT_BOOTS, GetBoots, MAX_BOOTS};
pub use console::{BadPlace, ConsoleText, MAX_KEYS, Place, ReadConsole, TypeKeys, Typed};
pub use fact::{BadPublicId, Fact, Identity, MAX_PUBLIC_ID, PublicId, Sent, UsbDevice};
pub use grade::{Grade, UnknownGrade};
pub use orders::{
    Drain, Hold, HoldAnswer, HoldEnd, LaunchpadReset, MAX_REASON, RecordRefusal, Recorded, Release,
    Reset, ResetAnswer, ResetEnd,
};
pub use problem::{PROBLEM_MEDIA_TYPE, Problem, ProblemKind};
pub use request::{
    MAX_ANSWER, MAX_BODY, MAX_ON_BEHALF_OF, MAX_TARGET, MAX_WAIT_SECONDS, Method, ON_BEHALF_OF,
    Operation, PREFIX, Request, decode,
};
pub use slots::{GetSlot, GetSlots, KeptInfo, SlotInfo, Slots};
pub use step::{BadStepName, HandOver, OtherStep, StepName};
pub use version::{GetVersion, Version};
