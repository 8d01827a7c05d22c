//! One run of mmdebstrap, and the thread that packs what it writes.
//!
//! mmdebstrap tears its children down by a SIGHUP to its whole process group whenever its archive cannot be
//! written to the end; a reader that leaves at the archive's last entry is enough, as tar pads what follows.
//! So it is a group of its own, which neither we nor our caller's script are in; it is read to the end, past
//! the last entry and past a failure of ours; and its directory is in one that is removed on every end.
//!
//! ```text
//! interrupted, or takes too long ── SIGTERM ──▶ it cleans up ── patience over ──▶ SIGKILL to its group
//! we are killed ── setpriv --pdeathsig ── SIGTERM ──▶ it cleans up
//! ```

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::pack::{PackError, Packer};

/// How long mmdebstrap may take, and its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The whole of it: a slow line, and a processor that is emulated.
    pub(super) whole: Duration,
    /// How long it may clean up when it was told to end.
    pub(super) patience: Duration,
    /// How long a program that it has left behind may hold its pipe.
    pub(super) pipe: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            whole: Duration::from_secs(2 * 3600),
            patience: Duration::from_secs(60),
            pipe: Duration::from_secs(10),
        }
    }
}

/// The programs, and where mmdebstrap works.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) mmdebstrap: PathBuf,
    pub(super) setpriv: PathBuf,
    /// mmdebstrap's directory is made in one of ours here.
    pub(super) temporary: PathBuf,
    pub(super) limits: Limits,
}

/// mmdebstrap, running.
pub(super) struct Bootstrap {
    child: Child,
    group: Pid,
    packing: JoinHandle<(Packer, Result<(), PackError>)>,
    limits: Limits,
    /// Dropped last: everything that writes there has ended.
    _work: Work,
}

impl Bootstrap {
    /// Starts it with `arguments`, its archive going to `packer`.
    ///
    /// # Errors
    /// It cannot be started, or has nowhere to work.
    pub(super) fn start(
        tools: &Tools,
        arguments: Vec<OsString>,
        mut packer: Packer,
    ) -> anyhow::Result<Self> {
        let work = Work::make(&tools.temporary)?;
        let (archive, stdout) = std::io::pipe().context("a pipe for mmdebstrap")?;
        // The command holds the pipe's other end: it must be gone before the packing can see the end.
        let child = Command::new(&tools.setpriv)
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&tools.mmdebstrap)
            .args(arguments)
            .env("TMPDIR", &work.0)
            .stdin(Stdio::null())
            .stdout(stdout)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("mmdebstrap could not be started")?;
        let group = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw)
            .context("mmdebstrap has no process id")?;
        let packing = tokio::task::spawn_blocking(move || {
            let result = packer.pack(archive);
            (packer, result)
        });
        Ok(Self {
            child,
            group,
            packing,
            limits: tools.limits,
            _work: work,
        })
    }

    /// The end of it, with what was packed; none when it was interrupted.
    ///
    /// # Errors
    /// It cannot be waited for or ended, or takes too long. That it failed stands beside the packer, which
    /// can take another archive.
    pub(super) async fn end(
        mut self,
        interrupted: &mut (impl Future<Output = ()> + Unpin),
    ) -> anyhow::Result<Option<(Packer, anyhow::Result<()>)>> {
        let ended = tokio::select! {
            ended = timeout(self.limits.whole, self.child.wait()) => ended,
            () = interrupted => {
                self.terminate().await?;
                // What was packed until then is nobody's.
                drop(self.packed().await?);
                return Ok(None);
            }
        };
        let Ok(status) = ended else {
            self.terminate().await?;
            drop(self.packed().await?);
            bail!(
                "mmdebstrap did not end within {} s",
                self.limits.whole.as_secs()
            );
        };
        let status = status.context("waiting for mmdebstrap")?;
        let (packer, packed) = self.packed().await?;
        Ok(Some((packer, verdict(status, packed))))
    }

    /// Tells it to end, which has it remove its directory and its mounts, and waits until it has.
    async fn terminate(&mut self) -> anyhow::Result<()> {
        there(kill(self.group, Signal::SIGTERM)).context("ending mmdebstrap")?;
        if timeout(self.limits.patience, self.child.wait())
            .await
            .is_err()
        {
            there(killpg(self.group, Signal::SIGKILL)).context("killing mmdebstrap")?;
            self.child.wait().await.context("waiting for mmdebstrap")?;
        }
        Ok(())
    }

    /// What was packed, now that mmdebstrap has ended. A program that it has left behind does not keep the
    /// pipe open for ever.
    async fn packed(&mut self) -> anyhow::Result<(Packer, Result<(), PackError>)> {
        let packed = match timeout(self.limits.pipe, &mut self.packing).await {
            Ok(packed) => packed,
            Err(_) => {
                there(killpg(self.group, Signal::SIGKILL))
                    .context("ending mmdebstrap's programs")?;
                (&mut self.packing).await
            }
        };
        packed.context("the packing thread")
    }
}

/// Whoever has ended already needs no signal.
fn there(sent: nix::Result<()>) -> nix::Result<()> {
    match sent {
        Err(Errno::ESRCH) => Ok(()),
        sent => sent,
    }
}

fn verdict(status: ExitStatus, packed: Result<(), PackError>) -> anyhow::Result<()> {
    // A disk that is full comes first: mmdebstrap was read to its end, and knows nothing of it.
    packed?;
    if !status.success() {
        bail!("mmdebstrap ended with {status}; its last lines, above, say why");
    }
    Ok(())
}

/// The directory that mmdebstrap has its own in; gone with this, mounts and all.
struct Work(PathBuf);

impl Work {
    fn make(temporary: &Path) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("pandabuildd-chroot-")
            // Open to the users that mmdebstrap drops to.
            .permissions(Permissions::from_mode(0o755))
            .tempdir_in(temporary)
            .with_context(|| format!("{}: cannot be written to", temporary.display()))?;
        Ok(Self(directory.keep()))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = panda_tree::remove(&self.0) {
            eprintln!(
                "pandabuildd: {} is left behind: {error}; remove it",
                self.0.display()
            );
        }
    }
}

#[cfg(test)]
mod tests;
