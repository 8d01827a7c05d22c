//! Runs the model against a rack: one task a builder, as the manager has one scanner a builder, over one pool of jobs.
//!
//! ```text
//! Rack (twin) ─ rack.toml: dialect, virtualized, [webservice] ─ serve ─▶ fresh
//!   task a builder:  scan ─▶ ask ─▶ Caller ─▶ answer ─▶ … ─▶ rest ─▶ scan     until every job is over
//!   a thread:        trouble, where a run has some
//! then: no harm in the reports, every end as planned, every build on a boot of its own, nothing left running
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use panda_tests::manager_model::{BuilderNo, Manager, Mode, Report, Times, What};
use panda_tests::programs::{pandabuildd, run_ok};
use panda_tests::rack::{Rack, json_items};
use panda_tests::source::executor;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::caller::Caller;
use crate::history::{History, Shared};
use crate::inputs::Inputs;
use crate::plan::{builds, jobs};
use crate::scanner::Scanner;
use crate::trouble::{self, Trouble};
use crate::webservice::WebService;

/// What is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) mode: Mode,
    /// What the rack is set up for.
    pub(crate) rack: Mode,
    pub(crate) slots: usize,
    pub(crate) cycles: usize,
    /// From the end of one scan to the next.
    pub(crate) scan: Duration,
    /// What happens beside the builds.
    pub(crate) trouble: Trouble,
    /// Of its moments.
    pub(crate) seed: u64,
    /// How the rack resets, where that is not as `twin` sets it.
    pub(crate) resets: Option<Resets>,
    /// Where everything is, where that is not all on this machine's loopback.
    pub(crate) network: Option<Network>,
    /// How large the chroot tarball is.
    pub(crate) chroot_bytes: usize,
}

/// A rack on a network of its own: this program runs where Launchpad would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    /// The network namespaces of the master and of the boards, by name.
    pub(crate) namespaces: (&'static str, &'static str),
    pub(crate) master: IpAddr,
    pub(crate) boards: IpAddr,
    pub(crate) launchpad: IpAddr,
}

/// How a rack resets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resets {
    /// How long a board stays without power.
    pub(crate) hold: Duration,
    /// As soon as the results are in, or when the manager asks.
    pub(crate) eager: bool,
}

/// What became of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    /// In one line.
    pub(crate) told: String,
    /// All that the daemon logged.
    pub(crate) log: String,
    /// What the manager decided, and when it began, after 1970.
    pub(crate) reports: Vec<Report>,
    pub(crate) begun: Duration,
    /// What `pandabuildd check` says of a rack on a network.
    pub(crate) budget: Option<Value>,
}

/// How many times as fast as usual an outage of the inputs passes: its length, the scans, and the times of
/// `[filecache]`.
pub(crate) const OUTAGE_SCALE: u32 = 30;
/// The times of `[filecache]` that are scaled, as they are by default.
const FILECACHE_MS: [(&str, u32); 7] = [
    ("connect_ms", 15_000),
    ("read_ms", 60_000),
    ("wait_ms", 540_000),
    ("retry_first_ms", 1_000),
    ("retry_most_ms", 15_000),
    ("shun_ms", 40_000),
    ("look_ms", 5_000),
];

/// The longest that one build may take on average, boot included, before a run counts as stuck.
const CYCLE_LIMIT: Duration = Duration::from_secs(60);
/// The most boots that are asked for: as many as a ledger keeps of a slot.
const MOST_BOOTS: &str = "1000";

/// Runs it, demands that all went well, and says so.
pub(crate) fn run(run: &Run) -> Result<()> {
    let ran = ran(run)?;
    println!("{}", ran.told);
    Ok(())
}

/// Runs it, and demands that all went well.
pub(crate) fn ran(run: &Run) -> Result<Ran> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let executor = executor("cycle.sh", &[]);
    let mut rack = match run.network {
        None => Rack::start(run.slots, &executor)?,
        Some(Network { namespaces, .. }) => Rack::start_apart(run.slots, &executor, namespaces)?,
    };
    let service = {
        let _runtime = runtime.enter();
        WebService::bind()?
    };
    let as_twin_wrote_it = configure(&mut rack, run, &service)?;
    if run.network.is_none() {
        rack.wait_fresh()?;
    }
    let mut times = Times {
        scan: run.scan,
        ..Times::of(run.mode)
    };
    if let Trouble::Outage(_) = run.trouble {
        // What the cache's patience is measured by.
        times.ensure /= OUTAGE_SCALE;
    }
    let begun = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let shared = Arc::new(Shared::new(Manager::new(run.mode, times, run.slots)));
    let outcome = drive(run, &runtime, service, &mut rack, &shared);
    let lasted = shared.now();
    let history = shared.lock();
    let made = outcome
        .and_then(|made| history.judge(run.cycles, run.trouble).map(|()| made))
        .with_context(|| end_of(&rack.log()))?;
    rack.wait_fresh()?;
    let boots = one_boot_one_build(&rack, run, &history).with_context(|| end_of(&rack.log()))?;
    let built = history.count(|what| matches!(what, What::Collected(..)));
    let cancelled = history.count(|what| matches!(what, What::Cancelled));
    let mut line = format!(
        "{:?}: {} jobs on {} slots in {lasted:.0?}: {built} built, {cancelled} cancelled, {} results as their sums say, \
         {boots} boots",
        run.mode, run.cycles, run.slots, history.fetched
    );
    if run.mode == Mode::Trigger {
        line += &format!(
            ", {} times Clean written ({} over an entry that had changed)",
            history.told_clean, history.outdated
        );
    }
    if matches!(run.trouble, Trouble::Kills(_) | Trouble::Deaths(_)) {
        line += &format!("; seed {}: {}", run.seed, made.told());
    }
    let ran = Ran {
        told: format!("{line}; {}", history.counted()),
        log: rack.log(),
        reports: history.manager.reports().to_vec(),
        begun,
        budget: run.network.map(|_| budget(&rack, run)).transpose()?,
    };
    if let Some(text) = as_twin_wrote_it {
        // The boards belong to `twin`: it takes them down. It keeps addresses that it finds, and cannot have all.
        rack.kill()?;
        fs::write(rack.state().join("rack.toml"), text)?;
        rack.twin()?;
    }
    rack.stop()?;
    Ok(ran)
}

/// What the rack's wires allow for, by its own configuration.
fn budget(rack: &Rack, run: &Run) -> Result<Value> {
    let megabytes = run.chroot_bytes / 1_000_000;
    let written = run_ok(
        pandabuildd()?
            .args(["check", "--json", "--inputs-mb", &megabytes.to_string()])
            .arg("--config")
            .arg(rack.state().join("rack.toml")),
    )?;
    Ok(serde_json::from_str(&written)?)
}

/// The rack's settings for the mode, where they are not those that `twin` writes; what it wrote.
fn configure(rack: &mut Rack, run: &Run, service: &WebService) -> Result<Option<String>> {
    let mode = run.rack;
    let usual = run.trouble == Trouble::None && run.resets.is_none() && run.network.is_none();
    if mode == Mode::Command && usual {
        return Ok(None);
    }
    rack.wait_fresh()?;
    rack.kill()?;
    let path = rack.state().join("rack.toml");
    let dialect = if mode.is_2011() { "2011" } else { "current" };
    let settings = format!(
        "[rack]\ndialect = \"{dialect}\"\nvirtualized = {}\n",
        mode.is_virtualized()
    );
    let written = fs::read_to_string(&path)?;
    ensure!(
        written.contains("[rack]\n"),
        "rack.toml has no [rack]: {written}"
    );
    let mut text = written.replacen("[rack]\n", &settings, 1);
    if let Some(Network { master, boards, .. }) = run.network {
        text = text
            .lines()
            .map(|line| match line.split_once(" = \"127.") {
                Some((key @ ("listen" | "link"), address)) => {
                    let (_, port) = address.split_once(':').unwrap_or_default();
                    let host = if key == "link" { boards } else { master };
                    format!("{key} = \"{host}:{port}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
    }
    if let Some(Resets { hold, eager }) = run.resets {
        for (known, wanted) in [
            (
                "\ncut_hold_ms = 200\n",
                format!("\ncut_hold_ms = {}\n", hold.as_millis()),
            ),
            (
                "[slot_task]\n",
                format!("[slot_task]\neager_reset = {eager}\n"),
            ),
        ] {
            ensure!(text.contains(known), "rack.toml has no {known:?}: {text}");
            text = text.replacen(known, &wanted, 1);
        }
    }
    if let Trouble::Deaths(_) = run.trouble {
        // Sooner than usual (90 s, 12 s, 30 s), as the scans are.
        let known = "\ncut_hold_ms = 200\n";
        ensure!(text.contains(known), "rack.toml has no {known:?}: {text}");
        text = text.replacen(known, &format!("{known}silent_ms = 10000\n"), 1);
        text += "\n[guest]\nfollow_silent_ms = 10000\nprove_ms = 1000\nprove_silent_ms = 3000\n";
    }
    if let Trouble::Outage(_) = run.trouble {
        text += "\n[filecache]\n";
        for (key, usual) in FILECACHE_MS {
            text += &format!("{key} = {}\n", usual / OUTAGE_SCALE);
        }
    }
    if mode == Mode::Trigger {
        text += &service.configure(&rack.state())?;
    }
    fs::write(&path, text)?;
    rack.serve()?;
    Ok(Some(written))
}

/// The scans, and beside them the trouble.
fn drive(
    run: &Run,
    runtime: &Runtime,
    service: WebService,
    rack: &mut Rack,
    shared: &Arc<Shared>,
) -> Result<trouble::Made> {
    let (callers, names) = {
        let slots = rack.slots().iter().enumerate();
        let callers: Vec<(BuilderNo, Caller)> = slots
            .clone()
            .map(|(number, slot)| {
                let mut slot = slot.clone();
                if let Some(Network { master, .. }) = run.network {
                    slot.url = slot.url.replace("127.0.0.1", &master.to_string());
                }
                Ok((BuilderNo(number), Caller::new(rack, &slot, run.mode)?))
            })
            .collect::<Result<_>>()?;
        let names = slots.map(|(number, slot)| (slot.name.clone(), BuilderNo(number)));
        (callers, names.collect())
    };
    let limit = CYCLE_LIMIT * u32::try_from(run.cycles)?;
    let here = run
        .network
        .map_or(Ipv4Addr::LOCALHOST.into(), |network| network.launchpad);
    let mut inputs = {
        let _runtime = runtime.enter();
        Inputs::new(here)?
    };
    let planned = match (run.network, run.trouble) {
        (None, Trouble::None | Trouble::Kills(_) | Trouble::Deaths(_) | Trouble::SlowLink) => {
            jobs(run.cycles, run.mode, run.chroot_bytes, &mut inputs)?
        }
        (Some(_), _) | (None, Trouble::Outage(_)) => {
            builds(run.cycles, run.mode, run.chroot_bytes, &mut inputs)?
        }
    };
    shared.lock().plan(planned);
    let scans = async {
        let outage = match run.trouble {
            Trouble::Outage(outage) => outage,
            _ => Duration::ZERO,
        };
        let _inputs = inputs.serve(outage);
        let _service = service.serve(Arc::clone(shared), names);
        let mut tasks = JoinSet::new();
        for (builder, caller) in callers {
            let shared = Arc::clone(shared);
            let scanner = Scanner {
                builder,
                caller,
                shared,
            };
            tasks.spawn(scanner.run());
        }
        if timeout(limit, tasks.join_all()).await.is_err() {
            bail!("not over within {limit:?}\n{}", shared.lock().told());
        }
        Ok(())
    };
    if matches!(
        run.trouble,
        Trouble::None | Trouble::Outage(_) | Trouble::SlowLink
    ) {
        runtime.block_on(scans)?;
        return Ok(trouble::Made::default());
    }
    std::thread::scope(|scope| {
        let troubled =
            scope.spawn(|| trouble::make(run.trouble, run.seed, rack, shared, run.cycles));
        let scanned = runtime.block_on(scans);
        let made = troubled.join();
        scanned?;
        let made = made.unwrap_or_else(|_| bail!("the thread that makes trouble broke"))?;
        ensure!(made.is_any(), "the run was over before there was trouble");
        Ok(made)
    })
}

/// Every build that was handed over ran on a boot that had no other, and whose chain is whole, by the daemon's own
/// evidence; how many boots there were.
fn one_boot_one_build(rack: &Rack, run: &Run, history: &History) -> Result<usize> {
    let mut ids = BTreeSet::new();
    for (number, slot) in rack.slots().iter().enumerate() {
        let ask = ["boots", &slot.name, "--json", "--limit", MOST_BOOTS];
        let boots = json_items(&run_ok(&mut rack.control(&ask)?)?)?;
        let mut builds = 0;
        for boot in &boots {
            let id = boot["id"].as_str().context("a boot without an id")?;
            ensure!(ids.insert(id.to_owned()), "boot {id} came twice");
            let attempts = boot["attempts"].as_array().context("a boot's attempts")?;
            ensure!(attempts.len() <= 1, "boot {id} ran {attempts:?}");
            let steps = boot["steps"].as_array().context("a boot's steps")?;
            let whole = steps.iter().all(|step| step["error"].is_null())
                && steps.iter().any(|step| step["grade"].is_string());
            ensure!(
                attempts.is_empty() || whole,
                "boot {id} ran {attempts:?}, and its chain is {steps:#?}"
            );
            builds += attempts.len();
        }
        let dispatched = history.manager.reports().iter().filter(|report| {
            report.builder == BuilderNo(number) && report.what == What::Dispatched
        });
        let dispatched = dispatched.count();
        // A build whose answer was lost with the daemon, or that moved to a new boot, has one more.
        let as_many = match run.trouble {
            Trouble::None => builds == dispatched,
            Trouble::Kills(_) | Trouble::Deaths(_) | Trouble::Outage(_) | Trouble::SlowLink => {
                builds >= dispatched
            }
        };
        ensure!(
            as_many,
            "{} was given {dispatched} builds and {builds} boots had one",
            slot.name
        );
    }
    Ok(ids.len())
}

/// The end of a log, for an error.
fn end_of(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
