//! The foreign worker's process: started once, never again. It has a process group of its own and writes to the
//! console; when it ends, whoever asks is told how.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use panda_protocol::worker::ADDRESS_VARIABLE;
use tokio::process::Command;
use tokio::sync::watch;

use super::ForeignError;

/// A program that was started.
#[derive(Debug)]
pub(super) struct Program {
    ended: watch::Receiver<Option<String>>,
}

impl Program {
    /// Starts `command` in `directory`, which is made, to listen at `address`.
    pub(super) fn start(
        command: &[String],
        address: SocketAddr,
        directory: &Path,
    ) -> Result<Self, ForeignError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| ForeignError::Io {
                what: directory.display().to_string(),
                source,
            })?;
        let (name, arguments) = command.split_first().ok_or_else(|| ForeignError::Start {
            program: PathBuf::new(),
            source: std::io::ErrorKind::InvalidInput.into(),
        })?;
        let mut child = Command::new(name)
            .args(arguments)
            .current_dir(directory)
            .env(ADDRESS_VARIABLE, address.to_string())
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ForeignError::Start {
                program: name.into(),
                source,
            })?;
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let how = match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::error!(how, "the image's own worker has ended; this boot is lost");
            tell.send_replace(Some(how));
        });
        Ok(Self { ended })
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }
}
