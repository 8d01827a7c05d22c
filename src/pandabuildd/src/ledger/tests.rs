//! The ledger as a whole: what it keeps over a reopening and a `kill -9`, and what it forgets.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dxr::Value;
use panda_protocol::digest::{Sha1, Sha256};
use panda_protocol::launchpad::{BuildCall, BuildId};
use panda_slot::{AttemptNo, Board, BootNo, Build, Errand, FailureKind, Phase, Slot};

use super::{BootSecrets, Grade, KEPT_BOOTS, Ledger, LedgerError, MAX_STEPS, NewAttempt, Step};

const PASSWORD: &str = "correct-horse-battery-staple";
const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";

struct Dir {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn dir() -> Dir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.sqlite");
    Dir { _dir: dir, path }
}

fn build_id() -> BuildId {
    BuildId::try_from("PACKAGEBUILD-7".to_owned()).unwrap()
}

fn call() -> BuildCall {
    let archive = format!("deb http://user:{PASSWORD}@ppa.example/ jammy main");
    BuildCall {
        build_id: build_id(),
        build_type: "binarypackage".to_owned(),
        chroot: Sha1::of(b"chroot").into(),
        filemap: BTreeMap::from([(
            "hello_2.10.dsc".to_owned().try_into().unwrap(),
            Sha1::of(b"dsc").into(),
        )]),
        args: BTreeMap::from([
            (
                "archives".to_owned(),
                Value::Array(vec![Value::String(archive)]),
            ),
            ("arch_indep".to_owned(), Value::Boolean(true)),
            ("odd".to_owned(), Value::String(" \n<&>]]> \t".to_owned())),
        ]),
    }
}

fn used(boot: u64, attempt: u64) -> Slot {
    let (boot, attempt) = (BootNo::new(boot), AttemptNo::new(attempt));
    let build = Build {
        attempt,
        build_id: build_id(),
        acknowledged: false,
        moves: 0,
    };
    let board = Board::Used {
        build,
        phase: Phase::Running,
    };
    Slot {
        boot,
        attempt,
        board,
        ..Slot::new()
    }
}

fn cutting(boot: u64, attempt: u64) -> Slot {
    Slot {
        boot: BootNo::new(boot),
        attempt: AttemptNo::new(attempt),
        ..Slot::new()
    }
}

fn secrets(id: &str) -> BootSecrets {
    BootSecrets {
        id: id.to_owned(),
        image: Sha256::of(b"image"),
        certificate_pem: "-----BEGIN CERTIFICATE-----".to_owned(),
        key_pem: KEY.to_owned(),
    }
}

fn step(name: &str) -> Step {
    Step {
        name: name.to_owned(),
        at_unix_ms: 1_321_970_400_123,
        elapsed_ms: 4_200,
        detail: "port 1-1.4".to_owned(),
        grade: None,
        error: None,
    }
}

/// Nothing of `text` is in the ledger's file or in those beside it.
fn assert_gone(path: &Path, text: &str) {
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(
            !bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        );
    }
}

#[tokio::test]
async fn a_slot_is_as_it_was_committed_after_reopening() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    assert_eq!(ledger.load_slot("panda01").await.unwrap(), None);
    let held = Some("new fan, ünïcode".to_owned());
    let slot = Slot {
        held,
        pauses: 3,
        ..used(7, 2)
    };
    ledger
        .commit("panda01", &cutting(6, 1), None)
        .await
        .unwrap();
    ledger.commit("panda01", &slot, None).await.unwrap();
    ledger
        .commit("panda02", &cutting(1, 0), None)
        .await
        .unwrap();
    drop(ledger);
    let ledger = Ledger::open(&dir.path).unwrap();
    assert_eq!(ledger.load_slot("panda01").await.unwrap(), Some(slot));
    assert_eq!(
        ledger.load_slot("panda02").await.unwrap(),
        Some(cutting(1, 0))
    );
}

#[tokio::test]
async fn an_accepted_builds_arguments_come_back_as_they_were_and_follow_its_boots() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    let accepted = NewAttempt {
        attempt: AttemptNo::new(1),
        call: call(),
    };
    ledger
        .commit("panda01", &used(3, 1), Some(accepted))
        .await
        .unwrap();
    drop(ledger);
    let ledger = Ledger::open(&dir.path).unwrap();
    let record = ledger
        .attempt("panda01", AttemptNo::new(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (record.attempt, record.boot, record.call),
        (AttemptNo::new(1), BootNo::new(3), Some(call()))
    );
    assert_eq!(
        ledger.attempt("panda01", AttemptNo::new(2)).await.unwrap(),
        None
    );
    assert_eq!(
        ledger.attempt("panda02", AttemptNo::new(1)).await.unwrap(),
        None
    );

    let Board::Used { build, .. } = used(3, 1).board else {
        unreachable!()
    };
    let moving = Board::Cutting {
        n: 1,
        errand: Errand::Build(build),
        prepared: false,
    };
    ledger
        .commit(
            "panda01",
            &Slot {
                board: moving,
                ..cutting(4, 1)
            },
            None,
        )
        .await
        .unwrap();
    let record = ledger
        .attempt("panda01", AttemptNo::new(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.boot, record.call), (BootNo::new(4), Some(call())));
}

#[tokio::test]
async fn a_builds_passwords_are_forgotten_with_the_commit_that_ends_it() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    let accepted = NewAttempt {
        attempt: AttemptNo::new(1),
        call: call(),
    };
    ledger
        .commit("panda01", &used(3, 1), Some(accepted))
        .await
        .unwrap();
    ledger
        .commit("panda01", &cutting(4, 1), None)
        .await
        .unwrap();
    let record = ledger
        .attempt("panda01", AttemptNo::new(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.boot, record.call), (BootNo::new(3), None));
    drop(ledger);
    assert_gone(&dir.path, PASSWORD);
}

#[tokio::test]
async fn an_ended_attempts_arguments_are_forgotten_on_request_too() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    let accepted = NewAttempt {
        attempt: AttemptNo::new(1),
        call: call(),
    };
    ledger
        .commit("panda01", &used(3, 1), Some(accepted))
        .await
        .unwrap();
    ledger
        .end_attempt("panda01", AttemptNo::new(1))
        .await
        .unwrap();
    assert_eq!(
        ledger
            .attempt("panda01", AttemptNo::new(1))
            .await
            .unwrap()
            .unwrap()
            .call,
        None
    );
}

#[tokio::test]
async fn a_commit_that_fails_changes_nothing() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    let accepted = || {
        Some(NewAttempt {
            attempt: AttemptNo::new(1),
            call: call(),
        })
    };
    ledger
        .commit("panda01", &used(3, 1), accepted())
        .await
        .unwrap();
    // The same attempt once more: the state is written first, then the attempt is refused.
    let error = ledger
        .commit("panda01", &used(9, 1), accepted())
        .await
        .unwrap_err();
    assert!(matches!(error, LedgerError::Sqlite { .. }), "{error:?}");
    assert_eq!(ledger.load_slot("panda01").await.unwrap(), Some(used(3, 1)));
    assert_eq!(
        ledger
            .attempt("panda01", AttemptNo::new(1))
            .await
            .unwrap()
            .unwrap()
            .boot,
        BootNo::new(3)
    );
    assert!(!format!("{error} {error:?}").contains(PASSWORD));
}

#[tokio::test]
async fn a_boots_key_lives_as_long_as_its_boot() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    ledger
        .commit("panda01", &cutting(1, 0), None)
        .await
        .unwrap();
    ledger
        .begin_boot("panda01", BootNo::new(1), secrets("a1"))
        .await
        .unwrap();
    ledger
        .begin_boot("panda02", BootNo::new(1), secrets("b1"))
        .await
        .unwrap();
    let fresh = Slot {
        board: Board::Fresh { n: 1 },
        ..cutting(1, 0)
    };
    ledger.commit("panda01", &fresh, None).await.unwrap();
    assert_eq!(
        ledger
            .boot_secrets("panda01", BootNo::new(1))
            .await
            .unwrap(),
        Some(secrets("a1"))
    );

    ledger
        .commit("panda01", &cutting(2, 0), None)
        .await
        .unwrap();
    assert_eq!(
        ledger
            .boot_secrets("panda01", BootNo::new(1))
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        ledger
            .boot_secrets("panda02", BootNo::new(1))
            .await
            .unwrap(),
        Some(secrets("b1"))
    );

    ledger
        .begin_boot("panda01", BootNo::new(2), secrets("a2"))
        .await
        .unwrap();
    let board = Board::Failed {
        kind: FailureKind::Boot,
        reason: "no ROM".to_owned(),
    };
    ledger
        .commit(
            "panda01",
            &Slot {
                board,
                ..cutting(2, 0)
            },
            None,
        )
        .await
        .unwrap();
    assert_eq!(
        ledger
            .boot_secrets("panda01", BootNo::new(2))
            .await
            .unwrap(),
        None
    );
    ledger
        .commit(
            "panda02",
            &Slot {
                board: Board::Off,
                ..cutting(1, 0)
            },
            None,
        )
        .await
        .unwrap();
    drop(ledger);
    assert_gone(&dir.path, KEY);
}

#[test]
fn a_boots_secrets_are_not_shown() {
    let shown = format!("{:?}", secrets("a1"));
    assert!(
        shown.contains("a1") && !shown.contains(KEY) && !shown.contains("CERT"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_boot_number_is_never_used_twice() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    ledger
        .begin_boot("panda01", BootNo::new(1), secrets("a1"))
        .await
        .unwrap();
    ledger
        .begin_boot("panda01", BootNo::new(1), secrets("a2"))
        .await
        .unwrap_err();
    ledger
        .begin_boot("panda01", BootNo::new(2), secrets("a1"))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_boots_chain_is_told_with_its_steps_in_order_newest_boot_first() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    ledger
        .begin_boot("panda01", BootNo::new(1), secrets("a1"))
        .await
        .unwrap();
    ledger
        .begin_boot("panda02", BootNo::new(1), secrets("b1"))
        .await
        .unwrap();
    ledger
        .begin_boot("panda01", BootNo::new(2), secrets("a2"))
        .await
        .unwrap();
    let cut = Step {
        grade: Some(Grade::Presence),
        ..step("cut")
    };
    let rom = Step {
        error: Some("nothing came".to_owned()),
        ..step("rom")
    };
    ledger
        .record_step("panda01", BootNo::new(2), cut.clone())
        .await
        .unwrap();
    ledger
        .record_step("panda01", BootNo::new(2), rom.clone())
        .await
        .unwrap();
    ledger
        .record_step(
            "panda01",
            BootNo::new(3),
            step("of a boot that never began"),
        )
        .await
        .unwrap();
    let accepted = NewAttempt {
        attempt: AttemptNo::new(1),
        call: call(),
    };
    ledger
        .commit("panda01", &used(2, 1), Some(accepted))
        .await
        .unwrap();
    drop(ledger);

    let ledger = Ledger::open(&dir.path).unwrap();
    let all = ledger.boots(None, 10).await.unwrap();
    let ids: Vec<&str> = all.iter().map(|boot| boot.id.as_str()).collect();
    assert_eq!(ids, ["a2", "b1", "a1"]);
    assert_eq!(
        (all[0].slot.as_str(), all[0].boot, &all[0].attempts[..]),
        ("panda01", BootNo::new(2), &[AttemptNo::new(1)][..])
    );
    assert_eq!(all[0].steps, [cut, rom]);
    assert_eq!(all[0].image, Sha256::of(b"image"));
    assert!(all[1].steps.is_empty() && all[1].attempts.is_empty());
    let one = ledger.boots(Some("panda01"), 1).await.unwrap();
    assert_eq!(one, all[..1]);
    let json = serde_json::to_string(&all).unwrap();
    assert!(!json.contains(KEY) && !json.contains(PASSWORD));
}

#[tokio::test]
async fn a_steps_texts_are_cut_between_characters() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    ledger
        .begin_boot("panda01", BootNo::new(1), secrets("a1"))
        .await
        .unwrap();
    let long = format!("x{}", "é".repeat(2_000));
    let step = Step {
        detail: long.clone(),
        error: Some(long),
        ..step("rom")
    };
    ledger
        .record_step("panda01", BootNo::new(1), step)
        .await
        .unwrap();
    let boots = ledger.boots(None, 1).await.unwrap();
    let cut = format!("x{}", "é".repeat(1_023));
    assert_eq!(boots[0].steps[0].detail, cut);
    assert_eq!(boots[0].steps[0].error.as_deref(), Some(cut.as_str()));
}

#[tokio::test]
async fn only_so_many_steps_boots_and_attempts_are_kept_for_each_slot() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    ledger
        .begin_boot("panda02", BootNo::new(1), secrets("other"))
        .await
        .unwrap();
    ledger
        .record_step("panda02", BootNo::new(1), step("cut"))
        .await
        .unwrap();
    let last = u64::from(KEPT_BOOTS) + 5;
    for number in 1..=last {
        let boot = BootNo::new(number);
        ledger
            .begin_boot("panda01", boot, secrets(&format!("a{boot}")))
            .await
            .unwrap();
        ledger
            .record_step("panda01", boot, step("cut"))
            .await
            .unwrap();
        let accepted = NewAttempt {
            attempt: AttemptNo::new(number),
            call: call(),
        };
        ledger
            .commit("panda01", &used(number, number), Some(accepted))
            .await
            .unwrap();
    }
    for _ in 0..MAX_STEPS + 5 {
        ledger
            .record_step("panda01", BootNo::new(last), step("rom"))
            .await
            .unwrap();
    }
    let boots = ledger.boots(Some("panda01"), 1000).await.unwrap();
    let numbers: Vec<u64> = boots.iter().map(|boot| boot.boot.get()).collect();
    assert_eq!(numbers, (6..=last).rev().collect::<Vec<u64>>());
    assert_eq!(boots[0].steps.len(), MAX_STEPS as usize);
    assert!(boots[1..].iter().all(|boot| boot.steps.len() == 1));
    assert_eq!(
        ledger.attempt("panda01", AttemptNo::new(5)).await.unwrap(),
        None
    );
    assert!(
        ledger
            .attempt("panda01", AttemptNo::new(6))
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(
        ledger.boots(Some("panda02"), 9).await.unwrap()[0]
            .steps
            .len(),
        1
    );
}

#[tokio::test]
async fn pins_are_kept_until_their_slot_is_unpinned() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    let (one, two) = (Sha1::from_bytes([1; 20]), Sha1::from_bytes([2; 20]));
    for (slot, sha1) in [
        ("panda01", one),
        ("panda01", two),
        ("panda02", one),
        ("panda01", one),
    ] {
        ledger.pin(slot, sha1).await.unwrap();
    }
    drop(ledger);
    let ledger = Ledger::open(&dir.path).unwrap();
    let pin = |slot: &str, sha1| (slot.to_owned(), sha1);
    let all = [
        pin("panda01", one),
        pin("panda01", two),
        pin("panda02", one),
    ];
    assert_eq!(ledger.pins().await.unwrap(), all);
    ledger.unpin("panda01").await.unwrap();
    assert_eq!(ledger.pins().await.unwrap(), [pin("panda02", one)]);
}

#[tokio::test]
async fn a_damaged_record_is_named_and_not_taken_for_an_unknown_slot() {
    let dir = dir();
    let ledger = Ledger::open(&dir.path).unwrap();
    ledger
        .commit("panda01", &cutting(1, 0), None)
        .await
        .unwrap();
    let other = rusqlite::Connection::open(&dir.path).unwrap();
    other
        .execute("UPDATE slot SET state = '{\"board\":\"Gone\"}'", [])
        .unwrap();
    let error = ledger.load_slot("panda01").await.unwrap_err();
    assert!(error.to_string().contains("slot panda01"), "{error}");
}

/// What `kill_9_loses_nothing_that_was_committed` kills: commits ever later boots and says each once it
/// is committed.
#[test]
#[ignore = "run by kill_9_loses_nothing_that_was_committed, which gives it a ledger"]
fn commits_until_killed() {
    let Some(path) = std::env::var_os("PANDABUILDD_TEST_LEDGER") else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let ledger = Ledger::open(Path::new(&path)).unwrap();
    for boot in 1.. {
        runtime
            .block_on(ledger.commit("panda01", &cutting(boot, 0), None))
            .unwrap();
        println!("\ncommitted {boot}");
    }
}

#[test]
fn kill_9_loses_nothing_that_was_committed() {
    let dir = dir();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "ledger::tests::commits_until_killed",
            "--ignored",
            "--nocapture",
        ])
        .env("PANDABUILDD_TEST_LEDGER", &dir.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("committed ")?.parse::<u64>().ok())
        .find(|boot| *boot >= 20);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = said.expect("the child commits");
    let ledger = Ledger::open(&dir.path).unwrap();
    let found = ledger.load_slot_now("panda01").unwrap();
    assert!(
        found.boot >= BootNo::new(said),
        "{} was committed, {} was found",
        said,
        found.boot
    );
    assert_eq!(found, cutting(found.boot.get(), 0));
}
