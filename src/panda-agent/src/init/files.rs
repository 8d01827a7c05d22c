//! The two files that a boot finds in its ramdisk: `boot.toml`, of this boot alone, and `agent.toml`,
//! of the image.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::boot_toml::{self, BootToml};

/// Why a boot does not know what to do. It quotes nothing of the files: one holds a private key.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file that cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not what it must be.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads `boot.toml`, and removes it: what runs on this board later must not find the boot's key.
pub(crate) fn boot(root: &Path) -> Result<BootToml, FilesError> {
    let path = root.join(boot_toml::NAME);
    let bytes = read(&path, boot_toml::MAX_BYTES)?;
    let boot = boot_toml::decode(&bytes).map_err(|error| FilesError::Malformed {
        path: path.clone(),
        problem: error.to_string(),
    })?;
    forget(&path, bytes.len()).map_err(|source| FilesError::Read { path, source })?;
    Ok(boot)
}

/// Overwrites a file and removes it: a ramdisk's files are memory, which is not cleared when it is given back.
fn forget(path: &Path, bytes: usize) -> io::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(&vec![0; bytes])?;
    std::fs::remove_file(path)
}

/// Reads `agent.toml`.
pub(crate) fn agent(root: &Path) -> Result<AgentToml, FilesError> {
    let path = root.join(agent_toml::NAME);
    let bytes = read(&path, agent_toml::MAX_BYTES)?;
    agent_toml::decode(&bytes).map_err(|error| FilesError::Malformed {
        path,
        problem: error.to_string(),
    })
}

fn read(path: &Path, max: usize) -> Result<Vec<u8>, FilesError> {
    let failed = |source| FilesError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}
