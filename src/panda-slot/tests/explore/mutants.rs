//! Broken machines. Each differs from the real one in one thing that a slip of the hand could do, and
//! the exploration must find it, by the law that it breaks.

use panda_protocol::launchpad::{BuildStatus, Dialect, Outcome};
use panda_slot::{
    Answer, Board, Effect, Errand, Event, Limits, Phase, Rejoin, Slot, Transition, step,
};

use super::explorer::explore;
use super::laws::Law;
use super::limits;

/// Checks that `machine`, made from the real one's answer, is caught by `law`.
fn caught(law: Law, machine: impl Fn(&Slot, &Event, Transition) -> Transition) {
    caught_in(Dialect::Current, law, machine);
}

fn caught_in(
    dialect: Dialect,
    law: Law,
    machine: impl Fn(&Slot, &Event, Transition) -> Transition,
) {
    let mutant = |slot: &Slot, event: Event, limits: &Limits| {
        machine(slot, &event, step(slot, event.clone(), limits))
    };
    match explore(&mutant, &limits(dialect)) {
        Ok(seen) => panic!("the broken machine was not caught: {seen:?}"),
        Err(broken) => assert_eq!(broken.law, law, "{broken}"),
    }
}

fn without(mut from: Transition, unwanted: impl Fn(&Effect) -> bool) -> Transition {
    from.effects.retain(|effect| !unwanted(effect));
    from
}

/// What the machine would do had it not noticed that the event was late.
fn as_if_current(slot: &Slot, event: &Event) -> Transition {
    let event = match event.clone() {
        Event::Lost { why, .. } => Event::Lost {
            boot: slot.boot,
            why,
        },
        Event::Proved { .. } => Event::Proved { boot: slot.boot },
        Event::Finished { attempt, .. } => Event::Finished {
            attempt,
            boot: slot.boot,
        },
        other => other,
    };
    step(slot, event, &limits(Dialect::Current))
}

#[test]
fn a_used_board_that_becomes_fresh_again_is_caught() {
    caught(Law::FreshIsProven, |slot, event, real| {
        match (&slot.board, event) {
            (Board::Used { .. }, Event::Collected { .. }) if real.next != *slot => {
                let board = Board::Fresh { n: 1 };
                let next = Slot {
                    board,
                    boot: slot.boot,
                    ..real.next
                };
                let effects = vec![
                    Effect::StartProving { boot: next.boot },
                    Effect::BuildEnded {
                        attempt: next.attempt,
                    },
                ];
                Transition { next, effects }
            }
            _ => real,
        }
    });
}

#[test]
fn a_proof_that_is_believed_before_the_cut_was_seen_is_caught() {
    caught(Law::FreshIsProven, |slot, event, real| {
        match (&slot.board, event) {
            (
                Board::Cutting {
                    n,
                    errand: Errand::Nothing,
                    ..
                },
                Event::Proved { boot },
            ) if *boot == slot.boot => {
                let next = Slot {
                    board: Board::Fresh { n: *n },
                    ..slot.clone()
                };
                Transition {
                    next,
                    effects: vec![Effect::StartProving { boot: slot.boot }],
                }
            }
            _ => real,
        }
    });
}

#[test]
fn a_fresh_board_that_is_believed_over_a_restart_is_caught() {
    caught(Law::IdleIsTrue, |_, event, mut real| {
        if let (Event::Recover, Board::Rejoining(Rejoin::Fresh { n })) = (event, &real.next.board) {
            real.next.board = Board::Fresh { n: *n };
        }
        real
    });
}

#[test]
fn a_boot_that_is_not_told_apart_from_an_older_one_is_caught() {
    caught(Law::LateIsDropped, |slot, event, _| {
        as_if_current(slot, event)
    });
}

#[test]
fn a_build_that_starts_on_a_board_in_its_boot_is_caught() {
    caught(Law::AnswersAreTrue, |slot, event, real| {
        match (&slot.board, event) {
            (
                Board::Booting {
                    errand: Errand::Nothing,
                    ..
                },
                Event::Build { .. },
            ) if slot.kept.is_none() => {
                let fresh = Slot {
                    board: Board::Fresh { n: 1 },
                    held: None,
                    ..slot.clone()
                };
                step(&fresh, event.clone(), &limits(Dialect::Current))
            }
            _ => real,
        }
    });
}

#[test]
fn results_that_a_build_call_drops_are_caught() {
    caught(Law::KeptStays, |_, event, mut real| {
        if matches!(event, Event::Build { .. }) {
            real.next.kept = None;
        }
        real
    });
}

#[test]
fn results_that_a_failing_board_drops_are_caught() {
    caught(Law::KeptStays, |_, event, mut real| {
        if matches!(event, Event::BootFailed { .. }) {
            real.next.kept = None;
        }
        real
    });
}

#[test]
fn a_clean_that_is_forgotten_is_caught() {
    caught(Law::EveryCallAnswered, |_, event, real| match event {
        Event::Hold { .. } => without(real, |effect| {
            matches!(
                effect,
                Effect::Answer {
                    answer: Answer::Refused(_),
                    ..
                }
            )
        }),
        _ => real,
    });
}

#[test]
fn a_clean_without_its_timer_is_caught() {
    caught(Law::SomethingIsUnderWay, |_, _, real| {
        without(real, |effect| matches!(effect, Effect::ArmCleanDue { .. }))
    });
}

#[test]
fn a_clean_that_answers_idle_too_early_is_caught() {
    caught(Law::AnswersAreTrue, |_, event, mut real| {
        if let (Event::Clean { call }, Some(kept)) = (event, &mut real.next.kept)
            && kept.cleaning.take().is_some()
        {
            real.next.kept = None;
            real.effects.push(Effect::Answer {
                call: *call,
                answer: Answer::Idle,
            });
        }
        real
    });
}

#[test]
fn a_lost_board_that_takes_its_build_along_is_caught() {
    caught(Law::BuildEndsKept, |_, event, mut real| {
        if matches!(event, Event::Lost { .. }) {
            real.next.kept = None;
        }
        real
    });
}

#[test]
fn an_aborted_build_that_ends_otherwise_is_caught() {
    caught(Law::AbortedStaysAborted, |slot, event, mut real| {
        if let (
            Board::Used {
                phase: Phase::Aborting,
                ..
            },
            Event::Finished { .. },
            Some(kept),
        ) = (&slot.board, event, &mut real.next.kept)
        {
            kept.outcome = Outcome::bare(BuildStatus::PackageFail);
        }
        real
    });
}

#[test]
fn a_build_whose_passwords_stay_behind_after_a_crash_is_caught() {
    caught(Law::NothingLeftBehind, |slot, event, real| match event {
        Event::Recover if slot.live().is_none() => {
            without(real, |effect| matches!(effect, Effect::BuildEnded { .. }))
        }
        _ => real,
    });
}

#[test]
fn results_that_stay_behind_after_a_crash_are_caught() {
    caught(Law::NothingLeftBehind, |_, event, real| match event {
        Event::Recover => without(real, |effect| matches!(effect, Effect::DropKept { .. })),
        _ => real,
    });
}

#[test]
fn a_boot_that_is_never_started_is_caught() {
    caught(Law::SomethingIsUnderWay, |_, _, real| {
        without(real, |effect| matches!(effect, Effect::StartBoot { .. }))
    });
}

#[test]
fn a_failed_board_that_is_forgotten_over_a_restart_is_caught() {
    caught(Law::SomethingIsUnderWay, |_, event, real| match event {
        Event::Recover => without(real, |effect| matches!(effect, Effect::ArmRetry { .. })),
        _ => real,
    });
}

#[test]
fn a_failed_board_that_keeps_its_power_is_caught() {
    caught(Law::DarkWhenUnused, |_, event, mut real| {
        if matches!(event, Event::WrongChip { .. }) {
            let waits = |effect: &Effect| matches!(effect, Effect::PowerOff);
            real.effects
                .iter_mut()
                .filter(|effect| waits(effect))
                .for_each(|effect| {
                    *effect = Effect::Alert {
                        reason: "instead".to_owned(),
                    };
                });
        }
        real
    });
}

#[test]
fn a_board_that_is_held_but_goes_on_booting_is_caught() {
    caught(Law::DarkWhenUnused, |slot, event, real| {
        match (&slot.board, event) {
            (
                Board::Booting {
                    errand: Errand::Nothing,
                    ..
                },
                Event::Hold { call, reason },
            ) => {
                let held = Some(reason.clone());
                let answer = Effect::Answer {
                    call: *call,
                    answer: Answer::Done,
                };
                let kept = slot.kept.is_none();
                if !kept {
                    return real;
                }
                Transition {
                    next: Slot {
                        held,
                        ..slot.clone()
                    },
                    effects: vec![answer],
                }
            }
            _ => real,
        }
    });
}

#[test]
fn a_board_that_flaps_for_ever_is_caught() {
    caught(Law::NoFreeCycle, |slot, event, mut real| {
        if let (Board::Fresh { .. }, Event::Lost { .. }) = (&slot.board, event)
            && real.next != *slot
        {
            let boot = slot.boot.next();
            let board = Board::Cutting {
                n: 1,
                errand: Errand::Nothing,
                prepared: false,
            };
            real.next = Slot {
                board,
                boot,
                ..slot.clone()
            };
            real.effects = vec![
                Effect::StartCut { boot, trial: false },
                Effect::ReleaseInputs,
            ];
        }
        real
    });
}

#[test]
fn a_build_that_moves_for_ever_is_caught() {
    caught(Law::NoFreeCycle, |_, event, mut real| {
        if let (
            Event::Lost { .. },
            Board::Cutting {
                errand: Errand::Build(build),
                ..
            },
        ) = (event, &mut real.next.board)
        {
            build.moves = 0;
        }
        real
    });
}

#[test]
fn a_report_that_leads_nowhere_is_caught() {
    caught(Law::ReportsMove, |slot, event, real| match event {
        Event::AbortEnded { .. } => Transition {
            next: slot.clone(),
            effects: vec![],
        },
        _ => real,
    });
}

#[test]
fn a_second_build_on_the_same_boot_is_caught() {
    caught(Law::GuestOnProvenBoot, |slot, event, real| {
        match (&slot.board, event) {
            (
                Board::Used {
                    build,
                    phase: Phase::Running,
                },
                Event::Finished { .. },
            ) if real.next != *slot => {
                let mut again = real;
                again.effects.insert(
                    0,
                    Effect::StartGuest {
                        boot: slot.boot,
                        attempt: build.attempt,
                        acknowledged: false,
                    },
                );
                again
            }
            _ => real,
        }
    });
}

#[test]
fn power_that_comes_on_without_a_cut_is_caught() {
    caught(Law::PowerAfterCut, |slot, event, real| {
        match (&slot.board, event) {
            (Board::Cutting { n, errand, .. }, Event::CutFailed { boot, .. })
                if *boot == slot.boot =>
            {
                let board = Board::Booting {
                    n: *n,
                    errand: errand.clone(),
                };
                let effects = vec![Effect::StartBoot {
                    boot: *boot,
                    trial: false,
                }];
                Transition {
                    next: Slot {
                        board,
                        ..slot.clone()
                    },
                    effects,
                }
            }
            _ => real,
        }
    });
}

#[test]
fn a_boot_for_evidence_that_becomes_fresh_is_caught() {
    caught(Law::FreshIsProven, |slot, event, real| {
        match (&slot.board, event) {
            (Board::Preparing { n, .. }, Event::Prepared { .. }) if real.next != *slot => {
                let board = Board::Fresh { n: *n };
                let effects = vec![Effect::StartProving { boot: slot.boot }];
                Transition {
                    next: Slot {
                        board,
                        ..slot.clone()
                    },
                    effects,
                }
            }
            _ => real,
        }
    });
}

#[test]
fn a_boot_for_evidence_that_is_given_the_build_that_waits_is_caught() {
    caught(Law::GuestOnProvenBoot, |slot, event, real| {
        match (&slot.board, event) {
            (
                Board::Preparing {
                    errand: Errand::Build(build),
                    ..
                },
                Event::Prepared { .. },
            ) if real.next != *slot => {
                let board = Board::Used {
                    build: build.clone(),
                    phase: Phase::Running,
                };
                let effects = vec![Effect::StartGuest {
                    boot: slot.boot,
                    attempt: build.attempt,
                    acknowledged: false,
                }];
                Transition {
                    next: Slot {
                        board,
                        ..slot.clone()
                    },
                    effects,
                }
            }
            _ => real,
        }
    });
}

#[test]
fn a_weak_cut_that_is_taken_for_a_seen_one_is_caught() {
    caught(Law::PowerAfterCut, |slot, event, real| match event {
        Event::CutWeak { boot, .. } => step(
            slot,
            Event::CutSeen { boot: *boot },
            &limits(Dialect::Current),
        ),
        _ => real,
    });
}

#[test]
fn a_board_that_is_prepared_again_and_again_is_caught() {
    caught(Law::NoFreeCycle, |_, event, mut real| {
        if let (Event::Prepared { .. }, Board::Cutting { prepared, .. }) =
            (event, &mut real.next.board)
        {
            *prepared = false;
        }
        real
    });
}

#[test]
fn a_clean_that_waits_in_2011_is_caught() {
    caught_in(
        Dialect::Y2011,
        Law::Bounded,
        |slot, event, real| match event {
            Event::Clean { .. } => step(slot, event.clone(), &limits(Dialect::Current)),
            _ => real,
        },
    );
}

#[test]
fn a_reset_that_gives_the_same_boot_number_again_is_caught() {
    caught(Law::NumbersGrow, |slot, _, mut real| {
        if real.next.boot != slot.boot {
            real.next.boot = slot.boot;
        }
        real
    });
}

#[test]
fn inputs_that_are_let_go_while_their_build_moves_to_a_new_boot_are_caught() {
    caught(Law::LeasesEnd, |slot, event, mut real| {
        let moves = real.next.live().is_some() && real.next.boot != slot.boot;
        if moves && matches!(event, Event::Lost { .. }) {
            real.effects.push(Effect::ReleaseInputs);
        }
        real
    });
}

#[test]
fn inputs_that_a_reset_does_not_let_go_are_caught() {
    caught(Law::LeasesEnd, |slot, event, real| {
        match (&slot.board, event) {
            (Board::Fresh { .. }, Event::Lost { .. }) => {
                without(real, |effect| *effect == Effect::ReleaseInputs)
            }
            _ => real,
        }
    });
}

#[test]
fn inputs_that_stay_leased_after_a_crash_are_caught() {
    caught(Law::LeasesEnd, |slot, event, real| {
        match (&slot.board, event) {
            (Board::Failed { .. }, Event::Recover) => {
                without(real, |effect| *effect == Effect::ReleaseInputs)
            }
            _ => real,
        }
    });
}

#[test]
fn a_failed_board_that_every_reset_boots_again_is_caught() {
    caught(Law::RetriesGrowRarer, |slot, event, real| {
        match (&slot.board, event) {
            (Board::Failed { .. }, Event::Reset { .. }) => {
                let patient = Slot {
                    pauses: 0,
                    ..slot.clone()
                };
                let mut again = step(&patient, event.clone(), &limits(Dialect::Current));
                again.next.pauses = slot.pauses.max(again.next.pauses);
                again
            }
            _ => real,
        }
    });
}

#[test]
fn a_build_that_wipes_a_boards_failures_out_is_caught() {
    caught(Law::RetriesGrowRarer, |slot, _, mut real| {
        if real.next.attempt != slot.attempt {
            real.next.pauses = 0;
        }
        real
    });
}
