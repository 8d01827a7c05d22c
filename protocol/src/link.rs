//! What agent and master say to each other beside the builder protocol, as JSON over mutual TLS.
//!
//! The agent is a client of the master's *depot*:
//! - `POST /report` with a [`Report`]: the proof of boot. 204, or 403 when this boot is not awaited.
//! - `GET /input/<sha1>`: an input file of this boot's build. 404 when it may not have it.
//!
//! The master is the only client of the agent's *link*:
//! - `GET /boot`: a fresh [`Report`].
//! - `POST /rpc`, `GET /filecache/<name>`: the worker's builder protocol.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// Path of the agent's report at the depot.
pub const REPORT_PATH: &str = "/report";
/// Path prefix of input files at the depot.
pub const INPUT_PATH: &str = "/input/";
/// Path of the agent's report at the link.
pub const BOOT_PATH: &str = "/boot";
/// The most bytes of a report.
pub const MAX_REPORT: usize = 16 * 1024;

/// What an agent says of the boot it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The boot's id, from `boot.toml`.
    pub boot: String,
    /// The image's id, from `boot.toml`.
    pub image: Sha256,
    /// Digest of the root file system that it verified, where the image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Sha256>,
    /// Milliseconds since the machine started.
    pub uptime_ms: u64,
    /// The board's clock, in milliseconds since 1970 UTC.
    pub clock_unix_ms: i64,
    /// The agent's version.
    pub agent: String,
    /// The worker's architecture tag, `armhf`.
    pub arch: String,
    /// The build types that the worker announces.
    pub build_types: Vec<String>,
}
