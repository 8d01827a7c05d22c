//! Reset protocol 2.0: the manager's command only triggers a reset, and Launchpad then waits until its web
//! service is told that the builder is clean. That is a slot's *duty*. It is in the ledger before the reset
//! begins, and goes when Launchpad knows, or when a build has been dispatched to the slot.
//!
//! ```text
//!  ppa-reset --no-wait ─▶ duty ─▶ [slot Fresh] ─▶ GET ─┬─ Dirty: the manager has not written CLEANING yet ──┐
//!                          ▲                           ├─ Cleaning ─▶ PATCH Clean, If-Match ─┬─ taken: done │
//!                          │                           │                                     └─ any doubt ──┤
//!                          │                           └─ Clean: done (twice, if we never asked for it)     │
//!                          └────────────────────────── a growing pause ◀────────────────────────────────────┘
//! ```
//!
//! - A `Clean` written before CLEANING is overwritten by the manager, and the builder waits for ever: so
//!   nothing is written until the entry says `Cleaning`, and only over that very entry.
//! - A `Clean` written after a dispatch makes the manager fail builder and job: so a slot that has had a build
//!   since the duty began is left alone, and so is one that is not ready.
//! - A `Clean` is an invitation, as IDLE is. While builds would not have their inputs, `status` is a Fault, five of
//!   which in a row count against the builder; as long as Launchpad waits for `Clean` it asks nothing and counts
//!   nothing. So `Clean` waits until the file cache is well.
//! - After any doubt (no answer, a restart, a strange answer) the entry is looked at first.
//!
//! Where it is configured, a slot that has failed is also disabled there, with its reason.
//!
//! `control` begins duties and shows where they stand; `rack` starts a keeper for each slot.

mod client;
mod credentials;
mod keeper;
mod oauth;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use self::client::{WebService, WebServiceError};
#[cfg(test)]
pub(crate) use self::keeper::Inputs;
pub(crate) use self::keeper::{Duty, DutyError, Keeper};
pub(crate) use self::settings::WebServiceSettings;
