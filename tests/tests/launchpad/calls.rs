//! Calls that are wrong, on a front that serves a real board; and every state that a slot has, in both dialects.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use dxr::Value;
use panda_protocol::launchpad::xml::{Limits, decode_answer, encode_call};
use panda_protocol::launchpad::{BuildId, Dialect, Status};
use panda_tests::programs::{run, run_ok};
use panda_tests::source::executor;
use tokio::runtime::Runtime;

use crate::builder::{Builder, LIMIT, call, package_args, serve_input};
use crate::racks::{QUICK, Served};

/// What a raw call is answered with.
async fn raw(builder: &Builder, method: &str, params: &[Value]) -> Result<String> {
    let document = encode_call(method, params)?;
    let post = builder
        .endpoint
        .post("/rpc", "text/xml", document, 1 << 20, LIMIT);
    let (status, body) = post.await?;
    ensure!(status.as_u16() == 200, "{status}");
    Ok(format!("{:?}", decode_answer(&body, &Limits::default())?))
}

#[test]
fn build_ids_are_cookies_of_any_shape_and_come_back_as_they_were() -> Result<()> {
    let rack = Served::start(1, "exit 2", Dialect::Current, QUICK)?;
    let builder = Builder::new(&rack.slots()[0])?;
    let input = serve_input()?;
    let runtime = Runtime::new()?;
    let tested = runtime.block_on(async {
        builder.idle().await?;
        builder.fetch(&input).await?;
        // Refused, and nothing has changed.
        let text = |text: &str| Value::String(text.to_owned());
        let build = |id: Value| {
            [
                id,
                text("binarypackage"),
                text("aa"),
                Value::Struct(BTreeMap::new()),
                Value::Struct(BTreeMap::new()),
            ]
        };
        for wrong in [
            text(""),
            Value::Integer(7),
            Value::Nil,
            text(&"x".repeat(65_537)),
        ] {
            let answer = raw(&builder, "build", &build(wrong)).await?;
            ensure!(
                answer.contains("code: 8002") && answer.contains("build_id"),
                "{answer}"
            );
        }
        ensure!(
            builder.client.status().await?.status == Status::Idle,
            "not idle"
        );
        let long = "x".repeat(10_240);
        let ids = [
            "a/../../b",
            "line\nline\t",
            "nonascii-\u{e9}\u{1f43c}",
            &long,
            " ",
            "<&>\"'",
            &long,
            // The same as the last one's, as each retry of a build has it.
            &long,
        ];
        for id in ids {
            let id = BuildId::try_from(id.to_owned())?;
            let mut call = call("binarypackage", package_args())?;
            call.build_id = id.clone();
            builder.idle().await?;
            builder.fetch(&input).await?;
            ensure!(builder.client.build(call).await?.is_building(), "refused");
            let told = |report: &panda_protocol::launchpad::StatusReport| match &report.status {
                Status::Building { build_id, .. } => Some((build_id.clone(), false)),
                Status::Waiting { build_id, .. } => Some((build_id.clone(), true)),
                _ => None,
            };
            loop {
                let (build_id, ended) = builder.until("told", told).await?;
                ensure!(build_id == id, "{build_id} is not {id}");
                if ended {
                    break;
                }
            }
            builder.client.clean().await?;
        }
        Ok(())
    });
    tested.with_context(|| rack.log())?;
    rack.stop()
}

#[test]
fn resets_of_no_slot_two_at_once_during_a_build_and_during_a_reset() -> Result<()> {
    let rack = Served::start(
        1,
        "echo begins; while :; do sleep 1; done",
        Dialect::Current,
        QUICK,
    )?;
    let slot = rack.slots()[0].clone();
    let builder = Builder::new(&slot)?;
    let input = serve_input()?;
    let runtime = Runtime::new()?;
    for command in ["reset", "ppa-reset"] {
        for unknown in ["panda99", "", "../panda01", "panda\n01", "--force"] {
            let output = run(&mut rack.control(&[command, unknown])?)?;
            ensure!(!output.status.success(), "{command} {unknown:?} succeeded");
            ensure!(
                !output.stderr.is_empty(),
                "{command} {unknown:?} says nothing"
            );
        }
    }
    runtime.block_on(builder.dispatch(&input, "binarypackage", package_args()))?;
    runtime.block_on(builder.logged("begins\n"))?;
    // An operator's reset does not take a build away by mistake; Launchpad's is meant.
    let output = run(&mut rack.control(&["reset", &slot.name, "--no-wait"])?)?;
    ensure!(!output.status.success(), "a reset took the build away");
    runtime.block_on(builder.logged("begins\n"))?;
    let before = rack.boots(&slot.name)?.len();
    // Two at once, and one while those are under way: one reset for all.
    let resets = (0..2)
        .map(|_| {
            Ok(rack
                .control(&["ppa-reset", &slot.name, "--timeout", "120"])?
                .spawn()?)
        })
        .collect::<Result<Vec<_>>>()?;
    run_ok(&mut rack.control(&["ppa-reset", &slot.name, "--timeout", "120"])?)?;
    for mut reset in resets {
        ensure!(reset.wait()?.success(), "a reset failed:\n{}", rack.log());
    }
    runtime.block_on(builder.idle())?;
    let boots = rack.boots(&slot.name)?.len();
    ensure!(boots == before + 1, "{before} boots, then {boots}");
    rack.stop()
}

/// The array that a 2011 manager reads, or the struct of today's, as text.
async fn told(builder: &Builder) -> Result<String> {
    raw(builder, "status", &[]).await
}

#[test]
fn every_state_is_told_in_its_dialects_own_form() -> Result<()> {
    let input = serve_input()?;
    let runtime = Runtime::new()?;
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let gate = tempfile::TempDir::with_prefix_in("gate-", "/tmp")?;
        let open = gate.path().join("open");
        let settings = [format!("PANDA_TEST_GATE={}", open.display())];
        let rack = Served::start(1, &executor("slow.sh", &settings), dialect, QUICK)?;
        let slot = rack.slots()[0].clone();
        let builder = Builder::new(&slot)?;
        let expect = async |today: &[&str], then: &[&str]| -> Result<()> {
            let told = told(&builder).await?;
            let words = match dialect {
                Dialect::Current => today,
                Dialect::Y2011 => then,
            };
            let form = match dialect {
                Dialect::Current => told.starts_with("Ok(Struct(") || told.starts_with("Err("),
                Dialect::Y2011 => told.starts_with("Ok(Array("),
            };
            ensure!(
                form && words.iter().all(|word| told.contains(word)),
                "{words:?}: {told}"
            );
            // Our own addition speaks today's in either.
            let tool = raw(&builder, "status_dict", &[]).await?;
            ensure!(
                tool.starts_with("Ok(Struct(") || tool.starts_with("Err("),
                "{tool}"
            );
            Ok(())
        };
        let tested = runtime.block_on(async {
            expect(
                &["BuilderStatus.IDLE"],
                &["BuilderStatus.IDLE\"), String(\"\")"],
            )
            .await?;
            builder
                .dispatch(&input, "binarypackage", package_args())
                .await?;
            builder.logged("slow build has begun\n").await?;
            let id = "PACKAGEBUILD-1";
            expect(
                &["BuilderStatus.BUILDING", id, "logtail"],
                &["BuilderStatus.BUILDING", id, "Base64"],
            )
            .await?;
            // Between boots. The cut alone takes longer than the question.
            run_ok(&mut rack.control(&["ppa-reset", &slot.name, "--no-wait"])?)?;
            expect(
                &["code: 8002", "resetting"],
                &["BuilderStatus.ABORTING\"), String(\"\")"],
            )
            .await?;
            builder
                .dispatch(&input, "binarypackage", package_args())
                .await?;
            builder.logged("slow build has begun\n").await?;
            std::fs::write(&open, "")?;
            builder.ended().await?;
            let waiting = ["BuilderStatus.WAITING", id, "BuildStatus.", ".deb"];
            expect(&waiting, &waiting).await?;
            builder.clean().await?;
            std::fs::remove_file(&open)?;
            builder
                .dispatch(&input, "binarypackage", package_args())
                .await?;
            builder.logged("slow build has begun\n").await?;
            builder.client.abort().await?;
            let aborting = ["BuilderStatus.ABORTING", id];
            match expect(&aborting, &aborting).await {
                Ok(()) => {}
                // It may have ended already.
                Err(error) if error.to_string().contains("ABORTED") => {}
                Err(error) => bail!(error),
            }
            builder.ended().await?;
            let today = ["BuilderStatus.WAITING", "BuildStatus.ABORTED", id];
            expect(&today, &["BuilderStatus.ABORTED", id]).await?;
            builder.clean().await
        });
        tested.with_context(|| format!("{dialect:?}:\n{}", rack.log()))?;
        rack.stop()?;
    }
    Ok(())
}
