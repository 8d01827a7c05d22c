//! Has the daemon die at every failpoint that it has, one after another, and looks at what the next one makes of it.
//!
//! ```text
//! each scenario once, undisturbed ─▶ every pass: NAME before|after DETAIL
//! each pass that is new ─▶ armed ─ the scenario ─▶ the daemon dies there ─ started again ─▶ the scenario ends well
//! ```
//!
//! A failpoint that no scenario passes fails the test, but for those that [`UNREACHED`] gives a reason for; so does one
//! at which the daemon did not die on both sides. A pass whose detail does not come again ("booting, with results kept"
//! takes a manager that is slow just then) is told as such, and is no failure where the same point was died at in
//! another one.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use panda_tests::programs::{pandabuildd, run_ok};
use panda_tests::rack::json_items;

use crate::job::{Kind, Manager};
use crate::keeper::{Keeper, wait};
use crate::{number, settings};

/// What a rack of process machines does not pass, and why.
const UNREACHED: [(&str, &str); 2] = [
    ("slot.start-trial", "nothing begins a trial of an image yet"),
    (
        "slot.report-trial",
        "nothing begins a trial of an image yet",
    ),
];
/// The bytes of a file cache in which two inputs of [`BIG`] have no place beside a build's.
const CACHE: usize = 100_000;
const BIG: usize = 60_000;
/// How often a scenario is played until it comes to a pass that it came to once.
const TRIES: usize = 3;

/// What is under way when the daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    Build,
    Abort,
    AbortLate,
    Reset,
    PpaReset,
    Evict,
    Fails,
    Foreign,
    Prepares,
    FirstStart,
    LeftOvers,
}

impl Scenario {
    const ALL: [Self; 11] = [
        Self::Build,
        Self::Abort,
        Self::AbortLate,
        Self::Reset,
        Self::PpaReset,
        Self::Evict,
        Self::Fails,
        Self::Foreign,
        Self::Prepares,
        Self::FirstStart,
        Self::LeftOvers,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Abort => "build, aborted",
            Self::AbortLate => "build, aborted when kept",
            Self::Reset => "operator's reset",
            Self::PpaReset => "reset, 2.0",
            Self::Evict => "input that evicts",
            Self::Fails => "board that fails",
            Self::Foreign => "another worker and root",
            Self::Prepares => "presence is demanded",
            Self::FirstStart => "first start",
            Self::LeftOvers => "start after a crash",
        }
    }
}

/// A rack on which scenarios are played.
struct Stage {
    keeper: Keeper,
    manager: Manager,
    web: WebService,
    evictions: u8,
}

#[test]
fn builds_survive_a_daemon_that_dies_at_chosen_failpoints() -> Result<()> {
    play(&[Scenario::Build], 8)
}

#[test]
#[ignore = "minutes: scripts/failpoints runs it"]
fn everything_survives_a_daemon_that_dies_at_any_failpoint() -> Result<()> {
    play(&Scenario::ALL, usize::MAX)
}

/// Plays `scenarios`, with a death at `most` of the passes, spread over all.
fn play(scenarios: &[Scenario], most: usize) -> Result<()> {
    let listed = run_ok(
        pandabuildd()?
            .env("PANDABUILDD_FAILPOINTS", "list")
            .args(["serve", "--config", "none"]),
    )?;
    let points: BTreeSet<&str> = listed.lines().collect();
    ensure!(
        points.len() > 40,
        "the daemon names no failpoints: {listed}"
    );
    let mut stage = Stage::set()?;
    let mut known = BTreeSet::new();
    let mut passes = Vec::new();
    for scenario in scenarios {
        for line in stage.record(*scenario)? {
            let name = line.split(' ').next().unwrap_or_default().to_owned();
            ensure!(
                points.contains(name.as_str()),
                "{name} is not in the daemon's list"
            );
            if known.insert(line.clone()) {
                passes.push((line, *scenario));
            }
        }
    }
    if most == usize::MAX {
        complete(&points, &known)?;
    }
    // Several runs may share the work: each has its part.
    let (parts, part) = (number("PANDA_PARTS", 1)?.max(1), number("PANDA_PART", 0)?);
    if parts > 1 {
        // Each run has seen them in an order of its own.
        passes.sort_by(|(one, _), (other, _)| one.cmp(other));
    }
    passes = passes.into_iter().skip(part).step_by(parts).collect();
    // Or dies at some points only.
    let only = std::env::var("PANDA_FAILPOINTS_ONLY").unwrap_or_default();
    if !only.is_empty() {
        let only: Vec<&str> = only.split(',').collect();
        for point in &only {
            ensure!(points.contains(point), "{point} is no failpoint:\n{listed}");
        }
        passes.retain(|(line, _)| {
            only.iter()
                .any(|point| line.split(' ').next() == Some(*point))
        });
    }
    let step = passes.len().div_ceil(most).max(1);
    println!("{} passes to die at", passes.len().div_ceil(step));
    println!(
        "{:<44} {:<26} {:<14} what the next daemon did",
        "failpoint", "scenario", "manager at"
    );
    let (mut died, mut at) = (0, BTreeSet::new());
    for (line, scenario) in passes.iter().step_by(step) {
        let told = stage.die(line, *scenario).with_context(|| {
            format!(
                "{line}, in {:?}\n{}",
                scenario.name(),
                stage.keeper.end_of_log()
            )
        })?;
        let told = match told {
            Some(told) => {
                at.insert(line.split(' ').take(2).collect::<Vec<_>>().join(" "));
                died += 1;
                told
            }
            None => format!("{:<14} did not come to that again", "-"),
        };
        println!("{line:<44} {:<26} {told}", scenario.name());
    }
    if most == usize::MAX && parts == 1 && only.is_empty() {
        complete(&points, &at)?;
    }
    println!(
        "{died} deaths at {} of {} failpoints; {} calls of dispatches lost, nothing else",
        at.iter()
            .filter_map(|line| line.split(' ').next())
            .collect::<BTreeSet<_>>()
            .len(),
        points.len(),
        stage.manager.lost_dispatches
    );
    stage.keeper.stop()
}

/// Both sides of every point were passed, but for those that cannot be.
fn complete(points: &BTreeSet<&str>, passed: &BTreeSet<String>) -> Result<()> {
    for point in points {
        for side in ["before", "after"] {
            let start = format!("{point} {side}");
            let is_passed = passed
                .iter()
                .any(|line| *line == start || line.starts_with(&format!("{start} ")));
            let reason = UNREACHED.iter().find(|(name, _)| name == point);
            match reason {
                Some((name, reason)) => {
                    ensure!(
                        !is_passed,
                        "{name} is passed after all ({reason}): take it off the list"
                    );
                    println!("not reached: {start}: {reason}");
                }
                None => ensure!(is_passed, "no scenario passes {start}: give it one"),
            }
        }
    }
    Ok(())
}

impl Stage {
    fn set() -> Result<Self> {
        let web = WebService::start()?;
        let settings = format!(
            "\n[filecache]\nmax_bytes = {CACHE}\nfile_max_bytes = {CACHE}\n\n\
             [webservice]\nurl = \"http://{}/devel\"\ncredentials = \"launchpad\"\n\
             first_pause_ms = 50\nmost_pause_ms = 200\nreport_failures = false\n",
            web.address
        );
        let mut keeper = Keeper::start(1, "")?;
        keeper.terminate()?;
        let credentials = keeper.rack.state().join("launchpad");
        fs::write(
            &credentials,
            "[1]\nconsumer_key = rack\nconsumer_secret =\naccess_token = t\naccess_secret = hush-hush\n",
        )?;
        fs::set_permissions(&credentials, Permissions::from_mode(0o600))?;
        fs::OpenOptions::new()
            .append(true)
            .open(keeper.rack.state().join("rack.toml"))?
            .write_all(settings.as_bytes())?;
        keeper.serve()?;
        keeper.rack.wait_fresh()?;
        let manager = Manager::new(&keeper.rack.slots()[0].url)?;
        Ok(Self {
            keeper,
            manager,
            web,
            evictions: 0,
        })
    }

    /// Plays a scenario undisturbed; what it passed.
    fn record(&mut self, scenario: Scenario) -> Result<Vec<String>> {
        let before = self.keeper.passed().len();
        self.play(scenario, None).with_context(|| {
            format!(
                "{:?}, undisturbed\n{}",
                scenario.name(),
                self.keeper.end_of_log()
            )
        })?;
        Ok(self.keeper.passed().split_off(before))
    }

    /// Plays a scenario in which the daemon dies at `line`; what was under way, and what the next daemon did. Nothing
    /// where it did not come to that line again.
    fn die(&mut self, line: &str, scenario: Scenario) -> Result<Option<String>> {
        let deaths = self.keeper.deaths;
        for _ in 0..TRIES {
            self.play(scenario, Some(line))?;
            // Some effects go on behind the last answer.
            if self.keeper.dies_soon(deaths)? {
                break;
            }
        }
        if self.keeper.deaths == deaths {
            self.keeper.disarm()?;
            return Ok(None);
        }
        ensure!(
            self.keeper.deaths == deaths + 1,
            "the daemon died more than once"
        );
        self.keeper.check()?;
        Ok(Some(format!(
            "{:<14} {}",
            self.manager.phase_at_death(),
            self.keeper.boards_since()
        )))
    }

    fn play(&mut self, scenario: Scenario, armed: Option<&str>) -> Result<()> {
        let Self {
            keeper, manager, ..
        } = self;
        manager.watch_deaths(keeper);
        let deaths = keeper.deaths;
        let down = matches!(
            scenario,
            Scenario::Fails
                | Scenario::Foreign
                | Scenario::Prepares
                | Scenario::FirstStart
                | Scenario::LeftOvers
        );
        if down {
            keeper.terminate()?;
            match scenario {
                Scenario::Fails => keeper.reconfigure(
                    "broken.toml",
                    "[boot]\ncut_hold_ms = 200\n",
                    "[boot]\ncut_hold_ms = 200\nhandshake_ms = 1\n",
                )?,
                Scenario::Foreign => settings::other_image(keeper)?,
                Scenario::Prepares => settings::demands_presence(keeper)?,
                Scenario::FirstStart => {
                    for entry in fs::read_dir(keeper.rack.state())? {
                        let path = entry?.path();
                        let name = path
                            .file_name()
                            .unwrap_or_default()
                            .to_string_lossy()
                            .into_owned();
                        if name.starts_with("ledger.sqlite") || name.starts_with("master.") {
                            fs::remove_file(path)?;
                        }
                    }
                }
                _ => {
                    let state = keeper.rack.state();
                    fs::create_dir_all(state.join("slots/panda01/attempt-99999"))?;
                    fs::write(state.join("filecache/.draft-left"), "half")?;
                }
            }
        }
        if let Some(line) = armed {
            keeper.arm(line)?;
        }
        if down {
            keeper.begin_to_serve()?;
            // It may die before it answers.
            wait(|| {
                keeper.tick()?;
                Ok(keeper.rack.control(&["slots"])?.output()?.status.success())
            })?;
        }
        match scenario {
            Scenario::Build => manager.build(keeper, Kind::Builds)?,
            Scenario::Abort => manager.build(keeper, Kind::Aborted)?,
            Scenario::AbortLate => manager.build(keeper, Kind::AbortedLate)?,
            Scenario::Reset => {
                manager.begin(keeper)?;
                reset(keeper)?;
                hold_and_release(keeper)?;
            }
            Scenario::PpaReset => {
                manager.begin(keeper)?;
                let changes = self.web.begin();
                let order = ["ppa-reset", "panda01", "--no-wait", "--timeout"];
                let ordered = keeper
                    .rack
                    .control(&[&order[..], &["2"]].concat())?
                    .output()?;
                keeper.tick()?;
                if !ordered.status.success() {
                    // The daemon died under it. The manager counts that, and runs it again.
                    wait(|| {
                        keeper.tick()?;
                        let again = keeper
                            .rack
                            .control(&[&order[..], &["5"]].concat())?
                            .output()?;
                        Ok(again.status.success())
                    })?;
                }
                wait(|| {
                    keeper.tick()?;
                    Ok(self.web.is_clean() && self.web.changes() > changes)
                })
                .context("Launchpad was never told")?;
            }
            Scenario::Evict => {
                self.evictions = self.evictions.wrapping_add(2);
                manager.bring(keeper, vec![self.evictions; BIG])?;
                // Its end lets go of what was brought before.
                manager.build(keeper, Kind::Builds)?;
                manager.bring(keeper, vec![self.evictions | 1; BIG])?;
                manager.build(keeper, Kind::Builds)?;
            }
            Scenario::Fails => {
                manager.begin(keeper)?;
                reset(keeper)?;
                let failed = armed.is_none();
                wait(|| {
                    keeper.tick()?;
                    Ok(if failed {
                        let passed = keeper.passed();
                        passed
                            .iter()
                            .rev()
                            .take(20)
                            .any(|line| line == "slot.arm-retry after")
                    } else {
                        keeper.deaths > deaths
                    })
                })?;
                keeper.terminate()?;
                keeper.usual();
                keeper.serve()?;
            }
            Scenario::Foreign => {
                settings::renew(keeper)?;
                manager.build(keeper, Kind::Foreign)?;
                keeper.terminate()?;
                keeper.usual();
                keeper.serve()?;
                settings::renew(keeper)?;
            }
            Scenario::Prepares => {
                settings::renew(keeper)?;
                keeper.terminate()?;
                keeper.usual();
                settings::without_gadget(keeper)?;
                keeper.serve()?;
            }
            Scenario::FirstStart | Scenario::LeftOvers => {}
        }
        keeper.check()
    }
}

/// An operator's reset of a slot with a build, once more if the daemon died under it.
fn reset(keeper: &mut Keeper) -> Result<()> {
    wait(|| {
        keeper.ask(&["reset", "panda01", "--force", "--no-wait"])?;
        keeper.tick()?;
        let told = keeper.told()?;
        Ok(!told.is_empty() && told.iter().all(|told| told != "BuilderStatus.BUILDING"))
    })
}

/// An operator's hold, until power is off, and release; each once more if the daemon died under it.
fn hold_and_release(keeper: &mut Keeper) -> Result<()> {
    let is = |keeper: &mut Keeper, wanted: bool| -> Result<bool> {
        keeper.tick()?;
        let output = keeper.rack.control(&["slots", "--json"])?.output()?;
        let slots = json_items(&String::from_utf8(output.stdout)?)?;
        let held = |slot: &serde_json::Value| {
            let off = slot["state"] == "off";
            slot["slot"] == "panda01" && slot["held"].is_null() != wanted && off == wanted
        };
        Ok(slots.iter().any(held))
    };
    wait(|| {
        keeper.ask(&["hold", "panda01", "--reason", "a drill"])?;
        is(keeper, true)
    })?;
    wait(|| {
        keeper.ask(&["release", "panda01"])?;
        is(keeper, false)
    })
}

/// A web service with one builder, which is Cleaning until it is told that it is Clean.
struct WebService {
    address: SocketAddr,
    shared: Arc<Entry>,
}

#[derive(Default)]
struct Entry {
    clean: AtomicBool,
    changes: AtomicUsize,
}

impl WebService {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Entry::default());
        let served = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A daemon that is killed breaks its connection.
                answer(&stream, &served).ok();
            }
        });
        Ok(Self { address, shared })
    }

    /// The manager has written CLEANING; how often it was told so far.
    fn begin(&self) -> usize {
        self.shared.clean.store(false, Ordering::SeqCst);
        self.changes()
    }

    fn is_clean(&self) -> bool {
        self.shared.clean.load(Ordering::SeqCst)
    }

    fn changes(&self) -> usize {
        self.shared.changes.load(Ordering::SeqCst)
    }
}

/// Answers one request of a connection, and closes it.
fn answer(stream: &TcpStream, entry: &Entry) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "closed");
    }
    let length = head.lines().find_map(|line| {
        let line = line.to_ascii_lowercase();
        line.strip_prefix("content-length:")?.trim().parse().ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    if head.starts_with("PATCH ") {
        entry.changes.fetch_add(1, Ordering::SeqCst);
        entry.clean.store(true, Ordering::SeqCst);
    }
    let status = if entry.clean.load(Ordering::SeqCst) {
        "Clean"
    } else {
        "Cleaning"
    };
    let text = format!(
        "{{\"clean_status\": \"{status}\", \"builderok\": true, \"http_etag\": \"\\\"e\\\"\"}}"
    );
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        if head.starts_with("PATCH ") {
            "209 Content Returned"
        } else {
            "200 OK"
        },
        text.len()
    )?;
    Ok(())
}
