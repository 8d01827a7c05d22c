//! A rack of virtual Pandas in a directory of its own, as `pandabuildd twin` runs it. It can be killed and started
//! again, and sees to it that nothing of it is left when it is dropped.
//!
//! ```text
//! start -> running --stop--> gone, and nothing left (checked)
//!             |  ^
//!        kill |  | twin, serve
//!             v  |
//!           killed: the boards go on
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::programs::{pandabuildd, program, run, run_ok};

/// The longest that a rack may take to say that it listens.
const LISTEN_LIMIT: Duration = Duration::from_secs(60);
/// The longest that a rack may take to end when it is told to.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// A slot, as the rack announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Its builder's URL.
    pub url: String,
}

/// A rack; see the module's picture.
#[derive(Debug)]
pub struct Rack {
    directory: TempDir,
    /// The network namespaces of `serve` and of the boards, where they are not this program's.
    apart: Option<(String, String)>,
    /// Of `pandabuildd twin`, about what its boards run.
    options: Vec<String>,
    count: usize,
    ports: Ports,
    daemon: Option<Child>,
    slots: Vec<Slot>,
}

impl Rack {
    /// Starts a rack of `count` slots whose builds run `executor`, and waits until each says where it listens.
    ///
    /// # Errors
    /// It does not start; the error holds the end of its log.
    pub fn start(count: usize, executor: &str) -> Result<Self> {
        Self::start_with(count, &["--executor", executor])
    }

    /// As [`Rack::start`], with boards that run `agent` in the place of the project's own.
    ///
    /// # Errors
    /// It does not start; the error holds the end of its log.
    pub fn start_with_agent(count: usize, agent: &Path) -> Result<Self> {
        let agent = agent.to_str().context("the agent's path is not UTF-8")?;
        Self::start_with(count, &["--agent-program", agent])
    }

    /// As [`Rack::start`], with the boards in one network namespace, and each daemon of [`Rack::serve`] in another; the
    /// first daemon, of `twin`, is among the boards.
    ///
    /// # Errors
    /// It does not start; the error holds the end of its log.
    pub fn start_apart(
        count: usize,
        executor: &str,
        (master, boards): (&str, &str),
    ) -> Result<Self> {
        let mut rack = Self::new(count, &["--executor", executor])?;
        rack.apart = Some((master.to_owned(), boards.to_owned()));
        rack.twin()?;
        Ok(rack)
    }

    fn start_with(count: usize, options: &[&str]) -> Result<Self> {
        let mut rack = Self::new(count, options)?;
        rack.twin()?;
        Ok(rack)
    }

    fn new(count: usize, options: &[&str]) -> Result<Self> {
        // Short: the paths of Unix sockets are limited.
        let directory = TempDir::with_prefix_in("panda-", "/tmp")?;
        Ok(Self {
            directory,
            apart: None,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            count,
            ports: Ports::take(count)?,
            daemon: None,
            slots: Vec::new(),
        })
    }

    /// `pandabuildd`, in a network namespace where one is given.
    fn pandabuildd(namespace: Option<&String>) -> Result<Command> {
        let Some(namespace) = namespace else {
            return pandabuildd();
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg(program("pandabuildd")?)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Starts `pandabuildd twin` on this rack's state, be it new or left by a killed one.
    ///
    /// # Errors
    /// It does not say that it listens.
    pub fn twin(&mut self) -> Result<()> {
        let boards = self.apart.as_ref().map(|(_, boards)| boards);
        let mut command = Self::pandabuildd(boards)?;
        command
            .args(["twin", "--slots", &self.count.to_string()])
            .args(["--listen", &format!("127.0.0.1:{}", self.ports.first)])
            .arg("--state")
            .arg(self.state())
            .args(&self.options);
        let mut daemon = self.spawn(&mut command)?;
        let lines = lines_of(&mut daemon)?;
        self.daemon = Some(daemon);
        self.slots.clear();
        while self.slots.len() < self.count {
            let Ok(line) = lines.recv_timeout(LISTEN_LIMIT) else {
                bail!("the rack did not announce its slots:\n{}", self.log());
            };
            let line: Value =
                serde_json::from_str(&line).context("a line that announces a slot")?;
            let text = |key: &str| {
                line[key]
                    .as_str()
                    .map(str::to_owned)
                    .with_context(|| format!("no {key} in {line}"))
            };
            self.slots.push(Slot {
                name: text("slot")?,
                url: text("url")?,
            });
        }
        Ok(())
    }

    /// Starts `pandabuildd serve` on the `rack.toml` that `twin` wrote, whose boards a killed daemon left running, and
    /// waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn begin_to_serve(&mut self) -> Result<()> {
        let master = self.apart.as_ref().map(|(master, _)| master);
        let mut command = Self::pandabuildd(master)?;
        command
            .arg("serve")
            .arg("--config")
            .arg(self.state().join("rack.toml"));
        self.daemon = Some(self.spawn(&mut command)?);
        Ok(())
    }

    /// As [`Rack::begin_to_serve`], until it answers on its control socket.
    ///
    /// # Errors
    /// It cannot be started, or does not answer.
    pub fn serve(&mut self) -> Result<()> {
        self.begin_to_serve()?;
        self.wait_until_it_answers()
    }

    /// Starts a daemon on this rack's state by a command of the caller's, and waits for nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn serve_by(&mut self, command: &mut Command) -> Result<()> {
        self.daemon = Some(self.spawn(command)?);
        Ok(())
    }

    /// Waits until the daemon answers on its control socket.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_until_it_answers(&self) -> Result<()> {
        let deadline = Instant::now() + LISTEN_LIMIT;
        while !run(&mut self.control(&["slots"])?)?.status.success() {
            ensure!(
                Instant::now() < deadline,
                "the daemon does not answer:\n{}",
                self.log()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Kills the daemon as a power failure of the master's program would: nothing is told, nothing is tidied. The
    /// boards go on.
    ///
    /// # Errors
    /// There is no daemon.
    pub fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon is running")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// The daemon's process, while it is not known to have ended.
    #[must_use]
    pub fn daemon(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// How the daemon has ended, once it has.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(daemon) = &mut self.daemon else {
            return Ok(None);
        };
        let status = daemon.try_wait()?;
        if status.is_some() {
            self.daemon = None;
        }
        Ok(status)
    }

    /// Tells the daemon to end, as a service manager does, and waits until it has; the boards go on.
    ///
    /// # Errors
    /// It does not end, or fails.
    pub fn terminate(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon is running")?;
        kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGTERM)?;
        let status = wait_for(&mut daemon, STOP_LIMIT)?
            .with_context(|| format!("the daemon does not end:\n{}", self.log()))?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Tells the daemon to end, as Ctrl-C does, and checks that nothing of the rack runs any more.
    ///
    /// # Errors
    /// It does not end, fails, or leaves something running.
    pub fn stop(mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("no daemon is running")?;
        kill(Pid::from_raw(i32::try_from(daemon.id())?), Signal::SIGINT)?;
        let status = wait_for(&mut daemon, STOP_LIMIT)?.with_context(|| {
            format!("the rack did not end when it was told to:\n{}", self.log())
        })?;
        ensure!(
            status.success(),
            "the rack ended with {status}:\n{}",
            self.log()
        );
        let left = processes_in(self.directory.path())?;
        ensure!(
            left.is_empty(),
            "the rack ended and left running: {left:?}\n{}",
            self.log()
        );
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let own = self.directory.path().display().to_string();
        ensure!(!mounts.contains(&own), "the rack ended and left mounts");
        Ok(())
    }

    /// Takes a board's power behind the daemon's back.
    ///
    /// # Errors
    /// The twin does not do it.
    pub fn cut_board(&self, slot: &str) -> Result<()> {
        let stream = UnixStream::connect(self.board(slot).join("power.sock"))?;
        stream.set_read_timeout(Some(STOP_LIMIT))?;
        (&stream).write_all(b"off\n")?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        ensure!(
            answer == "ok\n",
            "power off of {slot} was answered with {answer:?}"
        );
        Ok(())
    }

    /// Kills a board's machine: it has power and does nothing any more. False where none runs.
    ///
    /// # Errors
    /// Processes cannot be looked at.
    pub fn crash_board(&self, slot: &str) -> Result<bool> {
        for pid in processes_in(&self.board(slot))? {
            // The machine's namespaces end with who made them. A worker has an `unshare` of its own for its build, whose
            // number may be the lower one.
            if name_of(pid) == "unshare"
                && parent(pid).is_some_and(|twin| name_of(twin) == "panda-twin")
            {
                kill_quietly(pid);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A board's directory of panda-twin's.
    fn board(&self, slot: &str) -> PathBuf {
        self.state().join("twin/boards").join(slot)
    }

    /// The slots, in their order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A directory that goes with the rack, for a test's own files.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The most memory that the running daemon has had so far, in KiB.
    ///
    /// # Errors
    /// None runs, or the kernel does not say.
    pub fn memory_peak(&self) -> Result<u64> {
        let daemon = self.daemon.as_ref().context("no daemon runs")?;
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.id()))?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
        Ok(peak.context("no VmHWM")?.parse()?)
    }

    /// All that the daemons wrote.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// `pandabuildd ARGUMENTS` over this rack's control socket.
    ///
    /// # Errors
    /// The program cannot be built.
    pub fn control(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = pandabuildd()?;
        command
            .args(arguments)
            .arg("--socket")
            .arg(self.state().join("control.sock"));
        Ok(command)
    }

    /// Waits until every slot is on a proven boot that has run nothing.
    ///
    /// # Errors
    /// One is not within two minutes.
    pub fn wait_fresh(&self) -> Result<()> {
        run_ok(&mut self.control(&["slots", "--wait", "fresh", "--timeout", "120"])?)
            .map(drop)
            .with_context(|| self.log())
    }

    /// The evidence of a slot's boots, as `pandabuildd boots --json` tells it, the latest first.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn boots(&self, slot: &str) -> Result<Vec<Value>> {
        let written = run_ok(&mut self.control(&["boots", slot, "--json"])?)?;
        json_items(&written)
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))
    }
}

impl Drop for Rack {
    /// Ends by force what is left after a failed test.
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            kill_quietly(daemon.id());
            drop(daemon.wait());
        }
        for pid in processes_in(self.directory.path()).unwrap_or_default() {
            kill_quietly(pid);
        }
    }
}

/// JSON values of a program's output: an array, or one value a line.
///
/// # Errors
/// It is neither.
pub fn json_items(written: &str) -> Result<Vec<Value>> {
    if let Ok(Value::Array(items)) = serde_json::from_str(written) {
        return Ok(items);
    }
    written
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
        .collect()
}

/// Runs a command that must end within `limit`, and takes what it wrote.
///
/// # Errors
/// It does not end in time; it is then killed.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if wait_for(&mut child, limit)?.is_none() {
        child.kill()?;
        bail!("{command:?} did not end within {limit:?}");
    }
    Ok(child.wait_with_output()?)
}

/// Waits for a child's end; nothing where it does not end within `limit`.
fn wait_for(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The lines of a child's standard output, read to its end so that it never blocks.
fn lines_of(child: &mut Child) -> Result<mpsc::Receiver<String>> {
    let stdout = child
        .stdout
        .take()
        .context("standard output is not a pipe")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody listens any more once all slots are announced; reading goes on.
            drop(sender.send(line));
        }
    });
    Ok(receiver)
}

/// Ports in a row that are a rack's while this lives, below those that systems give out themselves.
#[derive(Debug)]
struct Ports {
    first: u16,
    /// The UDP ports of the same numbers. Nobody else in the whole system can have them, in this process or another,
    /// and they are free again when this one is gone, however it ended; the TCP ports stay free for the rack meanwhile,
    /// also while its daemon is killed and not yet back.
    _held: Vec<UdpSocket>,
}

impl Ports {
    /// `count` of them.
    fn take(count: usize) -> Result<Self> {
        let count = u16::try_from(count)?;
        let start = u16::try_from(std::process::id() % 900)? * 20;
        (0..900_u16)
            .map(|step| 12_000 + (start + step * 20) % 18_000)
            .find_map(|first| Self::hold(first, count))
            .context("no free ports")
    }

    fn hold(first: u16, count: u16) -> Option<Self> {
        let held = (first..first + count)
            .map(|port| {
                let held = UdpSocket::bind(("127.0.0.1", port)).ok()?;
                // A stranger that knows nothing of this may listen there.
                TcpListener::bind(("127.0.0.1", port)).ok()?;
                Some(held)
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self { first, _held: held })
    }
}

/// The processes that run from, in or for a directory, this one left out.
fn processes_in(directory: &Path) -> Result<Vec<u32>> {
    let wanted = directory.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process may end while it is looked at.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let link = |name| {
            fs::read_link(entry.path().join(name))
                .unwrap_or_default()
                .display()
                .to_string()
        };
        let related = String::from_utf8_lossy(&line).contains(&wanted)
            || link("cwd").starts_with(&wanted)
            || link("exe").starts_with(&wanted);
        if related && pid != std::process::id() {
            found.push(pid);
        }
    }
    Ok(found)
}

/// What a process's program is called; empty where it has ended.
fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// The process that started this one.
fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

fn kill_quietly(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended by itself.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}
