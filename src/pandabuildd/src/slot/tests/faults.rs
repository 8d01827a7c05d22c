//! What goes wrong on the master itself: a ledger that cannot be written, activities that break.

use std::time::Duration;

use panda_protocol::launchpad::Dialect;
use panda_slot::{Answer, AttemptNo, Board, BootNo, Event, FailureKind, ManagerStatus, Refusal};

use super::{Bench, End, What};

#[tokio::test(start_paused = true)]
async fn a_build_that_cannot_be_written_down_is_refused_and_never_begun() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    bench.ledger.refuse_writes(true);
    assert_eq!(bench.builds().await, Answer::Refused(Refusal::NotRecorded));
    bench.expect(What::Alert).await;
    bench.expect_nothing_for(Duration::from_secs(1)).await;
    let view = bench.slot.view();
    assert_eq!(
        (&view.slot.board, view.slot.attempt),
        (&Board::Fresh { n: 1 }, AttemptNo::NONE)
    );
    assert!(
        matches!(
            view.manager_status(Dialect::Current, true),
            ManagerStatus::Fault { .. }
        ),
        "{view:?}"
    );
    assert!(!view.is_fresh());
    assert_eq!(
        bench.slot.reset().await.unwrap(),
        Answer::Refused(Refusal::NotRecorded)
    );

    bench.ledger.refuse_writes(false);
    bench.view(|view| view.is_idle()).await;
    assert_eq!(
        bench.builds().await,
        Answer::Building {
            attempt: AttemptNo::new(1)
        }
    );
    bench
        .expect(What::Guest {
            boot: BootNo::new(1),
            attempt: AttemptNo::new(1),
            acknowledged: false,
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_report_that_cannot_be_written_down_waits_and_is_not_lost() {
    let mut bench = Bench::new().await;
    let cut = bench.expect(What::Cut(BootNo::new(1))).await;
    bench.ledger.refuse_writes(true);
    cut.report(Event::CutSeen {
        boot: BootNo::new(1),
    });
    bench.expect(What::Alert).await;
    bench.expect_nothing_for(Duration::from_secs(600)).await;
    assert!(matches!(
        bench.slot.view().slot.board,
        Board::Cutting { .. }
    ));
    bench.ledger.refuse_writes(false);
    bench
        .expect(What::Boot(BootNo::new(1)))
        .await
        .report(Event::Proved {
            boot: BootNo::new(1),
        });
    bench.expect(What::Prove(BootNo::new(1))).await;
    bench.view(|view| view.is_idle()).await;
}

#[tokio::test(start_paused = true)]
async fn reports_keep_their_order_behind_one_that_waits() {
    let mut bench = Bench::new().await;
    let cut = bench.expect(What::Cut(BootNo::new(1))).await;
    bench.ledger.refuse_writes(true);
    cut.report(Event::CutSeen {
        boot: BootNo::new(1),
    });
    cut.report(Event::BootFailed {
        boot: BootNo::new(1),
        reason: "no ROM".to_owned(),
    });
    bench.expect(What::Alert).await;
    bench.ledger.refuse_writes(false);
    bench.expect(What::Boot(BootNo::new(1))).await;
    bench.expect(What::Cut(BootNo::new(2))).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_starts_on_a_ledger_it_cannot_write_begins_nothing_until_it_can() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    bench.ledger.refuse_writes(true);
    let dir = std::sync::Arc::clone(&bench.dir);
    bench.task.abort();
    let mut next = Bench::on(dir, super::Settings::default()).await;
    next.ledger.refuse_writes(true);
    next.expect(What::Alert).await;
    next.expect_nothing_for(Duration::from_secs(600)).await;
    assert!(!next.slot.view().is_idle());
    next.ledger.refuse_writes(false);
    next.expect(What::Prove(BootNo::new(1))).await;
}

#[tokio::test(start_paused = true)]
async fn an_activity_that_ends_without_a_report_or_breaks_hangs_no_slot() {
    let mut bench = Bench::new().await;
    let silently = |told: super::Told, end| assert!(told.end.unwrap().send(end).is_ok());
    silently(bench.expect(What::Cut(BootNo::new(1))).await, End::Quietly);
    silently(bench.expect(What::Cut(BootNo::new(2))).await, End::InAPanic);
    bench
        .expect(What::Cut(BootNo::new(3)))
        .await
        .report(Event::CutSeen {
            boot: BootNo::new(3),
        });
    silently(
        bench.expect(What::Boot(BootNo::new(3))).await,
        End::InAPanic,
    );
    silently(bench.expect(What::PowerOff).await, End::Quietly);
    bench.expect(What::Alert).await;
    let view = bench.slot.view();
    let Board::Failed {
        kind: FailureKind::Boot,
        reason,
    } = view.slot.board
    else {
        panic!("{view:?}")
    };
    assert!(
        reason.contains("the boot ended without a report"),
        "{reason}"
    );

    bench.boots(BootNo::new(4)).await;
    bench.builds().await;
    let guest = What::Guest {
        boot: BootNo::new(4),
        attempt: AttemptNo::new(1),
        acknowledged: false,
    };
    silently(bench.expect(guest).await, End::InAPanic);
    // Not acknowledged, so it moves.
    bench
        .expect(What::Cut(BootNo::new(5)))
        .await
        .report(Event::CutSeen {
            boot: BootNo::new(5),
        });
    bench
        .expect(What::Boot(BootNo::new(5)))
        .await
        .report(Event::Proved {
            boot: BootNo::new(5),
        });
    let guest = bench
        .expect(What::Guest {
            boot: BootNo::new(5),
            attempt: AttemptNo::new(1),
            acknowledged: false,
        })
        .await;
    guest.report(Event::Finished {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(5),
    });
    silently(
        bench
            .expect(What::Collect(BootNo::new(5), AttemptNo::new(1)))
            .await,
        End::Quietly,
    );
    bench.expect(What::Cut(BootNo::new(6))).await;
    bench.expect(What::BuildEnded(AttemptNo::new(1))).await;
}

#[tokio::test(start_paused = true)]
async fn an_activity_that_ends_after_its_report_is_not_reported_again() {
    let mut bench = Bench::new().await;
    let cut = bench.expect(What::Cut(BootNo::new(1))).await;
    cut.report(Event::CutSeen {
        boot: BootNo::new(1),
    });
    assert!(cut.end.unwrap().send(End::Quietly).is_ok());
    bench.expect(What::Boot(BootNo::new(1))).await;
    bench.expect_nothing_for(Duration::from_secs(600)).await;
    assert_eq!(bench.slot.view().slot.boot, BootNo::new(1));
}
