//! Runs a slot: one task owns its state; everyone else sends it messages. Every event is stepped through
//! the pure machine, the new state is committed to the ledger, and only then effects start and callers
//! are answered.
//!
//! ```text
//!  front, desk ─────SlotHandle──▶ ┌───────────┐ ──commit──▶ ledger
//!                                 │ slot task │ ──effects─▶ activities (cut, boot, prove, …)
//!  activities ────Event─────────▶ └───────────┘ ──View────▶ everyone who watches
//! ```
//!
//! - [`handle`]: what the rest of the daemon holds of a slot
//! - [`crate::activity`]: what is done to its board
//! - [`settings`]: how often and how long
//! - `task`: the task itself

pub(crate) mod handle;
pub(crate) mod settings;
mod task;
#[cfg(test)]
mod tests;

pub(crate) use handle::{SlotClosed, SlotHandle, View};
pub(crate) use settings::Settings;
pub(crate) use task::spawn;
