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
        attempt: 3,
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
    let log = fs::read_to_string(board.guest.results.log_path(3)).unwrap();
    assert_eq!(log, "deb http://ppa.example/ubuntu\nhalf a line\n");

    let outcome = collect(&board.guest).await.unwrap();
    assert_eq!(outcome, Outcome::bare(BuildStatus::PackageFail));
    let log = fs::read_to_string(board.guest.results.log_path(3)).unwrap();
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

fn results(files: &[(&str, &[u8])]) -> (Status, FileMap) {
    let filemap: FileMap = files
        .iter()
        .map(|(name, bytes)| {
            (
                FileName::try_from((*name).to_owned()).unwrap(),
                Sha1::of(bytes),
            )
        })
        .collect();
    let outcome = Outcome {
        filemap: filemap.clone(),
        ..Outcome::bare(BuildStatus::Ok)
    };
    (
        Status::Waiting {
            build_id: build_id(),
            outcome,
        },
        filemap,
    )
}

#[tokio::test]
async fn results_are_here_only_with_the_hash_that_the_worker_named() {
    let board = board().await;
    let (deb, changes): (&[u8], &[u8]) = (&[7; 300_000], b"changes");
    let (status, filemap) = results(&[("a.deb", deb), ("b.deb", deb), ("a.changes", changes)]);
    board.toy.say(status);
    board.toy.has(LOG_NAME, b"log\n");
    let (deb_sum, changes_sum) = (Sha1::of(deb), Sha1::of(changes));
    board.toy.has(&deb_sum.to_string(), deb);
    board.toy.has(&changes_sum.to_string(), b"another");

    let lost = collect(&board.guest).await.unwrap_err();
    assert!(
        matches!(&lost, Lost::Lied(text) if text.contains("another SHA-1")),
        "{lost:?}"
    );
    assert!(
        board
            .guest
            .results
            .open(3, changes_sum)
            .await
            .unwrap()
            .is_none()
    );
    let left = fs::read_dir(board.guest.results.attempt(3)).unwrap();
    let names: Vec<String> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !names.iter().any(|name| name.starts_with('.')),
        "nothing half is left: {names:?}"
    );

    board.toy.has(&changes_sum.to_string(), changes);
    assert_eq!(collect(&board.guest).await.unwrap().filemap, filemap);
    for (sum, bytes) in [(deb_sum, deb), (changes_sum, changes)] {
        assert_eq!(
            fs::read(board.guest.results.attempt(3).join(sum.to_string())).unwrap(),
            bytes
        );
    }
    assert_eq!(fs::read(board.guest.results.log_path(3)).unwrap(), b"log\n");
    // One file under two names is fetched once a time.
    let fetches = board
        .toy
        .called()
        .iter()
        .filter(|call| **call == format!("file {deb_sum}"))
        .count();
    assert_eq!(fetches, 2);
}

#[tokio::test]
async fn a_missing_result_is_a_lie_and_too_many_bytes_are_refused() {
    let settings = GuestSettings {
        results_max_bytes: 10,
        ..quick()
    };
    let board = board_with(Toy::new(), settings).await;
    let (status, _) = results(&[("a.deb", b"01234567890")]);
    board.toy.say(status);
    let lost = collect(&board.guest).await.unwrap_err();
    assert!(
        matches!(&lost, Lost::Lied(text) if text.contains("that it has not")),
        "{lost:?}"
    );

    board
        .toy
        .has(&Sha1::of(b"01234567890").to_string(), b"01234567890");
    let lost = collect(&board.guest).await.unwrap_err();
    assert!(
        matches!(&lost, Lost::Refused(text) if text.contains("more than 10 bytes")),
        "{lost:?}"
    );

    // The bound is on all of them together.
    let (status, _) = results(&[("a", b"012345"), ("b", b"543210")]);
    board.toy.say(status);
    board.toy.has(&Sha1::of(b"012345").to_string(), b"012345");
    board.toy.has(&Sha1::of(b"543210").to_string(), b"543210");
    assert!(matches!(collect(&board.guest).await, Err(Lost::Refused(_))));
}

#[tokio::test]
async fn a_log_is_taken_up_where_it_was_left_with_nothing_doubled_or_lost() {
    let board = board().await;
    let worker = board.guest.link.worker().clone();
    let directory = board.guest.results.prepare(3).unwrap();
    let log: String = (0..5_000)
        .map(|line| format!("line {line} of https://user:pass{line}@host/ the log\n"))
        .chain(["x".repeat(200_000), " and the end".to_owned()])
        .collect();
    let clean: String = (0..5_000)
        .map(|line| format!("line {line} of https://host/ the log\n"))
        .chain(["x".repeat(200_000), " and the end".to_owned()])
        .collect();
    // The worker's log grows in steps that end anywhere; after each the daemon is killed.
    for step in 1..=40 {
        let upto = log.len() * step / 40;
        board.toy.has(LOG_NAME, &log.as_bytes()[..upto]);
        let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
        while puller.pull(&worker).await.unwrap() {}
        drop(puller);
        let here = fs::read_to_string(directory.join(LOG_NAME)).unwrap();
        assert!(clean.starts_with(&here), "step {step}");
        let lines = |text: &str| text.matches('\n').count();
        assert_eq!(
            lines(&here),
            lines(&log[..upto]),
            "step {step}: every whole line is here"
        );
    }
    // What was written after the last mark, before the kill, is cut off and asked for again.
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(directory.join(LOG_NAME))
        .unwrap();
    std::io::Write::write_all(&mut file, b"written and not marked").unwrap();
    let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
    puller.finish(&worker).await.unwrap();
    assert!(fs::read_to_string(directory.join(LOG_NAME)).unwrap() == clean);

    // Finished is finished, also for who comes later.
    board.toy.has(LOG_NAME, format!("{log}more\n").as_bytes());
    let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
    puller.finish(&worker).await.unwrap();
    assert!(fs::read_to_string(directory.join(LOG_NAME)).unwrap() == clean);
}

#[tokio::test]
async fn a_mark_that_does_not_fit_its_log_is_not_believed() {
    let board = board().await;
    let directory = board.guest.results.prepare(3).unwrap();
    board.toy.has(LOG_NAME, b"one\ntwo\n");
    for mark in [
        &b"{\"raw\":4,\"clean\":99,\"done\":true}"[..],
        b"nonsense",
        b"{\"raw\":4}",
    ] {
        fs::write(directory.join("buildlog.at"), mark).unwrap();
        fs::write(directory.join(LOG_NAME), b"on").unwrap();
        let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
        puller.finish(board.guest.link.worker()).await.unwrap();
        assert_eq!(fs::read(directory.join(LOG_NAME)).unwrap(), b"one\ntwo\n");
        fs::remove_file(directory.join("buildlog.at")).unwrap();
    }
}

#[tokio::test]
async fn a_log_that_is_too_long_is_cut_and_says_so() {
    let settings = GuestSettings {
        log_max_bytes: 20,
        ..quick()
    };
    let board = board_with(Toy::new(), settings.clone()).await;
    let directory = board.guest.results.prepare(3).unwrap();
    board
        .toy
        .has(LOG_NAME, b"0123456789\n0123456789\n0123456789\n");
    let expected = "0123456789\n012345678\n[pandabuildd: the log has more than 20 bytes; the rest \
                    is left out]\n";
    for _ in 0..2 {
        let mut puller = LogPuller::resume(&directory, &settings).await.unwrap();
        puller.finish(board.guest.link.worker()).await.unwrap();
        assert_eq!(
            fs::read_to_string(directory.join(LOG_NAME)).unwrap(),
            expected
        );
    }
}

#[tokio::test]
async fn a_build_that_moves_to_a_new_boot_begins_its_log_anew() {
    let board = board().await;
    let directory = board.guest.results.prepare(3).unwrap();
    board.toy.has(LOG_NAME, b"the first boot\n");
    let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
    puller.pull(board.guest.link.worker()).await.unwrap();
    drop(puller);
    dispatch(&board.guest, &call(), "10.0.0.1:99")
        .await
        .unwrap();
    board.toy.has(LOG_NAME, b"2nd\n");
    board.toy.say(waiting(BuildStatus::ChrootFail));
    collect(&board.guest).await.unwrap();
    assert_eq!(fs::read(board.guest.results.log_path(3)).unwrap(), b"2nd\n");
}

#[tokio::test]
async fn an_aborted_worker_hands_its_log_over() {
    let board = board().await;
    board.toy.say(building());
    board.toy.has(LOG_NAME, b"begun\nnot fin");
    abort(&board.guest).await;
    assert_eq!(
        fs::read(board.guest.results.log_path(3)).unwrap(),
        b"begun\nnot fin"
    );
    assert!(board.toy.called().contains(&"abort".to_owned()));
}

/// What is logged while a test runs.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_used_boards_words_stay_out_of_the_log_when_it_refuses_the_abort() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let mut toy = Toy::new();
    Arc::get_mut(&mut toy).unwrap().abort_fault = Some("deb http://user:s3cret@ppa.example/ x");
    let settings = GuestSettings {
        abort_ms: 50,
        ..quick()
    };
    let board = board_with(toy, settings).await;
    board.toy.say(building());
    abort(&board.guest).await;
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("does not take the abort"), "{logged}");
    assert!(!logged.contains("s3cret"), "{logged}");
}

#[tokio::test]
async fn a_log_that_comes_byte_by_byte_does_not_keep_the_master_busy() {
    let mut toy = Toy::new();
    Arc::get_mut(&mut toy).unwrap().drips = true;
    let settings = GuestSettings {
        collect_ms: 1_000,
        ..quick()
    };
    let board = board_with(toy, settings).await;
    board.toy.say(waiting(BuildStatus::PackageFail));
    board.toy.has(LOG_NAME, b"");
    assert_eq!(collect(&board.guest).await, Err(Lost::OverTime));
    let asked = board.toy.called().len();
    assert!(asked < 20, "asked {asked} times");
}

#[tokio::test]
async fn no_worker_is_too_stuck_to_abort() {
    let mut toy = Toy::new();
    Arc::get_mut(&mut toy).unwrap().obeys = false;
    let board = board_with(
        toy,
        GuestSettings {
            abort_ms: 50,
            ..quick()
        },
    )
    .await;
    board.toy.say(building());
    board.toy.has(LOG_NAME, b"stuck\n");
    abort(&board.guest).await;
    assert_eq!(
        fs::read(board.guest.results.log_path(3)).unwrap(),
        b"stuck\n"
    );

    let Board {
        agent,
        guest,
        state: _state,
        ..
    } = board;
    drop(agent);
    abort(&guest).await;
    assert_eq!(fs::read(guest.results.log_path(3)).unwrap(), b"stuck\n");
}
