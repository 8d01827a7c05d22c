//! A worker that is not ours on every board: builds of types that we know nothing of go through untouched, and what
//! such a worker does wrong ends as it must.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use dxr::Value;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::xml::{Limits, decode_answer, decode_call};
use panda_protocol::launchpad::{BuildStatus, Call, Dialect, Status};
use panda_tests::rack::Slot;
use tokio::runtime::Runtime;

use crate::builder::{Builder, INPUT, LIMIT, build_id, serve_input};
use crate::racks::{OFTEN, QUICK, Served};

/// Members of a struct of every kind that XML-RPC has. The worker's status has them too.
const EVERYTHING: &str = "\
<member><name>revision_id</name><value><string> 1\u{e9}&lt;&amp;\n</string></value></member>\
<member><name>nothing</name><value><nil/></value></member>\
<member><name>int</name><value><i4>-7</i4></value></member>\
<member><name>long</name><value><i8>1099511627776</i8></value></member>\
<member><name>bool</name><value><boolean>1</boolean></value></member>\
<member><name>double</name><value><double>-0.125</double></value></member>\
<member><name>date</name><value><dateTime.iso8601>20110601T12:34:56</dateTime.iso8601></value></member>\
<member><name>binary</name><value><base64>AP8K</base64></value></member>\
<member><name>empty</name><value><struct></struct></value></member>\
<member><name>nested</name><value><array><data><value><struct><member><name>deep</name>\
<value><array><data><value><nil/></value><value><string></string></value></data></array></value>\
</member></struct></value></data></array></value></member>";

/// The same as values.
fn everything() -> Result<BTreeMap<String, Value>> {
    let text = format!(
        "<methodResponse><params><param><value><struct>{EVERYTHING}</struct></value></param></params></methodResponse>"
    );
    match decode_answer(text.as_bytes(), &Limits::default())? {
        Ok(Value::Struct(fields)) => Ok(fields),
        other => bail!("{other:?}"),
    }
}

/// What a worker does in its first build, and how Launchpad hears of it.
const MODES: [(&str, BuildStatus); 20] = [
    ("honest", BuildStatus::Ok),
    ("odd", BuildStatus::Ok),
    ("talks", BuildStatus::Ok),
    ("PACKAGEFAIL", BuildStatus::PackageFail),
    ("DEPFAIL", BuildStatus::DepFail),
    ("CHROOTFAIL", BuildStatus::ChrootFail),
    ("GIVENBACK", BuildStatus::GivenBack),
    // Nobody asked for it.
    ("ABORTED", BuildStatus::BuilderFail),
    ("dies", BuildStatus::BuilderFail),
    ("wedges", BuildStatus::BuilderFail),
    ("another-build", BuildStatus::BuilderFail),
    ("twice", BuildStatus::BuilderFail),
    ("ghost", BuildStatus::BuilderFail),
    ("many", BuildStatus::BuilderFail),
    ("climbs", BuildStatus::BuilderFail),
    ("path", BuildStatus::BuilderFail),
    ("empty", BuildStatus::BuilderFail),
    ("lines", BuildStatus::BuilderFail),
    // Before it has taken the build: Launchpad sees nothing of the first boot.
    ("dies-at-build", BuildStatus::Ok),
    ("refuses", BuildStatus::Ok),
];

#[test]
fn a_worker_that_is_not_ours_builds_what_it_knows_and_harms_nobody() -> Result<()> {
    let rack = Served::start_foreign(MODES.len(), Dialect::Current, QUICK)?;
    fs::write(rack.words().join("extra.xml"), EVERYTHING)?;
    for (slot, (mode, _)) in rack.slots().iter().zip(MODES) {
        rack.tell(&slot.name, mode)?;
    }
    let input = serve_input()?;
    let runtime = Runtime::new()?;
    let builds: Vec<_> = rack
        .slots()
        .iter()
        .zip(MODES)
        .map(|(slot, (mode, status))| {
            let build = build(slot.clone(), mode, status, input.clone());
            runtime.spawn(async move { tokio::time::timeout(LIMIT * 2, build).await })
        })
        .collect();
    for (build, (mode, _)) in builds.into_iter().zip(MODES) {
        runtime
            .block_on(build)?
            .with_context(|| format!("{mode}: not ended in time:\n{}", rack.log()))?
            .with_context(|| format!("{mode}:\n{}", rack.log()))?;
    }
    let log = rack.log();
    ensure!(
        !log.contains("hunter2"),
        "a worker's words are in the log:\n{log}"
    );
    // And each of them is well again.
    for (slot, (mode, _)) in rack.slots().iter().zip(MODES) {
        rack.tell(&slot.name, "honest")?;
        let again = build(slot.clone(), "honest", BuildStatus::Ok, input.clone());
        runtime
            .block_on(async { tokio::time::timeout(LIMIT, again).await })?
            .with_context(|| format!("after {mode}:\n{}", rack.log()))?;
    }
    rack.stop()
}

/// One build, from IDLE to IDLE.
async fn build(slot: Slot, mode: &str, expected: BuildStatus, input: String) -> Result<()> {
    let builder = Builder::new(&slot)?;
    let info = builder.client.info().await?;
    assert_eq!(info.build_types, ["snap", "sourcepackagerecipe"]);
    let mut args = everything()?;
    // Even names that are the protocol's own elsewhere.
    args.insert("build_id".to_owned(), Value::String("x".to_owned()));
    args.insert("filemap".to_owned(), Value::Nil);
    let endpoint = Value::String("http://proxy.example/1?token=t".to_owned());
    let has_proxy = mode == "honest";
    if has_proxy {
        args.insert("revocation_endpoint".to_owned(), endpoint.clone());
        args.insert("use_fetch_service".to_owned(), Value::Boolean(true));
    }
    let build_type = if mode == "odd" {
        "sourcepackagerecipe"
    } else {
        "snap"
    };
    builder.dispatch(&input, build_type, args.clone()).await?;
    let (outcome, report) = builder.ended().await?;
    ensure!(outcome.build_status == expected, "{outcome:?}");
    let log = builder.log().await?;
    ensure!(!log.contains("hunter2"), "the log shows a password: {log}");

    if expected == BuildStatus::Ok {
        // The call, as the worker heard it, is the call as it was made.
        let heard = outcome
            .filemap
            .iter()
            .find(|(name, _)| name.as_str() == "call.xml");
        let (_, sha1) = heard.context("no call.xml")?;
        let document = builder.file(&sha1.to_string()).await?;
        ensure!(Sha1::of(&document) == *sha1, "another file");
        let (method, params) = decode_call(&document, &Limits::default())?;
        let Call::Build(heard) = Call::decode(&method, params)? else {
            bail!("{method}");
        };
        ensure!(heard.args == args, "{:?}\n is not {args:?}", heard.args);
        ensure!((heard.build_type.as_str(), &heard.build_id) == (build_type, &build_id()?));
        let input = builder.file(&Sha1::of(INPUT).to_string()).await?;
        ensure!(input == INPUT, "an input came back as another");
        ensure!(log.ends_with("ends\n"), "{log}");
        let odd = outcome
            .filemap
            .keys()
            .filter(|name| name.as_str() == "...")
            .count();
        ensure!(odd == usize::from(mode == "odd"), "{outcome:?}");
    }
    if expected == BuildStatus::DepFail {
        ensure!(outcome.dependencies == "libfoo-dev (>= 1)", "{outcome:?}");
    }
    match mode {
        // Too much to keep.
        "talks" => ensure!(!report.extra.contains_key("much"), "a megabyte was kept"),
        "honest" | "odd" | "PACKAGEFAIL" | "DEPFAIL" | "CHROOTFAIL" | "GIVENBACK" => {
            ensure!(report.extra == everything()?, "{:?}", report.extra);
        }
        _ => {}
    }
    let proxy = builder.client.proxy_info().await?;
    let expected = has_proxy.then(|| {
        BTreeMap::from([
            ("use_fetch_service".to_owned(), Value::Boolean(true)),
            ("revocation_endpoint".to_owned(), endpoint),
        ])
    });
    ensure!(proxy.map(|proxy| proxy.0) == expected, "another proxy");
    builder.clean().await?;
    ensure!(
        builder.client.proxy_info().await?.is_none(),
        "a proxy without a build"
    );
    ensure!(
        builder.client.status().await?.extra.is_empty(),
        "words without a build"
    );
    Ok(())
}

#[test]
fn words_of_a_running_build_are_passed_on_and_the_2011_dialect_has_no_place_for_them() -> Result<()>
{
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let mut rack = Served::start_foreign(1, dialect, OFTEN)?;
        fs::write(rack.words().join("extra.xml"), EVERYTHING)?;
        let slot = rack.slots()[0].clone();
        rack.tell(&slot.name, "slow")?;
        let input = serve_input()?;
        let runtime = Runtime::new()?;
        let builder = Builder::new(&slot)?;
        runtime.block_on(async {
            let args = BTreeMap::from([("revocation_endpoint".to_owned(), Value::Nil)]);
            builder.dispatch(&input, "snap", args).await?;
            builder.logged("goes on\n").await?;
            builder.proxied().await?;
            match dialect {
                Dialect::Current => {
                    let expected = everything()?;
                    let passed = |extra: &BTreeMap<_, _>| *extra == expected;
                    builder
                        .until("passed on", |report| passed(&report.extra).then_some(()))
                        .await
                }
                Dialect::Y2011 => {
                    let extra = builder.client.status().await?.extra;
                    ensure!(extra.is_empty(), "{extra:?}");
                    Ok(())
                }
            }
        })?;
        // A daemon that is killed has lost none of it, and the build is still the worker's.
        rack.restart()?;
        runtime.block_on(async {
            builder.logged("goes on\n").await?;
            if dialect == Dialect::Current {
                ensure!(
                    builder.client.status().await?.extra == everything()?,
                    "words are lost"
                );
            }
            ensure!(
                builder.client.proxy_info().await?.is_some(),
                "the proxy is lost"
            );
            builder.client.abort().await?;
            let (outcome, _) = builder.ended().await?;
            ensure!(outcome.build_status == BuildStatus::Aborted, "{outcome:?}");
            ensure!(builder.log().await?.ends_with("aborted\n"), "no last words");
            builder.clean().await
        })?;
        rack.stop()?;
    }
    Ok(())
}

#[test]
fn a_worker_that_has_ended_is_not_waited_for() -> Result<()> {
    // A silent board would be borne for an hour.
    let tables = "\n[guest]\npoll_ms = 200\nfollow_silent_ms = 3600000\n";
    let rack = Served::start_foreign(1, Dialect::Current, tables)?;
    let slot = rack.slots()[0].clone();
    rack.tell(&slot.name, "dies")?;
    let builder = Builder::new(&slot)?;
    let input = serve_input()?;
    let tested = Runtime::new()?.block_on(async {
        builder.dispatch(&input, "snap", BTreeMap::new()).await?;
        let (outcome, _) = builder.ended().await?;
        ensure!(
            outcome.build_status == BuildStatus::BuilderFail,
            "{outcome:?}"
        );
        builder.clean().await
    });
    tested.with_context(|| rack.log())?;
    rack.stop()
}

#[test]
fn a_worker_that_is_not_what_the_image_says_never_proves_a_boot() -> Result<()> {
    let rack = Served::start_foreign(1, Dialect::Current, QUICK)?;
    let slot = rack.slots()[0].clone();
    fs::write(rack.words().join("arch"), "m68k")?;
    let runtime = Runtime::new()?;
    let builder = Builder::new(&slot)?;
    // The board is lost, and every boot after it; the console says why.
    ensure!(rack.crash_board(&slot.name)?, "no machine runs");
    let console = rack.state().join("slots").join(&slot.name).join("console");
    let said = || -> Result<bool> {
        for entry in fs::read_dir(&console)? {
            let text = fs::read(entry?.path()).unwrap_or_default();
            if String::from_utf8_lossy(&text).contains("it is for m68k, and the image for") {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let deadline = std::time::Instant::now() + LIMIT;
    while !said()? {
        ensure!(
            std::time::Instant::now() < deadline,
            "never said:\n{}",
            rack.log()
        );
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    }
    let status = runtime.block_on(builder.client.status());
    ensure!(
        !matches!(&status, Ok(report) if report.status == Status::Idle),
        "{status:?}"
    );
    fs::write(rack.words().join("arch"), panda_tests::source::arch()?)?;
    runtime.block_on(builder.idle())?;
    rack.stop()
}
