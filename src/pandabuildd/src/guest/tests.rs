//! The guest against a toy agent over loopback.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use panda_http::Identity;
use panda_protocol::digest::{Sha1, Sha256};
use panda_protocol::launchpad::{
    BuildCall, BuildId, BuildStatus, FileMap, FileName, Outcome, Status, Sum,
};
use panda_slot::Lost;
use tempfile::TempDir;

use super::log::LogPuller;
use super::toy::{Toy, ToyAgent, build_id, building, waiting};
use super::*;
use crate::identity::{KeyAndCertificate, new_boot_id};
use crate::ledger::BootSecrets;

mod aborts;
mod logs;
mod results;

struct Board {
    state: TempDir,
    agent: ToyAgent,
    toy: Arc<Toy>,
    guest: Guest,
    master: Identity,
}

fn quick() -> GuestSettings {
    GuestSettings {
        poll_ms: 1,
        prove_ms: 1,
        follow_silent_ms: 1,
        ..GuestSettings::default()
    }
}

pub(crate) fn secrets() -> BootSecrets {
    let made = KeyAndCertificate::make().unwrap();
    BootSecrets {
        id: new_boot_id().unwrap(),
        image: Sha256::of(b"image"),
        certificate_pem: made.certificate_pem,
        key_pem: made.key_pem,
    }
}

fn identity() -> Identity {
    let made = KeyAndCertificate::make().unwrap();
    Identity::from_pem(&made.certificate_pem, &made.key_pem).unwrap()
}

async fn board_with(toy: Arc<Toy>, settings: GuestSettings) -> Board {
    let state = tempfile::tempdir().unwrap();
    let (master, secrets) = (identity(), secrets());
    let agent = ToyAgent::start("127.0.0.1:0", &secrets, &master, toy.clone()).await;
    let link = Link::new(agent.address, &master, &secrets, &settings).unwrap();
    let results = Results::at(state.path(), "panda01", &[]).unwrap();
    let guest = Guest {
        link,
        results,
        attempt: AttemptNo::new(3),
        build_id: build_id(),
        settings,
    };
    Board {
        state,
        agent,
        toy,
        guest,
        master,
    }
}

async fn board() -> Board {
    board_with(Toy::new(), quick()).await
}

/// Nothing in these tests takes long, so what never ends is a failure.
async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what)
        .await
        .expect("it ends in a test's time")
}

async fn prove(
    link: &Link,
    proving: Proving,
    settings: &GuestSettings,
    proved: impl FnMut(),
) -> Lost {
    in_time(super::prove(link, proving, settings, proved)).await
}

async fn follow(guest: &Guest) -> Result<(), Lost> {
    in_time(super::follow(guest)).await
}

async fn collect(guest: &Guest) -> Result<Outcome, Lost> {
    in_time(super::collect(guest)).await
}

async fn abort(guest: &Guest) {
    in_time(super::abort(guest)).await;
}

fn call() -> BuildCall {
    let name = FileName::try_from("hello.dsc".to_owned()).unwrap();
    BuildCall {
        build_id: build_id(),
        build_type: "binarypackage".to_owned(),
        chroot: Sum::from(Sha1::of(b"chroot")),
        filemap: [(name, Sum::from(Sha1::of(b"dsc")))].into(),
        args: BTreeMap::new(),
    }
}

fn is_lie(lost: &Lost) -> bool {
    matches!(lost, Lost::Lied(_))
}

#[tokio::test]
async fn the_link_speaks_with_this_boots_agent_and_no_other() {
    let board = board().await;
    board.guest.link.report().await.unwrap();
    board.guest.link.idle().await.unwrap();

    // The certificate of another boot of the same slot.
    let other = Link::new(board.agent.address, &board.master, &secrets(), &quick()).unwrap();
    let error = other.report().await.unwrap_err();
    assert_eq!(error.lost(), Lost::Silent, "{error}");

    *board.toy.reports.lock().unwrap() = Some(new_boot_id().unwrap());
    let error = board.guest.link.report().await.unwrap_err();
    assert!(matches!(error, LinkError::WrongReport("boot")), "{error}");
}

#[tokio::test]
async fn a_waiting_board_proves_itself_until_it_is_not_idle_or_silent() {
    let board = board().await;
    let mut proofs = 0;
    let toy = board.toy.clone();
    let count = || {
        proofs += 1;
        if proofs == 3 {
            toy.say(building());
        }
    };
    let lost = prove(&board.guest.link, Proving::Idle, &quick(), count).await;
    assert_eq!(
        lost,
        Lost::Lied("the worker was given no build, and says BUILDING, not IDLE".into())
    );
    assert_eq!(proofs, 3);

    // With a build, only the boot is proven.
    let mut proofs = 0;
    let toy = board.toy.clone();
    let count = || {
        proofs += 1;
        if proofs == 2 {
            *toy.reports.lock().unwrap() = Some(new_boot_id().unwrap());
        }
    };
    assert!(is_lie(
        &prove(&board.guest.link, Proving::Boot, &quick(), count).await
    ));
    assert_eq!(proofs, 2);

    let Board { agent, guest, .. } = board;
    drop(agent);
    let settings = GuestSettings {
        prove_silent_ms: 1,
        ..quick()
    };
    assert_eq!(
        prove(&guest.link, Proving::Idle, &settings, || ()).await,
        Lost::Silent
    );
}

#[tokio::test]
async fn a_dispatch_has_every_input_fetched_from_the_depot_and_then_begins() {
    let board = board().await;
    let begun = dispatch(&board.guest, &call(), "10.0.0.1:99")
        .await
        .unwrap();
    assert_eq!(begun, Dispatched::Begun);
    assert_eq!(
        board.toy.called(),
        ["status", "ensurepresent", "ensurepresent", "build"]
    );

    // Asked again after a restart: the worker has it already, and is not asked twice.
    let joined = dispatch(&board.guest, &call(), "10.0.0.1:99")
        .await
        .unwrap();
    assert_eq!(joined, Dispatched::Joined);
    assert_eq!(
        board
            .toy
            .called()
            .iter()
            .filter(|call| *call == "build")
            .count(),
        1
    );

    let another = BuildId::try_from("PACKAGEBUILD-8".to_owned()).unwrap();
    board.toy.say(Status::Building {
        build_id: another,
        logtail: Vec::new(),
    });
    assert!(is_lie(
        &dispatch(&board.guest, &call(), "10.0.0.1:99")
            .await
            .unwrap_err()
    ));
}

#[tokio::test]
async fn a_worker_that_cannot_fetch_an_input_refuses_the_build() {
    let mut toy = Toy::new();
    Arc::get_mut(&mut toy).unwrap().obeys = false;
    let board = board_with(toy, quick()).await;
    let lost = dispatch(&board.guest, &call(), "10.0.0.1:99")
        .await
        .unwrap_err();
    assert!(
        matches!(&lost, Lost::Refused(text) if text.contains("from the depot")),
        "{lost:?}"
    );
    assert!(!board.toy.called().contains(&"build".to_owned()));
}

#[tokio::test]
async fn a_build_is_followed_to_its_end_with_its_log_sanitised() {
    let board = board().await;
    board.toy.say(building());
    board
        .toy
        .has(LOG_NAME, b"deb http://user:secret@ppa.example/ubuntu\nhalf");
    let script = async {
        board.toy.until_called("status", 3).await;
        board.toy.has(
            LOG_NAME,
            b"deb http://user:secret@ppa.example/ubuntu\nhalf a line\nlast",
        );
        let sofar = board.toy.called().len();
        board.toy.until_called("file buildlog", sofar).await;
        board.toy.say(waiting(BuildStatus::PackageFail));
    };
    let (followed, ()) = tokio::join!(follow(&board.guest), script);
    followed.unwrap();
    let log = fs::read_to_string(board.guest.results.log_path(AttemptNo::new(3))).unwrap();
    assert_eq!(log, "deb http://ppa.example/ubuntu\nhalf a line\n");

    let outcome = collect(&board.guest).await.unwrap();
    assert_eq!(outcome, Outcome::bare(BuildStatus::PackageFail));
    let log = fs::read_to_string(board.guest.results.log_path(AttemptNo::new(3))).unwrap();
    assert_eq!(log, "deb http://ppa.example/ubuntu\nhalf a line\nlast");
}

#[tokio::test]
async fn a_worker_that_says_what_cannot_be_is_a_liar() {
    let another = || BuildId::try_from("PACKAGEBUILD-8".to_owned()).unwrap();
    for lie in [
        Status::Idle,
        Status::Building {
            build_id: another(),
            logtail: Vec::new(),
        },
        Status::Waiting {
            build_id: another(),
            outcome: Outcome::bare(BuildStatus::Ok),
        },
        Status::Aborting {
            build_id: Some(build_id()),
        },
        waiting(BuildStatus::Aborted),
    ] {
        let board = board().await;
        board.toy.say(lie.clone());
        let lost = follow(&board.guest).await.unwrap_err();
        assert!(is_lie(&lost), "{lie:?}: {lost:?}");
        let lost = collect(&board.guest).await.unwrap_err();
        assert!(is_lie(&lost), "{lie:?}: {lost:?}");
    }
}

#[tokio::test]
async fn a_build_over_its_time_and_a_silent_board_are_lost() {
    let settings = GuestSettings {
        build_ms: 1,
        poll_ms: 2,
        ..quick()
    };
    let board = board_with(Toy::new(), settings).await;
    board.toy.say(building());
    assert_eq!(follow(&board.guest).await, Err(Lost::OverTime));

    let board = self::board().await;
    let Board {
        agent,
        guest,
        state: _state,
        ..
    } = board;
    drop(agent);
    assert_eq!(follow(&guest).await, Err(Lost::Silent));
}
