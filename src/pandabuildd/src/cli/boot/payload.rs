//! The files that `pandabuildd boot` is given: read and checked whole before any board is waited for.

use std::path::PathBuf;

use panda_board::family::MemoryPayload;
use panda_board::omap4;

/// Files that make it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Files {
    /// The second stage, built without signature checking; at most 48 KiB
    #[arg(long, value_name = "FILE")]
    pub(super) second_stage: PathBuf,
    /// The kernel, an ARM zImage
    #[arg(long, value_name = "FILE", required_unless_present = "raw")]
    pub(super) kernel: Option<PathBuf>,
    /// A device tree, to be appended to the kernel
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub(super) dtb: Option<PathBuf>,
    /// A ramdisk
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub(super) ramdisk: Option<PathBuf>,
    /// The kernel's command line, at most 511 bytes
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(super) cmdline: Option<String>,
    /// In their place: any file, sent as it is; a boot image is booted, anything else is jumped to
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    pub(super) raw: Option<PathBuf>,
}

impl Files {
    /// Reads and checks all of it.
    pub(super) fn load(&self) -> anyhow::Result<MemoryPayload> {
        Ok(omap4::load(&omap4::Files {
            second_stage: &self.second_stage,
            kernel: self.kernel.as_deref(),
            dtb: self.dtb.as_deref(),
            ramdisk: self.ramdisk.as_deref(),
            cmdline: self.cmdline.as_deref().unwrap_or_default(),
            raw: self.raw.as_deref(),
        })?)
    }
}
