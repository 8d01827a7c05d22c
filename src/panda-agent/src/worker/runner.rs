//! Runs one build as a process in namespaces of its own, follows its output into the log, and makes
//! sure that nothing of it is left, however it ends.
//!
//! ```text
//! worker ──▶ unshare --pid --mount --ipc ──▶ env ──▶ panda-agent run-build (first process of the namespace)
//!   │            ▲ ends when the namespace is empty          ▲ plan; its end = "die"
//!   │            └── waited for                              │
//!   ├──────────────────────── stdin ─────────────────────────┘
//!   └◀─────────────────────── stdout, stderr: the log
//! ```
//! To kill a build its standard input is closed: `run-build` exits, and with the first process of a
//! PID namespace the kernel kills every other in it, whatever it forked, ignores or calls itself.
//! `unshare` ends only when all of them are gone, so its end is the proof. The same happens when the
//! worker itself dies. A build that is root may have stopped that first process (`ptrace`) or closed
//! the log's end for it: then it is killed from outside its namespace, where it cannot be shielded.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use super::log::{BuildLog, LogError};
use super::needs::NeedsError;
use super::plan::{MAX_VERDICT, Plan, Verdict};

/// How long a build may take to die after it was told to, before it is killed from outside.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the probe of namespaces may take: a moment, and longer on a virtual board whose host is busy.
const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// How builds are isolated on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Isolation {
    program: PathBuf,
    user_namespace: bool,
}

/// How a build's process ended.
#[derive(Debug)]
pub(crate) enum End {
    /// With a verdict.
    Verdict(Verdict),
    /// Killed because it was aborted.
    Aborted,
    /// Killed because its log grew over the bound.
    LogTooLong,
}

/// Why a build was not run, or its end is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The process cannot be started or spoken to.
    #[error("the build's process: {0}")]
    Process(#[from] io::Error),
    /// The plan cannot be written.
    #[error("the build's plan cannot be written: {0}")]
    Plan(#[from] serde_json::Error),
    /// The log cannot be written.
    #[error(transparent)]
    Log(LogError),
    /// It ended without a verdict.
    #[error("the build's process ended without a verdict")]
    NoVerdict,
}

impl Isolation {
    /// Tries the namespaces that builds need; `program` is this program, to be run in them.
    pub(crate) async fn probe(program: PathBuf) -> Result<Self, NeedsError> {
        let isolation = Self {
            program,
            user_namespace: !nix::unistd::geteuid().is_root(),
        };
        let mut probe = isolation.unshare();
        probe
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let failed = |source| NeedsError::Run {
            program: "unshare",
            source,
        };
        let output = tokio::time::timeout(PROBE_LIMIT, probe.output())
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        if output.status.success() {
            return Ok(isolation);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(NeedsError::Namespaces(
            said.lines().next().unwrap_or("nothing").to_owned(),
        ))
    }

    fn unshare(&self) -> Command {
        let mut command = Command::new("unshare");
        if self.user_namespace {
            command.args(["--user", "--map-root-user"]);
        }
        command.args([
            "--pid",
            "--fork",
            "--kill-child=SIGKILL",
            "--mount",
            "--ipc",
        ]);
        command.args(["--propagation", "private", "--"]);
        // What the worker's own starter ignores, a build must not.
        command.args(["env", "--default-signal"]);
        command
    }

    /// Runs the build of `plan` until it ends or `abort` is called.
    pub(crate) async fn run(
        &self,
        plan: &Plan,
        log: &BuildLog,
        abort: &CancellationToken,
    ) -> Result<End, RunError> {
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        let (reader, writer) = io::pipe()?;
        let mut command = self.unshare();
        command
            .arg(&self.program)
            .arg("run-build")
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        // It holds our copies of the pipe's writing end.
        drop(command);
        let mut output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let mut input = child.stdin.take();
        let ended = async {
            let end = follow(&mut input, &line, &mut output, log).await?;
            if end.is_none() {
                child.wait().await?;
            }
            Ok(end)
        };
        let end = tokio::select! {
            () = abort.cancelled() => Ok(Some(End::Aborted)),
            end = ended => end,
        };
        match end {
            Ok(None) => read_verdict(&plan.work.verdict()).map(End::Verdict),
            Ok(Some(end)) => {
                kill(&mut child, input).await?;
                drain(&mut output, log).await;
                Ok(end)
            }
            Err(error) => {
                kill(&mut child, input).await?;
                Err(error)
            }
        }
    }
}

/// Hands the plan over and copies output to the log until there is no more.
async fn follow(
    input: &mut Option<ChildStdin>,
    plan: &[u8],
    output: &mut pipe::Receiver,
    log: &BuildLog,
) -> Result<Option<End>, RunError> {
    let handed = match input.as_mut() {
        Some(input) => input.write_all(plan).await,
        None => Err(io::ErrorKind::BrokenPipe.into()),
    };
    if let Err(error) = handed
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    let mut piece = vec![0; 64 * 1024];
    loop {
        let count = output.read(&mut piece).await?;
        if count == 0 {
            return Ok(None);
        }
        match log.push(&piece[..count]) {
            Ok(()) => {}
            Err(LogError::TooLong(_)) => return Ok(Some(End::LogTooLong)),
            Err(error) => return Err(RunError::Log(error)),
        }
    }
}

/// Ends the build and waits until nothing of it is left.
async fn kill(child: &mut Child, input: Option<ChildStdin>) -> io::Result<()> {
    drop(input);
    if let Ok(ended) = tokio::time::timeout(PATIENCE, child.wait()).await {
        return ended.map(drop);
    }
    tracing::warn!("a build did not end when it was told to; killing it");
    let first = child.id().and_then(first_process);
    if let Some(first) = first
        && let Err(error) = nix::sys::signal::kill(first, Signal::SIGKILL)
    {
        tracing::debug!(%error, "the first process of the build's namespace is gone");
    }
    if let Ok(ended) = tokio::time::timeout(PATIENCE, child.wait()).await {
        return ended.map(drop);
    }
    child.start_kill()?;
    child.wait().await.map(drop)
}

/// The first process of the namespace that this `unshare` waits for: its only child.
fn first_process(unshare: u32) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
    let first = children.ok()?.split_whitespace().next()?.parse().ok()?;
    Some(Pid::from_raw(first))
}

/// What the build had still printed when it was killed.
async fn drain(output: &mut pipe::Receiver, log: &BuildLog) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(Ok(count)) = tokio::time::timeout(PATIENCE, output.read(&mut piece)).await {
        if count == 0 || log.push(&piece[..count]).is_err() {
            return;
        }
    }
}

fn read_verdict(path: &Path) -> Result<Verdict, RunError> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut bytes = Vec::new();
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .and_then(|file| file.take(MAX_VERDICT).read_to_end(&mut bytes))
        .map_err(|_| RunError::NoVerdict)?;
    serde_json::from_slice(&bytes).map_err(|_| RunError::NoVerdict)
}
