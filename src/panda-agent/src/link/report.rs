//! What this boot says of itself, fresh each time it is asked.

use std::time::Instant;

use jiff::Timestamp;
use panda_protocol::boot_toml::BootToml;
use panda_protocol::digest::Sha256;
use panda_protocol::link::Report;

use super::served::Served;

/// Makes reports.
#[derive(Debug, Clone)]
pub struct Reporter {
    boot: String,
    image: Sha256,
    started: Instant,
    arch: String,
    build_types: Vec<String>,
}

impl Reporter {
    /// For the boot of `boot` on a machine that started at `started`.
    #[must_use]
    pub fn new(boot: &BootToml, worker: &Served, started: Instant) -> Self {
        Self {
            boot: boot.boot.clone(),
            image: boot.image,
            started,
            arch: worker.arch().to_owned(),
            build_types: worker.build_types(),
        }
    }

    /// The report as of now.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            boot: self.boot.clone(),
            image: self.image,
            // The process machine has none: the ramdisk is all there is.
            rootfs: None,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            steps: Vec::new(),
            insecure: Vec::new(),
            clock_unix_ms: Timestamp::now().as_millisecond(),
            agent: crate::VERSION.to_owned(),
            arch: self.arch.clone(),
            build_types: self.build_types.clone(),
        }
    }
}
