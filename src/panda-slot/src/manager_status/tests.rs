//! The "told" columns of the table, row by row.

use crate::{AttemptNo, BootNo, CallId};
use panda_protocol::launchpad::{BuildId, BuildStatus, Dialect, FileMap, Outcome};

use super::{ManagerStatus, manager_status};
use crate::board::{Board, Build, Errand, FailureKind, Kept, Phase, Rejoin, Slot};

const CURRENT: Dialect = Dialect::Current;
const Y2011: Dialect = Dialect::Y2011;

fn id() -> BuildId {
    BuildId::try_from("PACKAGEBUILD-7".to_owned()).unwrap()
}

fn build() -> Build {
    Build {
        attempt: AttemptNo::new(4),
        build_id: id(),
        acknowledged: true,
        moves: 0,
    }
}

fn slot(board: Board) -> Slot {
    Slot {
        boot: BootNo::new(9),
        attempt: AttemptNo::new(4),
        pauses: 0,
        board,
        kept: None,
        held: None,
    }
}

fn kept(build_status: BuildStatus) -> Slot {
    let kept = Kept {
        attempt: AttemptNo::new(4),
        build_id: id(),
        outcome: Outcome::bare(build_status),
        cleaning: None,
    };
    Slot {
        kept: Some(kept),
        ..slot(Board::Cutting {
            n: 1,
            errand: Errand::Nothing,
            prepared: false,
        })
    }
}

fn without_a_build() -> Vec<Board> {
    vec![
        Board::Cutting {
            n: 2,
            errand: Errand::Nothing,
            prepared: true,
        },
        Board::Preparing {
            n: 2,
            errand: Errand::Nothing,
        },
        Board::Booting {
            n: 2,
            errand: Errand::Trial,
        },
        Board::Trial { n: 1 },
        Board::Rejoining(Rejoin::Fresh { n: 1 }),
        Board::Failed {
            kind: FailureKind::Boot,
            reason: "no ROM".to_owned(),
        },
        Board::Off,
    ]
}

#[test]
fn a_live_slot_is_building_in_both_dialects_wherever_its_build_is() {
    let homes = [
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
        Board::Cutting {
            n: 1,
            errand: Errand::Build(build()),
            prepared: false,
        },
        Board::Preparing {
            n: 1,
            errand: Errand::Build(build()),
        },
        Board::Booting {
            n: 3,
            errand: Errand::Build(build()),
        },
    ];
    for board in homes {
        for held in [None, Some("dusting".to_owned())] {
            let slot = Slot {
                held,
                ..slot(board.clone())
            };
            for (dialect, virtualized) in [(CURRENT, true), (Y2011, true), (Y2011, false)] {
                let expected = ManagerStatus::Building {
                    build_id: id(),
                    attempt: AttemptNo::new(4),
                };
                assert_eq!(
                    manager_status(&slot, dialect, virtualized),
                    expected,
                    "{board:?}"
                );
            }
        }
    }
}

#[test]
fn an_aborting_slot_is_aborting_with_its_build() {
    let slot = slot(Board::Used {
        build: build(),
        phase: Phase::Aborting,
    });
    for dialect in [CURRENT, Y2011] {
        assert_eq!(
            manager_status(&slot, dialect, true),
            ManagerStatus::Aborting {
                build_id: Some(id())
            }
        );
    }
}

#[test]
fn idle_is_told_of_a_fresh_slot_with_nothing_kept_and_no_hold_only() {
    for dialect in [CURRENT, Y2011] {
        assert_eq!(
            manager_status(&slot(Board::Fresh { n: 2 }), dialect, true),
            ManagerStatus::Idle
        );
        let held = Slot {
            held: Some("x".to_owned()),
            ..slot(Board::Fresh { n: 1 })
        };
        assert_ne!(manager_status(&held, dialect, true), ManagerStatus::Idle);
        let kept = Slot {
            board: Board::Fresh { n: 1 },
            ..kept(BuildStatus::Ok)
        };
        assert_ne!(manager_status(&kept, dialect, true), ManagerStatus::Idle);
        for board in without_a_build() {
            assert_ne!(
                manager_status(&slot(board.clone()), dialect, true),
                ManagerStatus::Idle,
                "{board:?}"
            );
        }
    }
}

#[test]
fn between_boots_todays_manager_gets_a_fault_that_says_where_the_reset_stands() {
    let reasons: Vec<String> = without_a_build()
        .into_iter()
        .map(|board| match manager_status(&slot(board), CURRENT, true) {
            ManagerStatus::Fault { reason } => reason,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        reasons,
        [
            "resetting: power is being cut, attempt 2",
            "resetting: booting for the evidence of the next power cut, attempt 2",
            "resetting: booting, attempt 2",
            "trying a new image",
            "the master has restarted; the board has to prove itself again",
            "the board has failed: no ROM",
            "off",
        ]
    );
    let held = Slot {
        held: Some("new fan".to_owned()),
        ..slot(Board::Off)
    };
    let reason = "held by an operator (new fan); off".to_owned();
    assert_eq!(
        manager_status(&held, CURRENT, true),
        ManagerStatus::Fault { reason }
    );
}

#[test]
fn between_boots_2011s_manager_never_gets_a_fault() {
    for board in without_a_build() {
        for held in [None, Some("dusting".to_owned())] {
            let slot = Slot {
                held,
                ..slot(board.clone())
            };
            for virtualized in [false, true] {
                let said = manager_status(&slot, Y2011, virtualized);
                assert_eq!(said, ManagerStatus::Aborting { build_id: None }, "{slot:?}");
            }
        }
    }
}

#[test]
fn what_is_kept_waits_with_its_outcome_whatever_the_board_does() {
    let file = (
        "hello.deb".to_owned().try_into().unwrap(),
        panda_protocol::digest::Sha1::from_bytes([7; 20]),
    );
    let outcome = Outcome {
        filemap: FileMap::from([file]),
        ..Outcome::bare(BuildStatus::Ok)
    };
    for board in without_a_build().into_iter().chain([Board::Fresh { n: 1 }]) {
        let kept = Kept {
            attempt: AttemptNo::new(4),
            build_id: id(),
            outcome: outcome.clone(),
            cleaning: Some(CallId::new(3)),
        };
        let slot = Slot {
            kept: Some(kept),
            ..slot(board)
        };
        for dialect in [CURRENT, Y2011] {
            let expected = ManagerStatus::Waiting {
                build_id: id(),
                attempt: AttemptNo::new(4),
                outcome: outcome.clone(),
            };
            assert_eq!(manager_status(&slot, dialect, false), expected);
        }
    }
}

#[test]
fn an_aborted_build_is_told_as_each_manager_knows_it() {
    let slot = kept(BuildStatus::Aborted);
    let waiting = |build_status| ManagerStatus::Waiting {
        build_id: id(),
        attempt: AttemptNo::new(4),
        outcome: Outcome::bare(build_status),
    };
    assert_eq!(
        manager_status(&slot, CURRENT, true),
        waiting(BuildStatus::Aborted)
    );
    assert_eq!(
        manager_status(&slot, CURRENT, false),
        waiting(BuildStatus::Aborted)
    );
    assert_eq!(
        manager_status(&slot, Y2011, true),
        ManagerStatus::Aborted {
            build_id: id(),
            attempt: AttemptNo::new(4)
        }
    );
    assert_eq!(
        manager_status(&slot, Y2011, false),
        waiting(BuildStatus::GivenBack)
    );
}

#[test]
fn a_board_failure_is_builderfail_today_and_givenback_in_2011() {
    let slot = kept(BuildStatus::BuilderFail);
    for virtualized in [false, true] {
        for (dialect, expected) in [
            (CURRENT, BuildStatus::BuilderFail),
            (Y2011, BuildStatus::GivenBack),
        ] {
            match manager_status(&slot, dialect, virtualized) {
                ManagerStatus::Waiting { outcome, .. } => {
                    assert_eq!(outcome.build_status, expected);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
