//! What resets, holds and releases do.

use panda_protocol::launchpad::{BuildStatus, Outcome};
use panda_slot::{
    Answer, AttemptNo, Board, BootNo, CallId, Effect, Errand, Event, FailureKind, Phase, Refusal,
    Rejoin, Slot, Transition,
};

use super::{
    DROPPED, ENDED, answer, booting, build, cut, cutting, failed, fresh_build, go, held, keeping,
    refused, slot, told, used,
};

#[test]
fn a_reset_of_a_live_slot_drops_its_build_and_cuts() {
    let boards = [
        Board::Used {
            build: build(),
            phase: Phase::Running,
        },
        Board::Used {
            build: build(),
            phase: Phase::Collecting,
        },
        Board::Used {
            build: build(),
            phase: Phase::Aborting,
        },
        Board::Rejoining(Rejoin::Running(build())),
        Board::Rejoining(Rejoin::Collecting(build())),
    ];
    for board in boards {
        let (board, kept, effects) = told(go(
            &slot(board),
            Event::Reset {
                call: CallId::new(1),
            },
        ));
        assert_eq!((board, kept), (cutting(1), None));
        assert_eq!(
            effects,
            [cut(BootNo::new(10)), ENDED, DROPPED, answer(Answer::Joined)]
        );
    }
}

#[test]
fn a_reset_of_a_moving_build_drops_it_and_joins_its_boot() {
    let moving = Board::Booting {
        n: 2,
        errand: Errand::Build(fresh_build()),
    };
    let (board, kept, effects) = told(go(
        &slot(moving),
        Event::Reset {
            call: CallId::new(1),
        },
    ));
    assert_eq!((board, kept), (booting(2), None));
    assert_eq!(effects, [ENDED, DROPPED, answer(Answer::Joined)]);
}

#[test]
fn a_reset_of_a_fresh_slot_is_ready_at_once_and_powers_nothing() {
    let (board, kept, effects) = told(go(
        &keeping(Board::Fresh { n: 2 }),
        Event::Reset {
            call: CallId::new(1),
        },
    ));
    assert_eq!((board, kept), (Board::Fresh { n: 2 }, None));
    assert_eq!(effects, [DROPPED, answer(Answer::Ready)]);
}

#[test]
fn a_reset_during_a_reset_joins_it() {
    let boards = [
        cutting(2),
        booting(2),
        Board::Trial { n: 1 },
        Board::Rejoining(Rejoin::Fresh { n: 1 }),
    ];
    for board in boards {
        let (then, kept, effects) = told(go(
            &keeping(board.clone()),
            Event::Reset {
                call: CallId::new(1),
            },
        ));
        assert_eq!((then, kept), (board, None));
        assert_eq!(effects, [DROPPED, answer(Answer::Joined)]);
    }
}

#[test]
fn a_reset_of_a_failed_board_tries_it_again() {
    for kind in [FailureKind::Power, FailureKind::Boot, FailureKind::Flap] {
        let (board, kept, effects) = told(go(
            &keeping(failed(kind)),
            Event::Reset {
                call: CallId::new(1),
            },
        ));
        assert_eq!((board, kept), (cutting(1), None));
        assert_eq!(
            effects,
            [DROPPED, cut(BootNo::new(10)), answer(Answer::Joined)]
        );
    }
}

#[test]
fn a_reset_that_cannot_end_well_drops_what_is_kept_and_says_why() {
    let why_failed = Refusal::Failed("no ROM".to_owned());
    let why_held = || Refusal::Held("dusting".to_owned());
    let rows = [
        (keeping(failed(FailureKind::Chip)), why_failed),
        (held(keeping(Board::Off)), why_held()),
        (held(keeping(cutting(1))), why_held()),
        (held(keeping(failed(FailureKind::Boot))), why_held()),
    ];
    for (slot, why) in rows {
        let Transition { next, effects } = go(
            &slot,
            Event::Reset {
                call: CallId::new(1),
            },
        );
        assert_eq!(next, Slot { kept: None, ..slot });
        assert_eq!(effects, [DROPPED, refused(why)]);
    }
}

#[test]
fn a_reset_or_hold_answers_a_clean_that_waits() {
    let waiting = go(
        &keeping(booting(1)),
        Event::Clean {
            call: CallId::new(7),
        },
    )
    .next;
    let refused = Effect::Answer {
        call: CallId::new(7),
        answer: Answer::Refused(Refusal::NotReady),
    };
    let reset = go(
        &waiting,
        Event::Reset {
            call: CallId::new(1),
        },
    )
    .effects;
    assert_eq!(reset, [refused.clone(), DROPPED, answer(Answer::Joined)]);
    let hold = Event::Hold {
        call: CallId::new(1),
        reason: "dusting".to_owned(),
    };
    assert_eq!(
        go(&waiting, hold).effects,
        [refused, answer(Answer::Done), cut(BootNo::new(10))]
    );
}

#[test]
fn an_operators_reset_spares_a_build_and_its_results_unless_forced() {
    for slot in [used(Phase::Running), keeping(cutting(1))] {
        let asked = go(
            &slot,
            Event::OperatorReset {
                call: CallId::new(1),
                forced: false,
            },
        );
        assert_eq!(
            (asked.next, asked.effects),
            (slot.clone(), vec![refused(Refusal::HasBuild)])
        );
        let forced = go(
            &slot,
            Event::OperatorReset {
                call: CallId::new(1),
                forced: true,
            },
        );
        assert_eq!((forced.next.kept, forced.next.pauses), (None, 0));
        assert!(forced.effects.contains(&answer(Answer::Joined)));
    }
}

#[test]
fn a_hold_lets_a_build_end_and_then_takes_the_power_for_good() {
    let hold = |slot: &Slot| {
        go(
            slot,
            Event::Hold {
                call: CallId::new(1),
                reason: "dusting".to_owned(),
            },
        )
    };
    let building = hold(&used(Phase::Collecting));
    assert_eq!(building.next, held(used(Phase::Collecting)));
    assert_eq!(building.effects, [answer(Answer::Done)]);
    let outcome = Outcome::bare(BuildStatus::Ok);
    let ended = go(
        &building.next,
        Event::Collected {
            attempt: AttemptNo::new(4),
            boot: BootNo::new(9),
            outcome,
        },
    )
    .next;
    assert_eq!(
        (ended.board.clone(), ended.kept.is_some()),
        (cutting(1), true)
    );
    let (board, kept, effects) = told(go(
        &ended,
        Event::CutSeen {
            boot: BootNo::new(10),
        },
    ));
    assert_eq!(
        (board, kept, effects),
        (Board::Off, Some(BuildStatus::Ok), vec![])
    );
}

#[test]
fn a_hold_of_a_board_without_a_build_cuts_its_power() {
    let boards = [
        booting(2),
        Board::Trial { n: 1 },
        Board::Fresh { n: 1 },
        Board::Rejoining(Rejoin::Fresh { n: 1 }),
    ];
    for board in boards {
        let hold = Event::Hold {
            call: CallId::new(1),
            reason: "dusting".to_owned(),
        };
        let (then, _, effects) = told(go(&slot(board), hold));
        assert_eq!(
            (then, effects),
            (cutting(1), vec![answer(Answer::Done), cut(BootNo::new(10))])
        );
    }
    for board in [cutting(2), failed(FailureKind::Boot)] {
        let hold = Event::Hold {
            call: CallId::new(1),
            reason: "dusting".to_owned(),
        };
        let (then, _, effects) = told(go(&slot(board.clone()), hold));
        assert_eq!((then, effects), (board, vec![answer(Answer::Done)]));
    }
}

#[test]
fn a_moving_build_is_built_although_the_slot_is_held() {
    let errand = Errand::Build(fresh_build());
    let moving = held(slot(Board::Cutting {
        n: 1,
        errand: errand.clone(),
        prepared: false,
    }));
    let booted = go(
        &moving,
        Event::CutSeen {
            boot: BootNo::new(9),
        },
    );
    assert_eq!(booted.next.board, Board::Booting { n: 1, errand });
    let proved = go(
        &booted.next,
        Event::Proved {
            boot: BootNo::new(9),
        },
    );
    let guest = Effect::StartGuest {
        boot: BootNo::new(9),
        attempt: AttemptNo::new(4),
        acknowledged: false,
    };
    assert_eq!(proved.effects, [guest]);
}

#[test]
fn a_release_boots_what_is_off_or_failed() {
    let boards = [
        Board::Off,
        failed(FailureKind::Power),
        failed(FailureKind::Chip),
    ]
    .map(slot)
    .map(held);
    for slot in boards {
        let Transition { next, effects } = go(
            &slot,
            Event::Release {
                call: CallId::new(1),
            },
        );
        assert_eq!((next.board, next.held, next.pauses), (cutting(1), None, 0));
        assert_eq!(effects, [answer(Answer::Done), cut(BootNo::new(10))]);
    }
    let building = held(used(Phase::Running));
    let Transition { next, effects } = go(
        &building,
        Event::Release {
            call: CallId::new(1),
        },
    );
    assert_eq!((next.board, next.held), (building.board, None));
    assert_eq!(effects, [answer(Answer::Done)]);
}
