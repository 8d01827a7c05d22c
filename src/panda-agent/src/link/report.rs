//! What this boot says of itself, fresh each time it is asked.

use std::time::Instant;

use jiff::Timestamp;
use panda_protocol::boot_toml::BootToml;
use panda_protocol::digest::Sha256;
use panda_protocol::link::{BootStep, Report};

use super::served::Served;

/// Makes reports.
#[derive(Debug, Clone)]
pub struct Reporter {
    boot: String,
    image: Sha256,
    started: Instant,
    arch: String,
    build_types: Vec<String>,
    rootfs: Option<Sha256>,
    steps: Vec<BootStep>,
    insecure: Vec<String>,
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
            rootfs: None,
            steps: Vec::new(),
            insecure: Vec::new(),
        }
    }

    /// With what the boot did before: its steps, the root file system that it verified, what is insecure about it.
    #[must_use]
    pub fn after(
        self,
        steps: Vec<BootStep>,
        rootfs: Option<Sha256>,
        insecure: Vec<String>,
    ) -> Self {
        Self {
            rootfs,
            steps,
            insecure,
            ..self
        }
    }

    /// The report as of now.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            boot: self.boot.clone(),
            image: self.image,
            rootfs: self.rootfs,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            clock_unix_ms: Timestamp::now().as_millisecond(),
            agent: crate::VERSION.to_owned(),
            arch: self.arch.clone(),
            build_types: self.build_types.clone(),
            steps: self.steps.clone(),
            insecure: self.insecure.clone(),
        }
    }
}
