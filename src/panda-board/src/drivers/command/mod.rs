//! Power by a command of the rack's owner: a PDU's tool, a GPIO tool, a script. The command has `{state}` in it,
//! which becomes `on`, `off`, or `read`; it is run without a shell.
//!
//! ```text
//! argv = ["pdu-tool", "--outlet", "3", "{state}"]     on, off: exit status 0 is the acknowledgement
//! reads = true                                        read: prints `on` or `off`, exit status 0
//! ```
//!
//! A sense of the rail is a command too (`sense`).
//!
//! It has a time limit; when that is over, or nobody waits for it any more, it is killed with its whole process
//! group. Its arguments may hold a password, so no message has them.

mod sense;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use panda_protocol::launchpad::log::LogSanitizer;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio::time::timeout;

use crate::driver::{Claim, Machine, PowerDriver, Settings};
use crate::settings::{Mistake, Mistakes};
use crate::{Power, PowerError, PowerState};

pub use self::sense::{CommandSense, CommandSenseSettings};

/// The longest that a command may be given.
const MOST_MS: u64 = 60_000;
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
    /// What `driver` says.
    pub const DRIVER: &'static str = "command";

    fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }
}

impl Settings for CommandSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        check_argv(&self.argv, &mut mistakes);
        if let Some((program, arguments)) = self.argv.split_first() {
            let first = !program.contains(STATE);
            mistakes.unless(first, "argv", "expected a program's name or path first");
            let has = arguments.iter().any(|word| word.contains(STATE));
            let expected = format!("expected {STATE} in one of the arguments");
            mistakes.unless(has || !first, "argv", expected);
        }
        mistakes.milliseconds("limit_ms", self.limit_ms, 1..=MOST_MS);
        mistakes.end()
    }

    /// Nothing: what a command switches cannot be known.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    fn find(&self, _: &Machine) -> Result<(), Mistake> {
        find(self.program())
    }
}

impl PowerDriver for CommandSettings {
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Power>, Mistake> {
        self.find(machine)?;
        Ok(Arc::new(CommandPower::new(self.clone())))
    }
}

/// A program, and arguments that can be handed to one.
fn check_argv(argv: &[String], mistakes: &mut Mistakes) {
    let program = argv.first().is_some_and(|program| !program.is_empty());
    mistakes.unless(program, "argv", "expected a program and its arguments");
    let nul = argv.iter().any(|word| word.contains('\0'));
    mistakes.unless(!nul, "argv", "a NUL cannot be in an argument");
}

/// Looks for the program's file, so that a missing one is known before it is needed.
fn find(program: &str) -> Result<(), Mistake> {
    let missing = |place: &str| {
        let text = format!("no program {program:?} that can be run {place}");
        Mistake::new("argv", text)
    };
    if program.contains('/') {
        let found = executable(Path::new(program)).then_some(());
        return found.ok_or_else(|| missing("is there"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| executable(&directory.join(program)));
    found.then_some(()).ok_or_else(|| missing("is in PATH"))
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
