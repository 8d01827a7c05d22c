//! How soon a builder is ready again: power is cut when the results are in, not when Launchpad asks. Measured on a
//! rack that does the one (eager) and on one that does the other (`slot_task.eager_reset = false`), by the same
//! manager, with reset protocol 1.1. `scripts/turnaround` prints it; nothing here asserts a time.
//!
//! ```text
//!   worker's last poll: finished ── collect ── [eager: cut ─ boot ─ proof] ── ready
//!        t = 0                        └ manager's scan ─ fetch ─ next scan ─ reset command [else: cut ─ boot ─ proof]
//!                                                                                              └ ready ─ clean
//! ```
//!
//! *Ready* is the first moment at which the manager's next step would be served: eager, its reset command would then
//! return at once; else it is what that command waits for. *Clean* is when this manager believes its builder to be
//! clean, and may dispatch: what its users notice, its own pauses included.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use panda_tests::manager_model::{BuilderNo, Mode, Report, What};

use crate::run::{Ran, Resets, Run, ran};
use crate::trouble::Trouble;

/// Slots of the measured rack; few, so that boards do not wait for each other's share of this machine.
const SLOTS: usize = 4;
/// Builds of a measurement.
const BUILDS: usize = 16;
const DAY: f64 = 86_400.0;

/// From the last poll, in seconds.
#[derive(Debug, Clone, Copy)]
struct Turnaround {
    ready: f64,
    clean: f64,
}

pub(crate) fn measure() -> Result<()> {
    println!(
        "{:28}{:22}{:12}{:>7}{:>18}{:>18}",
        "board", "manager", "power goes", "builds", "ready, s", "clean, s"
    );
    println!("{:69}{:>18}{:>18}", "", "median (most)", "median (most)");
    for (board, hold) in [
        ("virtual, hold of 0.2 s", Duration::from_millis(200)),
        ("at a board's pace, 20 s", Duration::from_secs(20)),
    ] {
        for (manager, scan) in [
            ("fast, scans every 1 s", Duration::from_secs(1)),
            ("real, every 15 s", Duration::from_secs(15)),
        ] {
            let mut medians = Vec::new();
            for (how, eager) in [("on request", false), ("eagerly", true)] {
                let turnarounds = turnarounds(hold, scan, eager)?;
                let ready = Spread::of(turnarounds.iter().map(|turnaround| turnaround.ready));
                let clean = Spread::of(turnarounds.iter().map(|turnaround| turnaround.clean));
                println!(
                    "{board:28}{manager:22}{how:12}{:>7}{:>18}{:>18}",
                    turnarounds.len(),
                    ready.told(),
                    clean.told()
                );
                medians.push((ready.median, clean.median));
            }
            if let [(ready, clean), (eager_ready, eager_clean)] = medians[..] {
                println!(
                    "{board:28}{manager:22}{:12}{:>7}{:>18}{:>18}",
                    "ratio",
                    "",
                    format!("{:.2}", eager_ready / ready),
                    format!("{:.2}", eager_clean / clean)
                );
            }
        }
    }
    Ok(())
}

fn turnarounds(hold: Duration, scan: Duration, eager: bool) -> Result<Vec<Turnaround>> {
    let ran = ran(&Run {
        mode: Mode::Command,
        rack: Mode::Command,
        slots: SLOTS,
        cycles: BUILDS,
        scan,
        trouble: Trouble::None,
        seed: 1,
        resets: Some(Resets { hold, eager }),
        network: None,
        chroot_bytes: 0,
    })?;
    let boards = boards(&ran.log)?;
    let mut turnarounds = Vec::new();
    for number in 0..SLOTS {
        let slot = format!("panda{:02}", number + 1);
        let own: Vec<&Moved> = boards.iter().filter(|moved| moved.slot == slot).collect();
        for (index, finished) in own.iter().enumerate() {
            if finished.board != "collecting" {
                continue;
            }
            let fresh = own[index..].iter().find(|moved| moved.board == "fresh");
            let clean = cleaned(&ran, BuilderNo(number), finished.at);
            // The last build of a slot may have no scan after it.
            let (Some(fresh), Some(clean)) = (fresh, clean) else {
                continue;
            };
            turnarounds.push(Turnaround {
                ready: since(finished.at, fresh.at),
                clean,
            });
        }
    }
    ensure!(!turnarounds.is_empty(), "no build was followed by a reset");
    Ok(turnarounds)
}

/// How long after `finished` the manager took its builder for clean.
fn cleaned(ran: &Ran, builder: BuilderNo, finished: f64) -> Option<f64> {
    let at = |report: &Report| since(finished, (ran.begun + report.at).as_secs_f64() % DAY);
    let own = ran.reports.iter().filter(|report| {
        report.builder == builder && report.what == What::Cleaned && at(report) < DAY / 2.0
    });
    own.map(at).min_by(f64::total_cmp)
}

/// A board that has moved on to another state.
#[derive(Debug)]
struct Moved {
    slot: String,
    board: String,
    /// The second of the day, in UTC.
    at: f64,
}

/// As the daemon logs it: `2026-01-02T03:04:05.678901Z  INFO …: slot=panda01 boot=2 board="fresh"`.
fn boards(log: &str) -> Result<Vec<Moved>> {
    let mut found = Vec::new();
    for line in log.lines() {
        let word = |key: &str| {
            let value = line.split(' ').find_map(|word| word.strip_prefix(key))?;
            Some(value.trim_matches('"').to_owned())
        };
        let (Some(slot), Some(board)) = (word("slot="), word("board=")) else {
            continue;
        };
        let at = clock(line).with_context(|| format!("no time in {line:?}"))?;
        found.push(Moved { slot, board, at });
    }
    Ok(found)
}

fn clock(line: &str) -> Option<f64> {
    let (_, time) = line.split_whitespace().next()?.split_once('T')?;
    let mut parts = time.strip_suffix('Z')?.split(':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    Some(next()? * 3600.0 + next()? * 60.0 + next()?)
}

/// Seconds from one second of the day to a later one.
fn since(from: f64, to: f64) -> f64 {
    (to - from).rem_euclid(DAY)
}

struct Spread {
    median: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Self {
            median: values.get(values.len() / 2).copied().unwrap_or_default(),
            most: values.last().copied().unwrap_or_default(),
        }
    }

    fn told(&self) -> String {
        format!("{:.1} ({:.1})", self.median, self.most)
    }
}
