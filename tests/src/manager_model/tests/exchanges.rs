//! The model asks what the recorded manager asked, in its order, when it is told what that manager was told
//! (`fixtures/exchanges`: repeats are left out there, and so is every file but the first).

use std::fs;

use dxr::Value;
use panda_protocol::launchpad::xml::{Limits, decode_answer, decode_call};
use panda_protocol::launchpad::{Call, StatusReport};

use super::*;
use crate::programs::root;

/// The head of the request, and the bodies of request and answer.
fn exchange(name: &str) -> (String, String, String) {
    let path = root().join("fixtures/exchanges").join(name);
    let text = fs::read_to_string(&path).unwrap();
    let (request, answer) = text.split_once("--- answer ---\n").unwrap();
    let (head, request) = request.split_once("\n\n").unwrap();
    let (_, answer) = answer.split_once("\n\n").unwrap();
    (head.to_owned(), request.to_owned(), answer.to_owned())
}

fn call(name: &str) -> Call {
    let (_, request, _) = exchange(name);
    let (method, params) = decode_call(request.as_bytes(), &Limits::default()).unwrap();
    Call::decode(&method, params).unwrap()
}

/// The recorded answer, as the model is told of it.
fn told(name: &str) -> Answer {
    let (_, _, answer) = exchange(name);
    let value = decode_answer(answer.as_bytes(), &Limits::default()).unwrap();
    let Ok(value) = value else { return FAULT };
    match call(name) {
        Call::Status => Answer::Status(StatusReport::from_value(&value).unwrap().status),
        Call::EnsurePresent(_) => match value {
            Value::Array(items) if items.first() == Some(&Value::Boolean(true)) => DONE,
            _ => Answer::Failed(Failure::Absent),
        },
        _ => DONE,
    }
}

/// One scan whose calls were recorded under these names.
#[track_caller]
fn replay(bench: &mut Bench, names: &[&str]) -> Vec<What> {
    let mut calls = Vec::new();
    for name in names {
        let job = JobNo(if name.starts_with("018") { 1 } else { 0 });
        let ask = match call(name) {
            Call::Status => Ask::Status,
            Call::EnsurePresent(_) => Ask::Files(job),
            Call::Build(build) => {
                assert_eq!(build.build_id, *bench.manager.cookie(job));
                Ask::Build(job)
            }
            Call::Abort => Ask::Abort,
            Call::Clean => Ask::Clean,
            other => panic!("{other:?} is no call of the manager's scans"),
        };
        calls.push((ask, told(name)));
    }
    bench.scan(&calls)
}

#[test]
fn the_recorded_builds_are_what_the_model_does() {
    let mut bench = Bench::new(Mode::Plain);
    bench.manager.submit(named("PACKAGEBUILD-1"));
    let second = bench.manager.submit(named("PACKAGEBUILD-2"));

    assert_eq!(
        replay(&mut bench, &["001-status-idle.http"]),
        [What::Cleaned]
    );
    // All files of a build are one step of the model; both were fetched.
    assert_eq!(told("004-ensurepresent.http"), DONE);
    let dispatch = [
        "002-status-idle.http",
        "003-ensurepresent.http",
        "005-build-building.http",
    ];
    assert_eq!(replay(&mut bench, &dispatch), [What::Dispatched]);
    assert_eq!(replay(&mut bench, &["006-status-building.http"]), []);
    assert_eq!(replay(&mut bench, &["007-status-building.http"]), []);

    let Answer::Status(Status::Waiting { outcome, .. }) = told("009-status-waiting.http") else {
        panic!("the recorded build has ended");
    };
    let fetched = exchange("011-GET-8ac5eec6b0a0.http").0;
    assert!(
        outcome
            .filemap
            .values()
            .any(|sum| fetched.contains(&format!("/filecache/{sum} "))),
        "the recorded manager fetched a file of the map: {fetched}"
    );
    assert!(
        exchange("010-GET-buildlog.http")
            .0
            .contains("/filecache/buildlog ")
    );
    let collect = [
        (Ask::Status, told("009-status-waiting.http")),
        (fetch(outcome.filemap.clone()), DONE),
    ];
    assert_eq!(
        bench.scan(&collect),
        [What::Collected(BuildStatus::Ok, outcome.filemap)]
    );
    let clean = ["013-status-waiting.http", "014-clean-idle.http"];
    assert_eq!(replay(&mut bench, &clean), [What::Cleaned]);

    // The second build, which was cancelled. What was left out as a repeat is put in.
    let Call::Build(build) = call("018-build-building.http") else {
        panic!("a build")
    };
    assert_eq!(build.build_id, *bench.manager.cookie(second));
    let dispatch = [
        (Ask::Status, told("002-status-idle.http")),
        (Ask::Files(second), told("003-ensurepresent.http")),
        (Ask::Build(second), told("018-build-building.http")),
    ];
    assert_eq!(bench.scan(&dispatch), [What::Dispatched]);
    bench.manager.cancel(second);
    assert_eq!(call("022-abort-aborting.http"), Call::Abort);
    let abort = [
        (Ask::Status, building(build.build_id.clone())),
        (Ask::Abort, told("022-abort-aborting.http")),
    ];
    assert_eq!(bench.scan(&abort), []);
    assert!(
        exchange("024-GET-buildlog.http")
            .0
            .contains("/filecache/buildlog ")
    );
    let log = Ask::Fetch {
        job: second,
        files: FileMap::new(),
        tries: 3,
    };
    let kept = waiting(build.build_id, BuildStatus::Aborted);
    let end = [(Ask::Status, kept.clone()), (log, DONE)];
    assert_eq!(bench.scan(&end), [What::Cancelled]);
    let clean = [
        (Ask::Status, kept),
        (Ask::Clean, told("026-clean-idle.http")),
    ];
    assert_eq!(bench.scan(&clean), [What::Cleaned]);
    assert!(bench.manager.is_done());
}

#[test]
fn a_recorded_fault_is_a_failed_scan() {
    let mut bench = Bench::new(Mode::Plain);
    let calls = [
        (Ask::Status, building(id())),
        (Ask::Abort, told("049-abort.http")),
    ];
    let reports = bench.scan(&calls);
    assert!(matches!(reports[..], [What::FailedScan(_)]), "{reports:?}");
}
