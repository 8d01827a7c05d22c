//! When the inputs that are leased to a slot are let go: once, when its build ends or it is reset without
//! one, and never while a build is live.

use panda_protocol::launchpad::{BuildStatus, Outcome};
use panda_slot::{Board, Effect, Errand, Event, FailureKind, Lost, Phase, Slot, step};

use super::{LIMITS, booting, cutting, failed, fresh_build, held, slot, used};

fn releases(before: &Slot, event: Event) -> usize {
    let effects = step(before, event, &LIMITS).effects;
    effects
        .iter()
        .filter(|effect| **effect == Effect::ReleaseInputs)
        .count()
}

fn lost(of: &Slot) -> Event {
    Event::Lost {
        boot: of.boot,
        why: Lost::Silent,
    }
}

#[test]
fn a_build_that_ends_lets_its_inputs_go_once() {
    let collecting = used(Phase::Collecting);
    let collected = Event::Collected {
        attempt: collecting.attempt,
        boot: collecting.boot,
        outcome: Outcome::bare(BuildStatus::Ok),
    };
    assert_eq!(releases(&collecting, collected), 1);
    assert_eq!(releases(&collecting, lost(&collecting)), 1);
    let moving = slot(Board::Booting {
        n: LIMITS.attempts,
        errand: Errand::Build(fresh_build()),
    });
    let failed = Event::BootFailed {
        boot: moving.boot,
        reason: "no ROM".to_owned(),
    };
    assert_eq!(releases(&moving, failed), 1);
}

#[test]
fn a_slot_that_is_reset_lets_go_what_was_brought_for_a_build_that_never_came() {
    let fresh = slot(Board::Fresh { n: 1 });
    assert_eq!(releases(&fresh, lost(&fresh)), 1);
    assert_eq!(releases(&slot(cutting(1)), Event::Recover), 1);
    assert_eq!(
        releases(&slot(failed(FailureKind::Boot)), Event::Recover),
        1
    );
    assert_eq!(releases(&held(slot(Board::Off)), Event::Recover), 1);
}

#[test]
fn a_build_keeps_its_inputs_over_its_boots_and_over_a_restart() {
    let running = slot(Board::Used {
        build: fresh_build(),
        phase: Phase::Running,
    });
    assert_eq!(releases(&running, lost(&running)), 0);
    assert_eq!(releases(&running, Event::Recover), 0);
    let fresh = slot(Board::Fresh { n: 1 });
    assert_eq!(releases(&fresh, Event::Recover), 0);
    let proved = Event::Proved { boot: fresh.boot };
    assert_eq!(releases(&slot(booting(1)), proved), 0);
}
