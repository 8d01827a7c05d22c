//! Whole builds on a virtual rack, submitted by the project's own command: one boot, one build.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use panda_tests::programs::{pandabuildd, run, run_ok};
use panda_tests::rack::Rack;
use panda_tests::source::{Source, arch, executor, hello};
use serde_json::Value;

/// `pandabuildd submit` of a source, with the options that every test gives.
fn submit(url: &str, source: &Source, output: &Path) -> Result<Command> {
    let mut command = pandabuildd()?;
    command
        .arg("submit")
        .arg(&source.dsc)
        .args(["--builder", url, "--suite", "bookworm", "--arch", &arch()?])
        .arg("--chroot")
        .arg(&source.chroot)
        .arg("--output")
        .arg(output);
    Ok(command)
}

/// The distinct ids of a slot's boots.
fn boot_ids(boots: &[Value]) -> Result<Vec<String>> {
    boots
        .iter()
        .map(|boot| {
            Ok(boot["id"]
                .as_str()
                .context("a boot without an id")?
                .to_owned())
        })
        .collect()
}

#[test]
fn two_builds_on_one_slot_have_a_boot_each_and_leave_nothing() -> Result<()> {
    let rack = Rack::start(1, &executor("hello.sh", &[]))?;
    let source = hello(&rack.scratch("source")?)?;
    let slot = rack.slots()[0].clone();
    rack.wait_fresh()?;
    let before = boot_ids(&rack.boots(&slot.name)?)?;

    for round in ["first", "second"] {
        let output = rack.scratch(round)?;
        run_ok(&mut submit(&slot.url, &source, &output)?).with_context(|| rack.log())?;
        let deb = output.join(format!("panda-hello_1.0_{}.deb", arch()?));
        let information = run_ok(Command::new("dpkg-deb").arg("--info").arg(&deb))?;
        ensure!(
            information.contains("Package: panda-hello"),
            "not our package: {information}"
        );
        rack.wait_fresh()?;
    }

    let after = boot_ids(&rack.boots(&slot.name)?)?;
    let mut distinct = after.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), after.len(), "a boot's id came back");
    assert_eq!(
        after.len(),
        before.len() + 2,
        "two builds are two more boots"
    );
    rack.stop()
}

#[test]
fn slots_are_told_apart_by_host_name_and_build_side_by_side() -> Result<()> {
    let rack = Rack::start(2, &executor("hello.sh", &[]))?;
    let source = hello(&rack.scratch("source")?)?;
    rack.wait_fresh()?;
    let outputs = [rack.scratch("one")?, rack.scratch("two")?];
    let builds = rack
        .slots()
        .iter()
        .zip(&outputs)
        .map(|(slot, output)| Ok(submit(&slot.url, &source, output)?.spawn()?))
        .collect::<Result<Vec<_>>>()?;
    for mut build in builds {
        ensure!(build.wait()?.success(), "a build failed:\n{}", rack.log());
    }
    rack.wait_fresh()?;
    for slot in rack.slots() {
        ensure!(
            rack.boots(&slot.name)?.len() >= 2,
            "{} was not booted again",
            slot.name
        );
    }
    rack.stop()
}

#[test]
fn a_build_that_fails_is_not_a_success_and_says_packagefail() -> Result<()> {
    let rack = Rack::start(1, "echo it does not compile; exit 2")?;
    let source = hello(&rack.scratch("source")?)?;
    rack.wait_fresh()?;
    let output = run(&mut submit(
        &rack.slots()[0].url,
        &source,
        &rack.scratch("out")?,
    )?)?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        !output.status.success(),
        "exit 0 for a failed build: {said}"
    );
    ensure!(
        said.contains("PACKAGEFAIL"),
        "the outcome is not said: {said}"
    );
    ensure!(
        said.contains("it does not compile"),
        "the log is not shown: {said}"
    );
    rack.stop()
}

#[test]
fn nothing_that_a_build_left_on_the_scratch_disk_reaches_the_next_one() -> Result<()> {
    let rack = Rack::start(1, &executor("marking.sh", &[]))?;
    let source = hello(&rack.scratch("source")?)?;
    for round in ["first", "second"] {
        rack.wait_fresh()?;
        run_ok(&mut submit(
            &rack.slots()[0].url,
            &source,
            &rack.scratch(round)?,
        )?)
        .with_context(|| rack.log())?;
    }
    rack.stop()
}
