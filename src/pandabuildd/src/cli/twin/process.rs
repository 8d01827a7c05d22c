//! panda-twin as a process. It outlives a daemon that dies, so one that still runs in the state directory is
//! taken over; Ctrl-C at the terminal is not for it but for us, and we stop it when the daemon has stopped.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::plan::board;

/// panda-twin's directory in the state directory.
const DIRECTORY: &str = "twin";
/// Its messages, in the state directory.
const LOG: &str = "twin.log";
/// How long it may take until its boards are there.
const START: Duration = Duration::from_secs(30);
/// How long it may take to switch every board off and end.
const STOP: Duration = Duration::from_secs(30);
/// Between two looks at a process that is not our child.
const PAUSE: Duration = Duration::from_millis(50);
/// The most bytes of its messages that an error repeats.
const LOG_END: usize = 2000;

/// A board's directory of sockets, from the state directory.
pub(crate) fn board_directory(board: &str) -> String {
    format!("{DIRECTORY}/boards/{board}")
}

/// A panda-twin that runs.
#[derive(Debug)]
pub(crate) enum Twin {
    /// Started by us.
    Child(Child),
    /// Found running.
    Found(Pid),
}

impl Twin {
    /// Has `boards` boards in `state`, which are as the `options` say: those of a panda-twin that still runs there, or of a new one.
    ///
    /// # Errors
    /// It does not start, or one with other boards runs there.
    pub(crate) async fn start(
        program: &Path,
        state: &Path,
        boards: u16,
        options: &[String],
    ) -> anyhow::Result<Self> {
        if let Some(pid) = listener(&power_socket(state, 1)).await {
            if listener(&power_socket(state, boards)).await.is_none() {
                bail!(
                    "a panda-twin with fewer than {boards} boards still runs in {} (process {pid}); end it with \
                     `kill {pid}` first",
                    state.display()
                );
            }
            tracing::info!(%pid, "a panda-twin still runs in this state directory; its boards are taken over");
            return Ok(Self::Found(pid));
        }
        let directory = state.join(DIRECTORY);
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let log_path = state.join(LOG);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| log_path.display().to_string())?;
        let mut child = Command::new(program)
            .arg("--state")
            .arg(&directory)
            .args(["--boards", &boards.to_string()])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A group of its own: the terminal's Ctrl-C does not reach it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        match timeout(START, ready(&mut child, boards)).await {
            Ok(true) => Ok(Self::Child(child)),
            outcome => {
                let why = if outcome.is_err() {
                    "is not ready in time"
                } else {
                    "ended at once"
                };
                let twin = Self::Child(child);
                if let Err(error) = twin.stop().await {
                    tracing::debug!(%error, "while ending panda-twin");
                }
                bail!(
                    "panda-twin {why}; its last messages ({}):\n{}",
                    log_path.display(),
                    end_of(&log_path)
                )
            }
        }
    }

    /// Switches all boards off and ends it; nothing of it is left.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Child(mut child) => {
                let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else {
                    return Ok(());
                };
                terminate(Pid::from_raw(pid))?;
                if timeout(STOP, child.wait()).await.is_err() {
                    child.kill().await.context("ending panda-twin")?;
                    bail!(
                        "panda-twin did not end within {STOP:?} and was killed; its boards are gone with it"
                    );
                }
                Ok(())
            }
            Self::Found(pid) => {
                terminate(pid)?;
                let until = Instant::now() + STOP;
                while kill(pid, None).is_ok() {
                    if Instant::now() > until {
                        bail!("panda-twin (process {pid}) has not ended within {STOP:?}");
                    }
                    sleep(PAUSE).await;
                }
                Ok(())
            }
        }
    }
}

fn terminate(pid: Pid) -> anyhow::Result<()> {
    match kill(pid, Signal::SIGTERM) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("ending panda-twin (process {pid})")),
    }
}

/// Waits for its line a board; false when it ends before.
async fn ready(child: &mut Child, boards: u16) -> bool {
    let Some(stdout) = child.stdout.take() else {
        return false;
    };
    let mut lines = BufReader::new(stdout).lines();
    for _ in 0..boards {
        if !matches!(lines.next_line().await, Ok(Some(_))) {
            return false;
        }
    }
    true
}

fn power_socket(state: &Path, number: u16) -> PathBuf {
    state
        .join(board_directory(&board(number)))
        .join("power.sock")
}

/// The process that listens on a socket.
async fn listener(socket: &Path) -> Option<Pid> {
    let stream = UnixStream::connect(socket).await.ok()?;
    stream.peer_cred().ok()?.pid().map(Pid::from_raw)
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let end = text
        .get(text.len().saturating_sub(LOG_END)..)
        .unwrap_or_default();
    String::from_utf8_lossy(end).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("panda-twin");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn one_that_fails_is_told_with_its_own_words() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "echo 'unshare is missing' >&2; exit 1");
        let error = Twin::start(&program, directory.path(), 1, &[])
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("ended at once") && error.contains("unshare is missing"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn it_is_in_a_group_of_its_own_and_ends_with_sigterm() {
        let directory = tempfile::tempdir().unwrap();
        let ended = directory.path().join("ended");
        let text = format!(
            "trap 'touch {}; exit 0' TERM; echo '{{}}'; while :; do sleep 0.05; done",
            ended.display()
        );
        let program = script(directory.path(), &text);
        let twin = Twin::start(&program, directory.path(), 1, &[])
            .await
            .unwrap();
        let Twin::Child(child) = &twin else {
            panic!("a child")
        };
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap());
        assert_eq!(nix::unistd::getpgid(Some(pid)).unwrap(), pid);
        twin.stop().await.unwrap();
        assert!(ended.exists());
        assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    }
}
