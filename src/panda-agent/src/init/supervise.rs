//! The first process of a machine: it reaps what nobody else waits for. It starts this program once
//! more to do the work, waits for it and for every orphan, and ends with it; when the first process
//! of a PID namespace ends, so does everything in it.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::wait::{WaitStatus, waitpid};

/// Why the machine is over.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The working process could not be started.
    #[error("{} cannot be started: {source}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// This program does not know where it is.
    #[error("this program cannot find itself: {0}")]
    Program(#[source] io::Error),
    /// Waiting failed.
    #[error("waiting for children: {0}")]
    Wait(#[source] Errno),
    /// The working process ended.
    #[error("the agent ended: {0}")]
    Ended(String),
}

/// Runs this program again, with its arguments and `--supervised`, and reaps until that one ends. A machine with a
/// kernel has its own `/proc` already.
///
/// # Errors
/// Always: a machine whose agent has ended is over.
pub fn supervise(has_kernel: bool) -> Result<(), SuperviseError> {
    if !has_kernel {
        own_proc();
    }
    let program = std::env::current_exe().map_err(SuperviseError::Program)?;
    let child = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .arg("--supervised")
        .spawn()
        .map_err(|source| SuperviseError::Start { program, source })?;
    let child = nix::unistd::Pid::from_raw(child.id().cast_signed());
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => {
                return Err(SuperviseError::Ended(format!("status {status}")));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Err(SuperviseError::Ended(format!("signal {signal}")));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(SuperviseError::Wait(error)),
        }
    }
}

/// A `/proc` that shows this machine's processes, where the machine has mounts of its own. If it may
/// not be mounted, the host's stays: it shows too much, and nothing here depends on it.
fn own_proc() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let none: Option<&str> = None;
    let private = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none);
    if let Err(error) =
        private.and_then(|()| mount(Some("proc"), "/proc", Some("proc"), flags, none))
    {
        tracing::debug!(%error, "no /proc of our own");
    }
}
