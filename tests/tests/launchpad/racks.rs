//! Racks with settings of a test's own. `pandabuildd twin` makes the rack; its daemon is killed, its `rack.toml` and
//! image are changed, and `pandabuildd serve` goes on, as an operator would.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use panda_protocol::launchpad::Dialect;
use panda_tests::programs::{root, run_ok};
use panda_tests::rack::{Rack, json_items};
use panda_tests::source::arch;

use crate::builder::LIMIT;

/// Tables of `rack.toml` by which a test waits for seconds where a rack waits for minutes.
pub(crate) const QUICK: &str =
    "\n[guest]\npoll_ms = 200\nfollow_silent_ms = 4000\nabort_ms = 3000\ncall_ms = 3000\n";

/// The same where nothing is waited for in vain: what is asked of a worker may take its time.
pub(crate) const OFTEN: &str = "\n[guest]\npoll_ms = 200\nabort_ms = 60000\ncall_ms = 30000\n";

/// A rack whose daemon is `serve`.
#[derive(Debug)]
pub(crate) struct Served(Rack);

impl Deref for Served {
    type Target = Rack;

    fn deref(&self) -> &Rack {
        &self.0
    }
}

impl Served {
    /// A rack of `count` slots whose builds run `executor`, for a manager of `dialect`, with more `tables`.
    pub(crate) fn start(
        count: usize,
        executor: &str,
        dialect: Dialect,
        tables: &str,
    ) -> Result<Self> {
        let mut rack = Rack::start(count, executor)?;
        rack.kill()?;
        configure(&rack, dialect, tables)?;
        rack.serve()?;
        rack.wait_fresh()?;
        Ok(Self(rack))
    }

    /// The same with a worker that is not ours, `tests/python/foreign_worker.py`, told what to do by the files in
    /// [`Served::words`].
    pub(crate) fn start_foreign(count: usize, dialect: Dialect, tables: &str) -> Result<Self> {
        let program = root()
            .join("tests/python/foreign_worker.py")
            .canonicalize()?;
        let worker = format!(
            "command = [\"/usr/bin/python3\", {:?}, \"WORDS\"]\naddress = \"127.0.0.1:0\"\n\
             build_types = [\"snap\", \"sourcepackagerecipe\"]\n",
            program.display().to_string()
        );
        Self::start_worker(count, dialect, tables, &worker)
    }

    /// The same with any `worker`, a manifest's table; WORDS in it is [`Served::words`].
    pub(crate) fn start_worker(
        count: usize,
        dialect: Dialect,
        tables: &str,
        worker: &str,
    ) -> Result<Self> {
        let mut rack = Rack::start(count, "true")?;
        rack.kill()?;
        configure(&rack, dialect, tables)?;
        let words = rack.scratch("words")?;
        fs::write(words.join("arch"), arch()?)?;
        let worker = worker.replace("WORDS", &words.display().to_string());
        let manifest = rack.state().join("image/manifest.toml");
        let text = format!("{}\n[worker]\n{worker}", fs::read_to_string(&manifest)?);
        fs::write(&manifest, text)?;
        // A board may have come up with the image as it was.
        for slot in rack.slots() {
            rack.crash_board(&slot.name)?;
        }
        rack.serve()?;
        rack.wait_fresh()?;
        Ok(Self(rack))
    }

    /// The directory that foreign workers read what to do from.
    pub(crate) fn words(&self) -> PathBuf {
        self.state().with_file_name("words")
    }

    /// Has a slot's worker do something from its next build on.
    pub(crate) fn tell(&self, slot: &str, words: &str) -> Result<()> {
        Ok(fs::write(self.words().join(slot), words)?)
    }

    /// Waits until a slot's worker has left word of something that it does.
    pub(crate) async fn until_told(&self, slot: &str, what: &str) -> Result<()> {
        let word = self.words().join(format!("{slot}.{what}"));
        let deadline = Instant::now() + LIMIT;
        while !word.exists() {
            ensure!(
                Instant::now() < deadline,
                "{slot}: never {what}:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Kills the daemon and starts it again, until it has found every board as it was.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.serve()?;
        let deadline = Instant::now() + LIMIT;
        while json_items(&run_ok(&mut self.control(&["slots", "--json"])?)?)?
            .iter()
            .any(|slot| slot["state"] == "rejoining")
        {
            ensure!(Instant::now() < deadline, "not rejoined:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops it all, and checks that nothing is left.
    pub(crate) fn stop(mut self) -> Result<()> {
        // The boards belong to `twin`: it takes them down.
        self.0.kill()?;
        self.0.twin()?;
        self.0.stop()
    }
}

fn configure(rack: &Rack, dialect: Dialect, tables: &str) -> Result<()> {
    let path = rack.state().join("rack.toml");
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains("[rack]\n"), "rack.toml has no [rack]: {text}");
    let name = match dialect {
        Dialect::Current => "current",
        Dialect::Y2011 => "2011",
    };
    let text = text.replacen("[rack]\n", &format!("[rack]\ndialect = \"{name}\"\n"), 1);
    // A virtual board that has not proven itself by then never will.
    let text = text.replacen("[boot]\n", "[boot]\nhandshake_ms = 20000\n", 1);
    Ok(fs::write(&path, text + tables)?)
}
