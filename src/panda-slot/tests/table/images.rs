//! What an operator's reset does to a board that waits for a build, and what becomes of one whose image
//! is no longer the current one.

use panda_slot::{Answer, Board, Effect, Event, FailureKind, Phase, Rejoin, Transition};

use super::{answer, booting, cut, cutting, failed, go, held, keeping, slot, told, used};

fn operators(forced: bool) -> Event {
    let Effect::Answer { call, .. } = answer(Answer::Done) else {
        panic!("an answer")
    };
    Event::OperatorReset { call, forced }
}

fn outdated(of: &panda_slot::Slot) -> Event {
    let Effect::Answer { call, .. } = answer(Answer::Done) else {
        panic!("an answer")
    };
    Event::ImageOutdated {
        call,
        boot: of.boot,
    }
}

#[test]
fn an_operators_reset_always_cuts_a_board_that_waits_for_a_build() {
    for board in [
        Board::Fresh { n: 2 },
        Board::Rejoining(Rejoin::Fresh { n: 2 }),
    ] {
        for forced in [false, true] {
            let before = slot(board.clone());
            let Transition { next, effects } = go(&before, operators(forced));
            assert_eq!((next.board, next.pauses), (cutting(1), 0));
            assert_ne!(next.boot, before.boot);
            assert_eq!(effects, [cut(next.boot), answer(Answer::Joined)]);
        }
    }
}

#[test]
fn an_operators_reset_joins_a_boot_that_is_under_way() {
    for board in [cutting(2), booting(2), Board::Trial { n: 1 }] {
        let (then, _, effects) = told(go(&slot(board.clone()), operators(true)));
        assert_eq!((then, effects), (board, vec![answer(Answer::Joined)]));
    }
}

#[test]
fn a_fresh_board_of_an_outdated_image_is_cut() {
    let before = slot(Board::Fresh { n: 3 });
    let Transition { next, effects } = go(&before, outdated(&before));
    assert_eq!(next.board, cutting(1));
    assert_eq!(effects, [answer(Answer::Done), cut(next.boot)]);
}

#[test]
fn an_outdated_image_disturbs_nothing_but_the_fresh_board_that_has_it() {
    let fresh = slot(Board::Fresh { n: 1 });
    let earlier = outdated(&fresh);
    let mut again = fresh;
    again.boot = again_boot(again.boot);
    let rest = [
        used(Phase::Running),
        used(Phase::Aborting),
        slot(booting(1)),
        slot(failed(FailureKind::Boot)),
        held(slot(Board::Off)),
        keeping(cutting(2)),
    ];
    // The boot that it was asked for is over: the board has the current image.
    let late = go(&again, earlier);
    assert_eq!(
        (late.next, late.effects),
        (again, vec![answer(Answer::Done)])
    );
    for before in rest {
        let Transition { next, effects } = go(&before, outdated(&before));
        assert_eq!((next, effects), (before, vec![answer(Answer::Done)]));
    }
}

fn again_boot(boot: panda_slot::BootNo) -> panda_slot::BootNo {
    let reset = go(
        &panda_slot::Slot {
            boot,
            ..slot(Board::Fresh { n: 1 })
        },
        operators(true),
    );
    reset.next.boot
}
