//! What the daemon is: `GET /v1/version`.

use serde::{Deserialize, Serialize};

use super::request::{Method, PREFIX, Request};

/// Asks what the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetVersion;

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `pandabuildd`.
    pub program: String,
    /// Its release.
    pub version: String,
    /// The versions of this interface that it speaks: the numbers after `/v`.
    pub interface: Vec<u32>,
}

impl Request for GetVersion {
    type Answer = Version;
    const METHOD: Method = Method::Get;

    fn target(&self) -> String {
        format!("{PREFIX}/version")
    }
}
