//! The ramdisk of an image: what is in it, and under which names the agent looks for it. The daemon appends
//! each boot's `boot.toml` behind it.
//!
//! ```text
//! /agent.toml              what the agent is told on every boot of the image
//! /init                    the agent, static: the kernel's first process          (QEMU, PandaBoard)
//! /modules/000-NAME.ko …   the kernel's modules, in the order they are loaded     (QEMU, PandaBoard)
//! /dev /proc /sys /run /newroot                                                   where it mounts
//! ```

use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::cpio::{ArchivePath, FileTooLarge, Writer};
use panda_protocol::launchpad::FileName;

use crate::ImageError;

/// The first process.
const INIT: &str = "init";
/// The most modules: their names begin with three digits.
pub(crate) const MAX_MODULES: usize = 999;
/// What the first process mounts on.
const DIRECTORIES: [&str; 6] = ["dev", "newroot", "proc", "run", "sys", "tmp"];

/// A ramdisk in the making. The same content makes the same bytes.
#[derive(Debug, Default)]
pub(crate) struct Ramdisk {
    archive: Writer,
    modules: usize,
}

impl Ramdisk {
    /// An empty one.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds the directories that the first process mounts on.
    pub(crate) fn directories(&mut self) -> Result<(), ImageError> {
        for name in DIRECTORIES {
            self.archive.directory(&path(name)?, 0o755);
        }
        Ok(())
    }

    /// Adds `agent.toml`.
    pub(crate) fn settings(&mut self, settings: &AgentToml) -> Result<(), ImageError> {
        let text = agent_toml::encode(settings)
            .map_err(|error| ImageError::Unmakeable(error.to_string()))?;
        self.file(agent_toml::NAME, 0o644, text.as_bytes())
    }

    /// Adds the first process.
    pub(crate) fn init(&mut self, program: &[u8]) -> Result<(), ImageError> {
        self.file(INIT, 0o755, program)
    }

    /// Adds a module, to be loaded after those that were added before. `name` ends with `.ko`.
    pub(crate) fn module(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        if self.modules > MAX_MODULES {
            return Err(ImageError::Unmakeable(format!(
                "it would hold more than {MAX_MODULES} modules"
            )));
        }
        // One component: whatever stands before it, `..` and `/` must not make a path of it.
        FileName::try_from(name.to_owned())
            .map_err(|error| ImageError::Unmakeable(format!("the module {name:?}: {error}")))?;
        let place = format!("modules/{:03}-{name}", self.modules);
        self.modules += 1;
        self.file(&place, 0o644, bytes)
    }

    /// The archive.
    #[must_use]
    pub(crate) fn finish(self) -> Vec<u8> {
        self.archive.finish()
    }

    fn file(&mut self, name: &str, permissions: u32, bytes: &[u8]) -> Result<(), ImageError> {
        self.archive
            .file(&path(name)?, permissions, bytes)
            .map_err(|error: FileTooLarge| ImageError::Unmakeable(error.to_string()))
    }
}

fn path(name: &str) -> Result<ArchivePath, ImageError> {
    ArchivePath::try_from(name)
        .map_err(|error| ImageError::Unmakeable(format!("{name:?} in its ramdisk: {error}")))
}

#[cfg(test)]
mod tests {
    use panda_protocol::cpio;

    use super::*;

    #[test]
    fn the_first_process_can_be_run_and_modules_are_numbered_in_order() {
        let mut ramdisk = Ramdisk::new();
        ramdisk.directories().unwrap();
        ramdisk.init(b"program").unwrap();
        ramdisk.module("b.ko", b"first").unwrap();
        ramdisk.module("a.ko", b"second").unwrap();
        let bytes = ramdisk.finish();
        let entries = cpio::read(&bytes).unwrap();
        let found = |name: &str| {
            let entry = entries.iter().find(|entry| entry.path.as_str() == name);
            entry.unwrap_or_else(|| panic!("{name}: {entries:?}"))
        };
        assert_eq!(found("init").permissions, 0o755);
        assert_eq!(found("modules/000-b.ko").node, cpio::Node::File(b"first"));
        assert_eq!(found("modules/001-a.ko").node, cpio::Node::File(b"second"));
        assert_eq!(found("newroot").node, cpio::Node::Directory);
    }

    #[test]
    fn a_module_that_would_leave_its_directory_is_refused() {
        let mut ramdisk = Ramdisk::new();
        assert!(ramdisk.module("../x/y.ko", b"").is_err());
        for _ in 0..=MAX_MODULES {
            drop(ramdisk.module("a.ko", b""));
        }
        assert!(ramdisk.module("a.ko", b"").is_err());
    }
}
