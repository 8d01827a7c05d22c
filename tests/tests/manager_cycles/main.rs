//! Many builds in a row by the model of Launchpad's manager, in each of its modes, on a rack of virtual Pandas: the
//! real manager would have counted nothing against any builder or job, every result is right, and every build ran on
//! a board of its own boot. And the same while the daemon is killed again and again, or boards die: then things are
//! counted, and the manager's own rules forgive them.
//!
//! The manager's patience is the real one's; only its scans come a hundred times as often. `scripts/soak` runs the
//! same for longer, `scripts/turnaround` measures how soon a builder is ready again, and `scripts/shaped-link`
//! how long twenty cold slots take on a slow link.

mod caller;
mod history;
mod inputs;
mod plan;
mod run;
mod scanner;
mod shaped;
mod trouble;
mod turnaround;
mod webservice;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use panda_tests::manager_model::Mode;

use run::{Run, run};
use trouble::Trouble;

/// What every run of the tests has.
fn usual(mode: Mode) -> Run {
    Run {
        mode,
        rack: mode,
        slots: 3,
        cycles: 24,
        scan: Duration::from_millis(150),
        trouble: Trouble::None,
        seed: 1,
        resets: None,
        network: None,
        chroot_bytes: 0,
    }
}

#[test]
fn todays_manager_counts_nothing_where_a_command_resets_1_1() -> Result<()> {
    run(&usual(Mode::Command))
}

#[test]
fn todays_manager_counts_nothing_where_the_web_service_is_told_2_0() -> Result<()> {
    run(&usual(Mode::Trigger))
}

#[test]
fn todays_manager_forgives_a_daemon_that_is_killed_again_and_again() -> Result<()> {
    run(&Run {
        trouble: Trouble::Kills(8),
        cycles: 16,
        scan: Duration::from_secs(1),
        ..usual(Mode::Command)
    })
}

#[test]
fn todays_manager_forgives_boards_that_die() -> Result<()> {
    run(&Run {
        trouble: Trouble::Deaths(6),
        cycles: 12,
        scan: Duration::from_secs(1),
        ..usual(Mode::Plain)
    })
}

/// Twelve minutes of it, at the times that a rack has by default: more builders than builds, so that some are idle
/// all the while.
#[test]
fn todays_manager_disables_no_builder_while_the_server_of_inputs_is_away() -> Result<()> {
    run(&Run {
        trouble: Trouble::Outage(Duration::from_secs(720) / run::OUTAGE_SCALE),
        slots: 5,
        cycles: 3,
        scan: Duration::from_secs(15) / run::OUTAGE_SCALE,
        ..usual(Mode::Command)
    })
}

#[test]
fn todays_manager_counts_nothing_where_clean_and_abort_carry_the_cycle() -> Result<()> {
    run(&usual(Mode::Plain))
}

#[test]
fn the_manager_of_2011_counts_nothing_with_virtualised_builders() -> Result<()> {
    run(&usual(Mode::Virtual2011))
}

#[test]
fn the_manager_of_2011_counts_nothing_with_builders_that_are_not_virtualised() -> Result<()> {
    run(&usual(Mode::Plain2011))
}

#[test]
fn a_rack_that_speaks_to_another_era_is_found_out() -> Result<()> {
    for (mode, rack) in [
        (Mode::Virtual2011, Mode::Command),
        (Mode::Plain, Mode::Plain2011),
    ] {
        let wrong = Run {
            rack,
            slots: 1,
            cycles: 1,
            ..usual(mode)
        };
        let told = match run(&wrong) {
            Ok(()) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        ensure!(
            told.contains("Disabled(Call(\"status\", Malformed))"),
            "{mode:?} on a rack for {rack:?}: {told:?}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "as long as one likes: scripts/soak runs it"]
fn soak() -> Result<()> {
    let wanted = std::env::var("PANDA_MODE").unwrap_or_else(|_| "command".to_owned());
    let (_, mode) = MODES
        .iter()
        .find(|(name, _)| *name == wanted)
        .with_context(|| {
            format!(
                "PANDA_MODE={wanted:?}: expected one of {:?}",
                MODES.map(|m| m.0)
            )
        })?;
    let count = |name| number(name, 0).and_then(|count| Ok(usize::try_from(count)?));
    let trouble = match (count("PANDA_KILLS")?, count("PANDA_DEATHS")?) {
        (0, 0) => Trouble::None,
        (kills, 0) => Trouble::Kills(kills),
        (0, deaths) => Trouble::Deaths(deaths),
        _ => bail!("PANDA_KILLS or PANDA_DEATHS, not both: what was counted has to have one cause"),
    };
    run(&Run {
        mode: *mode,
        rack: *mode,
        slots: usize::try_from(number("PANDA_SLOTS", 3)?)?,
        cycles: usize::try_from(number("PANDA_CYCLES", 200)?)?,
        scan: Duration::from_millis(number("PANDA_SCAN_MS", 150)?),
        trouble,
        seed: number("PANDA_SEED", 1)?,
        ..usual(*mode)
    })
}

#[test]
#[ignore = "minutes, and network namespaces: scripts/shaped-link makes them and runs it"]
fn twenty_cold_slots_on_a_shaped_link() -> Result<()> {
    shaped::measure(
        usize::try_from(number("PANDA_SLOTS", 20)?)?,
        usize::try_from(number("PANDA_CHROOT_MB", 150)?)?,
    )
}

#[test]
#[ignore = "minutes of waiting, and it prints figures: scripts/turnaround runs it"]
fn turnaround() -> Result<()> {
    turnaround::measure()
}

/// A number of the environment.
fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name}={text:?}: expected a number")),
        Err(_) => Ok(default),
    }
}

/// The modes by their names in `PANDA_MODE`.
const MODES: [(&str, Mode); 5] = [
    ("command", Mode::Command),
    ("trigger", Mode::Trigger),
    ("plain", Mode::Plain),
    ("2011-virtual", Mode::Virtual2011),
    ("2011-plain", Mode::Plain2011),
];
