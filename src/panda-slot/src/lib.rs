//! The state machine of a slot: pure. See `slot-machine` in the documentation for the table.

mod board;
mod event;
mod told;

pub use board::{AttemptNo, Board, BootNo, Build, Errand, FailureKind, Kept, Phase, Rejoin, Slot};
pub use event::{Answer, CallId, Effect, Event, Limits, Lost, Refusal, Transition};
pub use told::{Told, told};
