//! The link: the one channel between this boot and the master, mutual TLS with the certificates of
//! `boot.toml`. [`crate::init`] opens it.
//!
//! ```text
//! master ──▶ server: GET /boot            a fresh report
//!                    POST /rpc, GET /filecache/NAME   the worker
//! depot  ◀── client: POST /report         the proof of boot, until it is accepted
//!                    GET /input/SHA1      what the worker is told to fetch
//! ```

mod depot;
mod report;
mod served;
mod server;

pub use depot::{DepotClient, DepotError};
pub use report::Reporter;
pub use served::Served;
pub use server::{LinkError, LinkServer};
