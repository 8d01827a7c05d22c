//! Clients of other makes drive whole builds: Python's own, and Twisted's as Launchpad's manager uses it.

use anyhow::{Context, Result};
use panda_tests::manager::{self, Make};
use panda_tests::rack::Rack;
use panda_tests::source::{arch, executor, hello};

/// One build by a client of that make, and its `.deb`.
fn drives_a_whole_build(make: Make) -> Result<()> {
    if let Err(reason) = manager::available(make) {
        println!("skipped: {reason}");
        return Ok(());
    }
    let rack = Rack::start(1, &executor("hello.sh", &[]))?;
    let source = hello(&rack.scratch("source")?)?;
    let output = rack.scratch("results")?;
    let report = manager::build(make, &rack.slots()[0].url, &source, &output, &[])
        .with_context(|| rack.log())?;
    assert_eq!(report["build_status"], "BuildStatus.OK");
    let deb = format!("panda-hello_1.0_{}.deb", arch()?);
    assert!(output.join(&deb).is_file(), "no {deb}");
    let log = std::fs::read_to_string(output.join("buildlog"))?;
    assert!(
        log.contains(&format!("built {deb}")),
        "the log is not the build's: {log}"
    );
    rack.stop()
}

#[test]
fn pythons_own_client_drives_a_whole_build() -> Result<()> {
    drives_a_whole_build(Make::Xmlrpc)
}

#[test]
fn twisteds_client_drives_a_whole_build_over_http_1_0_without_a_port_in_host() -> Result<()> {
    drives_a_whole_build(Make::Twisted)
}

#[test]
fn a_build_that_resists_is_aborted_for_either_client() -> Result<()> {
    let stubborn = "(setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' </dev/null >/dev/null 2>&1 &); \
                    echo resisting; trap '' TERM; while :; do sleep 1; done";
    for make in [Make::Xmlrpc, Make::Twisted] {
        if let Err(reason) = manager::available(make) {
            println!("skipped: {reason}");
            continue;
        }
        let rack = Rack::start(1, stubborn)?;
        let source = hello(&rack.scratch("source")?)?;
        let report = manager::build(
            make,
            &rack.slots()[0].url,
            &source,
            &rack.scratch("results")?,
            &["--abort-at", "resisting"],
        )
        .with_context(|| rack.log())?;
        assert_eq!(report["build_status"], "BuildStatus.ABORTED");
        // It checks that nothing of the build is left.
        rack.stop()?;
    }
    Ok(())
}
