//! The state machine of a slot: pure.

mod board;
mod event;
mod machine;
mod told;

pub use board::{AttemptNo, Board, BootNo, Build, Errand, FailureKind, Kept, Phase, Rejoin, Slot};
pub use event::{Answer, CallId, Effect, Event, Limits, Lost, Refusal, Transition};
pub use machine::step;
pub use told::{Told, between_boots, told};
