//! A rack of one Panda: `pandabuildd twin` as a process of its own, as an operator would start it, asked over its
//! operators' socket. It ends with us, whatever ends us.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use panda_image::programs;
use panda_image::steps::Interrupted;
use panda_protocol::operators::{BootHistory, GetBoots, GetSlots, Slots};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Role;
use crate::operators::SOCKET;
use crate::operators::client::Daemon;

/// How long a rack may take until it listens.
const START: Duration = Duration::from_secs(120);
/// How long its Panda may take to become Fresh: on a slow processor that is emulated, and twice should one boot fail.
const FRESH: Duration = Duration::from_secs(900);
/// How long it may take to switch its Panda off and end.
const STOP: Duration = Duration::from_secs(60);
/// The most boots that are asked for.
const BOOTS: u32 = 10;
/// The most bytes of its messages that an error repeats.
const LAST_WORDS: usize = 1500;

/// A rack that runs.
#[derive(Debug)]
pub(crate) struct DemoRack {
    child: Child,
    state: PathBuf,
    /// Its slot's name.
    pub(crate) slot: String,
    /// Its slot's address as a builder.
    pub(crate) url: String,
}

impl DemoRack {
    /// Starts a rack in `state`, whose Panda boots `image`.
    ///
    /// # Errors
    /// Interrupted; it does not start, with its own last words.
    pub(crate) async fn start(
        role: Role,
        image: &Path,
        state: &Path,
        scratch_mib: u64,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let us = std::env::current_exe().context("where this program is")?;
        std::fs::create_dir(state).with_context(|| state.display().to_string())?;
        let log = std::fs::File::create(log_path(state))
            .with_context(|| log_path(state).display().to_string())?;
        // Should we be killed, it is told to end, and takes its Panda with it.
        let mut child = Command::new(programs::find("setpriv", "util-linux")?)
            .args(["--pdeathsig", "TERM", "--"])
            .arg(us)
            .args(["twin", "--machine", "qemu", "--slots", "1"])
            .args(["--listen", "127.0.0.1:0"])
            .args(["--scratch-mib", &scratch_mib.to_string()])
            .arg("--image")
            .arg(image)
            .arg("--state")
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // The terminal's Ctrl-C is for us.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("the {} rack cannot be started", role.name()))?;
        let first = tokio::select! {
            first = timeout(START, first_line(&mut child)) => first,
            () = stop.cancelled() => {
                terminate(&mut child).await?;
                return Err(Interrupted.into());
            }
        };
        match first.ok().flatten() {
            Some((slot, url)) => Ok(Self {
                child,
                state: state.to_owned(),
                slot,
                url,
            }),
            None => {
                terminate(&mut child).await?;
                bail!(
                    "the {} rack does not start. {}",
                    role.name(),
                    Self::last_words(state)
                )
            }
        }
    }

    /// Waits until its Panda is on a proven boot that has run nothing.
    ///
    /// # Errors
    /// Interrupted; it does not become so in time.
    pub(crate) async fn wait_fresh(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let request = GetSlots {
            fresh_within_seconds: Some(FRESH.as_secs()),
        };
        let daemon = self.daemon();
        let Slots { slots, in_time } = tokio::select! {
            answer = daemon.ask(&request, FRESH) => answer?,
            () = stop.cancelled() => return Err(Interrupted.into()),
        };
        if !in_time {
            let details: Vec<_> = slots
                .iter()
                .map(|slot| format!("{} is {}: {}", slot.slot, slot.state, slot.detail))
                .collect();
            bail!(
                "the Panda has not booted within {} s: {}",
                FRESH.as_secs(),
                details.join("; ")
            );
        }
        Ok(())
    }

    /// Its boots up to that of the last build, the first one first.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub(crate) async fn boots(&self) -> anyhow::Result<Vec<BootHistory>> {
        let request = GetBoots {
            slot: Some(self.slot.clone()),
            limit: BOOTS,
        };
        let answer = self.daemon().ask(&request, Duration::ZERO).await?;
        let mut boots = answer.boots;
        boots.sort_by_key(|boot| boot.boot);
        // One that has begun after the last build: nobody waits for it.
        while boots.last().is_some_and(|boot| boot.attempts.is_empty()) {
            boots.pop();
        }
        Ok(boots)
    }

    /// Switches its Panda off and ends it.
    ///
    /// # Errors
    /// It does not end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        terminate(&mut self.child).await
    }

    /// The last lines of its messages.
    #[must_use]
    pub(crate) fn last_words(state: &Path) -> String {
        let bytes = std::fs::read(log_path(state)).unwrap_or_default();
        let end = bytes
            .get(bytes.len().saturating_sub(LAST_WORDS)..)
            .unwrap_or_default();
        format!(
            "Its rack's last messages:\n{}",
            String::from_utf8_lossy(end)
        )
    }

    /// Where its operators ask.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state.join(SOCKET)
    }

    fn daemon(&self) -> Daemon {
        Daemon::at(self.socket())
    }
}

fn log_path(state: &Path) -> PathBuf {
    state.join("demo-rack.log")
}

/// The slot and its address, of the first line that `twin` prints.
async fn first_line(child: &mut Child) -> Option<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Listening {
        slot: String,
        url: String,
    }
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    let line = lines.next_line().await.ok()??;
    let Listening { slot, url } = serde_json::from_str(&line).ok()?;
    Some((slot, url))
}

async fn terminate(child: &mut Child) -> anyhow::Result<()> {
    let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else {
        return Ok(());
    };
    match kill(Pid::from_raw(pid), Signal::SIGTERM) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error).context("ending a rack"),
    }
    if timeout(STOP, child.wait()).await.is_err() {
        child.kill().await.context("ending a rack")?;
        bail!(
            "a rack did not end within {} s and was killed",
            STOP.as_secs()
        );
    }
    Ok(())
}
