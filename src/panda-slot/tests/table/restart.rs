//! What the daemon's start does.

use panda_protocol::launchpad::BuildStatus;
use panda_slot::{Board, BootNo, CallId, Effect, Errand, Event, FailureKind, Phase, Rejoin, Slot};

use super::{
    DROPPED, ENDED, booting, build, cut, cutting, failed, fresh_build, go, held, keeping, slot,
    told, used,
};

#[test]
fn a_restart_proves_boards_again_and_repeats_what_may_be_lost() {
    let proving = Effect::StartProving {
        boot: BootNo::new(9),
    };
    let rejoining = |rejoin| Board::Rejoining(rejoin);
    let rows = [
        (
            Board::Fresh { n: 2 },
            rejoining(Rejoin::Fresh { n: 2 }),
            vec![DROPPED, proving.clone()],
        ),
        (
            used(Phase::Running).board,
            rejoining(Rejoin::Running(build())),
            vec![proving.clone()],
        ),
        (
            used(Phase::Collecting).board,
            rejoining(Rejoin::Collecting(build())),
            vec![proving.clone()],
        ),
        (
            rejoining(Rejoin::Running(build())),
            rejoining(Rejoin::Running(build())),
            vec![proving],
        ),
        (
            cutting(2),
            cutting(2),
            vec![ENDED, DROPPED, cut(BootNo::new(10))],
        ),
        (
            booting(2),
            cutting(2),
            vec![ENDED, DROPPED, cut(BootNo::new(10))],
        ),
        (
            Board::Booting {
                n: 2,
                errand: Errand::Trial,
            },
            cutting(2),
            vec![ENDED, DROPPED, cut(BootNo::new(10))],
        ),
        (
            Board::Preparing {
                n: 2,
                errand: Errand::Trial,
            },
            cutting(2),
            vec![ENDED, DROPPED, cut(BootNo::new(10))],
        ),
        (
            Board::Preparing {
                n: 2,
                errand: Errand::Build(fresh_build()),
            },
            Board::Cutting {
                n: 2,
                errand: Errand::Build(fresh_build()),
                prepared: false,
            },
            vec![cut(BootNo::new(10))],
        ),
        (
            Board::Cutting {
                n: 2,
                errand: Errand::Nothing,
                prepared: true,
            },
            cutting(2),
            vec![ENDED, DROPPED, cut(BootNo::new(10))],
        ),
        (
            Board::Trial { n: 2 },
            cutting(2),
            vec![ENDED, DROPPED, cut(BootNo::new(10))],
        ),
        (
            Board::Booting {
                n: 2,
                errand: Errand::Build(fresh_build()),
            },
            Board::Cutting {
                n: 2,
                errand: Errand::Build(fresh_build()),
                prepared: false,
            },
            vec![cut(BootNo::new(10))],
        ),
        (
            failed(FailureKind::Boot),
            failed(FailureKind::Boot),
            vec![
                ENDED,
                DROPPED,
                Effect::PowerOff,
                Effect::ArmRetry {
                    boot: BootNo::new(9),
                    pauses: 1,
                },
            ],
        ),
        (
            failed(FailureKind::Chip),
            failed(FailureKind::Chip),
            vec![ENDED, DROPPED, Effect::PowerOff],
        ),
    ];
    for (before, then, expected) in rows {
        let (board, kept, effects) = told(go(&slot(before.clone()), Event::Recover));
        assert_eq!((board, kept, effects), (then, None, expected), "{before:?}");
    }
    let (board, _, effects) = told(go(&held(slot(Board::Off)), Event::Recover));
    assert_eq!(
        (board, effects),
        (Board::Off, vec![ENDED, DROPPED, Effect::PowerOff])
    );
}

#[test]
fn a_restart_ends_an_abort_and_keeps_what_was_kept() {
    let (board, kept, effects) = told(go(&used(Phase::Aborting), Event::Recover));
    assert_eq!((board, kept), (cutting(1), Some(BuildStatus::Aborted)));
    assert_eq!(effects, [cut(BootNo::new(10)), ENDED]);
    let (_, kept, effects) = told(go(&keeping(cutting(1)), Event::Recover));
    assert_eq!(kept, Some(BuildStatus::Ok));
    assert_eq!(effects, [ENDED, cut(BootNo::new(10))]);
}

#[test]
fn a_slot_that_was_never_seen_is_cut_first() {
    let first = go(&Slot::new(), Event::Recover);
    assert_eq!(
        (first.next.board, first.next.boot),
        (cutting(1), BootNo::new(1))
    );
    assert_eq!(first.effects, [cut(BootNo::new(1))]);
}

#[test]
fn a_state_of_before_boards_were_prepared_is_read() {
    let json = serde_json::to_string(&slot(cutting(2))).unwrap();
    let older = json.replace(",\"prepared\":false", "");
    assert_ne!(older, json);
    let back: Slot = serde_json::from_str(&older).unwrap();
    assert_eq!(back, slot(cutting(2)));
}

#[test]
fn a_waiting_clean_is_not_remembered_over_a_restart() {
    let waiting = go(
        &keeping(booting(1)),
        Event::Clean {
            call: CallId::new(1),
        },
    )
    .next;
    let json = serde_json::to_string(&waiting).unwrap();
    let back: Slot = serde_json::from_str(&json).unwrap();
    assert_eq!(back, keeping(booting(1)));
}
