//! The operators' interface against slots with scripted activities.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use panda_http::ServerSettings;
use panda_http::body::bytes_response;
use panda_http::pinned::public_client_config;
use panda_protocol::launchpad::xml::{self, Fault};
use panda_protocol::launchpad::{BuildCall, BuildId, BuildStatus, Dialect, Outcome, Sum};
use panda_protocol::operators::{
    Drain, GetBoots, GetSlot, GetSlots, Hold, HoldAnswer, HoldEnd, LaunchpadReset, Problem,
    ProblemKind, Release, Reset, ResetAnswer, ResetEnd, SlotInfo,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::{self, AskError};
use super::*;
use crate::boot::INSECURE;
use crate::ledger::{Ledger, Step};
use crate::slot::{self, SlotHandle};
use crate::testing::{Asked, ScriptedActivities};

struct Daemon {
    _state: tempfile::TempDir,
    ledger: Ledger,
    socket: PathBuf,
    asked: client::Daemon,
    served: JoinHandle<()>,
    activities: Arc<ScriptedActivities>,
    slot: SlotHandle,
    stop: CancellationToken,
}

async fn daemon() -> Daemon {
    // Nothing answers there.
    daemon_at(([127, 0, 0, 1], 1).into()).await
}

async fn daemon_at(rpc: SocketAddr) -> Daemon {
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&state.path().join("ledger.sqlite")).unwrap();
    let activities = Arc::new(ScriptedActivities::default());
    let slot = slot::spawn(
        "panda01",
        None,
        ledger.clone(),
        activities.clone(),
        slot::Settings::default(),
    );
    let socket = state.path().join(SOCKET);
    let stop = CancellationToken::new();
    let desk = Desk {
        slots: vec![Operated {
            handle: slot.clone(),
            hosts: vec!["panda01.example".into()],
            rpc: Rpc::new("panda01.example", rpc, public_client_config().unwrap()).unwrap(),
            duty: None,
        }],
        consoles: Default::default(),
        ledger: ledger.clone(),
        dialect: Dialect::Current,
        virtualized: true,
        typists: Default::default(),
    };
    let settings = OperatorsSettings {
        socket: Some(socket.clone()),
        group: None,
    };
    let sockets = bind(&settings, state.path()).unwrap();
    let served = tokio::spawn(serve(sockets, desk, stop.clone()));
    Daemon {
        _state: state,
        ledger,
        asked: client::Daemon::at(socket.clone()),
        socket,
        served,
        activities,
        slot,
        stop,
    }
}

async fn slots(asked: &client::Daemon, wait: Option<u64>) -> (SlotInfo, bool) {
    let request = GetSlots {
        fresh_within_seconds: wait,
    };
    let waits = Duration::from_secs(wait.unwrap_or_default());
    let mut answer = asked.ask(&request, waits).await.unwrap();
    (answer.slots.remove(0), answer.in_time)
}

fn build() -> BuildCall {
    BuildCall {
        build_id: BuildId::try_from("PACKAGEBUILD-1".to_owned()).unwrap(),
        build_type: "binarypackage".into(),
        chroot: Sum("aa".into()),
        filemap: Default::default(),
        args: Default::default(),
    }
}

fn reset(force: bool, wait_seconds: Option<u64>) -> Reset {
    Reset {
        slot: "panda01".into(),
        force,
        wait_seconds,
    }
}

#[tokio::test]
async fn a_wait_for_fresh_ends_when_the_board_has_proved_itself_and_not_before() {
    let daemon = daemon().await;
    let (info, in_time) = slots(&daemon.asked, None).await;
    assert!(in_time);
    assert_ne!(info.state, "fresh");
    assert!(info.told.starts_with("Fault: "), "{}", info.told);
    let asked = daemon.asked.clone();
    let waiting = tokio::spawn(async move { slots(&asked, Some(60)).await });
    daemon.activities.reset_well().await;
    let (info, in_time) = waiting.await.unwrap();
    assert!(in_time);
    assert_eq!(
        (info.state.as_str(), info.told.as_str()),
        ("fresh", "BuilderStatus.IDLE")
    );
    assert_eq!(info.hosts, ["panda01.example"]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_too_short_says_so() {
    let daemon = daemon().await;
    let (info, in_time) = slots(&daemon.asked, Some(1)).await;
    assert!(!in_time);
    assert_eq!(info.state, "cutting");
}

#[tokio::test]
async fn a_reset_of_a_fresh_slot_cuts_it_and_one_under_way_is_waited_for() {
    let daemon = daemon().await;
    let asked = daemon.asked.clone();
    let joined = tokio::spawn(async move {
        let limit = Duration::from_secs(60);
        asked.ask(&reset(false, Some(60)), limit).await
    });
    daemon.activities.reset_well().await;
    assert_eq!(end(joined.await.unwrap()), ResetEnd::Fresh);
    let boot = daemon.slot.view().slot.boot;
    let answer = daemon.asked.ask(&reset(false, None), Duration::ZERO).await;
    assert_eq!(end(answer), ResetEnd::UnderWay);
    assert!(daemon.slot.view().slot.boot > boot, "it is cut");
}

/// An RPC that faults so many times, then answers `echo`.
async fn rpc(faults: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let handler = move |request: Request<Incoming>, _| {
        let before = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            let host = request.headers().get(http::header::HOST).cloned();
            assert!(
                host.unwrap()
                    .to_str()
                    .unwrap()
                    .starts_with("panda01.example")
            );
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let (method, params) = xml::decode_call(&body, &xml::Limits::default()).unwrap();
            assert_eq!(method, "echo");
            let answer = if before < faults {
                Err(Fault {
                    code: 8002,
                    text: "not yet".into(),
                })
            } else {
                Ok(dxr::Value::Array(params))
            };
            let answer = xml::encode_answer(&answer).unwrap();
            bytes_response(StatusCode::OK, "text/xml", answer)
        }
    };
    let settings = ServerSettings::default();
    tokio::spawn(panda_http::serve(
        listener,
        None,
        settings,
        CancellationToken::new(),
        handler,
    ));
    (address, calls)
}

fn ppa_reset(name: &str, wait_ms: Option<u64>) -> LaunchpadReset {
    LaunchpadReset {
        name: name.to_owned(),
        wait_ms,
    }
}

fn end(answer: Result<ResetAnswer, AskError>) -> ResetEnd {
    answer.unwrap().end
}

fn problem<T: std::fmt::Debug>(answer: Result<T, AskError>) -> Problem {
    match answer {
        Err(AskError::Problem(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, AskError>) -> String {
    let problem = problem(answer);
    assert_eq!(problem.kind, ProblemKind::Refused, "{problem}");
    problem.detail
}

#[tokio::test]
async fn launchpads_reset_gives_up_what_the_slot_has_and_ends_when_its_rpc_answers() {
    let (address, calls) = rpc(2).await;
    let daemon = daemon_at(address).await;
    daemon.activities.reset_well().await;
    daemon.slot.build(build()).await.unwrap();
    let live = daemon.slot.view();
    assert!(live.slot.live().is_some());
    let asked = daemon.asked.clone();
    let limit = Duration::from_secs(60);
    let waiting = tokio::spawn(async move {
        let request = ppa_reset("PANDA01.Example", Some(60_000));
        asked.ask(&request, limit).await
    });
    let boot = live.slot.boot;
    let cut = |asked| matches!(asked, Asked::Cut(next) if next > boot).then_some(());
    daemon.activities.until(cut).await;
    assert_eq!(
        calls.load(Ordering::SeqCst),
        0,
        "nothing is asked of a slot between boots"
    );
    daemon.activities.reset_well().await;
    assert_eq!(end(waiting.await.unwrap()), ResetEnd::Fresh);
    assert_eq!(calls.load(Ordering::SeqCst), 3, "asked until it answered");
    assert!(daemon.slot.view().is_idle());
    // Fresh already: nothing is powered, and its RPC is asked all the same.
    let boot = daemon.slot.view().slot.boot;
    let request = ppa_reset("panda01", Some(60_000));
    assert_eq!(
        end(daemon.asked.ask(&request, limit).await),
        ResetEnd::Fresh
    );
    assert_eq!(daemon.slot.view().slot.boot, boot);
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_slot_whose_rpc_does_not_answer_is_not_ready() {
    // Nothing listens at its address.
    let daemon = daemon().await;
    daemon.activities.reset_well().await;
    let request = ppa_reset("panda01", Some(700));
    let answer = daemon.asked.ask(&request, Duration::from_secs(1)).await;
    let reason = refused(answer);
    assert!(
        reason.contains("panda01: fresh, but its RPC does not answer"),
        "{reason}"
    );
}

#[tokio::test]
async fn launchpads_reset_that_takes_too_long_goes_on_and_the_next_call_joins_it() {
    let (address, _) = rpc(0).await;
    let daemon = daemon_at(address).await;
    let limit = Duration::from_secs(60);
    let request = ppa_reset("panda01", Some(1));
    let first = daemon.asked.ask(&request, limit).await;
    assert_eq!(end(first), ResetEnd::UnderWay);
    let boot = daemon.slot.view().slot.boot;
    let asked = daemon.asked.clone();
    let second = tokio::spawn(async move {
        let request = ppa_reset("panda01", Some(60_000));
        asked.ask(&request, limit).await
    });
    daemon.activities.reset_well().await;
    assert_eq!(end(second.await.unwrap()), ResetEnd::Fresh);
    assert_eq!(daemon.slot.view().slot.boot, boot, "one boot for both");
}

#[tokio::test]
async fn a_triggered_reset_is_answered_at_once() {
    let daemon = daemon().await;
    let request = ppa_reset("panda01.example", None);
    let answer = daemon.asked.ask(&request, Duration::ZERO).await;
    assert_eq!(end(answer), ResetEnd::UnderWay);
}

#[tokio::test]
async fn a_held_slot_refuses_launchpads_reset_with_its_reason() {
    let daemon = daemon().await;
    daemon.slot.hold("new supply".into()).await.unwrap();
    for wait in [None, Some(60_000)] {
        let request = ppa_reset("panda01", wait);
        let limit = Duration::from_secs(60);
        let reason = refused(daemon.asked.ask(&request, limit).await);
        assert!(
            reason.contains("panda01: held by an operator: new supply"),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn names_that_are_nobodys_are_refused_in_one_short_line() {
    let daemon = daemon().await;
    let long = "x".repeat(10_000);
    for name in [
        "panda02",
        "",
        "panda01.other",
        "panda0",
        "panda01\nx",
        "pand\u{e4}",
        &long,
    ] {
        let request = ppa_reset(name, None);
        let problem = problem(daemon.asked.ask(&request, Duration::ZERO).await);
        assert_eq!(problem.kind, ProblemKind::NoSuchSlot);
        let reason = problem.detail;
        assert!(reason.contains("no slot"), "{reason}");
        assert!(reason.len() < 300 && !reason.contains('\n'), "{reason}");
    }
}

#[tokio::test]
async fn a_slot_that_booted_an_insecure_image_is_shown_as_such_until_its_next_boot() {
    let daemon = daemon().await;
    let step = |name: &str| Step {
        name: name.into(),
        at_unix_ms: 0,
        elapsed_ms: 0,
        detail: String::new(),
        grade: None,
        error: None,
    };
    for (boot, name, shown) in [(1, INSECURE, true), (2, "handshake", false)] {
        let boot = panda_slot::BootNo::new(boot);
        let secrets = crate::guest::tests::secrets();
        daemon
            .ledger
            .begin_boot("panda01", boot, secrets)
            .await
            .unwrap();
        daemon
            .ledger
            .record_step("panda01", boot, step(name))
            .await
            .unwrap();
        let (info, _) = slots(&daemon.asked, None).await;
        let warned = info.detail.starts_with("INSECURE IMAGE");
        assert_eq!(warned, shown, "{}", info.detail);
    }
}

#[tokio::test]
async fn a_slot_that_is_not_there_is_told_with_those_that_are() {
    let daemon = daemon().await;
    let slot = || "panda99".to_owned();
    let orders = [
        problem(
            daemon
                .asked
                .ask(&GetSlot { slot: slot() }, Duration::ZERO)
                .await,
        ),
        problem(
            daemon
                .asked
                .ask(&Release { slot: slot() }, Duration::ZERO)
                .await,
        ),
        problem(
            daemon
                .asked
                .ask(
                    &Reset {
                        slot: slot(),
                        ..Reset::default()
                    },
                    Duration::ZERO,
                )
                .await,
        ),
        problem(
            daemon
                .asked
                .ask(
                    &GetBoots {
                        slot: Some(slot()),
                        limit: 1,
                    },
                    Duration::ZERO,
                )
                .await,
        ),
    ];
    for problem in orders {
        assert_eq!(
            (problem.kind, problem.status),
            (ProblemKind::NoSuchSlot, 404)
        );
        assert_eq!(problem.slots, ["panda01"]);
        assert!(
            problem.detail.contains("this rack has panda01"),
            "{problem}"
        );
    }
}

/// Says `bytes` and then no more, as `nc -N` does, and hears the answers.
async fn say(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(&daemon.socket).await.unwrap();
    // The daemon may close before all is written: then the answer says why.
    drop(stream.write_all(bytes).await);
    drop(stream.shutdown().await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn what_is_no_request_of_this_interface_is_answered_with_what_is_wrong() {
    let daemon = daemon().await;
    let reset = "/v1/slots/panda01/reset";
    for (said, status, told) in [
        (post(reset, "{"), "400 Bad Request", "body: EOF"),
        (
            post(reset, r#"{"forse":true}"#),
            "400 Bad Request",
            "`forse`",
        ),
        (post(reset, "\u{0}"), "400 Bad Request", "body"),
        (get("/v1/slots?x=1"), "400 Bad Request", "\\\"x\\\""),
        (get("/v2/slots"), "404 Not Found", "speaks v1"),
        (get("/v1/formats"), "404 Not Found", "nothing has this path"),
        (
            get("/v1/slots/panda99"),
            "404 Not Found",
            "this rack has panda01",
        ),
        (
            get("/v1/slots/panda01/console"),
            "404 Not Found",
            "[slot.console]",
        ),
        (get(reset), "405 Method Not Allowed", "POST only"),
    ] {
        let answer = say(&daemon, &said).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer}"
        );
        assert!(
            answer.contains("content-type: application/problem+json\r\n"),
            "{answer}"
        );
        assert!(answer.contains(told), "{told}: {answer}");
        assert_eq!(
            answer.contains("\r\nallow: POST\r\n"),
            status.starts_with("405"),
            "{answer}"
        );
    }
    for said in [
        &b"hello\n\n"[..],
        b"{\"version\":1,\"ask\":{\"slots\":{}}}\n",
    ] {
        let answer = say(&daemon, said).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let daemon = daemon().await;
    let head = "POST /v1/slots/panda01/reset HTTP/1.1\r\nHost: x\r\n";
    let declared = format!("{head}Content-Length: 99999999\r\n\r\n");
    let long = "x".repeat(70_000);
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n0\r\n\r\n",
        70_000
    );
    for said in [declared, chunked] {
        let answer = say(&daemon, said.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(
            answer.contains("65536 bytes") && answer.contains("connection: close"),
            "{answer}"
        );
    }
    let state = daemon.slot.view().slot;
    assert_eq!(state.boot, daemon.slot.view().slot.boot);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let daemon = daemon().await;
    let mut stream = UnixStream::connect(&daemon.socket).await.unwrap();
    let head = "POST /v1/slots/panda01/hold HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("within 10 s"),
        "{answer}"
    );
    assert_eq!(daemon.slot.view().slot.held, None);
}

#[tokio::test]
async fn requests_that_come_in_one_go_are_answered_in_their_order() {
    let daemon = daemon().await;
    let both = [get("/v1/version"), get("/v1/slots/panda01"), get("/v2/")].concat();
    let answer = say(&daemon, &both).await;
    let at = |text: &str| {
        answer
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {answer}"))
    };
    assert!(at("\"program\":\"pandabuildd\"") < at("\"slot\":\"panda01\""));
    assert!(at("\"slot\":\"panda01\"") < at("no-such-version"));
}

#[tokio::test]
async fn whoever_says_no_more_is_still_answered_and_whoever_is_gone_waits_no_longer() {
    let daemon = daemon().await;
    let wait = get("/v1/slots?fresh_within_seconds=60");
    let (first, ()) = tokio::join!(say(&daemon, &wait), daemon.activities.reset_well());
    assert!(first.contains("\"in_time\":true"), "{first}");
    // Each waits in a place of its own, of which there are 256.
    daemon.slot.hold("new supply".into()).await.unwrap();
    for _ in 0..600 {
        let mut stream = UnixStream::connect(&daemon.socket).await.unwrap();
        let wait = get("/v1/slots?fresh_within_seconds=86400");
        stream.write_all(&wait).await.unwrap();
    }
    let (info, _) = slots(&daemon.asked, None).await;
    assert_eq!(info.held.as_deref(), Some("new supply"));
}

#[tokio::test]
async fn a_slot_is_held_drained_and_released_and_a_build_in_it_goes_on_to_its_end() {
    let daemon = daemon().await;
    daemon.activities.reset_well().await;
    daemon.slot.build(build()).await.unwrap();
    let running = daemon.activities.acknowledge().await;
    let hold = Hold {
        slot: "panda01".into(),
        reason: "new supply".into(),
    };
    let HoldAnswer { slot, end } = daemon.asked.ask(&hold, Duration::ZERO).await.unwrap();
    assert_eq!(end, HoldEnd::UnderWay);
    assert_eq!(slot.held.as_deref(), Some("new supply"));
    assert_eq!(slot.build_id.as_deref(), Some("PACKAGEBUILD-1"));
    // Not long enough.
    let mut drain = Drain {
        slot: "panda01".into(),
        reason: "new cable".into(),
        wait_seconds: Some(0),
    };
    let answer = daemon.asked.ask(&drain, Duration::ZERO).await.unwrap();
    assert_eq!(answer.end, HoldEnd::UnderWay);
    // Until its end.
    drain.wait_seconds = Some(60);
    let asked = daemon.asked.clone();
    let limit = Duration::from_secs(60);
    let waiting = tokio::spawn(async move { asked.ask(&drain, limit).await });
    daemon
        .activities
        .finish(running, Outcome::bare(BuildStatus::Ok))
        .await;
    let next = |asked| match asked {
        Asked::Cut(boot) if boot > running.0 => Some(boot),
        _ => None,
    };
    let boot = daemon.activities.until(next).await;
    daemon
        .activities
        .report(panda_slot::Event::CutSeen { boot });
    let HoldAnswer { slot, end } = waiting.await.unwrap().unwrap();
    assert_eq!((end, slot.state.as_str()), (HoldEnd::Off, "off"));
    assert_eq!(slot.held.as_deref(), Some("new cable"));
    assert_eq!(slot.kept.unwrap().build_status, "BuildStatus.OK");
    // A reset is refused, with the reason; a release boots it.
    let reset = Reset {
        force: true,
        ..reset(false, None)
    };
    let reason = refused(daemon.asked.ask(&reset, Duration::ZERO).await);
    assert!(
        reason.contains("held by an operator: new cable"),
        "{reason}"
    );
    let release = Release {
        slot: "panda01".into(),
    };
    let slot = daemon.asked.ask(&release, Duration::ZERO).await.unwrap();
    assert_eq!((slot.held, slot.state.as_str()), (None, "cutting"));
}

#[tokio::test]
async fn a_drain_ends_when_somebody_releases_the_slot() {
    let daemon = daemon().await;
    daemon.activities.reset_well().await;
    daemon.slot.build(build()).await.unwrap();
    daemon.activities.acknowledge().await;
    let drain = Drain {
        slot: "panda01".into(),
        reason: "new supply".into(),
        wait_seconds: Some(60),
    };
    let asked = daemon.asked.clone();
    let limit = Duration::from_secs(60);
    let waiting = tokio::spawn(async move { asked.ask(&drain, limit).await });
    let mut watch = daemon.slot.watch();
    let held = watch.wait_for(|view| view.slot.held.is_some()).await;
    drop(held.unwrap());
    daemon.slot.release().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().end, HoldEnd::Released);
}

#[tokio::test]
async fn only_the_daemons_user_may_open_the_socket_and_it_goes_with_the_daemon() {
    let daemon = daemon().await;
    let mode = std::fs::metadata(&daemon.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let asked = daemon.asked.clone();
    let waiting = tokio::spawn(async move {
        let limit = Duration::from_secs(60);
        asked.ask(&reset(false, Some(60)), limit).await
    });
    let moved = |asked| matches!(asked, Asked::Cut(_)).then_some(());
    daemon.activities.until(moved).await;
    daemon.stop.cancel();
    // Whoever waits is told, or finds nobody any more.
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_absence(), "{error}");
    daemon.served.await.unwrap();
    let error = daemon.asked.ask(&reset(false, None), Duration::ZERO).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("no daemon runs there") && error.contains("--socket"),
        "{error}"
    );
}

#[tokio::test]
async fn members_of_a_group_may_ask_where_one_is_named() {
    let state = tempfile::tempdir().unwrap();
    let own = nix::unistd::Group::from_gid(nix::unistd::getgid())
        .unwrap()
        .unwrap();
    let settings = |group: &str| OperatorsSettings {
        socket: Some(state.path().join("s")),
        group: Some(group.to_owned()),
    };
    let _bound = bind(&settings(&own.name), state.path()).unwrap();
    let mode = std::fs::metadata(state.path().join("s"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let error = bind(&settings("no-such-group-here"), state.path())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no-such-group-here") && error.contains("groupadd"),
        "{error}"
    );
}

#[tokio::test]
async fn a_socket_outside_the_state_directory_is_one_daemons_alone() {
    let elsewhere = tempfile::tempdir().unwrap();
    let settings = OperatorsSettings {
        socket: Some(elsewhere.path().join(SOCKET)),
        group: None,
    };
    let states = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = bind(&settings, states[0].path()).unwrap();
    let error = bind(&settings, states[1].path()).unwrap_err().to_string();
    assert!(
        error.contains("another pandabuildd listens there"),
        "{error}"
    );
    // One that was killed leaves its socket, and the next daemon has it.
    drop(first);
    bind(&settings, states[1].path()).unwrap();
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_is_told_as_that() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join(SOCKET);
    let settings = OperatorsSettings {
        socket: Some(path.clone()),
        group: None,
    };
    let bound = bind(&settings, &deep).unwrap_err().to_string();
    let asked = client::Daemon::at(path)
        .ask(&GetSlots::default(), Duration::ZERO)
        .await;
    for error in [bound, asked.unwrap_err().to_string()] {
        assert!(error.contains("use a shorter directory"), "{error}");
    }
}
