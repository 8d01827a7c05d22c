//! A service manager holds the sockets: a parent that listens, and passes its sockets on as systemd does, to one daemon
//! after another. What it passes by mistake is refused in words that say what to do.
//!
//! ```text
//! test ─ bind ─▶ sockets, never closed ─ bash: dup to 3…, LISTEN_PID=$$ ─ exec ─▶ pandabuildd serve
//! ```

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use panda_tests::programs::program;
use panda_tests::rack::run_within;

use crate::job::{Kind, Manager};
use crate::keeper::{Keeper, wait};

/// The longest that anything here may take.
const LIMIT: Duration = Duration::from_secs(30);

/// `pandabuildd serve` as a service manager starts it, with `sockets`.
fn activated(config: &Path, sockets: &[&dyn AsFd]) -> Result<Command> {
    let mut script = String::new();
    for (number, socket) in sockets.iter().enumerate() {
        let socket = socket.as_fd();
        fcntl(socket, FcntlArg::F_SETFD(FdFlag::empty()))?;
        script += &format!("exec {}<&{}\n", 40 + number, socket.as_raw_fd());
    }
    for number in 0..sockets.len() {
        script += &format!("exec {}<&{}\n", 3 + number, 40 + number);
        script += &format!("exec {}<&-\n", 40 + number);
    }
    script += &format!(
        "export LISTEN_PID=$$ LISTEN_FDS=${{FDS:-{}}}\n",
        sockets.len()
    );
    script += &format!(
        "exec '{}' serve --config '{}'\n",
        program("pandabuildd")?.display(),
        config.display()
    );
    let mut command = Command::new("/bin/bash");
    command.args(["-c", &script]).stdin(Stdio::null());
    Ok(command)
}

#[test]
fn a_restart_in_the_middle_of_a_dispatch_costs_nothing() -> Result<()> {
    let mut keeper = Keeper::start(1, "")?;
    let mut manager = Manager::new(&keeper.rack.slots()[0].url)?;
    keeper.terminate()?;
    let address = front_of(&keeper);
    // Held from here on, and never closed.
    let front = TcpListener::bind(&address)?;
    let mut daemons = Daemons::new(&keeper, front)?;
    daemons.start()?;
    keeper.rack.wait_fresh()?;
    // Told to end in the middle of a download, before `build`, and at every later step.
    manager.slow_inputs(Duration::from_millis(50));
    let steps = Arc::new(Steps::of(&daemons));
    let watched = steps.clone();
    manager.watch(Arc::new(move |step| watched.at(step)));
    std::thread::scope(|scope| {
        let kept = scope.spawn(|| daemons.keep_up(&steps));
        let built = manager.build(&mut keeper, Kind::Builds);
        steps.over.store(true, Ordering::SeqCst);
        kept.join()
            .map_err(|_| anyhow::anyhow!("the restarts panicked"))??;
        built
    })
    .with_context(|| keeper.end_of_log())?;
    let met = steps.met();
    ensure!(met == STEPS, "restarts came only at {met:?}");
    ensure!(
        manager.lost_dispatches == 0,
        "{} calls of a dispatch were lost",
        manager.lost_dispatches
    );

    // While no daemon runs, nobody is refused: who calls waits.
    daemons.end()?;
    let mut waiting = TcpStream::connect(&address).context("the port is closed")?;
    waiting.set_read_timeout(Some(LIMIT))?;
    waiting.write_all(b"HEAD /filecache/buildlog HTTP/1.0\r\n\r\n")?;
    daemons.start()?;
    let mut answer = String::new();
    waiting.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1."), "answered with {answer:?}");
    keeper.check()?;
    daemons.end()?;
    // With it goes the socket.
    drop(daemons);
    keeper.serve()?;
    keeper.stop()
}

#[test]
fn sockets_that_are_not_the_racks_are_refused_with_what_to_do() -> Result<()> {
    let mut keeper = Keeper::start(1, "")?;
    keeper.terminate()?;
    let config = keeper.rack.state().join("rack.toml");
    let refused = |sockets: &[&dyn AsFd], count: Option<&str>, wanted: &[&str]| -> Result<()> {
        let mut command = activated(&config, sockets)?;
        if let Some(count) = count {
            command.env("FDS", count);
        }
        let output = run_within(&mut command, LIMIT)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "it was taken: {wanted:?}");
        for part in wanted {
            ensure!(told.contains(part), "{part:?} is not in {told:?}");
        }
        Ok(())
    };
    let elsewhere = TcpListener::bind("127.0.0.1:0")?;
    let other = elsewhere.local_addr()?.to_string();
    let own = front_of(&keeper);
    refused(
        &[&elsewhere],
        None,
        &[&other, &own, "ListenStream=", "rack.toml"],
    )?;
    let file = fs::File::open("/dev/null")?;
    refused(&[&file], None, &["1 of 1", "a file", "ListenStream="])?;
    let unix = UnixListener::bind(keeper.rack.scratch("unix")?.join("socket"))?;
    refused(&[&unix], None, &["not of TCP", "ListenStream="])?;
    let connected = TcpStream::connect(elsewhere.local_addr()?)?;
    refused(&[&connected], None, &["does not listen"])?;
    let front = TcpListener::bind(&own)?;
    let again = front.try_clone()?;
    refused(&[&front, &again], None, &["two sockets", &own])?;
    refused(&[&front], Some("2"), &["socket 2 of 2", "ListenStream="])?;
    for count in ["many", "-1", "100000", ""] {
        // An empty one is bash's own default, so it is said in full.
        let count = if count.is_empty() { "''" } else { count };
        refused(
            &[&front],
            Some(count),
            &["LISTEN_FDS=", "expected the number"],
        )?;
    }
    // Another process's variables are nothing to us.
    let mut foreign = keeper.command(&config)?;
    foreign.env("LISTEN_PID", "1").env("LISTEN_FDS", "7");
    drop(front);
    drop(again);
    keeper.rack.serve_by(&mut foreign)?;
    keeper.rack.wait_until_it_answers()?;
    keeper.check()?;
    keeper.stop()
}

#[test]
fn a_second_daemon_and_a_state_that_is_a_file_are_refused_with_what_to_do() -> Result<()> {
    let mut keeper = Keeper::start(1, "")?;
    let state = keeper.rack.state();
    let second = run_within(&mut keeper.command(&state.join("rack.toml"))?, LIMIT)?;
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(
        !second.status.success() && told.contains("another pandabuildd uses it"),
        "{told}"
    );
    let file = keeper.rack.scratch("file")?.join("state");
    fs::write(&file, "")?;
    keeper.reconfigure(
        "file.toml",
        "state_dir = \".\"",
        &format!("state_dir = {:?}", file.display().to_string()),
    )?;
    let refused = run_within(&mut keeper.command(&state.join("file.toml"))?, LIMIT)?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success()
            && told.contains("not a directory")
            && told.contains(&file.display().to_string()),
        "{told}"
    );
    keeper.usual();
    keeper.check()?;
    keeper.stop()
}

/// The address that the rack's builders share.
fn front_of(keeper: &Keeper) -> String {
    let url = &keeper.rack.slots()[0].url;
    url.trim_start_matches("http://")
        .trim_end_matches('/')
        .to_owned()
}

/// One daemon after another, as a service manager runs them.
struct Daemons {
    config: PathBuf,
    log: PathBuf,
    front: TcpListener,
    told: UnixDatagram,
    notify: PathBuf,
    child: Option<Child>,
}

impl Daemons {
    fn new(keeper: &Keeper, front: TcpListener) -> Result<Self> {
        let notify = keeper.rack.scratch("notify")?.join("socket");
        let told = UnixDatagram::bind(&notify)?;
        told.set_read_timeout(Some(LIMIT))?;
        let state = keeper.rack.state();
        Ok(Self {
            config: state.join("rack.toml"),
            log: state.with_file_name("log"),
            front,
            told,
            notify,
            child: None,
        })
    }

    /// Starts one, until it says that it is ready.
    fn start(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().append(true).open(&self.log)?;
        let mut command = activated(&self.config, &[&self.front])?;
        command.env("NOTIFY_SOCKET", &self.notify).stderr(log);
        self.child = Some(command.spawn()?);
        self.hear("READY=1")
    }

    /// Ends it with SIGTERM; it says so, and ends well.
    fn end(&mut self) -> Result<()> {
        let mut child = self.child.take().context("no daemon runs")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        self.hear("STOPPING=1")?;
        wait(|| Ok(child.try_wait()?.is_some()))?;
        let status = child.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    fn hear(&self, wanted: &str) -> Result<()> {
        let mut said = [0; 200];
        let length = self
            .told
            .recv(&mut said)
            .with_context(|| wanted.to_owned())?;
        let said = String::from_utf8_lossy(&said[..length]);
        ensure!(said.trim() == wanted, "{said:?} was said, not {wanted}");
        Ok(())
    }

    /// Starts the next one whenever one has ended, until it is over.
    fn keep_up(&mut self, steps: &Steps) -> Result<()> {
        loop {
            let mut is_over = false;
            wait(|| {
                let child = self.child.as_mut().context("no daemon runs")?;
                is_over = steps.over.load(Ordering::SeqCst);
                Ok(is_over || child.try_wait()?.is_some())
            })?;
            if is_over && !steps.is_ending() {
                return Ok(());
            }
            let status = self.child.take().context("no daemon runs")?.wait()?;
            ensure!(status.success(), "it ended with {status}");
            self.hear("STOPPING=1")?;
            self.start()?;
            let pid = self.child.as_ref().map_or(0, Child::id);
            steps.pid.store(pid, Ordering::SeqCst);
        }
    }
}

/// At what the daemon is told to end, in this order, each once.
const STEPS: [&str; 5] = ["download", "build", "running", "kept", "clean"];

/// Tells the daemon to end at each of [`STEPS`].
struct Steps {
    /// The daemon; 0 while one is ending, or starting.
    pid: AtomicU32,
    met: Mutex<Vec<&'static str>>,
    over: AtomicBool,
}

impl Steps {
    fn of(daemons: &Daemons) -> Self {
        Self {
            pid: AtomicU32::new(daemons.child.as_ref().map_or(0, Child::id)),
            met: Mutex::default(),
            over: AtomicBool::default(),
        }
    }

    fn at(&self, step: &'static str) {
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if STEPS.get(met.len()) != Some(&step) {
            return;
        }
        // The daemon of the step before has ended, and the next one listens.
        if wait(|| Ok(self.pid.load(Ordering::SeqCst) != 0)).is_err() {
            return;
        }
        let pid = self.pid.swap(0, Ordering::SeqCst);
        if let Ok(pid) = i32::try_from(pid)
            && kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok()
        {
            met.push(step);
        }
    }

    fn is_ending(&self) -> bool {
        self.pid.load(Ordering::SeqCst) == 0
    }

    fn met(&self) -> Vec<&'static str> {
        self.met
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Only after a failed test.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
