//! The daemon as systemd runs it, by the project's own units, in a guest that `scripts/systemd-restart` boots: it is
//! told to end in each of the ways that operators have, in the middle of everything that the manager does, while the
//! manager goes on calling from outside. No call may be lost and none of a dispatch refused.
//!
//! ```text
//! this test ─ orders ──────────▶ serial line ─▶ systemctl restart, stop, start, kill ─▶ pandabuildd.service
//!     └─ Manager ─ port ─▶ the guest's port 8221, held by pandabuildd.socket ─▶ daemon ─▶ virtual Panda
//! ```

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use panda_tests::rack::json_items;

use crate::inputs::Inputs;
use crate::job::{Calls, Daemon, Kind, Manager};

/// How the guest sees this machine.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));
/// A chroot tarball, and with it each result: enough that bringing and collecting them takes some time.
const CHROOT: usize = 16 << 20;
/// Between two pieces of an input, of which there are ten.
const PAUSE: Duration = Duration::from_millis(200);
/// Between two scans of a builder that has nothing to do.
const SCAN: Duration = Duration::from_millis(300);
/// The longest that the guest may take to be up, with a board that is fresh.
const UP: Duration = Duration::from_secs(400);
/// The longest that an order may take.
const LIMIT: Duration = Duration::from_secs(120);

/// One thing that is done to the daemon.
struct Trial {
    /// The order's first word.
    way: &'static str,
    /// The manager's step at which it is given, and how long the manager's call then waits.
    step: &'static str,
    after_ms: u64,
    /// The board's state that the guest waits for before it obeys; `-` for none.
    board: &'static str,
}

const fn trial(way: &'static str, step: &'static str, after_ms: u64) -> Trial {
    Trial {
        way,
        step,
        after_ms,
        board: "-",
    }
}

/// All of them. `build` has several moments: the call comes before, with and after the daemon's end.
fn trials() -> Vec<Trial> {
    let steps = ["download", "build", "running", "kept", "clean"];
    let mut trials = Vec::new();
    for way in ["restart", "terminate", "stop", "stop-start"] {
        for step in steps {
            trials.push(trial(way, step, 0));
        }
        trials.push(Trial {
            board: "collecting",
            ..trial(way, "running", 0)
        });
        if way == "restart" {
            for after_ms in [50, 100, 200, 400, 800, 1600] {
                trials.push(trial(way, "build", after_ms));
            }
            // The next start fails, again and again, until the configuration is mended.
            trials.push(trial("broken", "ensurepresent", 1000));
            trials.push(trial("broken", "running", 0));
        }
    }
    for after_ms in [100, 400] {
        trials.push(trial("restart", "idle", after_ms));
        trials.push(trial("restart", "clean", after_ms));
    }
    trials
}

#[test]
#[ignore = "a guest with systemd: scripts/systemd-restart boots it and runs this"]
fn whatever_systemd_does_to_the_daemon_costs_nothing() -> Result<()> {
    let named = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let orders = Arc::new(Orders::connect(&named("PANDA_SYSTEMD_ORDERS")?)?);
    orders.wait_until_up()?;
    let mut inputs = Inputs::serve()?;
    inputs.seen_at(HERE);
    let mut manager = Manager::with_inputs(&named("PANDA_SYSTEMD_URL")?, inputs)?;
    manager.large_chroots(CHROOT);
    manager.slow_inputs(PAUSE);
    let mut daemon = Outside(Arc::clone(&orders));
    println!(
        "| what systemd was told | while the manager was at | daemon gone, s | slowest call, s | calls | lost | faults | \
         the board, as the next daemon found it |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut all = Calls::default();
    for trial in trials() {
        let told = one(&trial, &orders, &mut manager, &mut daemon)
            .with_context(|| format!("{} at {}\n{}", trial.way, trial.step, daemon.end_of_log()))?;
        let calls = manager.calls.take();
        println!(
            "| {} | {} | {} | {:.1} | {} | {} | {} | {} |",
            trial.way,
            trial.told(),
            told.gone,
            calls.slowest.as_secs_f64(),
            calls.made,
            calls.lost,
            calls.faults,
            told.boards
        );
        ensure!(calls.lost == 0, "calls were lost\n{}", daemon.end_of_log());
        all.made += calls.made;
        all.faults += calls.faults;
        all.slowest = all.slowest.max(calls.slowest);
    }
    // Nobody calls meanwhile.
    orders.ask("upgrade")?;
    manager.watch(Arc::new(|_| {}));
    manager.build(&mut daemon, Kind::Builds)?;
    ensure!(manager.lost_dispatches == 0, "a dispatch was lost");
    for boot in json_items(&lines(&orders.ask("boots")?))? {
        let attempts = boot["attempts"].as_array().map_or(0, Vec::len);
        ensure!(attempts <= 1, "boot {} had {attempts} builds", boot["id"]);
    }
    let units = orders.ask("units")?;
    ensure!(units == "active active", "the units are {units}");
    println!(
        "{} builds, {} calls: 0 lost, 0 of a dispatch refused, {} scans told to come again; the slowest took {:.1} s",
        trials().len(),
        all.made,
        all.faults,
        all.slowest.as_secs_f64()
    );
    Ok(())
}

/// What became of a trial.
struct Told {
    gone: String,
    boards: String,
}

/// One build, in which the order is given at its moment.
fn one(
    trial: &Trial,
    orders: &Arc<Orders>,
    manager: &mut Manager,
    daemon: &mut dyn Daemon,
) -> Result<Told> {
    let given = Arc::new(Mutex::new(None));
    let (watched, told) = (Arc::clone(&given), Arc::clone(orders));
    let (way, board) = (trial.way, trial.board);
    let (step, pause) = (trial.step, Duration::from_millis(trial.after_ms));
    manager.watch(Arc::new(move |now| {
        let mut given = watched.lock().unwrap_or_else(PoisonError::into_inner);
        if now == step && given.is_none() {
            *given = Some(told.give(&format!("{way} {board}")));
            std::thread::park_timeout(pause);
        }
    }));
    manager.build(daemon, Kind::Builds)?;
    let given = given.lock().unwrap_or_else(PoisonError::into_inner).take();
    given.context("the manager never came to that step")??;
    // The build may be over before the daemon has ended, and one that was stopped starts with the next call.
    let gone = std::thread::scope(|scope| {
        let hearing = scope.spawn(|| orders.hear());
        while !hearing.is_finished() {
            manager.scan(daemon)?;
            std::thread::sleep(SCAN);
        }
        hearing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    ensure!(!gone.starts_with("failed"), "{}", lines(&gone));
    Ok(Told {
        gone,
        boards: orders.ask("boards")?,
    })
}

impl Trial {
    fn told(&self) -> String {
        match (self.board, self.after_ms) {
            ("-", 0) => self.step.to_owned(),
            ("-", pause) => format!("{} ({pause} ms later)", self.step),
            (board, _) => board.to_owned(),
        }
    }
}

/// The guest's serial line: a line for each order, and one for its answer.
struct Orders {
    line: Mutex<BufReader<UnixStream>>,
    writer: UnixStream,
}

impl Orders {
    fn connect(path: &str) -> Result<Self> {
        let writer = UnixStream::connect(path).with_context(|| path.to_owned())?;
        writer.set_read_timeout(Some(LIMIT))?;
        let line = Mutex::new(BufReader::new(writer.try_clone()?));
        Ok(Self { line, writer })
    }

    /// Waits until the guest listens, and its rack is fresh.
    fn wait_until_up(&self) -> Result<()> {
        let begun = Instant::now();
        self.writer.set_read_timeout(Some(Duration::from_secs(5)))?;
        // What is said to a line before anybody listens to it may be lost.
        for number in 1.. {
            ensure!(
                begun.elapsed() < UP,
                "the guest is not up; PANDA_CONSOLE=FILE shows what it said"
            );
            self.give(&format!("ping {number}"))?;
            while let Ok(answer) = self.hear() {
                ensure!(!answer.starts_with("failed"), "{}", lines(&answer));
                if answer == number.to_string() {
                    self.writer.set_read_timeout(Some(LIMIT))?;
                    println!("up after {:.0} s", begun.elapsed().as_secs_f64());
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Gives an order, and waits for nothing.
    fn give(&self, order: &str) -> Result<()> {
        Ok((&self.writer).write_all(format!("{order}\n").as_bytes())?)
    }

    /// The answer to the order that was given first.
    fn hear(&self) -> Result<String> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        loop {
            ensure!(begun.elapsed() < LIMIT, "the guest does not answer");
            let mut said = String::new();
            line.read_line(&mut said).context("the guest's answer")?;
            // What else is on the line is for people.
            if let Some(answer) = said.trim_end().strip_prefix("@ ") {
                return Ok(answer.trim().to_owned());
            }
        }
    }

    fn ask(&self, order: &str) -> Result<String> {
        self.give(order)?;
        let answer = self.hear()?;
        ensure!(!answer.starts_with("failed"), "{}", lines(&answer));
        Ok(answer)
    }
}

/// The lines of an answer, which has to be one.
fn lines(answer: &str) -> String {
    answer.replace('\u{1}', "\n")
}

/// A daemon that is kept running by somebody else.
struct Outside(Arc<Orders>);

impl Daemon for Outside {
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

    fn deaths(&self) -> usize {
        0
    }

    fn end_of_log(&self) -> String {
        let log = self.0.ask("log");
        lines(&log.unwrap_or_else(|error| format!("{error:#}")))
    }
}
