//! What operators order of a rack of virtual Pandas with builds running, by command and over HTTP.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use panda_tests::manager::{self, Make};
use panda_tests::programs::{pandabuildd, run, run_ok};
use panda_tests::rack::{Rack, json_items};
use panda_tests::source::{executor, hello};
use serde_json::{Value, json};

/// A request over a rack's socket: the status, and the answer's JSON.
fn ask(rack: &Rack, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
    let mut stream = UnixStream::connect(rack.state().join("control.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head's end")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((
        status,
        serde_json::from_str(body).with_context(|| answer.clone())?,
    ))
}

fn slot(rack: &Rack, name: &str) -> Result<Value> {
    let written = run_ok(&mut rack.control(&["slots", "--json"])?)?;
    let slots = json_items(&written)?;
    let found = slots.into_iter().find(|slot| slot["slot"] == name);
    found.context("no such slot")
}

#[test]
fn a_slot_with_a_build_is_held_when_it_has_ended_across_a_restart_and_released() -> Result<()> {
    let gate = tempfile::TempDir::with_prefix_in("gate-", "/tmp")?;
    let open = gate.path().join("open");
    let settings = [format!("PANDA_TEST_GATE={}", open.display())];
    let mut rack = Rack::start(2, &executor("slow.sh", &settings))?;
    rack.wait_fresh()?;
    let source = hello(&rack.scratch("source")?)?;
    let url = rack.slots()[0].url.clone();
    let output = rack.scratch("results")?;
    let options = ["--stop-at", "slow build has begun"];
    manager::build(Make::Xmlrpc, &url, &source, &output, &options)?;

    // One without a build is off at once, and takes none.
    run_ok(&mut rack.control(&["drain", "panda02", "--reason", "new cable", "--wait"])?)?;
    let held = slot(&rack, "panda02")?;
    assert_eq!(
        (&held["state"], &held["held"]),
        (&json!("off"), &json!("new cable"))
    );
    let told = held["told"].as_str().unwrap_or_default();
    ensure!(told.contains("new cable"), "{told}");

    // One with a build goes on with it.
    let answered = run(&mut rack.control(&["hold", "panda01", "--reason", "new supply"])?)?;
    let said = String::from_utf8_lossy(&answered.stderr).into_owned();
    ensure!(
        answered.status.success() && said.contains("it goes on"),
        "{said}"
    );
    let held = slot(&rack, "panda01")?;
    assert_eq!(held["state"], "running");
    assert_eq!(held["told"], "BuilderStatus.BUILDING");
    let refused = run(&mut rack.control(&["reset", "panda01"])?)?;
    ensure!(!refused.status.success(), "a reset without force");
    let late = [
        "drain",
        "panda01",
        "--reason",
        "new supply",
        "--wait",
        "--timeout",
        "1",
    ];
    assert_eq!(run(&mut rack.control(&late)?)?.status.code(), Some(4));

    // Nobody forgets it.
    rack.kill()?;
    rack.serve()?;
    let drain = [
        "drain",
        "panda01",
        "--reason",
        "new supply",
        "--wait",
        "--timeout",
        "100",
    ];
    let waiting = rack
        .control(&drain)?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    fs::write(&open, "")?;
    let drained = waiting.wait_with_output()?;
    let said = String::from_utf8_lossy(&drained.stderr).into_owned();
    ensure!(
        drained.status.success() && said.contains("without power"),
        "{said}\n{}",
        rack.log()
    );
    let held = slot(&rack, "panda01")?;
    assert_eq!(
        (&held["state"], &held["held"]),
        (&json!("off"), &json!("new supply"))
    );
    assert_eq!(held["kept"]["build_status"], "BuildStatus.OK");
    assert_eq!(held["told"], "BuilderStatus.WAITING");

    for name in ["panda01", "panda02"] {
        run_ok(&mut rack.control(&["release", name])?)?;
    }
    rack.wait_fresh()?;
    ensure!(rack.log().contains("ordered: drain"), "{}", rack.log());
    rack.kill()?;
    rack.twin()?;
    rack.stop()
}

#[test]
fn the_interface_answers_programs_and_refuses_what_is_none_of_its_requests() -> Result<()> {
    let rack = Rack::start(1, "exit 2")?;
    let fresh = ask(&rack, "GET", "/v1/slots?fresh_within_seconds=100", None)?;
    assert_eq!((fresh.0, &fresh.1["in_time"]), (200, &json!(true)));
    let (_, boots) = ask(&rack, "GET", "/v1/slots/panda01/boots?limit=1", None)?;
    let steps = boots["boots"][0]["steps"].as_array().map_or(0, Vec::len);
    ensure!(steps > 5, "{boots}");
    let reset = json!({"force": true, "wait_seconds": 100});
    let (status, answer) = ask(&rack, "POST", "/v1/slots/panda01/reset", Some(&reset))?;
    assert_eq!((status, &answer["end"]), (200, &json!("fresh")), "{answer}");
    let (_, told) = ask(
        &rack,
        "GET",
        "/v1/slots/panda01/console?wait_seconds=30",
        None,
    )?;
    let next = told["next"].as_str().context("no next")?;
    let path = format!("/v1/slots/panda01/console?from={next}");
    assert_eq!(ask(&rack, "GET", &path, None)?.0, 200);
    for (method, path, body, status, told) in [
        ("GET", "/v1/slots/panda99", None, 404, "panda01"),
        (
            "POST",
            "/v1/slots/panda99/hold",
            Some(json!({"reason": "x"})),
            404,
            "panda01",
        ),
        (
            "POST",
            "/v1/slots/panda01/hold",
            Some(json!({})),
            400,
            "reason",
        ),
        (
            "POST",
            "/v1/slots/panda01/reset",
            Some(json!({"x": 1})),
            400,
            "`x`",
        ),
        ("DELETE", "/v1/slots/panda01", None, 405, "GET"),
        ("GET", "/v9/slots", None, 404, "/v1/"),
    ] {
        let (answered, problem) = ask(&rack, method, path, body.as_ref())?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        ensure!(
            answered == status && detail.contains(told),
            "{method} {path}: {problem}"
        );
        assert_eq!(problem["status"], status);
    }
    rack.stop()
}

#[test]
fn a_socket_that_one_may_not_open_is_told_with_who_may() -> Result<()> {
    if !nix::unistd::getuid().is_root() {
        println!("skipped: only root can become nobody");
        return Ok(());
    }
    let directory = tempfile::TempDir::with_prefix_in("socket-", "/tmp")?;
    // Of the same mode and owner, where everybody may look for it.
    let socket = directory.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket)?;
    for (path, mode) in [(directory.path(), 0o755), (&*socket, 0o600)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(path, mode)?;
    }
    let program = directory.path().join("pandabuildd");
    fs::copy(pandabuildd()?.get_program(), &program)?;
    let mut asked = std::process::Command::new("setpriv");
    asked
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["slots", "--socket"])
        .arg(&socket);
    let asked = run(&mut asked)?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    ensure!(
        asked.status.code() == Some(1) && said.contains("only user root and root may ask"),
        "{said}"
    );
    Ok(())
}
