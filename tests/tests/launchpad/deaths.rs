//! Boards that die. Before the worker has taken the build, Launchpad sees nothing of it: the build moves to a new
//! boot. After, the build ends with the dialect's board failure, all the log that had arrived, and its own cookie.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use panda_protocol::launchpad::{BuildStatus, Dialect, Status};
use tokio::runtime::Runtime;

use crate::builder::{Builder, build_id, package_args, serve_input};
use crate::racks::{QUICK, Served};

/// How a board dies.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// Its power is gone.
    Cut,
    /// It has power and does nothing any more.
    Crash,
}

const DEATHS: [Death; 2] = [Death::Cut, Death::Crash];

fn kill(rack: &Served, slot: &str, death: Death) -> Result<()> {
    match death {
        Death::Cut => rack.cut_board(slot),
        Death::Crash => {
            ensure!(rack.crash_board(slot)?, "no machine runs on {slot}");
            Ok(())
        }
    }
}

const fn board_failure(dialect: Dialect) -> BuildStatus {
    match dialect {
        Dialect::Current => BuildStatus::BuilderFail,
        Dialect::Y2011 => BuildStatus::GivenBack,
    }
}

#[test]
fn a_board_that_dies_before_the_worker_has_the_build_is_nothing_that_launchpad_sees() -> Result<()>
{
    let input = serve_input()?;
    let runtime = Runtime::new()?;
    for dialect in [Dialect::Current, Dialect::Y2011] {
        // The worker takes its time with `build`; the board is what dies.
        let tables = "\n[guest]\npoll_ms = 200\ncall_ms = 60000\n";
        let rack = Served::start_foreign(DEATHS.len(), dialect, tables)?;
        for (slot, death) in rack.slots().iter().zip(DEATHS) {
            rack.tell(&slot.name, "hangs-at-build")?;
            let builder = Builder::new(slot)?;
            runtime.block_on(builder.dispatch(&input, "snap", BTreeMap::new()))?;
            runtime.block_on(rack.until_told(&slot.name, "hung"))?;
            let before = rack.boots(&slot.name)?.len();
            kill(&rack, &slot.name, death)?;
            let id = build_id()?;
            let mut others = Vec::new();
            let outcome = runtime.block_on(builder.until("ended", |report| match &report.status {
                Status::Building { build_id, .. } if *build_id == id => None,
                Status::Waiting { build_id, outcome } if *build_id == id => Some(outcome.clone()),
                other => {
                    others.push(other.clone());
                    None
                }
            }));
            let outcome = outcome.with_context(|| format!("{death:?}:\n{}", rack.log()))?;
            ensure!(others.is_empty(), "{death:?}: Launchpad saw {others:?}");
            ensure!(
                outcome.build_status == BuildStatus::Ok,
                "{death:?}: {outcome:?}"
            );
            runtime.block_on(builder.clean())?;
            // Its own, and the one that gave the slot back.
            let boots = rack.boots(&slot.name)?.len();
            ensure!(
                boots == before + 2,
                "{death:?}: {before} boots, then {boots}"
            );
        }
        rack.stop()?;
    }
    Ok(())
}

#[test]
fn a_board_that_dies_with_its_build_leaves_the_log_the_cookie_and_the_dialects_word() -> Result<()>
{
    let input = serve_input()?;
    let runtime = Runtime::new()?;
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let executor = "echo first line; echo last line; while :; do sleep 1; done";
        let rack = Served::start(DEATHS.len(), executor, dialect, QUICK)?;
        for (slot, death) in rack.slots().iter().zip(DEATHS) {
            let builder = Builder::new(slot)?;
            let ended = runtime.block_on(async {
                builder
                    .dispatch(&input, "binarypackage", package_args())
                    .await?;
                builder.logged("last line\n").await?;
                kill(&rack, &slot.name, death)?;
                let (outcome, _) = builder.ended().await?;
                ensure!(
                    outcome.build_status == board_failure(dialect),
                    "{outcome:?}"
                );
                ensure!(outcome.filemap.is_empty(), "{outcome:?}");
                let log = builder.log().await?;
                ensure!(log.contains("first line\nlast line\n"), "the log: {log:?}");
                builder.clean().await
            });
            ended.with_context(|| format!("{dialect:?}, {death:?}:\n{}", rack.log()))?;
        }
        rack.stop()?;
    }
    Ok(())
}
