//! The control socket against slots with scripted hands.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use panda_http::pinned::public_client_config;
use tokio_util::sync::CancellationToken;

use super::client::{ControlError, ask};
use super::wire::{Answer, Ask, ResetEnd};
use super::*;
use crate::ledger::Ledger;
use crate::slot::{self, SlotHandle};
use crate::testing::ScriptedHands;

struct Daemon {
    _state: tempfile::TempDir,
    socket: PathBuf,
    hands: Arc<ScriptedHands>,
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
    let hands = Arc::new(ScriptedHands::default());
    let slot = slot::spawn(
        "panda01",
        None,
        ledger.clone(),
        hands.clone(),
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
        ledger,
        dialect: Dialect::Current,
        virtualized: true,
    };
    drop(serve(bind(&socket).unwrap(), desk, stop.clone()));
    Daemon {
        _state: state,
        socket,
        hands,
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
    daemon.hands.reset_well().await;
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
    daemon.hands.reset_well().await;
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
