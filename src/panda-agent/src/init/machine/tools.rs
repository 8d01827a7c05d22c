//! Programs of the root file system, before it is the root: the ramdisk has none. This program starts itself once
//! more, goes into that root, and becomes the program (`in-root`, a hidden command), so that nothing is needed in
//! between.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use panda_protocol::link::line;

/// The hidden command's name.
pub const COMMAND: &str = "in-root";
/// How long a program may take. Making a file system on a large, slow disk takes longest.
const LIMIT: Duration = Duration::from_secs(60);
/// The most of what a failing program printed that is told.
const MAX_SAID: usize = 300;
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// It cannot be run.
    #[error("{program} cannot be run: {source}")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It takes too long.
    #[error("{program} does not end within {} s", LIMIT.as_secs())]
    TooSlow {
        /// The program.
        program: &'static str,
    },
    /// It failed.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// The program.
        program: &'static str,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it printed last.
        said: String,
    },
}

/// A root file system with programs.
#[derive(Debug)]
pub(crate) struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Those below `root`.
    pub(crate) fn in_root(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Runs a program to its end; `success` says which exit statuses are none's failure.
    pub(crate) async fn run(
        &self,
        program: &'static str,
        arguments: &[&str],
        success: impl Fn(i32) -> bool,
    ) -> Result<(), ToolError> {
        self.run_with(program, arguments, None, success).await
    }

    /// The same with a secret on its standard input. What it prints is not told: it may repeat the secret.
    pub(crate) async fn run_secretly(
        &self,
        program: &'static str,
        arguments: &[&str],
        secret: &[u8],
    ) -> Result<(), ToolError> {
        self.run_with(program, arguments, Some(secret), |status| status == 0)
            .await
    }

    async fn run_with(
        &self,
        program: &'static str,
        arguments: &[&str],
        secret: Option<&[u8]>,
        success: impl Fn(i32) -> bool,
    ) -> Result<(), ToolError> {
        let failed = |source| ToolError::Run { program, source };
        let mut command = tokio::process::Command::new("/proc/self/exe");
        let mut child = command
            .arg(COMMAND)
            .arg(&self.root)
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .stdin(if secret.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (input, output) = (child.stdin.take(), child.stderr.take());
        let work = async {
            if let (Some(mut input), Some(secret)) = (input, secret) {
                input.write_all(secret).await?;
                input.shutdown().await?;
            }
            let mut said = Vec::new();
            if let Some(mut output) = output {
                // It may not be kept waiting, however much it prints.
                let mut piece = [0; 4096];
                loop {
                    let count = output.read(&mut piece).await?;
                    if count == 0 {
                        break;
                    }
                    said.extend_from_slice(&piece[..count]);
                    let surplus = said.len().saturating_sub(MAX_SAID);
                    said.drain(..surplus);
                }
            }
            Ok((child.wait().await?, said))
        };
        let (status, said) = tokio::time::timeout(LIMIT, work)
            .await
            .map_err(|_| ToolError::TooSlow { program })?
            .map_err(failed)?;
        if status.code().is_some_and(success) {
            return Ok(());
        }
        let said = match secret {
            Some(_) => "what it said is kept to itself".to_owned(),
            None => line(&String::from_utf8_lossy(&said), MAX_SAID),
        };
        Err(ToolError::Failed {
            program,
            status,
            said,
        })
    }
}

/// Becomes a program within `root`; returns only when that fails.
#[must_use]
pub fn become_in_root(root: &Path, words: &[OsString]) -> io::Error {
    let Some((program, arguments)) = words.split_first() else {
        return io::ErrorKind::InvalidInput.into();
    };
    let within = nix::unistd::chroot(root)
        .map_err(io::Error::from)
        .and_then(|()| std::env::set_current_dir("/"));
    let error = match within {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    };
    // The one who asked reads this.
    io::stderr()
        .write_all(format!("{}: {error}\n", program.to_string_lossy()).as_bytes())
        .err()
        .unwrap_or(error)
}
