//! `kill -9` of the daemon, and what the next one makes of the ledger and of the boards that went on.

use std::fs;

use anyhow::{Context, Result, ensure};
use panda_tests::manager::{self, Make};
use panda_tests::programs::run_ok;
use panda_tests::rack::Rack;
use panda_tests::source::{arch, executor, hello};

#[test]
fn a_build_that_runs_while_the_daemon_is_killed_is_rejoined_and_ends_well() -> Result<()> {
    let gate = tempfile::TempDir::with_prefix_in("gate-", "/tmp")?;
    let open = gate.path().join("open");
    let mut rack = Rack::start(
        1,
        &executor("slow.sh", &[format!("PANDA_TEST_GATE={}", open.display())]),
    )?;
    let source = hello(&rack.scratch("source")?)?;
    let slot = rack.slots()[0].clone();
    let output = rack.scratch("results")?;
    manager::build(
        Make::Xmlrpc,
        &slot.url,
        &source,
        &output,
        &["--stop-at", "slow build has begun"],
    )
    .with_context(|| rack.log())?;
    let before = rack.boots(&slot.name)?;

    rack.kill()?;
    rack.twin()?;
    fs::write(&open, b"")?;
    let report = manager::build(
        Make::Xmlrpc,
        &slot.url,
        &source,
        &output,
        &["--follow", "--keep"],
    )
    .with_context(|| rack.log())?;

    assert_eq!(report["build_status"], "BuildStatus.OK");
    let log = fs::read_to_string(output.join("buildlog"))?;
    for line in [
        "slow build has begun",
        "slow build goes on",
        "built panda-hello",
    ] {
        assert_eq!(
            log.matches(line).count(),
            1,
            "{line:?} must be in the log once:\n{log}"
        );
    }
    let after = rack.boots(&slot.name)?;
    ensure!(
        before
            .iter()
            .all(|boot| after.iter().any(|other| other["id"] == boot["id"])),
        "the ledger lost a boot"
    );
    rack.stop()
}

#[test]
fn a_boot_under_way_while_the_daemon_is_killed_is_done_anew() -> Result<()> {
    let mut rack = Rack::start(1, &executor("hello.sh", &[]))?;
    let slot = rack.slots()[0].clone();
    rack.wait_fresh()?;
    run_ok(&mut rack.control(&["reset", &slot.name, "--no-wait"])?)?;
    rack.kill()?;
    rack.twin()?;
    rack.wait_fresh()?;
    let source = hello(&rack.scratch("source")?)?;
    let report = manager::build(
        Make::Xmlrpc,
        &slot.url,
        &source,
        &rack.scratch("results")?,
        &[],
    )
    .with_context(|| rack.log())?;
    assert_eq!(report["build_status"], "BuildStatus.OK");
    rack.stop()
}

#[test]
fn results_that_were_kept_are_kept_by_the_next_daemon_until_they_are_cleaned() -> Result<()> {
    let mut rack = Rack::start(1, &executor("hello.sh", &[]))?;
    let source = hello(&rack.scratch("source")?)?;
    let slot = rack.slots()[0].clone();
    let first = rack.scratch("first")?;
    manager::build(Make::Xmlrpc, &slot.url, &source, &first, &["--keep"])
        .with_context(|| rack.log())?;

    rack.kill()?;
    rack.serve()?;
    let second = rack.scratch("second")?;
    let report = manager::build(Make::Xmlrpc, &slot.url, &source, &second, &["--follow"])
        .with_context(|| rack.log())?;

    assert_eq!(report["build_status"], "BuildStatus.OK");
    let deb = format!("panda-hello_1.0_{}.deb", arch()?);
    for name in [deb.as_str(), "buildlog"] {
        assert_eq!(
            fs::read(first.join(name))?,
            fs::read(second.join(name))?,
            "{name} changed"
        );
    }
    // The boards belong to `twin`: it takes them down.
    rack.kill()?;
    rack.twin()?;
    rack.stop()
}
