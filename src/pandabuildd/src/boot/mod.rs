//! A reset, from the cut to the proof: a chain of types that consume each other, one file a step. The
//! slot's activities ([`crate::activity`]) walk it; nothing else does. A step cannot be left out or done twice,
//! because each is a method of what the step before it returned:
//!
//! ```text
//! cut::order ─▶ Ordered ─evidence─▶ Dark ─power_on─▶ Powered ─rom─▶ Rom ─identify─▶ Identified
//!                                                                                     │ second_stage
//!            Proof ◀─handshake─ Started ◀─boot_image─ Ready ◀────────────────────────┘
//! ```
//!
//! Every step has a time limit ([`BootSettings`]) and is recorded with its time, good or bad, by
//! `Chain::step` before the next one starts. What fails is a [`Failure`] that names its step. A chain
//! that is dropped on its way (a new cut cancels it) releases the port and leaves the board to that cut.

mod asic;
mod boot_image;
mod chain;
mod cut;
mod error;
mod evidence;
mod handshake;
pub(crate) mod paced;
mod power_on;
mod prepare;
mod rom;
mod second_stage;
mod settings;
pub(crate) mod talk;

#[cfg(test)]
pub(crate) mod bench;
#[cfg(test)]
mod tests;

pub use asic::Told;
pub use chain::{Bench, Chain, Journal, Sense};
pub use cut::order;
pub use error::{Failure, FailureCause, StepError};
pub use evidence::Evidence;
pub use handshake::{Awaited, INSECURE, Proof};
pub use power_on::Powered;
pub(crate) use rom::is_rom;
pub use rom::wait_for_unawaited_rom;
pub use settings::{BootSettings, ExpectedBoard, PublicId};
