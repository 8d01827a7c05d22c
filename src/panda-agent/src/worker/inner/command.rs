//! Running a build's commands: each is logged with the time and its words, as builders' logs have
//! always shown it, and orphans that land at this process (the first of its PID namespace) are reaped.

use std::io::{self, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::thread;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::worker::outcome::LogScan;

/// A command that could not be run, or failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// It could not be started.
    #[error("{program} cannot be run: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with another status than 0.
    #[error("{program} failed with {}", .status.map_or("a signal".to_owned(), |status| format!("status {status}")))]
    Failed {
        /// The program.
        program: String,
        /// Its exit status; none for a death by signal.
        status: Option<i32>,
    },
    /// Its output could not be read.
    #[error("the output of {program} cannot be read: {source}")]
    Output {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// Writes a line to the build's log. When nobody reads it any more, nobody wants the build.
pub(crate) fn log(line: &str) {
    let mut out = io::stdout().lock();
    if out
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(super::UNWANTED);
    }
}

/// Logs a step: `[Sun Nov 22 09:53:30 2026]` and `RUN: words`.
pub(crate) fn log_step(words: &str) {
    log(&format!(
        "[{}]\nRUN: {words}",
        Timestamp::now().strftime("%a %b %e %H:%M:%S %Y")
    ));
}

/// Runs a command with the log as its output; it must succeed.
pub(crate) fn run(command: &mut Command) -> Result<(), CommandError> {
    log_step(&words(command));
    let program = program(command);
    match status(command.stdin(Stdio::null()))? {
        Some(0) => Ok(()),
        status => Err(CommandError::Failed { program, status }),
    }
}

/// Runs a command with its output going to the log *and* through a [`LogScan`]; returns its exit
/// status, none for a death by signal. Whatever it leaves running is killed.
pub(crate) fn run_scanned(mut command: Command) -> Result<(Option<i32>, LogScan), CommandError> {
    log_step(&words(&command));
    let program = program(&command);
    let failed = |source| CommandError::Output {
        program: program.clone(),
        source,
    };
    let (mut reader, writer) = io::pipe().map_err(failed)?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer);
    let scanner = thread::spawn(move || {
        let mut scan = LogScan::default();
        let mut piece = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok(scan),
                Ok(count) => {
                    scan.push(&piece[..count]);
                    let mut out = io::stdout().lock();
                    out.write_all(&piece[..count]).and_then(|()| out.flush())?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    });
    let ended = status(&mut command);
    // The command holds the pipe's other end, and so may anything that it left behind.
    drop(command);
    kill_rest();
    let scan = scanner
        .join()
        .map_err(|_| failed(io::ErrorKind::Other.into()))?
        .map_err(failed)?;
    Ok((ended?, scan))
}

/// Runs a command that prints what we want to know: each line goes to `take`. Not logged.
pub(crate) fn read_lines(
    command: &mut Command,
    take: &mut dyn FnMut(&str),
) -> Result<(), CommandError> {
    const MAX_LINE: u64 = 1 << 20;
    let program = program(command);
    let start = |source| CommandError::Start {
        program: program.clone(),
        source,
    };
    let read = |source| CommandError::Output {
        program: program.clone(),
        source,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let output = child
        .stdout
        .take()
        .ok_or_else(|| read(io::ErrorKind::BrokenPipe.into()))?;
    let mut output = io::BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        let count = io::BufRead::read_until(
            &mut io::Read::by_ref(&mut output).take(MAX_LINE),
            b'\n',
            &mut line,
        )
        .map_err(read)?;
        if count == 0 {
            break;
        }
        take(String::from_utf8_lossy(&line).trim_end());
    }
    drop(output);
    match wait(Pid::from_raw(child.id().cast_signed())).map_err(read)? {
        Some(0) => Ok(()),
        status => Err(CommandError::Failed { program, status }),
    }
}

/// Whether a command succeeds, silently.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .stdin(Stdio::null());
    matches!(status(command), Ok(Some(0)))
}

fn status(command: &mut Command) -> Result<Option<i32>, CommandError> {
    let program = program(command);
    match command.spawn() {
        Ok(child) => wait(Pid::from_raw(child.id().cast_signed()))
            .map_err(|source| CommandError::Output { program, source }),
        Err(source) => Err(CommandError::Start { program, source }),
    }
}

/// Waits for one child and reaps whatever else ends meanwhile.
fn wait(child: Pid) -> io::Result<Option<i32>> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => return Ok(Some(status)),
            Ok(WaitStatus::Signaled(pid, ..)) if pid == child => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills every process of this PID namespace but this one, and reaps them all.
fn kill_rest() {
    if std::process::id() != 1 {
        return;
    }
    loop {
        // A fork may have escaped one round; the next one has it.
        if kill(Pid::from_raw(-1), Signal::SIGKILL).is_err() {
            return;
        }
        while let Ok(_) | Err(Errno::EINTR) = waitpid(None, None) {}
    }
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// A command's words as one would type them.
fn words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_alphanumeric() || "-_=+./:,@%~".contains(c);
            if !word.is_empty() && word.chars().all(plain) {
                word.into_owned()
            } else {
                format!("'{}'", word.replace('\'', "'\\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_shown_as_one_would_type_them() {
        let mut command = Command::new("apt-get");
        command.args(["-o", "DPkg::Options::=--force-confold", "it's", ""]);
        assert_eq!(
            words(&command),
            r"apt-get -o DPkg::Options::=--force-confold 'it'\''s' ''"
        );
    }
}
