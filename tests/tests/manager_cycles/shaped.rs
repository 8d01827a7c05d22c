//! Twenty cold slots behind one slow link: every board boots at once, and every build is given a chroot of the size that
//! chroots have. Protocol 1.1; no builder may be disabled, and the budget's prediction is shown beside what was
//! measured. `scripts/shaped-link` makes the network and runs it.
//!
//! ```text
//!  Launchpad (this program): manager, librarian ──┐
//!                                                 switch ──[100 Mb/s each way]── master: daemon
//!  boards (panda-twin, agents) ───────────────────┘
//! ```
//!
//! All that the master sends or takes (inputs in, inputs out, proofs, polls, Launchpad's calls) shares its one port, as on
//! a rack whose master is a Panda. Boards have no links of their own here: each would be as fast as the master's, and
//! they never speak to each other, so the port that they share is the narrowest place of every path.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use panda_tests::manager_model::{Mode, Report, What};
use serde_json::Value;

use crate::run::{Network, Ran, Run, ran};
use crate::trouble::Trouble;

const NETWORK: Network = Network {
    namespaces: ("panda-master", "panda-boards"),
    master: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)),
    boards: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)),
    launchpad: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 3)),
};

pub(crate) fn measure(slots: usize, chroot_mb: usize) -> Result<()> {
    let ran = ran(&Run {
        mode: Mode::Command,
        rack: Mode::Command,
        slots,
        cycles: slots,
        scan: Duration::from_secs(1),
        trouble: Trouble::SlowLink,
        seed: 1,
        resets: None,
        network: Some(NETWORK),
        chroot_bytes: chroot_mb * 1_000_000,
    })?;
    println!("{}", ran.told);
    let budget = ran.budget.as_ref().context("no budget")?;
    let ms = |place: &str| budget.pointer(place).and_then(Value::as_u64);
    let seconds = |place: &str| -> Result<f64> {
        let ms = ms(place).with_context(|| format!("no {place} in {budget}"))?;
        Ok(Duration::from_millis(ms).as_secs_f64())
    };
    let first = |is: fn(&What) -> bool| times(&ran, is).min_by(f64::total_cmp);
    let last = |is: fn(&What) -> bool| times(&ran, is).max_by(f64::total_cmp);
    let cleaned = |what: &What| matches!(what, What::Cleaned);
    let dispatched = |what: &What| matches!(what, What::Dispatched);
    let collected = |what: &What| matches!(what, What::Collected(..));
    let begun = first(cleaned).context("no slot was clean")?;
    // From the first dispatch on, later resets are cleaned too.
    let handed_over = last(dispatched).context("nothing was dispatched")?;
    let over = last(collected).context("nothing was built")?;
    let earliest = first(collected).unwrap_or(over);
    println!("{:52}{:>12}{:>12}", "", "budget, s", "measured, s");
    let line = |what: &str, budget: f64, measured: f64| {
        println!("{what:52}{budget:>12.1}{measured:>12.1}");
    };
    println!(
        "{:52}{:>12}{begun:>12.1}",
        "first slot booted and clean by the reset command", ""
    );
    line(
        "first slot clean to last build dispatched (inputs in)",
        seconds("/budget/inputs/in_ms")?,
        handed_over - begun,
    );
    line(
        "last dispatched to last collected (inputs out)",
        seconds("/budget/inputs/all_ms")?,
        over - handed_over,
    );
    println!(
        "{:52}{:>12}{:>12.1}",
        "  (the first of them was collected after)",
        "",
        earliest - handed_over
    );
    line(
        "both",
        seconds("/budget/inputs/in_ms")? + seconds("/budget/inputs/all_ms")?,
        over - begun,
    );
    Ok(())
}

fn times(ran: &Ran, is: fn(&What) -> bool) -> impl Iterator<Item = f64> {
    let seconds = |report: &Report| report.at.as_secs_f64();
    let of_interest = ran.reports.iter().filter(move |report| is(&report.what));
    of_interest.map(seconds)
}
