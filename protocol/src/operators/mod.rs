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

mod attempt;
mod boot;
mod fact;
mod grade;
mod step;

pub use attempt::{AttemptHistory, Moved};
pub use boot::{BootHistory, Step};
pub use fact::{BadPublicId, Fact, Identity, MAX_PUBLIC_ID, PublicId, Sent, UsbDevice};
pub use grade::{Grade, UnknownGrade};
pub use step::{BadStepName, HandOver, OtherStep, StepName};
