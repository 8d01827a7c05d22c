//! Assembles a rack from its configuration, and runs it until it is told to stop. Everything that can be
//! refused (the state directory, the image, every address) is tried before the first board is touched.
//!
//! ```text
//! config ─▶ state directory, locked ─▶ image, checked ─▶ addresses, bound or held for us ─▶ ledger, key, inputs, depot
//!        ─▶ each slot: its results, drivers, activities, task, front ─▶ listeners, operators' sockets
//! stop   ─▶ no slot says IDLE any more ─▶ calls in flight end ─▶ slots let go of their boards, which go on
//! ```
//!
//! # Layout
//! - `ready`: what a rack needs, looked at before anything is made
//! - `assembling`: what all slots share, in the order above, and then everything begun
//! - `slots`: one slot: all of it that can be refused, then its life
//! - [`drivers`]: the drivers that slots name
//! - `listening`: every address; [`sockets`]: those that the service manager holds for us
//! - `rollout`: boards that wait for a build with an outdated image, reset in turn
//! - `running`: a [`Rack`] that runs, until it is stopped
//! - `state`: the state directory; `error`: why a rack does not start

mod assembling;
pub(crate) mod drivers;
mod error;
mod listening;
mod ready;
mod rollout;
mod running;
mod slots;
pub(crate) mod sockets;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use self::error::RackError;
pub(crate) use self::ready::Ready;
pub(crate) use self::running::Rack;
pub(crate) use self::sockets::Sockets;
pub(crate) use self::state::StateLock;

/// The ledger's name in the state directory.
const LEDGER: &str = "ledger.sqlite";
