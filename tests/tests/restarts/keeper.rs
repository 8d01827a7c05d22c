//! Keeps a daemon running over boards that outlive it: one that has died is started again, as a service manager does.
//!
//! ```text
//! Rack (twin: boards) ─ serve, with failpoints in DIR ─▶ runs ─ dies ─▶ noted, started again ─▶ …
//! ```

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use panda_tests::programs::pandabuildd;
use panda_tests::rack::{Rack, json_items};
use panda_tests::source::executor;

use crate::job::Daemon;

/// Within this, all that a scenario has begun has ended.
const SOON: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(30);

/// A rack whose daemon may die at any time.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) rack: Rack,
    failpoints: PathBuf,
    /// How the daemon was started, each time.
    config: PathBuf,
    /// How often it died.
    pub(crate) deaths: usize,
    /// Its process, for whoever kills it; 0 while there is none.
    pub(crate) pid: Arc<AtomicU32>,
    /// How long the log was when the last one died, and when the one after it was told to end, if it was.
    life: (usize, Option<usize>),
}

impl Keeper {
    /// A rack of `slots` fresh boards, with `settings` added to its `rack.toml`.
    pub(crate) fn start(slots: usize, settings: &str) -> Result<Self> {
        let mut rack = Rack::start(slots, &executor("lines.sh", &[]))?;
        let failpoints = rack.scratch("failpoints")?;
        rack.wait_fresh()?;
        rack.kill()?;
        let config = rack.state().join("rack.toml");
        fs::OpenOptions::new()
            .append(true)
            .open(&config)?
            .write_all(settings.as_bytes())?;
        let mut keeper = Self {
            rack,
            failpoints,
            config,
            deaths: 0,
            pid: Arc::default(),
            life: (0, None),
        };
        keeper.serve()?;
        keeper.rack.wait_fresh()?;
        Ok(keeper)
    }

    /// A command that runs the daemon of this rack.
    pub(crate) fn command(&self, config: &Path) -> Result<Command> {
        let mut command = pandabuildd()?;
        command
            .args(["serve", "--config"])
            .arg(config)
            .env("PANDABUILDD_FAILPOINTS", &self.failpoints);
        Ok(command)
    }

    /// Starts the daemon, and waits for nothing.
    pub(crate) fn begin_to_serve(&mut self) -> Result<()> {
        let mut command = self.command(&self.config)?;
        self.rack.serve_by(&mut command)?;
        let pid = self.rack.daemon().context("a daemon")?;
        self.pid.store(pid, Ordering::SeqCst);
        Ok(())
    }

    /// Starts the daemon until it answers; again, if it dies before.
    pub(crate) fn serve(&mut self) -> Result<()> {
        self.begin_to_serve()?;
        wait(|| {
            if self.has_died()? {
                self.begin_to_serve()?;
            }
            let asked = self.rack.control(&["slots"])?.output()?;
            Ok(asked.status.success())
        })
        .with_context(|| format!("the daemon does not answer\n{}", self.end_of_log()))
    }

    /// Whether the daemon has died, which is noted.
    fn has_died(&mut self) -> Result<bool> {
        let Some(status) = self.rack.ended()? else {
            return Ok(false);
        };
        self.pid.store(0, Ordering::SeqCst);
        let wanted = [Signal::SIGKILL as i32, Signal::SIGABRT as i32];
        ensure!(
            status
                .signal()
                .is_some_and(|signal| wanted.contains(&signal)),
            "the daemon ended by itself: {status}\n{}",
            self.end_of_log()
        );
        self.deaths += 1;
        self.life = (self.rack.log().len(), None);
        self.disarm()?;
        Ok(true)
    }

    /// Ends the daemon as a service manager does.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        self.pid.store(0, Ordering::SeqCst);
        self.rack.terminate()?;
        let ended = self.rack.log().len();
        self.life.1.get_or_insert(ended);
        Ok(())
    }

    /// Notes a daemon that has died, and starts another. Whoever waits for something calls this all the while.
    pub(crate) fn tick(&mut self) -> Result<()> {
        if self.has_died()? {
            self.serve()?;
        }
        Ok(())
    }

    /// Whether the daemon dies once more than `deaths` times within [`SOON`]; the next one then answers.
    pub(crate) fn dies_soon(&mut self, deaths: usize) -> Result<bool> {
        let until = Instant::now() + SOON;
        while self.deaths == deaths && Instant::now() < until {
            self.tick()?;
            std::thread::park_timeout(LOOK);
        }
        Ok(self.deaths > deaths)
    }

    /// The daemon is to die when it passes `line`.
    pub(crate) fn arm(&self, line: &str) -> Result<()> {
        let beside = self.failpoints.join("armed.new");
        fs::write(&beside, line)?;
        Ok(fs::rename(beside, self.failpoints.join("armed"))?)
    }

    pub(crate) fn disarm(&self) -> Result<()> {
        self.arm("")
    }

    /// Every pass so far, in order.
    pub(crate) fn passed(&self) -> Vec<String> {
        let text = fs::read_to_string(self.failpoints.join("passed")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The states that the slots' boards have had in the life of the daemon after the one that died last.
    pub(crate) fn boards_since(&self) -> String {
        let log = self.rack.log();
        let (from, to) = self.life;
        let since = log.get(from..to.unwrap_or(log.len())).unwrap_or_default();
        let boards = since
            .lines()
            .filter_map(|line| Some(line.split_once(" board=\"")?.1.split_once('"')?.0));
        boards.collect::<Vec<_>>().join(" ")
    }

    /// Runs with another configuration from now on: `rack.toml` with `from` replaced by `to`.
    pub(crate) fn reconfigure(&mut self, name: &str, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(self.rack.state().join("rack.toml"))?;
        ensure!(text.contains(from), "rack.toml has no {from}: {text}");
        self.config = self.rack.state().join(name);
        Ok(fs::write(&self.config, text.replacen(from, to, 1))?)
    }

    /// Runs with `rack.toml` again.
    pub(crate) fn usual(&mut self) {
        self.config = self.rack.state().join("rack.toml");
    }

    /// `pandabuildd ARGUMENTS`, which may fail because the daemon dies.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<()> {
        let output = self.rack.control(arguments)?.output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() && text.contains("panicked") {
            bail!("{text}");
        }
        Ok(())
    }

    /// What Launchpad is told of each slot; nothing where the daemon has just died.
    pub(crate) fn told(&mut self) -> Result<Vec<String>> {
        self.tick()?;
        let output = self.rack.control(&["slots", "--json"])?.output()?;
        if !output.status.success() {
            return Ok(Vec::new());
        }
        let slots = json_items(&String::from_utf8(output.stdout)?)?;
        let told = |slot: &serde_json::Value| slot["told"].as_str().unwrap_or_default().to_owned();
        Ok(slots.iter().map(told).collect())
    }

    /// All boards are fresh; nothing is left over; no boot had two builds.
    pub(crate) fn check(&mut self) -> Result<()> {
        wait(|| {
            let told = self.told()?;
            Ok(!told.is_empty() && told.iter().all(|told| told == "BuilderStatus.IDLE"))
        })
        .with_context(|| format!("not all are idle again\n{}", self.end_of_log()))?;
        let state = self.rack.state();
        wait(|| Ok(wrecks(&state)?.is_empty()))
            .with_context(|| format!("left over: {:?}", wrecks(&state)))?;
        for slot in self.rack.slots().to_vec() {
            let mut boots = None;
            wait(|| {
                self.tick()?;
                boots = self.rack.boots(&slot.name).ok();
                Ok(boots.is_some())
            })?;
            for boot in boots.unwrap_or_default() {
                let attempts = boot["attempts"].as_array().map_or(0, Vec::len);
                ensure!(attempts <= 1, "boot {} had {attempts} builds", boot["id"]);
            }
        }
        Ok(())
    }

    /// Ends it all.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.rack.kill()?;
        // The boards belong to `twin`: it takes them down.
        self.rack.twin()?;
        self.rack.stop()
    }

    /// The last of what the daemons wrote.
    pub(crate) fn end_of_log(&self) -> String {
        let log = self.rack.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Daemon for Keeper {
    fn tick(&mut self) -> Result<()> {
        Self::tick(self)
    }

    fn deaths(&self) -> usize {
        self.deaths
    }

    fn end_of_log(&self) -> String {
        Self::end_of_log(self)
    }
}

/// Waits until `done`, at most two minutes.
pub(crate) fn wait(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done()? {
        ensure!(Instant::now() < deadline, "waited in vain");
        std::thread::park_timeout(LOOK);
    }
    Ok(())
}

/// What nobody needs when all slots are idle: files that are half written, results that nobody holds; and stored files
/// that are not what their name says.
fn wrecks(state: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![state.join("filecache"), state.join("slots")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.contains("draft") || name.contains("attempt-") || name.ends_with(".new") {
                found.push(path);
            } else if path.is_dir() {
                directories.push(path);
            } else if let Ok(sum) = name.parse::<panda_protocol::digest::Sha1>()
                && panda_protocol::digest::Sha1::of(&fs::read(&path)?) != sum
            {
                found.push(path);
            }
        }
    }
    Ok(found)
}
