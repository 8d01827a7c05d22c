//! How operators ask the daemon: HTTP and JSON on a Unix socket (`docs/operators.md`). What may be asked and answered is
//! [`panda_protocol::operators`]; command line, pages and metrics ask nothing else.
//!
//! ```text
//! curl, pandabuildd slots ──▶ socket ──▶ routes ──▶ desk ── slots, boots, actions
//!                            (who asks)            ├ orders, launchpad ──▶ actions (who did what) ──▶ the slot
//!                                                  └ console
//! ```
//!
//! - [`client`]: the command line's end
//! - [`settings`], `socket`: where the daemon listens, and who may ask
//! - `routes`: HTTP in and out; `desk`: how slots are; `orders`, `launchpad`: what changes them; `actions`: the record

mod actions;
pub(crate) mod client;
mod console;
mod desk;
mod launchpad;
mod orders;
mod routes;
pub(crate) mod settings;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use self::desk::{Desk, Operated};
pub(crate) use self::launchpad::Rpc;
pub(crate) use self::routes::serve;
pub(crate) use self::settings::{OperatorsSettings, SOCKET};
pub(crate) use self::socket::{SocketError, bind};
