//! The guest: `scripts/usb-guest` with a shell in it that takes commands, one at a time.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use panda_tests::programs::root;

/// The guest's kernel and its USB take this long at most.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// An ordinary command takes this long at most.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(90);

/// A running guest; dropping it ends it.
pub(crate) struct Guest {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    started: Instant,
}

impl Guest {
    /// Boots it with these options of `scripts/usb-guest`; nothing where this machine cannot, with the reason said.
    pub(crate) fn start(options: &[String]) -> Result<Option<Self>> {
        let shell = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/usb/shell.sh");
        let mut child = Command::new(root().join("scripts/usb-guest"))
            .args(options)
            .arg(shell)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("scripts/usb-guest")?;
        let output = child.stdout.take().context("a guest's output")?;
        let input = child.stdin.take();
        let (said, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        let guest = Self {
            child,
            input,
            lines,
            started: Instant::now(),
        };
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            let line = guest.line(deadline).context("the guest did not boot")?;
            if line == "#ready" {
                return Ok(Some(guest));
            }
            if line.starts_with("skipped: ") {
                println!("{line}");
                return Ok(None);
            }
        }
    }

    /// How long it has run.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs a command of one line; its status and output.
    pub(crate) fn try_run(&mut self, command: &str, limit: Duration) -> Result<(i32, String)> {
        ensure!(!command.contains('\n'), "one line only: {command}");
        let input = self
            .input
            .as_mut()
            .context("the guest has been told to end")?;
        writeln!(input, "{command}").with_context(|| format!("in the guest: {command}"))?;
        let deadline = Instant::now() + limit;
        let mut output = String::new();
        loop {
            let line = self
                .line(deadline)
                .with_context(|| format!("in the guest: {command}\n{output}"))?;
            if let Some(status) = line.strip_prefix("#done ") {
                return Ok((status.parse()?, output.trim_end().to_owned()));
            }
            output += &line;
            output.push('\n');
        }
    }

    /// Runs a command that must succeed.
    pub(crate) fn run(&mut self, command: &str) -> Result<String> {
        let (status, output) = self.try_run(command, COMMAND_LIMIT)?;
        ensure!(status == 0, "in the guest: {command}: {status}\n{output}");
        Ok(output)
    }

    /// Ends it as it should end.
    pub(crate) fn stop(mut self) -> Result<()> {
        let mut input = self
            .input
            .take()
            .context("the guest has been told to end")?;
        writeln!(input, "#end")?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the guest does not power itself down");
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    fn line(&self, deadline: Instant) -> Result<String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.lines
            .recv_timeout(left)
            .context("it says nothing more")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // The script ends QEMU and cleans up on this.
        let pid = i32::try_from(self.child.id()).unwrap_or(i32::MAX);
        if matches!(self.child.try_wait(), Ok(None)) {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGTERM,
            )
            .ok();
            self.child.wait().ok();
        }
    }
}
