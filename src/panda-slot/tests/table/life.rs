//! What the board and the timers report.

use panda_protocol::launchpad::{BuildStatus, Outcome};
use panda_slot::{
    AttemptNo, Board, BootNo, Build, CallId, Effect, Errand, Event, FailureKind, Kept, Lost, Phase,
    Rejoin, Transition,
};

use super::{
    ENDED, booting, build, cut, cutting, failed, fresh_build, go, held, kept, lost, slot, told,
    used,
};

#[test]
fn a_cut_that_was_seen_starts_the_boot_or_ends_off() {
    let (board, _, effects) = told(go(
        &slot(cutting(2)),
        Event::CutSeen {
            boot: BootNo::new(9),
        },
    ));
    let boot = Effect::StartBoot {
        boot: BootNo::new(9),
        trial: false,
    };
    assert_eq!((board, effects), (booting(2), vec![boot]));
    let (board, _, effects) = told(go(
        &held(slot(cutting(2))),
        Event::CutSeen {
            boot: BootNo::new(9),
        },
    ));
    assert_eq!((board, effects), (Board::Off, vec![]));
}

#[test]
fn failed_cuts_and_boots_are_tried_again_until_the_attempts_are_used_up() {
    let reason = || "no ROM".to_owned();
    let cut_failed = Event::CutFailed {
        boot: BootNo::new(9),
        reason: reason(),
    };
    let boot_failed = Event::BootFailed {
        boot: BootNo::new(9),
        reason: reason(),
    };
    check_attempts(cutting, &cut_failed, FailureKind::Power);
    check_attempts(booting, &boot_failed, FailureKind::Boot);
}

fn check_attempts(board: fn(u32) -> Board, event: &Event, kind: FailureKind) {
    let alert = || Effect::Alert {
        reason: "no ROM".to_owned(),
    };
    for n in [1, 2] {
        let (then, _, effects) = told(go(&slot(board(n)), event.clone()));
        assert_eq!(
            (then, effects),
            (cutting(n + 1), vec![cut(BootNo::new(10))])
        );
    }
    let (then, _, effects) = told(go(&slot(board(3)), event.clone()));
    assert_eq!(then, failed(kind));
    let retry = Effect::ArmRetry {
        boot: BootNo::new(9),
        pauses: 1,
    };
    assert_eq!(effects, [Effect::PowerOff, alert(), retry]);
    let (_, _, effects) = told(go(&held(slot(board(3))), event.clone()));
    assert_eq!(effects, [Effect::PowerOff, alert()]);
}

#[test]
fn a_moving_build_whose_board_fails_ends_as_the_boards_failure() {
    let moving = Board::Booting {
        n: 3,
        errand: Errand::Build(fresh_build()),
    };
    let reason = "no ROM".to_owned();
    let (board, kept, effects) = told(go(
        &slot(moving),
        Event::BootFailed {
            boot: BootNo::new(9),
            reason: reason.clone(),
        },
    ));
    assert_eq!(
        (board, kept),
        (failed(FailureKind::Boot), Some(BuildStatus::BuilderFail))
    );
    let retry = Effect::ArmRetry {
        boot: BootNo::new(9),
        pauses: 1,
    };
    assert_eq!(
        effects,
        [Effect::PowerOff, ENDED, Effect::Alert { reason }, retry]
    );
}

#[test]
fn another_board_on_the_port_is_never_tried_again_by_itself() {
    let reason = "no ROM".to_owned();
    let wrong = Event::WrongChip {
        boot: BootNo::new(9),
        reason: reason.clone(),
    };
    let Transition { next, effects } = go(&slot(booting(1)), wrong);
    assert_eq!(next.board, failed(FailureKind::Chip));
    assert_eq!(effects, [Effect::PowerOff, Effect::Alert { reason }]);
    assert_eq!(
        go(
            &next,
            Event::RetryDue {
                boot: BootNo::new(9)
            }
        )
        .next,
        next
    );
}

#[test]
fn a_failed_board_is_tried_again_after_growing_pauses() {
    let due = go(
        &slot(failed(FailureKind::Boot)),
        Event::RetryDue {
            boot: BootNo::new(9),
        },
    );
    assert_eq!((due.next.board, due.next.pauses), (cutting(1), 2));
    assert_eq!(due.effects, [cut(BootNo::new(10))]);
    let held = held(slot(failed(FailureKind::Boot)));
    assert_eq!(
        go(
            &held,
            Event::RetryDue {
                boot: BootNo::new(9)
            }
        )
        .next,
        held
    );
}

#[test]
fn a_proof_makes_a_booted_board_fresh() {
    let (board, _, effects) = told(go(
        &slot(booting(2)),
        Event::Proved {
            boot: BootNo::new(9),
        },
    ));
    assert_eq!(board, Board::Fresh { n: 2 });
    assert_eq!(
        effects,
        [Effect::StartProving {
            boot: BootNo::new(9)
        }]
    );
}

#[test]
fn a_proof_takes_up_again_what_a_rejoining_board_did() {
    let guest = |acknowledged| Effect::StartGuest {
        boot: BootNo::new(9),
        attempt: AttemptNo::new(4),
        acknowledged,
    };
    let used = |build, phase| Board::Used { build, phase };
    let rows = [
        (Rejoin::Fresh { n: 2 }, Board::Fresh { n: 2 }, vec![]),
        (
            Rejoin::Running(build()),
            used(build(), Phase::Running),
            vec![guest(true)],
        ),
        (
            Rejoin::Running(fresh_build()),
            used(fresh_build(), Phase::Running),
            vec![guest(false)],
        ),
        (
            Rejoin::Collecting(build()),
            used(build(), Phase::Collecting),
            vec![Effect::StartCollecting {
                boot: BootNo::new(9),
                attempt: AttemptNo::new(4),
            }],
        ),
    ];
    for (rejoin, then, effects) in rows {
        let proved = told(go(
            &slot(Board::Rejoining(rejoin)),
            Event::Proved {
                boot: BootNo::new(9),
            },
        ));
        assert_eq!(proved, (then, None, effects));
    }
}

#[test]
fn a_trial_reports_and_is_cut_without_another_trial() {
    let trial = Board::Booting {
        n: 1,
        errand: Errand::Trial,
    };
    let (board, _, effects) = told(go(
        &slot(trial),
        Event::Proved {
            boot: BootNo::new(9),
        },
    ));
    assert_eq!(
        (board, effects),
        (
            Board::Trial { n: 1 },
            vec![Effect::StartTrial {
                boot: BootNo::new(9)
            }]
        )
    );
    for (event, good) in [
        (
            Event::TrialEnded {
                boot: BootNo::new(9),
                good: true,
            },
            true,
        ),
        (
            Event::TrialEnded {
                boot: BootNo::new(9),
                good: false,
            },
            false,
        ),
        (lost(), false),
    ] {
        let (board, _, effects) = told(go(&slot(Board::Trial { n: 1 }), event));
        assert_eq!(
            (board, effects),
            (
                cutting(1),
                vec![Effect::ReportTrial { good }, cut(BootNo::new(10))]
            )
        );
    }
}

#[test]
fn an_image_that_never_boots_ends_its_trial_badly() {
    let trial = Board::Booting {
        n: 3,
        errand: Errand::Trial,
    };
    let reason = "no ROM".to_owned();
    let (_, _, effects) = told(go(
        &slot(trial),
        Event::BootFailed {
            boot: BootNo::new(9),
            reason,
        },
    ));
    assert!(
        effects.contains(&Effect::ReportTrial { good: false }),
        "{effects:?}"
    );
}

#[test]
fn a_board_lost_while_fresh_goes_on_counting_its_attempts() {
    for n in [1, 2] {
        for board in [Board::Fresh { n }, Board::Rejoining(Rejoin::Fresh { n })] {
            let (then, _, effects) = told(go(&slot(board), lost()));
            assert_eq!(
                (then, effects),
                (cutting(n + 1), vec![cut(BootNo::new(10))])
            );
        }
    }
    match go(&slot(Board::Fresh { n: 3 }), lost()).next.board {
        Board::Failed {
            kind: FailureKind::Flap,
            reason,
        } => {
            assert_eq!(
                reason,
                "the board was lost while it was ready: it does not answer"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unacknowledged_build_moves_to_a_new_boot_a_bounded_number_of_times() {
    let moved = |moves| Build {
        moves,
        ..fresh_build()
    };
    for moves in [0, 1] {
        let build = moved(moves);
        for board in [
            Board::Used {
                build: build.clone(),
                phase: Phase::Running,
            },
            Board::Rejoining(Rejoin::Running(build.clone())),
        ] {
            let (then, kept, effects) = told(go(&slot(board), lost()));
            let errand = Errand::Build(moved(moves + 1));
            let moves = Board::Cutting {
                n: 1,
                errand,
                prepared: false,
            };
            assert_eq!((then, kept), (moves, None));
            assert_eq!(effects, [cut(BootNo::new(10))]);
        }
    }
    let last = Board::Used {
        build: moved(2),
        phase: Phase::Running,
    };
    let (board, kept, _) = told(go(&slot(last), lost()));
    assert_eq!((board, kept), (cutting(1), Some(BuildStatus::BuilderFail)));
}

#[test]
fn an_acknowledged_build_that_is_lost_ends_as_the_boards_failure() {
    let boards = [
        Board::Used {
            build: build(),
            phase: Phase::Running,
        },
        Board::Used {
            build: build(),
            phase: Phase::Collecting,
        },
        Board::Rejoining(Rejoin::Running(build())),
        Board::Rejoining(Rejoin::Collecting(build())),
    ];
    for board in boards {
        let (then, kept, effects) = told(go(&slot(board), lost()));
        assert_eq!((then, kept), (cutting(1), Some(BuildStatus::BuilderFail)));
        let reason = "the board was lost with build PACKAGEBUILD-7: it does not answer".to_owned();
        assert_eq!(
            effects,
            [cut(BootNo::new(10)), ENDED, Effect::Alert { reason }]
        );
    }
}

#[test]
fn an_aborting_build_ends_aborted_however_it_ends() {
    let ends = [
        Event::AbortEnded {
            attempt: AttemptNo::new(4),
            boot: BootNo::new(9),
        },
        Event::Finished {
            attempt: AttemptNo::new(4),
            boot: BootNo::new(9),
        },
        lost(),
    ];
    for event in ends {
        let (board, kept, effects) = told(go(&used(Phase::Aborting), event));
        assert_eq!((board, kept), (cutting(1), Some(BuildStatus::Aborted)));
        assert_eq!(effects, [cut(BootNo::new(10)), ENDED]);
    }
}

#[test]
fn a_build_is_acknowledged_finished_and_collected_and_its_board_loses_power_at_once() {
    let running = slot(Board::Used {
        build: fresh_build(),
        phase: Phase::Running,
    });
    let known = go(
        &running,
        Event::Acknowledged {
            attempt: AttemptNo::new(4),
            boot: BootNo::new(9),
        },
    );
    assert_eq!(
        (known.next.board, known.effects),
        (used(Phase::Running).board, vec![])
    );

    // An acknowledgement that is overtaken is implied.
    let finished = go(
        &running,
        Event::Finished {
            attempt: AttemptNo::new(4),
            boot: BootNo::new(9),
        },
    );
    assert_eq!(finished.next.board, used(Phase::Collecting).board);
    assert_eq!(
        finished.effects,
        [Effect::StartCollecting {
            boot: BootNo::new(9),
            attempt: AttemptNo::new(4)
        }]
    );

    let outcome = Outcome {
        dependencies: "libc6".to_owned(),
        ..kept(BuildStatus::DepFail).outcome
    };
    let event = Event::Collected {
        attempt: AttemptNo::new(4),
        boot: BootNo::new(9),
        outcome: outcome.clone(),
    };
    let Transition { next, effects } = go(&finished.next, event);
    assert_eq!(next.board, cutting(1));
    assert_eq!(
        next.kept,
        Some(Kept {
            outcome,
            ..kept(BuildStatus::DepFail)
        })
    );
    assert_eq!(effects, [cut(BootNo::new(10)), ENDED]);
}

#[test]
fn a_reason_that_a_board_had_a_hand_in_is_bounded_and_harmless() {
    let reason = format!("\u{1b}[2J\n{}", "é".repeat(100_000));
    let shown = format!(" [2J {}", "é".repeat(495));
    let failed = go(
        &slot(booting(1)),
        Event::WrongChip {
            boot: BootNo::new(9),
            reason: reason.clone(),
        },
    );
    let expected = Board::Failed {
        kind: FailureKind::Chip,
        reason: shown.clone(),
    };
    assert_eq!(failed.next.board, expected);
    let lost = Event::Lost {
        boot: BootNo::new(9),
        why: Lost::Lied(reason.clone()),
    };
    let (_, _, effects) = told(go(&used(Phase::Collecting), lost));
    let alert = effects.iter().find_map(|effect| match effect {
        Effect::Alert { reason } => Some(reason),
        _ => None,
    });
    let alert = alert.unwrap();
    assert!(alert.chars().count() == 500 && !alert.contains(['\u{1b}', '\n']));
    let held = go(
        &slot(booting(1)),
        Event::Hold {
            call: CallId::new(1),
            reason,
        },
    );
    assert_eq!(held.next.held, Some(shown));
}
