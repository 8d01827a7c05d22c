//! The crate over loopback sockets: our servers against raw bytes and Python's client, our clients
//! against peers that lie. One file a subject; what they share is in `peers` and `toy`.
#![allow(clippy::unwrap_used, reason = "what the tests share is test code too")]

mod client;
mod download;
mod peers;
mod pinned;
mod places;
mod relay;
mod server;
mod service;
mod store;
mod toy;
