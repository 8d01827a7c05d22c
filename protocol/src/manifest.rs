//! Image manifest, version 1: what a known-good image is made of. An image is a directory that holds
//! `manifest.toml` and the files it names, each with its SHA-256; the image's id is the SHA-256 of
//! `manifest.toml`'s bytes.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::launchpad::FileName;

/// The name of the file in an image's directory.
pub const NAME: &str = "manifest.toml";
/// The version that this code writes and reads.
pub const VERSION: u32 = 1;
/// The most bytes of a manifest.
pub const MAX_BYTES: usize = 64 * 1024;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// A name for people.
    pub name: String,
    /// Debian architecture of the builds it runs, `armhf`.
    pub arch: String,
    /// What it runs on.
    pub machine: Machine,
    /// Kernel command line; aboot's limit is 512 bytes with its NUL.
    #[serde(default)]
    pub cmdline: String,
    /// Android boot image page size: 1024, 2048 or 4096.
    #[serde(default = "default_page_size")]
    pub page_size: u32,
    /// The second stage, at most 48 KiB.
    pub second_stage: Part,
    /// The kernel (for the process machine: the agent's program).
    pub kernel: Part,
    /// The ramdisk, a cpio archive, to which each boot's `boot.toml` is appended.
    pub ramdisk: Part,
    /// The root file system that the depot serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Part>,
}

fn default_page_size() -> u32 {
    2048
}

/// What an image runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// A PandaBoard.
    Panda,
    /// A virtual Panda whose machine is a process on the host.
    Process,
    /// A virtual Panda whose machine is QEMU.
    Qemu,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name in the image's directory.
    pub file: FileName,
    /// Its digest.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub bytes: u64,
}
