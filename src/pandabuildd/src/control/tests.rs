//! The control socket against slots with scripted activities.

use panda_slot::BootNo;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
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
use panda_protocol::launchpad::{BuildCall, BuildId, Sum};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client::{ControlError, ask};
use super::wire::{Answer, Ask, ResetEnd};
use super::*;
use crate::boot::INSECURE;
use crate::ledger::{Ledger, Step};
use crate::slot::{self, SlotHandle};
use crate::testing::{Asked, ScriptedActivities};

struct Daemon {
    _state: tempfile::TempDir,
    ledger: Ledger,
    socket: PathBuf,
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
    };
    drop(serve(bind(&socket).unwrap(), desk, stop.clone()));
    Daemon {
        _state: state,
        ledger,
        socket,
        activities,
        slot,
        stop,
    }
}

async fn slots(socket: &Path, wait: Option<u64>) -> (SlotInfo, bool) {
    let ask_slots = Ask::Slots {
        fresh_within_seconds: wait,
    };
    match ask(
        socket,
        ask_slots,
        Duration::from_secs(wait.unwrap_or_default()),
    )
    .await
    .unwrap()
    {
        Answer::Slots { mut slots, in_time } => (slots.remove(0), in_time),
        other => panic!("{other:?}"),
    }
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

fn reset(force: bool, wait_seconds: Option<u64>) -> Ask {
    Ask::Reset {
        slot: "panda01".into(),
        force,
        wait_seconds,
    }
}

#[tokio::test]
async fn a_wait_for_fresh_ends_when_the_board_has_proved_itself_and_not_before() {
    let daemon = daemon().await;
    let (info, in_time) = slots(&daemon.socket, None).await;
    assert!(in_time);
    assert_ne!(info.state, "fresh");
    assert!(info.told.starts_with("Fault: "), "{}", info.told);
    let socket = daemon.socket.clone();
    let waiting = tokio::spawn(async move { slots(&socket, Some(60)).await });
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
    let (info, in_time) = slots(&daemon.socket, Some(1)).await;
    assert!(!in_time);
    assert_eq!(info.state, "cutting");
}

#[tokio::test]
async fn a_reset_of_a_fresh_slot_is_ready_at_once_and_one_under_way_is_waited_for() {
    let daemon = daemon().await;
    let socket = daemon.socket.clone();
    let joined =
        tokio::spawn(
            async move { ask(&socket, reset(false, Some(60)), Duration::from_secs(60)).await },
        );
    daemon.activities.reset_well().await;
    let Answer::Reset { end, .. } = joined.await.unwrap().unwrap() else {
        panic!("reset")
    };
    assert_eq!(end, ResetEnd::Fresh);
    let boot = daemon.slot.view().slot.boot;
    let answer = ask(&daemon.socket, reset(false, None), Duration::ZERO)
        .await
        .unwrap();
    assert!(
        matches!(
            answer,
            Answer::Reset {
                end: ResetEnd::Fresh,
                ..
            }
        ),
        "{answer:?}"
    );
    assert_eq!(daemon.slot.view().slot.boot, boot, "nothing was powered");
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

fn ppa_reset(name: &str, wait_ms: Option<u64>) -> Ask {
    Ask::PpaReset {
        name: name.to_owned(),
        wait_ms,
    }
}

fn end(answer: Result<Answer, ControlError>) -> ResetEnd {
    match answer {
        Ok(Answer::Reset { end, .. }) => end,
        other => panic!("{other:?}"),
    }
}

fn refused(answer: Result<Answer, ControlError>) -> String {
    match answer {
        Err(ControlError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn launchpads_reset_gives_up_what_the_slot_has_and_ends_when_its_rpc_answers() {
    let (address, calls) = rpc(2).await;
    let daemon = daemon_at(address).await;
    daemon.activities.reset_well().await;
    daemon.slot.build(build()).await.unwrap();
    let live = daemon.slot.view();
    assert!(live.slot.live().is_some());
    let socket = daemon.socket.clone();
    let limit = Duration::from_secs(60);
    let waiting = tokio::spawn(async move {
        ask(&socket, ppa_reset("PANDA01.Example", Some(60_000)), limit).await
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
    assert_eq!(
        end(ask(&daemon.socket, ppa_reset("panda01", Some(60_000)), limit).await),
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
    let answer = ask(
        &daemon.socket,
        ppa_reset("panda01", Some(700)),
        Duration::from_secs(1),
    )
    .await;
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
    let first = ask(&daemon.socket, ppa_reset("panda01", Some(1)), limit).await;
    assert_eq!(end(first), ResetEnd::UnderWay);
    let boot = daemon.slot.view().slot.boot;
    let socket = daemon.socket.clone();
    let second =
        tokio::spawn(async move { ask(&socket, ppa_reset("panda01", Some(60_000)), limit).await });
    daemon.activities.reset_well().await;
    assert_eq!(end(second.await.unwrap()), ResetEnd::Fresh);
    assert_eq!(daemon.slot.view().slot.boot, boot, "one boot for both");
}

#[tokio::test]
async fn a_triggered_reset_is_answered_at_once() {
    let daemon = daemon().await;
    let answer = ask(
        &daemon.socket,
        ppa_reset("panda01.example", None),
        Duration::ZERO,
    )
    .await;
    assert_eq!(end(answer), ResetEnd::UnderWay);
}

#[tokio::test]
async fn a_held_slot_refuses_launchpads_reset_with_its_reason() {
    let daemon = daemon().await;
    daemon.slot.hold("new supply".into()).await.unwrap();
    for wait in [None, Some(60_000)] {
        let reason = refused(
            ask(
                &daemon.socket,
                ppa_reset("panda01", wait),
                Duration::from_secs(60),
            )
            .await,
        );
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
        let reason = refused(ask(&daemon.socket, ppa_reset(name, None), Duration::ZERO).await);
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
        let boot = BootNo::new(boot);
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
        let (info, _) = slots(&daemon.socket, None).await;
        let warned = info.detail.starts_with("INSECURE IMAGE");
        assert_eq!(warned, shown, "{}", info.detail);
    }
}

#[tokio::test]
async fn unknown_slots_and_nonsense_are_refused_with_what_to_do() {
    let daemon = daemon().await;
    let unknown = Ask::Reset {
        slot: "panda99".into(),
        force: false,
        wait_seconds: None,
    };
    match ask(&daemon.socket, unknown, Duration::ZERO)
        .await
        .unwrap_err()
    {
        ControlError::Refused(reason) => {
            assert!(reason.contains("this rack has panda01"), "{reason}");
        }
        other => panic!("{other}"),
    }
    let socket = daemon.socket.clone();
    let answers = tokio::task::spawn_blocking(move || {
        let say = |bytes: &[u8]| {
            let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            // The daemon may close before all is written: then the answer says why.
            drop(stream.write_all(bytes));
            drop(stream.shutdown(std::net::Shutdown::Write));
            let mut answer = String::new();
            drop(stream.read_to_string(&mut answer));
            answer
        };
        [
            say(b"hello\n"),
            say(b"{\"version\":2,\"ask\":{\"slots\":{\"fresh_within_seconds\":null}}}\n"),
            say(&vec![b'x'; wire::MAX_ASK + 10]),
        ]
    })
    .await
    .unwrap();
    assert!(answers[0].contains("not understood"), "{}", answers[0]);
    assert!(
        answers[1].contains("version 2 is not spoken here"),
        "{}",
        answers[1]
    );
    assert!(
        answers[2].is_empty() || answers[2].contains("one line of at most"),
        "{}",
        answers[2]
    );
}

#[tokio::test]
async fn only_the_daemons_user_may_open_the_socket_and_it_goes_with_the_daemon() {
    let daemon = daemon().await;
    let mode = std::fs::metadata(&daemon.socket)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.stop.cancel();
    while daemon.socket.exists() {
        tokio::task::yield_now().await;
    }
    let error = ask(&daemon.socket, reset(false, None), Duration::ZERO)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no daemon runs there") && error.contains("--socket"),
        "{error}"
    );
}

#[tokio::test]
async fn a_path_that_is_too_long_for_a_socket_is_told_as_that() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join(SOCKET);
    let bound = bind(&path).unwrap_err().to_string();
    let asked = client::ask(
        &path,
        Ask::Slots {
            fresh_within_seconds: None,
        },
        Duration::ZERO,
    )
    .await
    .unwrap_err()
    .to_string();
    for error in [bound, asked] {
        assert!(error.ends_with("use a shorter state directory"), "{error}");
    }
}
