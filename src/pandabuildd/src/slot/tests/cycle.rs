//! A slot's days: builds, aborts, resets, holds, cleans that wait.

use std::time::Duration;

use panda_protocol::launchpad::{BuildStatus, Dialect};
use panda_slot::{Answer, AttemptNo, Board, BootNo, Event, Lost, ManagerStatus, Phase, Refusal};

use super::{Bench, Settings, SlotHandle, What, build_id, good};

fn told(slot: &SlotHandle) -> ManagerStatus {
    slot.view().manager_status(Dialect::Current, true)
}

#[tokio::test(start_paused = true)]
async fn a_build_goes_from_idle_through_its_results_to_idle_on_a_new_boot() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    assert_eq!(told(&bench.slot), ManagerStatus::Idle);

    assert_eq!(
        bench.builds().await,
        Answer::Building {
            attempt: AttemptNo::new(1)
        }
    );
    // Answered means committed, arguments and all.
    let record = bench
        .ledger
        .attempt("panda01", AttemptNo::new(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (record.boot, record.call),
        (BootNo::new(1), Some(super::build_call()))
    );
    assert_eq!(
        told(&bench.slot),
        ManagerStatus::Building {
            build_id: build_id(),
            attempt: AttemptNo::new(1)
        }
    );

    let guest = bench
        .expect(What::Guest {
            boot: BootNo::new(1),
            attempt: AttemptNo::new(1),
            acknowledged: false,
        })
        .await;
    guest.report(Event::Acknowledged {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
    });
    guest.report(Event::Finished {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
    });
    let collect = bench
        .expect(What::Collect(BootNo::new(1), AttemptNo::new(1)))
        .await;
    collect.report(Event::Collected {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
        outcome: good(),
    });

    // The eager reset: power goes while Launchpad still fetches.
    let cut = bench.expect(What::Cut(BootNo::new(2))).await;
    bench.expect(What::BuildEnded(AttemptNo::new(1))).await;
    let waiting = ManagerStatus::Waiting {
        build_id: build_id(),
        attempt: AttemptNo::new(1),
        outcome: good(),
    };
    assert_eq!(told(&bench.slot), waiting);
    cut.report(Event::CutSeen {
        boot: BootNo::new(2),
    });
    bench
        .expect(What::Boot(BootNo::new(2)))
        .await
        .report(Event::Proved {
            boot: BootNo::new(2),
        });
    bench.expect(What::Prove(BootNo::new(2))).await;
    assert_eq!(told(&bench.slot), waiting);

    assert_eq!(bench.slot.clean().await.unwrap(), Answer::Idle);
    bench.expect(What::DropKept(AttemptNo::new(1))).await;
    assert_eq!(told(&bench.slot), ManagerStatus::Idle);
    assert_eq!(
        bench
            .ledger
            .attempt("panda01", AttemptNo::new(1))
            .await
            .unwrap()
            .unwrap()
            .call,
        None
    );
    assert_eq!(
        bench.builds().await,
        Answer::Building {
            attempt: AttemptNo::new(2)
        }
    );
    bench
        .expect(What::Guest {
            boot: BootNo::new(2),
            attempt: AttemptNo::new(2),
            acknowledged: false,
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn where_resets_are_not_eager_power_goes_when_launchpad_asks_for_it() {
    let on_request = || Settings {
        eager_reset: false,
        ..Settings::default()
    };
    let mut bench = Bench::with(on_request()).await;
    let guest = running(&mut bench).await;
    guest.report(Event::Finished {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
    });
    let collect = bench
        .expect(What::Collect(BootNo::new(1), AttemptNo::new(1)))
        .await;
    collect.report(Event::Collected {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
        outcome: good(),
    });
    bench.expect(What::BuildEnded(AttemptNo::new(1))).await;
    bench.expect_nothing_for(Duration::from_secs(3600)).await;
    // The manager's command.
    assert_eq!(bench.slot.reset().await.unwrap(), Answer::Joined);
    bench.expect(What::DropKept(AttemptNo::new(1))).await;
    bench.boots(BootNo::new(2)).await;
    assert_eq!(told(&bench.slot), ManagerStatus::Idle);

    // A `clean`, by a manager of builders that are not virtualised.
    let mut bench = Bench::with(on_request()).await;
    let guest = running(&mut bench).await;
    guest.report(Event::Acknowledged {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
    });
    guest.report(Event::Lost {
        boot: BootNo::new(1),
        why: Lost::Silent,
    });
    bench.expect(What::BuildEnded(AttemptNo::new(1))).await;
    bench.expect(What::Alert).await;
    bench.expect_nothing_for(Duration::from_secs(3600)).await;
    let slot = bench.slot.clone();
    let clean = tokio::spawn(async move { slot.clean().await.unwrap() });
    bench.boots(BootNo::new(2)).await;
    assert_eq!(clean.await.unwrap(), Answer::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_clean_waits_until_the_board_is_fresh_and_no_longer_than_its_time() {
    let mut bench = Bench::new().await;
    let cut = finished(&mut bench).await;
    let asked = tokio::time::Instant::now();
    assert_eq!(
        bench.slot.clean().await.unwrap(),
        Answer::Refused(Refusal::NotReady)
    );
    assert_eq!(asked.elapsed(), Duration::from_secs(35));

    let slot = bench.slot.clone();
    let clean = tokio::spawn(async move { slot.clean().await.unwrap() });
    bench
        .view(|view| {
            view.slot
                .kept
                .as_ref()
                .is_some_and(|kept| kept.cleaning.is_some())
        })
        .await;
    cut.report(Event::CutSeen {
        boot: BootNo::new(2),
    });
    bench
        .expect(What::Boot(BootNo::new(2)))
        .await
        .report(Event::Proved {
            boot: BootNo::new(2),
        });
    assert_eq!(clean.await.unwrap(), Answer::Idle);
    assert_eq!(told(&bench.slot), ManagerStatus::Idle);
}

#[tokio::test(start_paused = true)]
async fn in_2011_a_clean_is_answered_at_once() {
    let settings = Settings {
        dialect: Dialect::Y2011,
        ..Settings::default()
    };
    let mut bench = Bench::with(settings).await;
    let _cut = finished(&mut bench).await;
    assert_eq!(bench.slot.clean().await.unwrap(), Answer::Idle);
    let between = bench.slot.view().manager_status(Dialect::Y2011, true);
    assert_eq!(between, ManagerStatus::Aborting { build_id: None });
}

#[tokio::test(start_paused = true)]
async fn an_abort_lets_the_guest_go_before_it_starts() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    bench.builds().await;
    let _guest = bench
        .expect(What::Guest {
            boot: BootNo::new(1),
            attempt: AttemptNo::new(1),
            acknowledged: false,
        })
        .await;
    assert_eq!(bench.slot.abort().await.unwrap(), Answer::Aborting);
    assert_eq!(bench.told().await.what, What::LetGo("guest"));
    let abort = bench.told().await;
    assert_eq!(abort.what, What::Abort(BootNo::new(1), AttemptNo::new(1)));
    assert_eq!(
        told(&bench.slot),
        ManagerStatus::Aborting {
            build_id: Some(build_id())
        }
    );
    abort.report(Event::AbortEnded {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
    });
    bench.expect(What::Cut(BootNo::new(2))).await;
    let view = bench.view(|view| view.slot.kept.is_some()).await;
    assert_eq!(
        view.slot.kept.unwrap().outcome.build_status,
        BuildStatus::Aborted
    );
}

#[tokio::test(start_paused = true)]
async fn an_unacknowledged_build_moves_to_a_new_boot_unseen() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    bench.builds().await;
    let guest = bench
        .expect(What::Guest {
            boot: BootNo::new(1),
            attempt: AttemptNo::new(1),
            acknowledged: false,
        })
        .await;
    guest.report(Event::Lost {
        boot: BootNo::new(1),
        why: Lost::Silent,
    });
    let building = ManagerStatus::Building {
        build_id: build_id(),
        attempt: AttemptNo::new(1),
    };
    let cut = bench.expect(What::Cut(BootNo::new(2))).await;
    assert_eq!(told(&bench.slot), building);
    cut.report(Event::CutSeen {
        boot: BootNo::new(2),
    });
    bench
        .expect(What::Boot(BootNo::new(2)))
        .await
        .report(Event::Proved {
            boot: BootNo::new(2),
        });
    assert_eq!(told(&bench.slot), building);
    bench
        .expect(What::Guest {
            boot: BootNo::new(2),
            attempt: AttemptNo::new(1),
            acknowledged: false,
        })
        .await;
    let record = bench
        .ledger
        .attempt("panda01", AttemptNo::new(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.boot, record.call.is_some()), (BootNo::new(2), true));
}

#[tokio::test(start_paused = true)]
async fn reports_of_an_older_boot_change_nothing() {
    let mut bench = Bench::new().await;
    let first = bench.expect(What::Cut(BootNo::new(1))).await;
    first.report(Event::CutFailed {
        boot: BootNo::new(1),
        reason: "still on".to_owned(),
    });
    let second = bench.expect(What::Cut(BootNo::new(2))).await;
    let before = bench.slot.view();
    first.report(Event::CutSeen {
        boot: BootNo::new(1),
    });
    first.report(Event::Proved {
        boot: BootNo::new(1),
    });
    second.report(Event::CutSeen {
        boot: BootNo::new(2),
    });
    bench.expect(What::Boot(BootNo::new(2))).await;
    assert!(matches!(before.slot.board, Board::Cutting { n: 2, .. }));
    assert!(matches!(
        bench.slot.view().slot.board,
        Board::Booting { n: 2, .. }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_failed_board_is_tried_again_after_pauses_that_grow() {
    let mut bench = Bench::new().await;
    for (round, pause) in (0_u64..).zip([60, 120, 240]) {
        for attempt in 1..=3 {
            let boot = BootNo::new(round * 3 + attempt);
            let reason = "still on".to_owned();
            bench
                .expect(What::Cut(boot))
                .await
                .report(Event::CutFailed { boot, reason });
        }
        bench.expect(What::PowerOff).await;
        bench.expect(What::Alert).await;
        let failed = tokio::time::Instant::now();
        bench
            .view(|view| matches!(view.slot.board, Board::Cutting { .. }))
            .await;
        assert_eq!(failed.elapsed(), Duration::from_secs(pause));
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_slot_is_off_until_it_is_released() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    assert_eq!(
        bench.slot.hold("new fan".to_owned()).await.unwrap(),
        Answer::Done
    );
    bench
        .expect(What::Cut(BootNo::new(2)))
        .await
        .report(Event::CutSeen {
            boot: BootNo::new(2),
        });
    bench.view(|view| view.slot.board == Board::Off).await;
    bench.expect_nothing_for(Duration::from_secs(100_000)).await;
    let refused = Answer::Refused(Refusal::Held("new fan".to_owned()));
    assert_eq!(bench.builds().await, refused);
    assert_eq!(bench.slot.reset().await.unwrap(), refused);
    assert_eq!(bench.slot.release().await.unwrap(), Answer::Done);
    bench.boots(BootNo::new(3)).await;
    assert!(bench.slot.view().is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_a_fresh_slot_powers_nothing_and_one_of_a_busy_slot_joins() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    assert_eq!(bench.slot.reset().await.unwrap(), Answer::Ready);
    bench.expect_nothing_for(Duration::from_secs(10)).await;
    bench.builds().await;
    bench
        .expect(What::Guest {
            boot: BootNo::new(1),
            attempt: AttemptNo::new(1),
            acknowledged: false,
        })
        .await;
    let spared = Answer::Refused(Refusal::HasBuild);
    assert_eq!(bench.slot.operator_reset(false).await.unwrap(), spared);
    assert_eq!(
        bench.slot.operator_reset(true).await.unwrap(),
        Answer::Joined
    );
    let cut = bench.expect(What::Cut(BootNo::new(2))).await;
    bench.expect(What::BuildEnded(AttemptNo::new(1))).await;
    bench.expect(What::DropKept(AttemptNo::new(1))).await;
    assert_eq!(bench.slot.reset().await.unwrap(), Answer::Joined);
    cut.report(Event::CutSeen {
        boot: BootNo::new(2),
    });
    bench.expect(What::Boot(BootNo::new(2))).await;
}

#[tokio::test(start_paused = true)]
async fn only_one_of_two_builds_is_accepted() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    let (one, two) = tokio::join!(
        bench.slot.build(super::build_call()),
        bench.slot.build(super::build_call())
    );
    assert_eq!(
        one.unwrap(),
        Answer::Building {
            attempt: AttemptNo::new(1)
        }
    );
    assert_eq!(two.unwrap(), Answer::Refused(Refusal::NotIdle));
    assert_eq!(
        bench
            .ledger
            .attempt("panda01", AttemptNo::new(2))
            .await
            .unwrap(),
        None
    );
}

/// A build that runs on the first boot, not yet acknowledged.
async fn running(bench: &mut Bench) -> super::Told {
    bench.boots(BootNo::new(1)).await;
    bench.builds().await;
    bench
        .expect(What::Guest {
            boot: BootNo::new(1),
            attempt: AttemptNo::new(1),
            acknowledged: false,
        })
        .await
}

/// Builds once, on boot 1, up to the cut of boot 2, with the results kept.
async fn finished(bench: &mut Bench) -> super::Told {
    let guest = running(bench).await;
    guest.report(Event::Finished {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
    });
    let collect = bench
        .expect(What::Collect(BootNo::new(1), AttemptNo::new(1)))
        .await;
    bench
        .view(|view| {
            matches!(
                view.slot.board,
                Board::Used {
                    phase: Phase::Collecting,
                    ..
                }
            )
        })
        .await;
    collect.report(Event::Collected {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
        outcome: good(),
    });
    let cut = bench.expect(What::Cut(BootNo::new(2))).await;
    bench.expect(What::BuildEnded(AttemptNo::new(1))).await;
    cut
}
