//! `boot.toml`: what one boot is told, in a cpio appended to its ramdisk. It holds the boot's private
//! key, so it never goes on the kernel command line (aboot and the kernel print that) nor into a log.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// The name of the file in the appended cpio.
pub const NAME: &str = "boot.toml";
/// The version that this code writes and reads.
pub const VERSION: u32 = 1;
/// The most bytes that a `boot.toml` may have.
pub const MAX_BYTES: usize = 64 * 1024;

/// The whole file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootToml {
    /// [`VERSION`].
    pub version: u32,
    /// The boot's id: unique for ever, never reused.
    pub boot: String,
    /// The slot's name.
    pub slot: String,
    /// The image's id: the digest of its manifest.
    pub image: Sha256,
    /// Wall-clock time when this was written, in milliseconds since 1970 UTC; boards have no clock.
    pub time_unix_ms: i64,
    /// The board's network.
    pub network: Network,
    /// The authenticated channel.
    pub link: Link,
    /// The root file system to fetch from the depot, where the image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<RootFs>,
}

/// The board's network settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Address and prefix length, `10.77.0.11/24`; none where the machine already has its network
    /// (the process machine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The default route's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// The host name to take.
    pub hostname: String,
    /// The MAC address to give the board's Ethernet, which has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// The authenticated channel: who listens where, with which certificates (all PEM).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where the agent listens, `ADDRESS:PORT`.
    pub listen: String,
    /// Where the master's depot listens, `ADDRESS:PORT`.
    pub depot: String,
    /// The master's certificate: the only peer the agent accepts, in either direction.
    pub master_certificate: String,
    /// This boot's certificate.
    pub certificate: String,
    /// This boot's private key.
    pub key: String,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("listen", &self.listen)
            .field("depot", &self.depot)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BootToml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootToml")
            .field("boot", &self.boot)
            .field("slot", &self.slot)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// A root file system served by the depot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFs {
    /// Its digest, checked before use.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub bytes: u64,
}
