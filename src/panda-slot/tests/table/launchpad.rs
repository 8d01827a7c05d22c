//! What Launchpad's `build`, `abort` and `clean` do.

use panda_protocol::launchpad::BuildStatus;
use panda_slot::{
    Answer, AttemptNo, Board, BootNo, Build, CallId, Effect, Errand, Event, FailureKind, Phase,
    Refusal, Rejoin, Slot, Transition,
};

use super::{
    DROPPED, ENDED, IN_2011, answer, booting, build, cut, cutting, failed, fresh_build, go, go_in,
    held, id, keeping, refused, slot, told, used,
};

#[test]
fn a_build_on_a_fresh_slot_is_answered_before_the_guest_is_started() {
    let Transition { next, effects } = go(
        &slot(Board::Fresh { n: 2 }),
        Event::Build {
            call: CallId::new(1),
            build_id: id(),
        },
    );
    let expected = Build {
        attempt: AttemptNo::new(5),
        build_id: id(),
        acknowledged: false,
        moves: 0,
    };
    assert_eq!(
        next.board,
        Board::Used {
            build: expected,
            phase: Phase::Running
        }
    );
    assert_eq!(
        (next.boot, next.attempt, next.pauses),
        (BootNo::new(9), AttemptNo::new(5), 1)
    );
    let guest = Effect::StartGuest {
        boot: BootNo::new(9),
        attempt: AttemptNo::new(5),
        acknowledged: false,
    };
    assert_eq!(
        effects,
        [
            answer(Answer::Building {
                attempt: AttemptNo::new(5)
            }),
            guest
        ]
    );
}

#[test]
fn a_build_anywhere_else_is_refused_with_the_reason_and_changes_nothing() {
    let refusals = [
        (slot(cutting(1)), Refusal::NotIdle),
        (used(Phase::Running), Refusal::NotIdle),
        (keeping(Board::Fresh { n: 1 }), Refusal::NotIdle),
        (
            slot(failed(FailureKind::Boot)),
            Refusal::Failed("no ROM".to_owned()),
        ),
        (held(slot(Board::Off)), Refusal::Held("dusting".to_owned())),
    ];
    for (slot, refusal) in refusals {
        let Transition { next, effects } = go(
            &slot,
            Event::Build {
                call: CallId::new(1),
                build_id: id(),
            },
        );
        assert_eq!((next, effects), (slot, vec![refused(refusal)]));
    }
}

#[test]
fn an_abort_of_a_running_or_collecting_build_is_accepted_and_starts() {
    for phase in [Phase::Running, Phase::Collecting] {
        let (board, kept, effects) = told(go(
            &used(phase),
            Event::Abort {
                call: CallId::new(1),
            },
        ));
        assert_eq!(
            board,
            Board::Used {
                build: build(),
                phase: Phase::Aborting
            }
        );
        assert_eq!(kept, None);
        let start = Effect::StartAbort {
            boot: BootNo::new(9),
            attempt: AttemptNo::new(4),
        };
        assert_eq!(effects, [answer(Answer::Aborting), start]);
    }
}

#[test]
fn an_abort_of_an_aborting_build_is_accepted_again() {
    let slot = used(Phase::Aborting);
    let Transition { next, effects } = go(
        &slot,
        Event::Abort {
            call: CallId::new(1),
        },
    );
    assert_eq!((next, effects), (slot, vec![answer(Answer::Aborting)]));
}

#[test]
fn an_abort_while_the_board_rejoins_ends_the_build_at_once() {
    for rejoin in [Rejoin::Running(build()), Rejoin::Collecting(build())] {
        let (board, kept, effects) = told(go(
            &slot(Board::Rejoining(rejoin)),
            Event::Abort {
                call: CallId::new(1),
            },
        ));
        assert_eq!((board, kept), (cutting(1), Some(BuildStatus::Aborted)));
        assert_eq!(
            effects,
            [answer(Answer::Aborting), cut(BootNo::new(10)), ENDED]
        );
    }
}

#[test]
fn an_abort_of_a_moving_build_ends_it_and_leaves_the_boot_to_become_fresh() {
    let moving = Errand::Build(fresh_build());
    let homes = [
        (
            Board::Cutting {
                n: 2,
                errand: moving.clone(),
                prepared: false,
            },
            cutting(2),
        ),
        (
            Board::Preparing {
                n: 2,
                errand: moving.clone(),
            },
            Board::Preparing {
                n: 2,
                errand: Errand::Nothing,
            },
        ),
        (
            Board::Booting {
                n: 2,
                errand: moving,
            },
            booting(2),
        ),
    ];
    for (home, then) in homes {
        let (board, kept, effects) = told(go(
            &slot(home),
            Event::Abort {
                call: CallId::new(1),
            },
        ));
        assert_eq!((board, kept), (then, Some(BuildStatus::Aborted)));
        assert_eq!(effects, [answer(Answer::Aborting), ENDED]);
    }
}

#[test]
fn an_abort_of_a_build_that_just_ended_makes_it_aborted() {
    let (board, kept, effects) = told(go(
        &keeping(cutting(1)),
        Event::Abort {
            call: CallId::new(1),
        },
    ));
    assert_eq!((board, kept), (cutting(1), Some(BuildStatus::Aborted)));
    assert_eq!(effects, [answer(Answer::Aborting)]);
}

#[test]
fn an_abort_of_nothing_is_refused() {
    let (_, _, effects) = told(go(
        &slot(Board::Fresh { n: 1 }),
        Event::Abort {
            call: CallId::new(1),
        },
    ));
    assert_eq!(effects, [refused(Refusal::NotBuilding)]);
}

#[test]
fn a_clean_of_a_fresh_slot_is_answered_at_once() {
    let (board, kept, effects) = told(go(
        &keeping(Board::Fresh { n: 1 }),
        Event::Clean {
            call: CallId::new(1),
        },
    ));
    assert_eq!((board, kept), (Board::Fresh { n: 1 }, None));
    assert_eq!(
        effects,
        [
            Effect::ArmCleanDue {
                call: CallId::new(1)
            },
            DROPPED,
            answer(Answer::Idle)
        ]
    );
}

#[test]
fn a_clean_waits_for_the_board_to_be_proved() {
    let waiting = go(
        &keeping(booting(1)),
        Event::Clean {
            call: CallId::new(1),
        },
    );
    assert_eq!(
        waiting.effects,
        [Effect::ArmCleanDue {
            call: CallId::new(1)
        }]
    );
    let (board, kept, effects) = told(go(
        &waiting.next,
        Event::Proved {
            boot: BootNo::new(9),
        },
    ));
    assert_eq!((board, kept), (Board::Fresh { n: 1 }, None));
    let proving = Effect::StartProving {
        boot: BootNo::new(9),
    };
    assert_eq!(effects, [proving, DROPPED, answer(Answer::Idle)]);
}

#[test]
fn a_clean_whose_time_is_over_is_refused_and_everything_kept() {
    let waiting = go(
        &keeping(booting(1)),
        Event::Clean {
            call: CallId::new(1),
        },
    )
    .next;
    let Transition { next, effects } = go(
        &waiting,
        Event::CleanDue {
            call: CallId::new(1),
        },
    );
    assert_eq!(
        (next, effects),
        (keeping(booting(1)), vec![refused(Refusal::NotReady)])
    );
}

#[test]
fn a_second_clean_takes_the_place_of_the_first() {
    let waiting = go(
        &keeping(booting(1)),
        Event::Clean {
            call: CallId::new(1),
        },
    )
    .next;
    let second = go(
        &waiting,
        Event::Clean {
            call: CallId::new(2),
        },
    );
    let arm = Effect::ArmCleanDue {
        call: CallId::new(2),
    };
    assert_eq!(second.effects, [refused(Refusal::NotReady), arm]);
    let late = go(
        &second.next,
        Event::CleanDue {
            call: CallId::new(1),
        },
    );
    assert_eq!((late.next, late.effects), (second.next, vec![]));
}

#[test]
fn a_clean_tries_a_failed_board_again_but_not_another_board() {
    let (board, kept, effects) = told(go(
        &keeping(failed(FailureKind::Boot)),
        Event::Clean {
            call: CallId::new(1),
        },
    ));
    assert_eq!((board, kept), (cutting(1), Some(BuildStatus::Ok)));
    assert_eq!(
        effects,
        [
            Effect::ArmCleanDue {
                call: CallId::new(1)
            },
            cut(BootNo::new(10))
        ]
    );

    let (_, kept, effects) = told(go(
        &keeping(failed(FailureKind::Chip)),
        Event::Clean {
            call: CallId::new(1),
        },
    ));
    assert_eq!(kept, Some(BuildStatus::Ok));
    assert_eq!(
        effects,
        [
            Effect::ArmCleanDue {
                call: CallId::new(1)
            },
            refused(Refusal::NotReady)
        ]
    );
}

#[test]
fn a_clean_is_refused_when_the_board_fails_while_it_waits() {
    let waiting = go(
        &keeping(booting(3)),
        Event::Clean {
            call: CallId::new(1),
        },
    )
    .next;
    let reason = "no ROM".to_owned();
    let (_, kept, effects) = told(go(
        &waiting,
        Event::BootFailed {
            boot: BootNo::new(9),
            reason,
        },
    ));
    assert_eq!(kept, Some(BuildStatus::Ok));
    assert!(effects.contains(&refused(Refusal::NotReady)), "{effects:?}");
}

#[test]
fn a_clean_of_nothing_or_of_a_held_slot_is_refused() {
    let nothing = slot(Board::Fresh { n: 1 });
    let (_, _, effects) = told(go(
        &nothing,
        Event::Clean {
            call: CallId::new(1),
        },
    ));
    assert_eq!(effects, [refused(Refusal::NothingKept)]);
    let slot = held(keeping(Board::Off));
    let Transition { next, effects } = go(
        &slot,
        Event::Clean {
            call: CallId::new(1),
        },
    );
    assert_eq!(
        (next, effects),
        (slot, vec![refused(Refusal::Held("dusting".to_owned()))])
    );
}

#[test]
fn in_2011_a_clean_drops_and_answers_at_once_wherever_the_board_is() {
    let boards = [
        cutting(1),
        booting(2),
        Board::Fresh { n: 1 },
        failed(FailureKind::Chip),
    ];
    let slots = boards
        .map(keeping)
        .into_iter()
        .chain([held(keeping(Board::Off))]);
    for slot in slots {
        let Transition { next, effects } = go_in(
            &IN_2011,
            &slot,
            Event::Clean {
                call: CallId::new(1),
            },
        );
        assert_eq!(next, Slot { kept: None, ..slot });
        assert_eq!(effects, [DROPPED, answer(Answer::Idle)]);
    }
    let (board, _, effects) = told(go_in(
        &IN_2011,
        &keeping(failed(FailureKind::Flap)),
        Event::Clean {
            call: CallId::new(1),
        },
    ));
    assert_eq!(board, cutting(1));
    assert_eq!(
        effects,
        [DROPPED, answer(Answer::Idle), cut(BootNo::new(10))]
    );
}
