//! A reset, from the cut to the proof: a chain of types that consume each other, one file a step. The
//! slot's activities ([`crate::activity`]) walk it; nothing else does. A step cannot be left out or done twice,
//! because each is a method of what the step before it returned:
//!
//! ```text
//! cut::order ─▶ Ordered ─evidence─▶ Dark ─power_on─▶ Powered ─rom─▶ Rom ─identify─▶ Identified
//!                                                                                     │ hand_over
//!                                             Proof ◀─handshake─ Started ◀────────────┘
//! ```
//!
//! Each step's method stands in the file of what it makes, which knows the step before it and none after it. What only
//! one family of boards does is behind [`panda_board::family::Family`]: who the ROM is, and how it is handed what the
//! image holds.
//!
//! Every step has a time limit ([`BootSettings`]) and is recorded with its time, good or bad, by
//! `Chain::step` before the next one starts. What fails is a [`Failure`] that names its step. A chain
//! that is dropped on its way (a new cut cancels it) releases the port and leaves the board to that cut.

mod chain;
mod cut;
mod error;
mod evidence;
mod hand_over;
mod handshake;
mod identity;
mod payload;
mod power_on;
mod prepare;
mod rom;
mod settings;

#[cfg(test)]
pub(crate) mod board_in_memory;
#[cfg(test)]
mod tests;

pub(crate) use chain::{BoardParts, Chain, Journal, Sense};
pub(crate) use cut::order;
pub(crate) use error::{Failure, FailureCause};
pub(crate) use evidence::Evidence;
pub(crate) use handshake::{Awaited, INSECURE, Proof};
pub(crate) use identity::ExpectedBoard;
pub(crate) use identity::{describe, read_back};
pub(crate) use power_on::Powered;
pub(crate) use rom::wait_for_unawaited_rom;
pub(crate) use settings::BootSettings;
