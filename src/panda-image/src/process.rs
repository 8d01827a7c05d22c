//! Makes an image for the process machine: its kernel *is* the agent's program, its ramdisk holds
//! `agent.toml`. Used by `pandabuildd twin` and by tests; what is made is an image like any other, loaded
//! and checked as one.

use std::collections::BTreeMap;
use std::path::Path;

use panda_protocol::agent_toml::AgentToml;
use panda_protocol::family::FamilyName;
use panda_protocol::manifest::{self, Machine, Manifest};
use panda_protocol::worker::ForeignWorker;

use crate::draft::Draft;
use crate::ramdisk::Ramdisk;
use crate::{Image, ImageError};

/// What the twin's boot ROM is given to load. The twin's second stage is software of its own, so these
/// bytes only have to be some.
const SECOND_STAGE: &[u8] = b"pandabuildd: second stage of the process machine\n";
const PAGE_SIZE: u32 = 4096;

/// Makes the image in `directory`, in the place of any that is there, and loads it.
///
/// # Errors
/// Files that cannot be read or written, or an agent that no image can hold.
pub fn make(directory: &Path, agent: &Path, settings: &AgentToml) -> Result<Image, ImageError> {
    make_with(directory, agent, settings, None)
}

/// As [`make`], with another `worker` than the agent's own.
///
/// # Errors
/// As [`make`].
pub fn make_with(
    directory: &Path,
    agent: &Path,
    settings: &AgentToml,
    worker: Option<ForeignWorker>,
) -> Result<Image, ImageError> {
    let draft = Draft::begin(directory)?;
    let mut ramdisk = Ramdisk::new();
    ramdisk.settings(settings)?;
    let manifest = Manifest {
        version: manifest::VERSION,
        name: "process machine".to_owned(),
        arch: settings.arch.clone(),
        machine: Machine::Process,
        family: FamilyName::default(),
        cmdline: String::new(),
        page_size: PAGE_SIZE,
        second_stage: draft.write("second-stage", SECOND_STAGE)?,
        kernel: draft.copy("kernel", agent)?,
        ramdisk: draft.write("ramdisk", &ramdisk.finish())?,
        rootfs: None,
        parts: BTreeMap::new(),
        worker,
    };
    draft.publish(&manifest)
}
