//! From the ramdisk's program to the root file system's: what the first has learnt goes to the second through a pipe on
//! its standard input. The boot's key is in it, so it is never in a file, an argument or the environment.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use panda_protocol::agent_toml::AgentToml;
use panda_protocol::boot_toml::BootToml;
use panda_protocol::digest::Sha256;
use panda_protocol::link::BootStep;
use serde::{Deserialize, Serialize};

use super::root::SCRATCH;

/// The program of the root file system.
const PROGRAM: &str = "/usr/bin/panda-agent";
/// The most bytes; a pipe takes them all before anybody reads.
const MAX_BYTES: i32 = 256 << 10;

/// Why the second program did not learn what it must.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The pipe.
    #[error("{PROGRAM} cannot take over: {0}")]
    Io(#[from] io::Error),
    /// What came is not what was sent. It is not quoted: a key is in it.
    #[error("{PROGRAM} does not understand the ramdisk's program; were they built together?")]
    Malformed,
}

/// What is handed over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub(crate) boot: BootToml,
    pub(crate) agent: AgentToml,
    /// The root file system that was verified.
    pub(crate) rootfs: Sha256,
    pub(crate) steps: Vec<BootStep>,
    /// When, from the kernel's start.
    pub(crate) at: Duration,
}

impl Handover {
    /// Becomes the root file system's program; returns only when that fails.
    pub(crate) fn become_program(&self) -> HandoverError {
        match self.exec() {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn exec(&self) -> Result<std::convert::Infallible, HandoverError> {
        let (reader, mut writer) = io::pipe()?;
        let bytes = serde_json::to_vec(self).map_err(|_| HandoverError::Malformed)?;
        let room = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(MAX_BYTES)).map_err(io::Error::from)?;
        if bytes.len() > usize::try_from(room).unwrap_or_default() {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
        }
        writer.write_all(&bytes)?;
        drop(writer);
        let error = Command::new(PROGRAM)
            .args([
                "init",
                "--machine",
                "qemu",
                "--root",
                "/",
                "--scratch",
                SCRATCH,
            ])
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .env("TERM", "linux")
            .stdin(Stdio::from(reader))
            .exec();
        Err(error.into())
    }

    /// What the ramdisk's program has left on standard input.
    pub(crate) fn receive() -> Result<Self, HandoverError> {
        Self::read(io::stdin().lock())
    }

    fn read(from: impl io::Read) -> Result<Self, HandoverError> {
        let mut bytes = Vec::new();
        let max = u64::from(MAX_BYTES.unsigned_abs());
        from.take(max).read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(|_| HandoverError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_handover_is_refused_and_not_quoted() {
        for bytes in ["", "{}", "s3cret", "{\"boot\":{\"key\":\"s3cret\"}}"] {
            let said = Handover::read(bytes.as_bytes()).unwrap_err().to_string();
            assert!(
                said.contains("built together") && !said.contains("s3cret"),
                "{said}"
            );
        }
    }
}
