//! Power by a command of the rack's owner: a PDU's tool, a GPIO tool, a script. The command has `{state}` in it,
//! which becomes `on`, `off`, or `read`; it is run without a shell.
//!
//! ```text
//! argv = ["pdu-tool", "--outlet", "3", "{state}"]     on, off: exit status 0 is the acknowledgement
//! reads = true                                        read: prints `on` or `off`, exit status 0
//! ```
//!
//! A sense of the rail is a command too; it prints `dark` or `live`.
//!
//! It has a time limit; when that is over, or nobody waits for it any more, it is killed with its whole process
//! group. Its arguments may hold a password, so no message has them.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use panda_protocol::launchpad::log::LogSanitizer;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Power, PowerError, PowerState, Sense, check_ms};

/// What stands for the state in an argument.
const STATE: &str = "{state}";
/// The most bytes of its output that are looked at; the rest is read and forgotten.
const MOST_OUTPUT: usize = 4096;
/// The most characters of its output in a message.
const MOST_TOLD: usize = 200;
/// A process that it has left behind may keep its output open; so long is waited for the rest after its end.
const REST: Duration = Duration::from_millis(200);

/// `driver = "command"`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    /// Program and arguments; `{state}` stands for what is to be done.
    pub argv: Vec<String>,
    /// The command knows `read` too.
    #[serde(default)]
    pub reads: bool,
    /// It must have ended within this.
    #[serde(default = "four_seconds")]
    pub limit_ms: u64,
}

const fn four_seconds() -> u64 {
    4_000
}

/// Without its arguments.
impl fmt::Debug for CommandSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandSettings")
            .field("program", &self.program())
            .field("reads", &self.reads)
            .field("limit_ms", &self.limit_ms)
            .finish_non_exhaustive()
    }
}

impl CommandSettings {
    /// What is wrong with these settings, as `key: what is expected`.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), String> {
        let Some((program, arguments)) = self.argv.split_first() else {
            return Err("argv: expected a program and its arguments".to_owned());
        };
        if program.is_empty() || program.contains(STATE) {
            return Err("argv: expected a program's name or path first".to_owned());
        }
        if self.argv.iter().any(|word| word.contains('\0')) {
            return Err("argv: a NUL cannot be in an argument".to_owned());
        }
        if !arguments.iter().any(|word| word.contains(STATE)) {
            return Err(format!("argv: expected {STATE} in one of the arguments"));
        }
        check_ms("limit_ms", self.limit_ms, false)
    }

    fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }

    /// The program's file, so that a missing one is known before it is needed.
    ///
    /// # Errors
    /// There is none, or nobody may execute it; as `key: what is expected`.
    pub fn find(&self) -> Result<PathBuf, String> {
        let program = self.program();
        let missing = |place: &str| format!("argv: no program {program:?} that can be run {place}");
        if program.contains('/') {
            let path = PathBuf::from(program);
            return executable(&path)
                .then_some(path)
                .ok_or_else(|| missing("is there"));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|directory| directory.join(program))
            .find(|path| executable(path))
            .ok_or_else(|| missing("is in PATH"))
    }
}

fn executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A supply that a command switches.
#[derive(Debug, Clone)]
pub struct CommandPower {
    settings: CommandSettings,
}

impl CommandPower {
    /// By this command.
    #[must_use]
    pub const fn new(settings: CommandSettings) -> Self {
        Self { settings }
    }

    /// Runs it with `state`: what it printed, when it ended well.
    async fn run(&self, state: &str) -> Result<String, PowerError> {
        let limit = Duration::from_millis(self.settings.limit_ms);
        let what = format!("`{}` with {state:?}", self.settings.program());
        let Ok(ran) = timeout(limit, self.spawned(state)).await else {
            return Err(PowerError::TimedOut { what, limit });
        };
        let (status, output, errors) = ran.map_err(|source| PowerError::Io {
            what: what.clone(),
            source,
        })?;
        if status.success() {
            return Ok(output);
        }
        let said = if errors.trim().is_empty() {
            output
        } else {
            errors
        };
        let said = self.told(&said);
        Err(PowerError::Answer(format!(
            "{what}: {status}; it said {said:?}"
        )))
    }

    async fn spawned(&self, state: &str) -> std::io::Result<(ExitStatus, String, String)> {
        let words = self.settings.argv.iter().skip(1);
        let mut child = Command::new(self.settings.program())
            .args(words.map(|word| word.replace(STATE, state)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
        let mut output = Vec::new();
        let mut errors = Vec::new();
        let streams = (child.stdout.take(), child.stderr.take());
        let status = {
            let reading = async {
                tokio::join!(
                    gather(streams.0, &mut output),
                    gather(streams.1, &mut errors)
                );
            };
            tokio::pin!(reading);
            let mut read = false;
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status?,
                    () = &mut reading, if !read => read = true,
                }
            };
            group.0 = None;
            if !read && timeout(REST, reading).await.is_err() {
                tracing::debug!(
                    program = self.settings.program(),
                    "has left a process behind that keeps its output open"
                );
            }
            status
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((status, text(output), text(errors)))
    }

    /// Its output for a message: bounded, in one line, without passwords.
    fn told(&self, output: &str) -> String {
        let mut sanitizer = LogSanitizer::default();
        let mut clean = Vec::new();
        sanitizer.push(output.trim().as_bytes(), &mut clean);
        sanitizer.finish(&mut clean);
        let mut text = String::from_utf8_lossy(&clean).into_owned();
        // A tool that repeats its arguments must not tell what they hold.
        for word in self.settings.argv.iter().skip(1) {
            if word.len() > 3 && !word.contains(STATE) {
                text = text.replace(word.as_str(), "…");
            }
        }
        let line = text.lines().rfind(|line| !line.trim().is_empty());
        line.unwrap_or_default()
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(MOST_TOLD)
            .collect()
    }

    async fn switch(&self, state: &str) -> Result<(), PowerError> {
        self.run(state).await.map(drop)
    }
}

#[async_trait]
impl Power for CommandPower {
    async fn off(&self) -> Result<(), PowerError> {
        self.switch("off").await
    }

    async fn on(&self) -> Result<(), PowerError> {
        self.switch("on").await
    }

    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        if !self.settings.reads {
            return Ok(None);
        }
        let output = self.run("read").await?;
        match output.trim() {
            "on" => Ok(Some(PowerState::On)),
            "off" => Ok(Some(PowerState::Off)),
            _ => Err(PowerError::Answer(format!(
                "`{}` with \"read\": expected it to print \"on\" or \"off\", got {:?}",
                self.settings.program(),
                self.told(&output)
            ))),
        }
    }
}

/// `driver = "command"` of `[slot.sense]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSenseSettings {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// It must have ended within this.
    #[serde(default = "four_seconds")]
    pub limit_ms: u64,
}

/// Without its arguments.
impl fmt::Debug for CommandSenseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command().fmt(f)
    }
}

impl CommandSenseSettings {
    /// What is wrong with these settings, as `key: what is expected`.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), String> {
        if self.argv.first().is_none_or(String::is_empty) {
            return Err("argv: expected a program and its arguments".to_owned());
        }
        if self.argv.iter().any(|word| word.contains('\0')) {
            return Err("argv: a NUL cannot be in an argument".to_owned());
        }
        check_ms("limit_ms", self.limit_ms, false)
    }

    /// The program's file, so that a missing one is known before it is needed.
    ///
    /// # Errors
    /// There is none, or nobody may execute it; as `key: what is expected`.
    pub fn find(&self) -> Result<PathBuf, String> {
        self.command().find()
    }

    fn command(&self) -> CommandSettings {
        CommandSettings {
            argv: self.argv.clone(),
            reads: true,
            limit_ms: self.limit_ms,
        }
    }
}

/// A sense of the rail that a command reads.
#[derive(Debug, Clone)]
pub struct CommandSense(CommandPower);

impl CommandSense {
    /// By this command.
    #[must_use]
    pub fn new(settings: &CommandSenseSettings) -> Self {
        Self(CommandPower::new(settings.command()))
    }
}

#[async_trait]
impl Sense for CommandSense {
    async fn dark(&self) -> Result<bool, PowerError> {
        let output = self.0.run("sense").await?;
        match output.trim() {
            "dark" => Ok(true),
            "live" => Ok(false),
            _ => Err(PowerError::Answer(format!(
                "`{}`, which senses the rail: expected it to print \"dark\" or \"live\", got {:?}",
                self.0.settings.program(),
                self.0.told(&output)
            ))),
        }
    }
}

/// A process group whose leader has not been waited for: killed when nobody waits any more.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0
            && let Err(error) = killpg(Pid::from_raw(leader), Signal::SIGKILL)
        {
            tracing::debug!(leader, %error, "the command's processes cannot be killed");
        }
    }
}

/// Reads to the end, keeping at most [`MOST_OUTPUT`] bytes.
async fn gather(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut bytes = [0; 1024];
    loop {
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                let room = MOST_OUTPUT - kept.len();
                kept.extend(bytes.iter().take(count.min(room)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
