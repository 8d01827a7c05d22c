//! Cuts that show less than the rack demands: a boot for the evidence of the next one, and no other use of it.

use panda_slot::{Answer, Board, BootNo, CallId, Effect, Errand, Event, FailureKind};

use super::{
    answer, booting, cut, cutting, failed, fresh_build, go, held, id, refused, slot, told,
};

fn weak(boot: BootNo) -> Event {
    Event::CutWeak {
        boot,
        reason: "no ROM".to_owned(),
    }
}

fn preparing(n: u32) -> Board {
    Board::Preparing {
        n,
        errand: Errand::Nothing,
    }
}

fn prepared(n: u32) -> Board {
    Board::Cutting {
        n,
        errand: Errand::Nothing,
        prepared: true,
    }
}

#[test]
fn a_weak_cut_is_followed_by_a_boot_for_evidence_and_another_cut_of_the_same_attempt() {
    let first = go(&slot(cutting(2)), weak(BootNo::new(9)));
    assert_eq!(first.next.board, preparing(2));
    assert_eq!(
        first.effects,
        [Effect::StartPreparing {
            boot: BootNo::new(9)
        }]
    );
    let second = go(
        &first.next,
        Event::Prepared {
            boot: BootNo::new(9),
        },
    );
    assert_eq!(
        (second.next.board.clone(), second.next.boot),
        (prepared(2), BootNo::new(10))
    );
    assert_eq!(second.effects, [cut(BootNo::new(10))]);
    let third = go(
        &second.next,
        Event::CutSeen {
            boot: BootNo::new(10),
        },
    );
    assert_eq!(third.next.board, booting(2));
}

#[test]
fn a_cut_that_is_weak_after_a_boot_for_evidence_has_failed() {
    let (board, _, effects) = told(go(&slot(prepared(2)), weak(BootNo::new(9))));
    assert_eq!((board, effects), (cutting(3), vec![cut(BootNo::new(10))]));
    let (board, _, _) = told(go(&slot(prepared(3)), weak(BootNo::new(9))));
    assert_eq!(board, failed(FailureKind::Power));
}

#[test]
fn a_boot_for_evidence_that_fails_ends_its_attempt() {
    let reason = || "no ROM".to_owned();
    let boot_failed = || Event::BootFailed {
        boot: BootNo::new(9),
        reason: reason(),
    };
    let (board, _, effects) = told(go(&slot(preparing(2)), boot_failed()));
    assert_eq!((board, effects), (cutting(3), vec![cut(BootNo::new(10))]));
    let (board, _, _) = told(go(&slot(preparing(3)), boot_failed()));
    assert_eq!(board, failed(FailureKind::Boot));
    let wrong = Event::WrongChip {
        boot: BootNo::new(9),
        reason: reason(),
    };
    let (board, _, _) = told(go(&slot(preparing(1)), wrong));
    assert_eq!(board, failed(FailureKind::Chip));
}

#[test]
fn a_boot_for_evidence_is_proven_to_nobody_and_takes_no_build() {
    let here = slot(preparing(1));
    for event in [
        Event::Proved {
            boot: BootNo::new(9),
        },
        Event::CutSeen {
            boot: BootNo::new(9),
        },
        Event::Prepared {
            boot: BootNo::new(8),
        },
    ] {
        let (board, _, effects) = told(go(&here, event));
        assert_eq!((board, effects), (preparing(1), vec![]));
    }
    let build = Event::Build {
        call: CallId::new(1),
        build_id: id(),
    };
    let (board, _, effects) = told(go(&here, build));
    assert_eq!(board, preparing(1));
    assert_eq!(effects, [refused(panda_slot::Refusal::NotIdle)]);
    let (board, _, effects) = told(go(
        &here,
        Event::Reset {
            call: CallId::new(1),
        },
    ));
    assert_eq!(
        (board, effects),
        (preparing(1), vec![answer(Answer::Joined)])
    );
}

#[test]
fn a_moving_build_waits_for_the_boot_after_the_one_for_evidence() {
    let errand = Errand::Build(fresh_build());
    let moving = slot(Board::Cutting {
        n: 1,
        errand: errand.clone(),
        prepared: false,
    });
    let first = go(&moving, weak(BootNo::new(9)));
    assert_eq!(
        first.effects,
        [Effect::StartPreparing {
            boot: BootNo::new(9)
        }]
    );
    let second = go(
        &first.next,
        Event::Prepared {
            boot: BootNo::new(9),
        },
    );
    let expected = Board::Cutting {
        n: 1,
        errand: errand.clone(),
        prepared: true,
    };
    assert_eq!(
        (second.next.board.clone(), second.effects),
        (expected, vec![cut(BootNo::new(10))])
    );
    let third = go(
        &second.next,
        Event::CutSeen {
            boot: BootNo::new(10),
        },
    );
    assert_eq!(third.next.board, Board::Booting { n: 1, errand });
}

#[test]
fn a_held_board_without_a_build_gets_no_power_for_evidence() {
    let (board, _, effects) = told(go(&held(slot(cutting(1))), weak(BootNo::new(9))));
    assert_eq!((board, effects), (Board::Off, vec![Effect::PowerOff]));
    let hold = Event::Hold {
        call: CallId::new(1),
        reason: "dusting".to_owned(),
    };
    let (board, _, effects) = told(go(&slot(preparing(1)), hold));
    assert_eq!(
        (board, effects),
        (cutting(1), vec![answer(Answer::Done), cut(BootNo::new(10))])
    );
}
