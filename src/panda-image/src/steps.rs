//! The steps of making something out of packages: what is being done now, and the programs that do it, each with
//! a limit. Ctrl-C ends them first and us afterwards, so that they can clean up behind themselves.
//!
//! On a terminal there is one line, which changes; elsewhere there is one line a step, and nothing in between.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a program that was told to end may clean up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a program's last lines are waited for when it has ended: somebody else may hold the pipe.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How many of a program's lines an error repeats.
const LINES: usize = 15;
/// The most characters of one of them.
const WIDTH: usize = 300;

/// Ctrl-C or SIGTERM.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// What is shown of the steps, and what ends them early.
#[derive(Debug)]
pub struct Steps {
    bar: ProgressBar,
    stop: CancellationToken,
}

impl Steps {
    /// Steps that `stop` ends.
    #[must_use]
    pub fn until(stop: CancellationToken) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {prefix}  {elapsed_precise}  {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, stop }
    }

    /// What is done from now on.
    pub fn begin(&self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!("pandabuildd: {what}");
        }
        self.bar.set_prefix(what.to_owned());
        self.bar.set_message("");
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("pandabuildd: {text}"));
    }

    /// Takes the line away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Cancelled when the steps have to end.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs `command` to its end, as the step or a part of it; its standard error is shown as what happens.
    ///
    /// # Errors
    /// [`Interrupted`]; it cannot be started, fails (with its last lines) or takes longer than `limit`.
    pub async fn run(
        &self,
        name: &str,
        command: &mut Command,
        limit: Duration,
    ) -> anyhow::Result<()> {
        self.start(name, command)?.end(self, limit).await
    }

    /// Starts `command`; call [`Running::end`] next.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, name: &str, command: &mut Command) -> anyhow::Result<Running> {
        if self.stop.is_cancelled() {
            return Err(Interrupted.into());
        }
        let child = command
            .stderr(Stdio::piped())
            // The terminal's Ctrl-C is for us; we tell it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Running {
            name: name.to_owned(),
            child,
        })
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    name: String,
    pub(crate) child: Child,
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// As [`Steps::run`].
    pub async fn end(mut self, steps: &Steps, limit: Duration) -> anyhow::Result<()> {
        let mut said = Said::default();
        let stderr = self.child.stderr.take();
        let ended = tokio::select! {
            ended = timeout(limit, follow(&mut self.child, stderr, &mut said, &steps.bar)) => ended,
            () = steps.stop.cancelled() => {
                self.terminate().await?;
                return Err(Interrupted.into());
            }
        };
        let name = &self.name;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("{name} ended with {status}{}", said.tell()),
            Ok(Err(error)) => Err(error).with_context(|| format!("waiting for {name}")),
            Err(_) => {
                self.terminate().await?;
                bail!(
                    "{} did not end within {} s{}",
                    self.name,
                    limit.as_secs(),
                    said.tell()
                )
            }
        }
    }

    /// Tells it to end and waits until it has.
    async fn terminate(&mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // One that has ended already is no error.
            match kill(Pid::from_raw(pid), Signal::SIGTERM) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("ending {}", self.name)),
            }
        }
        if timeout(PATIENCE, self.child.wait()).await.is_err() {
            self.child
                .kill()
                .await
                .with_context(|| format!("ending {}", self.name))?;
        }
        Ok(())
    }
}

/// Shows what it says until it has ended.
async fn follow(
    child: &mut Child,
    stderr: Option<impl AsyncRead + Unpin>,
    said: &mut Said,
    bar: &ProgressBar,
) -> io::Result<ExitStatus> {
    let Some(stderr) = stderr else {
        return child.wait().await;
    };
    let mut reader = BufReader::new(stderr);
    let mut status = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let piece = async {
            // A line without an end is cut: there is no bound on what a program may write.
            let mut bounded = tokio::io::AsyncReadExt::take(&mut reader, 64 * 1024);
            bounded.read_until(b'\n', &mut line).await
        };
        let read = match status {
            None => tokio::select! {
                read = piece => read?,
                ended = child.wait() => {
                    status = Some(ended?);
                    continue;
                }
            },
            Some(status) => match timeout(LAST_LINES, piece).await {
                Ok(read) => read?,
                Err(_) => return Ok(status),
            },
        };
        if read == 0 {
            return match status {
                Some(status) => Ok(status),
                None => child.wait().await,
            };
        }
        if let Some(text) = said.hear(&line) {
            bar.set_message(text.to_owned());
        }
    }
}

/// A program's last lines.
#[derive(Debug, Default)]
struct Said(Vec<String>);

impl Said {
    fn hear(&mut self, line: &[u8]) -> Option<&str> {
        let text: String = String::from_utf8_lossy(line)
            .trim_end()
            .chars()
            .take(WIDTH)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if text.trim().is_empty() {
            return None;
        }
        if self.0.len() == LINES {
            self.0.remove(0);
        }
        self.0.push(text);
        self.0.last().map(String::as_str)
    }

    fn tell(&self) -> String {
        if self.0.is_empty() {
            ", and said nothing".to_owned()
        } else {
            format!("; its last lines:\n  {}", self.0.join("\n  "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    fn steps() -> Steps {
        Steps::until(CancellationToken::new())
    }

    #[tokio::test]
    async fn a_program_that_fails_is_told_with_its_last_words() {
        let script = "for n in $(seq 40); do echo line $n >&2; done; echo 'E: no \u{1b}such host' >&2; exit 3";
        let error = steps()
            .run("thing", &mut shell(script), LIMIT)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("thing ended with exit status: 3"),
            "{error}"
        );
        assert!(error.ends_with("line 40\n  E: no  such host"), "{error}");
        assert!(!error.contains("line 20\n"), "{error}");
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_ended_and_so_is_one_that_holds_its_pipe() {
        let error = steps()
            .run(
                "thing",
                &mut shell("exec sleep 1000"),
                Duration::from_millis(100),
            )
            .await
            .unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        // What it leaves behind keeps standard error open.
        steps()
            .run("thing", &mut shell("sleep 20 & exit 0"), LIMIT)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn an_interrupted_one_cleans_up_before_we_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let (begun, cleaned) = (directory.path().join("b"), directory.path().join("c"));
        let script = format!(
            "trap 'touch {}; exit 1' TERM; touch {}; while :; do sleep 0.05; done",
            cleaned.display(),
            begun.display()
        );
        let stop = CancellationToken::new();
        let steps = Steps::until(stop.clone());
        let mut command = shell(&script);
        let running = steps.run("thing", &mut command, LIMIT);
        let interrupter = async {
            while !begun.exists() {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(running, interrupter);
        assert!(ended.unwrap_err().is::<Interrupted>());
        assert!(cleaned.exists());
        let after = steps.run("thing", &mut shell("exit 0"), LIMIT).await;
        assert!(
            after.unwrap_err().is::<Interrupted>(),
            "nothing new is begun"
        );
    }
}
