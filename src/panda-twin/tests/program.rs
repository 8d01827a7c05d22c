//! The program `panda-twin`: what it prints, what it leaves, and what happens when it is killed.
#![expect(clippy::unwrap_used, reason = "a test's step fails by panicking")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use panda_twin::sockets::SocketPaths;
use support::{CLINGING, Host, LIMIT, image, is_held};

const PROGRAM: &str = env!("CARGO_BIN_EXE_panda-twin");

/// The program, with what it said of its boards. Killed when dropped.
struct Program {
    child: Child,
    boards: Vec<(String, SocketPaths)>,
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

impl Program {
    fn start(state: &Path, boards: usize) -> Self {
        let mut child = command(state, boards)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let boards = out
            .lines()
            .take(boards)
            .map(|line| ready(&line.unwrap()))
            .collect();
        Self { child, boards }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }
}

fn command(state: &Path, boards: usize) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .arg("--state")
        .arg(state)
        .args(["--boards", &boards.to_string()])
        .stdin(Stdio::null());
    command
}

fn ready(line: &str) -> (String, SocketPaths) {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = |key: &str| line[key].as_str().unwrap().to_owned();
    let path = |key: &str| PathBuf::from(text(key));
    (
        text("board"),
        SocketPaths {
            power: path("power"),
            pipe: path("pipe"),
            console: path("console"),
            fault: path("fault"),
        },
    )
}

#[tokio::test]
async fn it_says_when_it_is_ready_and_leaves_nothing_when_told_to_stop() {
    let state = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut program = Program::start(state.path(), 2);
        assert_eq!(program.boards[1].0, "panda02");
        let paths = program.boards[0].1.clone();
        for path in [&paths.power, &paths.pipe, &paths.console, &paths.fault] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let mut host = Host::new(&paths).await;
        host.boot(&image(CLINGING, &[])).await;
        host.says("clinging").await;
        let alive = host.alive();
        assert!(is_held(&alive));
        program.signal(Signal::SIGHUP);
        program.signal(signal);
        assert!(program.child.wait().unwrap().success());
        assert!(!is_held(&alive));
        assert!(!paths.power.exists() && !paths.fault.exists() && !host.dir.join("ram").exists());
    }
}

#[tokio::test]
async fn machines_die_with_a_twin_that_is_killed_and_the_next_one_starts_clean() {
    let state = tempfile::tempdir().unwrap();
    let mut program = Program::start(state.path(), 1);
    let mut host = Host::new(&program.boards[0].1).await;
    host.boot(&image(CLINGING, &[])).await;
    host.says("clinging").await;
    let alive = host.alive();
    assert!(is_held(&alive));
    program.signal(Signal::SIGKILL);
    program.child.wait().unwrap();
    // Returns when the last process of the machine is gone.
    let (say, gone) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || say.send(alive.lock()));
    tokio::time::timeout(LIMIT, gone)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(host.dir.join("ram").exists());
    let program = Program::start(state.path(), 1);
    assert!(!host.dir.join("ram").exists());
    let mut host = Host::new(&program.boards[0].1).await;
    host.boot(&image("echo again; exec sleep 1000", &[])).await;
    host.says("again").await;
}

#[test]
fn its_last_words_are_one_line_that_says_what_to_do() {
    let state = tempfile::tempdir().unwrap();
    let ended = command(&state.path().join("d".repeat(120)), 1)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(
        last.starts_with("panda-twin: the socket's path")
            && last.ends_with("choose a shorter state directory"),
        "{said}"
    );
}

#[test]
fn a_second_twin_in_one_state_directory_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let _first = Program::start(state.path(), 1);
    let second = command(state.path(), 1).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success());
    assert!(said.contains("another panda-twin runs in"), "{said}");
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let state = tempfile::tempdir().unwrap();
    let result = command(state.path(), 1)
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8(result.stderr).unwrap();
    assert!(!result.status.success());
    assert!(
        said.contains("`setpriv` is not in PATH; install Debian's package util-linux"),
        "{said}"
    );
}

#[tokio::test]
async fn it_outlives_whoever_reads_what_it_says() {
    let state = tempfile::tempdir().unwrap();
    let mut child = command(state.path(), 1)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let mut program = Program {
        child,
        boards: vec![ready(&line)],
    };
    drop((out, program.child.stderr.take()));
    let mut host = Host::new(&program.boards[0].1).await;
    host.boot(&image("echo up; exec sleep 1000", &[])).await;
    host.says("up").await;
    program.signal(Signal::SIGTERM);
    assert!(program.child.wait().unwrap().success());
}
