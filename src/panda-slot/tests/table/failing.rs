//! A board that fails over and over is tried less and less often, whoever asks, until an operator takes a
//! hand or it brings a build's results.

use panda_protocol::launchpad::{BuildStatus, Outcome};
use panda_slot::{Answer, Board, Effect, Event, FailureKind, Phase, Refusal, Slot, Transition};

use super::{LIMITS, answer, booting, cutting, failed, go, keeping, refused, slot, used};

fn failed_often(pauses: u32) -> Slot {
    Slot {
        pauses,
        ..slot(failed(FailureKind::Boot))
    }
}

fn reset(before: &Slot) -> Transition {
    let Effect::Answer { call, .. } = answer(Answer::Done) else {
        panic!("an answer")
    };
    go(before, Event::Reset { call })
}

#[test]
fn launchpads_resets_try_a_failed_board_again_a_bounded_number_of_times() {
    let mut board = failed_often(0);
    let mut tries = 0;
    while reset(&board).next.board == cutting(1) {
        tries += 1;
        board = failed_often(reset(&board).next.pauses);
        assert!(tries <= LIMITS.attempts, "it is tried for ever");
    }
    assert_eq!(tries, LIMITS.attempts);
    let Transition { next, effects } = reset(&board);
    assert_eq!(next, board);
    assert_eq!(effects, [refused(Refusal::Failed("no ROM".to_owned()))]);
}

#[test]
fn a_clean_does_not_cut_short_the_pause_of_a_board_that_fails_over_and_over() {
    let Effect::Answer { call, .. } = answer(Answer::Done) else {
        panic!("an answer")
    };
    let before = Slot {
        pauses: LIMITS.attempts,
        ..keeping(failed(FailureKind::Boot))
    };
    let Transition { next, effects } = go(&before, Event::Clean { call });
    assert_eq!(next, before);
    assert!(effects.contains(&refused(Refusal::NotReady)), "{effects:?}");
}

#[test]
fn a_board_that_fails_over_and_over_says_what_an_operator_must_do() {
    let told = |pauses| {
        let before = Slot {
            pauses,
            ..slot(booting(LIMITS.attempts))
        };
        let event = Event::BootFailed {
            boot: before.boot,
            reason: "no ROM".to_owned(),
        };
        match go(&before, event).next.board {
            Board::Failed { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told(0), "no ROM");
    let often = told(LIMITS.attempts);
    assert!(
        often.starts_with("no ROM; it fails again and again")
            && often.ends_with("mend what is broken, then reset the slot"),
        "{often}"
    );
}

#[test]
fn an_accepted_build_does_not_make_up_for_failures_and_its_results_do() {
    let Effect::Answer { call, .. } = answer(Answer::Done) else {
        panic!("an answer")
    };
    let fresh = Slot {
        pauses: 2,
        ..slot(Board::Fresh { n: 1 })
    };
    let build_id = super::id();
    assert_eq!(go(&fresh, Event::Build { call, build_id }).next.pauses, 2);
    let collecting = Slot {
        pauses: 2,
        ..used(Phase::Collecting)
    };
    let collected = Event::Collected {
        attempt: collecting.attempt,
        boot: collecting.boot,
        outcome: Outcome::bare(BuildStatus::PackageFail),
    };
    assert_eq!(go(&collecting, collected).next.pauses, 0);
}

#[test]
fn an_operator_tries_a_board_at_once_however_often_it_has_failed() {
    let Effect::Answer { call, .. } = answer(Answer::Done) else {
        panic!("an answer")
    };
    for event in [
        Event::OperatorReset {
            call,
            forced: false,
        },
        Event::Release { call },
    ] {
        let next = go(&failed_often(LIMITS.attempts + 5), event).next;
        assert_eq!((next.board, next.pauses), (cutting(1), 0));
    }
}
