//! An abort is accepted while a build runs, while its results are collected and while they are kept, and always ends
//! as ABORTED, with a log that answers until `clean`: whatever the build, the worker or the board does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::getuid;
use panda_protocol::launchpad::{BuildStatus, Dialect, Status};
use panda_tests::programs::run_ok;
use panda_tests::source::executor;
use tokio::runtime::Runtime;

use crate::builder::{Builder, package_args, serve_input};
use crate::racks::{QUICK, Served};

/// A small disk over a board's own, gone when this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(rack: &Served, slot: &str) -> Result<Self> {
        let path = rack.state().join("twin/boards").join(slot).join("scratch");
        run_ok(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
                .arg(&path),
        )?;
        let disk = Self(path);
        // The machine sees it from its next boot on.
        ensure!(rack.crash_board(slot)?, "no machine runs on {slot}");
        Ok(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A machine that is up has a mount of its own of it.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Aborts, waits for the end, and checks what Launchpad is left with.
async fn abort(builder: &Builder) -> Result<()> {
    builder.client.abort().await?;
    // Accepted again while it goes on, and when it has ended.
    builder.client.abort().await?;
    let (outcome, _) = builder.ended().await?;
    ensure!(outcome.build_status == BuildStatus::Aborted, "{outcome:?}");
    ensure!(outcome.filemap.is_empty(), "{outcome:?}");
    Ok(())
}

#[test]
fn an_abort_ends_as_aborted_whatever_the_build_or_the_board_does() -> Result<()> {
    let input = serve_input()?;
    let runtime = Runtime::new()?;
    let resists = executor("resists.sh", &[]);
    let rack = Served::start(5, &resists, Dialect::Current, QUICK)?;
    let root = getuid().is_root();
    let disk = if root {
        Some(SmallDisk::mount(&rack, "panda03")?)
    } else {
        println!("skipped: the build that fills the disk: it takes root to make a small one");
        None
    };
    for slot in rack.slots() {
        if slot.name == "panda03" && !root {
            continue;
        }
        let builder = Builder::new(slot)?;
        let ended = runtime.block_on(async {
            builder
                .dispatch(&input, "binarypackage", package_args())
                .await?;
            if slot.name == "panda05" {
                // It has ended, and its results are kept.
                let (outcome, _) = builder.ended().await?;
                ensure!(
                    outcome.build_status == BuildStatus::PackageFail,
                    "{outcome:?}"
                );
            } else {
                builder.logged("resists\n").await?;
            }
            if slot.name == "panda04" {
                ensure!(rack.crash_board(&slot.name)?, "no machine runs");
            }
            abort(&builder).await?;
            let log = builder.log().await?;
            ensure!(log.contains("begins\n"), "the log: {log:?}");
            builder.clean().await
        });
        ended.with_context(|| format!("{}:\n{}", slot.name, rack.log()))?;
    }
    drop(disk);
    // It checks that nothing of the builds is left.
    rack.stop()
}

#[test]
fn an_abort_ends_as_aborted_whatever_the_worker_does() -> Result<()> {
    const MODES: [&str; 5] = ["slow", "deaf", "wedges", "stalls", "honest"];
    let input = serve_input()?;
    let runtime = Runtime::new()?;
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let rack = Served::start_foreign(MODES.len(), dialect, QUICK)?;
        for (slot, mode) in rack.slots().iter().zip(MODES) {
            rack.tell(&slot.name, mode)?;
            let builder = Builder::new(slot)?;
            let ended = runtime.block_on(async {
                builder.dispatch(&input, "snap", BTreeMap::new()).await?;
                let building = |status: &Status| matches!(status, Status::Building { .. });
                match mode {
                    // Its results are kept.
                    "honest" => drop(builder.ended().await?),
                    // Its results do not come: they are being collected.
                    "stalls" => rack.until_told(&slot.name, "stalled").await?,
                    "wedges" => {
                        let look = |status: &Status| building(status).then_some(());
                        builder
                            .until("building", |report| look(&report.status))
                            .await?;
                    }
                    _ => builder.logged("goes on\n").await?,
                }
                abort(&builder).await?;
                let log = builder.log().await?;
                ensure!(log.is_empty() == (mode == "wedges"), "the log: {log:?}");
                builder.clean().await
            });
            ended.with_context(|| format!("{dialect:?}, {mode}:\n{}", rack.log()))?;
        }
        rack.stop()?;
    }
    Ok(())
}

#[test]
fn nothing_to_abort_is_a_fault_in_either_dialect() -> Result<()> {
    let runtime = Runtime::new()?;
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let rack = Served::start(1, "true", dialect, "")?;
        let builder = Builder::new(&rack.slots()[0])?;
        runtime.block_on(async {
            let told = Builder::fault(builder.client.abort().await)?;
            ensure!(told == "nothing is building", "{told}");
            let told = Builder::fault(builder.client.clean().await)?;
            ensure!(told == "nothing waits to be cleaned", "{told}");
            builder.idle().await
        })?;
        rack.stop()?;
    }
    Ok(())
}
