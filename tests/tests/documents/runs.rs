//! How each shown command is run. Most are run here, on a rack of virtual Pandas, as they stand but for places and
//! ports; the others are named with what runs them, and a command that is in no line of [`RUNS`] fails.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};
use panda_tests::documents::commands;
use panda_tests::programs::{program, root};
use panda_tests::rack::{Rack, run_within};
use panda_tests::source::{executor, hello};

use crate::bare;

/// No command of these takes longer, a build included.
const LIMIT: Duration = Duration::from_secs(120);

/// What runs a command.
#[derive(Debug, Clone, Copy)]
enum Run {
    /// This test: it ends by itself, with 0.
    Ends,
    /// This test: it goes on until Ctrl-C, after it has said this on either output.
    Until(&'static str),
    /// This test: it goes on until `~.` is typed, after it has said this.
    UntilLeft(&'static str),
    /// This file, which holds these words.
    By(&'static str, &'static str),
    /// It is a gate of `scripts/test`, or a script that checks what it runs.
    Itself,
}
use Run::{By, Ends, Itself, Until, UntilLeft};

/// The first words of a command, and what runs it; the first line that fits is meant.
const RUNS: &[(&str, Run)] = &[
    ("pandabuildd slots", Ends),
    ("pandabuildd boots", Ends),
    ("pandabuildd reset", Ends),
    ("pandabuildd hold", Ends),
    ("pandabuildd drain", Ends),
    ("pandabuildd release", Ends),
    ("curl", Ends),
    ("pandabuildd ppa-reset", Ends),
    ("pandabuildd check", Ends),
    ("pandabuildd submit", Ends),
    (
        "pandabuildd usb list",
        By("tests/usb/commands.sh", "usb list"),
    ),
    ("panda-twin fault", Ends),
    ("pandabuildd console panda01 --follow", Until("\n")),
    ("pandabuildd console panda01 --interactive", UntilLeft("~.")),
    ("pandabuildd console", Ends),
    ("pandabuildd serve", Until("listening")),
    ("panda-agent worker", Until("the worker listens")),
    (
        "pandabuildd twin --machine qemu",
        By("scripts/test-hello", "--machine qemu --image"),
    ),
    ("pandabuildd twin", Until("\"slot\":\"panda01\"")),
    (
        "pandabuildd chroot build",
        By("scripts/rack.sh", "chroot build"),
    ),
    ("pandabuildd image build", By("scripts/test", "image build")),
    (
        "pandabuildd ssh-command",
        By("tests/tests/ssh.rs", "ssh-command"),
    ),
    (
        "pandabuildd usb learn",
        By("tests/usb/commands.sh", "usb learn"),
    ),
    (
        "pandabuildd boot --port",
        By("tests/usb/commands.sh", "boot --port"),
    ),
    (
        "pandabuildd boot --second-stage",
        By("tests/usb/commands.sh", "--monitor"),
    ),
    (
        "cargo build --release",
        By("scripts/test", "cargo build --locked --release"),
    ),
    (
        "scripts/usb-guest",
        By("scripts/usb-truth-test", "usb-guest"),
    ),
    (
        "scripts/setup --tests",
        By("scripts/test", "scripts/setup --tests"),
    ),
    (
        "scripts/setup --cross",
        By("scripts/test", "scripts/setup --cross"),
    ),
    ("scripts/setup", By("scripts/demo", "setup")),
    ("scripts/", Itself),
    ("protocol/fuzz/run", By("scripts/test", "protocol/fuzz")),
    ("systemctl", By("scripts/systemd-restart", "systemctl")),
    ("adduser", By("scripts/systemd-restart", "adduser")),
    (
        "install",
        By("scripts/systemd-restart", "pandabuildd.socket"),
    ),
    ("cp -a", By("scripts/systemd-restart", "cp -a")),
];

/// The words of a command as [`RUNS`] has them: programs without their directories.
fn key(words: &[&str]) -> String {
    let mut words = words.to_vec();
    if let Some(first) = words.first_mut()
        && let Some(name) = first.rsplit('/').next()
        && name.starts_with("panda")
    {
        *first = name;
    }
    words.join(" ")
}

fn run_of(words: &[&str]) -> Result<Run> {
    let key = key(words);
    RUNS.iter()
        .find_map(|(begin, run)| key.starts_with(begin).then_some(*run))
        .context("nothing runs it: add a line to RUNS in tests/tests/documents/runs.rs")
}

#[test]
fn every_shown_command_is_run_by_something() -> Result<()> {
    let shown = commands()?;
    let mut used = BTreeSet::new();
    for shown in &shown {
        let words = bare(shown);
        let place = || format!("{}:{}", shown.document.display(), shown.line);
        let run = run_of(&words).with_context(place)?;
        used.extend(
            RUNS.iter()
                .position(|(begin, _)| key(&words).starts_with(begin)),
        );
        match run {
            By(file, held) => {
                let text = fs::read_to_string(root().join(file)).with_context(place)?;
                ensure!(
                    text.contains(held),
                    "{}: {file} does not hold {held:?}",
                    place()
                );
            }
            Itself => gate(&words).with_context(place)?,
            Ends | Until(_) | UntilLeft(_) => {}
        }
    }
    for (index, (begin, _)) in RUNS.iter().enumerate() {
        ensure!(used.contains(&index), "no document shows {begin:?}");
    }
    Ok(())
}

/// A script that is there to be run; the gates that a command names are gates.
fn gate(words: &[&str]) -> Result<()> {
    let (&script, gates) = words.split_first().context("no words")?;
    ensure!(root().join(script).is_file(), "there is no such script");
    if script == "scripts/test" {
        let text = fs::read_to_string(root().join(script))?;
        for gate in gates {
            ensure!(
                text.contains(&format!("\ngate_{gate}()")),
                "scripts/test has no gate {gate}"
            );
        }
    }
    Ok(())
}

#[test]
fn the_commands_of_a_rack_do_what_their_documents_say() -> Result<()> {
    if !getuid().is_root() {
        println!("skipped: the documents' commands are an operator's, who is root");
        return Ok(());
    }
    let mut place = Place::new()?;
    let mut done = BTreeSet::new();
    let mut shown = commands()?;
    // The one that takes the daemon's place comes last.
    shown.sort_by_key(|shown| serves(&bare(shown)));
    for shown in &shown {
        let words = bare(shown);
        let run = run_of(&words)?;
        if matches!(run, By(..) | Itself) || !done.insert(key(&words)) {
            continue;
        }
        if serves(&words) {
            place.rack.kill()?;
        }
        let told = place.run(&words, run).with_context(|| {
            format!(
                "{}:{}: {}",
                shown.document.display(),
                shown.line,
                key(&words)
            )
        })?;
        println!("{}: {} bytes told", key(&words), told.len());
    }
    // The boards are `twin`'s to take down.
    place.rack.twin()?;
    place.rack.stop()
}

fn serves(words: &[&str]) -> bool {
    key(words).starts_with("pandabuildd serve")
}

/// A rack, and a directory with what the documents' commands name.
struct Place {
    rack: Rack,
    directory: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        let mut rack = Rack::start(1, &executor("hello.sh", &[]))?;
        rack.wait_fresh()?;
        // The same rack by the name that the documents have for it.
        rack.kill()?;
        let config = rack.state().join("rack.toml");
        let text = fs::read_to_string(&config)?;
        let named = text.replacen(
            "name = \"panda01\"\n",
            "name = \"panda01\"\nhosts = [\"panda01\", \"panda01.rack1.example\"]\n",
            1,
        );
        ensure!(named != text, "rack.toml has no panda01: {text}");
        fs::write(&config, named)?;
        rack.serve()?;
        rack.wait_fresh()?;
        let directory = rack.scratch("documents")?;
        let source = hello(&directory)?;
        fs::rename(source.chroot, directory.join("chroot.tar.zst"))?;
        fs::rename(source.dsc, directory.join("hello_2.10-3.dsc"))?;
        Ok(Self { rack, directory })
    }

    fn run(&self, words: &[&str], run: Run) -> Result<String> {
        let (first, rest) = words.split_first().context("no words")?;
        let name = first.rsplit('/').next().unwrap_or(first);
        let program = match name {
            "curl" => PathBuf::from(name),
            ours => program(ours)?,
        };
        let mut command = Command::new(program);
        command
            .args(rest.iter().map(|word| self.put(word, run)))
            .current_dir(&self.directory)
            .env("PANDABUILDD_SOCKET", self.rack.state().join("control.sock"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        match run {
            Ends => {
                let output = run_within(&mut command, LIMIT)?;
                ensure!(output.status.success(), "{output:?}");
                Ok(String::from_utf8(output.stdout)?)
            }
            Until(said) => {
                let (reader, writer) = std::io::pipe()?;
                command.stdout(writer.try_clone()?).stderr(writer);
                until(command, reader, said, |child| {
                    let pid = Pid::from_raw(i32::try_from(child.id())?);
                    Ok(kill(pid, Signal::SIGINT)?)
                })
            }
            UntilLeft(said) => {
                let terminal = openpty(None, None)?;
                command
                    .stdin(terminal.slave.try_clone()?)
                    .stdout(terminal.slave.try_clone()?)
                    .stderr(terminal.slave);
                let mut typed = File::from(terminal.master.try_clone()?);
                until(command, File::from(terminal.master), said, |_| {
                    Ok(typed.write_all(b"~.")?)
                })
            }
            By(..) | Itself => bail!("it is run elsewhere"),
        }
    }

    /// A word with this rack's places and ports in the place of a document's.
    fn put(&self, word: &str, run: Run) -> String {
        let state = self.rack.state().display().to_string();
        let own = |name: &str| self.directory.join(name).display().to_string();
        match word {
            // What serves beside the rack is at ports and in directories of its own.
            "127.0.0.1:8221" | "127.0.0.1:8321" => "127.0.0.1:0".to_owned(),
            "/var/lib/pandabuildd" | "/var/tmp/rack" if matches!(run, Until(_)) => own("state"),
            "/var/tmp/worker" => own("worker"),
            "http://127.0.0.1:8221" | "http://127.0.0.1:8321" => self.rack.slots()[0].url.clone(),
            // The only boots that it has had.
            "12" => "1".to_owned(),
            "rack.toml" | "/etc/pandabuildd/rack.toml" => format!("{state}/rack.toml"),
            _ => word
                .replace("/run/pandabuildd", &state)
                .replace("/var/lib/pandabuildd", &state)
                .replace("/var/tmp/rack", &state),
        }
    }
}

/// Runs a command until it has said `said` to `reader`, has it end as `end` does, and takes what it said.
fn until(
    mut command: Command,
    reader: impl Read,
    said: &str,
    end: impl FnOnce(&Child) -> Result<()>,
) -> Result<String> {
    let mut child = command.spawn()?;
    // Its ends of the pipe go with it.
    drop(command);
    let mut told = String::new();
    let mut lines = BufReader::new(reader);
    while !told.contains(said) {
        if lines.read_line(&mut told).unwrap_or(0) == 0 {
            child.kill()?;
            bail!(
                "it ended with {} and told {told:?}, never {said:?}",
                child.wait()?
            );
        }
    }
    end(&child)?;
    // A terminal that its last user has left is an error to read, and no end.
    drop(lines.read_to_string(&mut told));
    let status = child.wait()?;
    ensure!(
        status.success() || status.code() == Some(130) || status.signal() == Some(2),
        "{status}: {told}"
    );
    Ok(told)
}
