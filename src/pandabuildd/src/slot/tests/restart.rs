//! `kill -9` at every point of a slot's day, and the clean end.

use panda_protocol::launchpad::{BuildStatus, Dialect};
use panda_slot::{
    Answer, AttemptNo, Board, BootNo, CallId, Event, Limits, ManagerStatus, Refusal, Slot, step,
};

use super::{Bench, Settings, View, What, good};
use crate::ledger::NewAttempt;

/// What a sound board, power and worker report to what the activities are told.
fn reply(what: &What) -> Vec<Event> {
    match *what {
        What::Cut(boot) => vec![Event::CutSeen { boot }],
        What::Prepare(boot) => vec![Event::Prepared { boot }],
        What::Boot(boot) | What::Prove(boot) => vec![Event::Proved { boot }],
        What::Guest { boot, attempt, .. } => {
            vec![
                Event::Acknowledged { attempt, boot },
                Event::Finished { attempt, boot },
            ]
        }
        What::Collect(boot, attempt) => vec![Event::Collected {
            attempt,
            boot,
            outcome: good(),
        }],
        What::Abort(boot, attempt) => vec![Event::AbortEnded { attempt, boot }],
        What::PowerOff
        | What::DropKept(_)
        | What::BuildEnded(_)
        | What::ReleaseInputs
        | What::Alert
        | What::LetGo(_) => {
            vec![]
        }
    }
}

/// Lets a sound board report, one thing that the activities are told after another, until the slot is Fresh
/// and proven to this daemon, or `most` things were told. Says how many were.
async fn goes_on(bench: &mut Bench, most: usize) -> usize {
    let mut done = 0;
    let mut watch = bench.slot.watch();
    while done < most {
        let told = tokio::select! {
            biased;
            told = bench.told() => told,
            _ = watch.wait_for(|view| view.is_fresh()) => return done,
        };
        done += 1;
        for event in reply(&told.what) {
            told.report(event);
        }
    }
    done
}

#[tokio::test(start_paused = true)]
async fn a_build_survives_a_kill_at_every_point_of_its_life() {
    let mut kills = 0;
    for after in 0.. {
        let mut bench = Bench::new().await;
        bench.boots(BootNo::new(1)).await;
        assert_eq!(
            bench.builds().await,
            Answer::Building {
                attempt: AttemptNo::new(1)
            }
        );
        // Killed after so many things that the activities were told.
        let done = goes_on(&mut bench, after).await;
        let mut bench = bench.killed().await;
        goes_on(&mut bench, usize::MAX).await;
        let view = bench.slot.view();
        let kept = view
            .slot
            .kept
            .clone()
            .unwrap_or_else(|| panic!("lost after {after}"));
        assert_eq!(
            (kept.attempt, kept.outcome),
            (AttemptNo::new(1), good()),
            "after {after}"
        );
        assert!(
            view.slot.boot >= BootNo::new(2),
            "the build's board was not cut, after {after}"
        );
        assert_eq!(bench.slot.clean().await.unwrap(), Answer::Idle);
        assert_eq!(
            bench.slot.view().manager_status(Dialect::Current, true),
            ManagerStatus::Idle
        );
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
        kills += 1;
        if done < after {
            break;
        }
    }
    assert!(kills > 8, "only {kills} points");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_killed_while_it_prepares_a_cut_cuts_again_and_prepares_again() {
    let weak = |boot| Event::CutWeak {
        boot,
        reason: "no gadget".to_owned(),
    };
    let mut bench = Bench::new().await;
    bench
        .expect(What::Cut(BootNo::new(1)))
        .await
        .report(weak(BootNo::new(1)));
    bench.expect(What::Prepare(BootNo::new(1))).await;
    // Half a boot of the old daemon's is no evidence of anything.
    let mut bench = bench.killed().await;
    bench
        .expect(What::Cut(BootNo::new(2)))
        .await
        .report(weak(BootNo::new(2)));
    bench
        .expect(What::Prepare(BootNo::new(2)))
        .await
        .report(Event::Prepared {
            boot: BootNo::new(2),
        });
    bench.expect(What::Cut(BootNo::new(3))).await;
    // Nor is what was up on the port before the order of a daemon that is gone.
    let mut bench = bench.killed().await;
    bench
        .expect(What::Cut(BootNo::new(4)))
        .await
        .report(weak(BootNo::new(4)));
    bench
        .expect(What::Prepare(BootNo::new(4)))
        .await
        .report(Event::Prepared {
            boot: BootNo::new(4),
        });
    bench.boots(BootNo::new(5)).await;
    bench.view(View::is_idle).await;
}

/// The states that a build goes through, each as it is committed.
fn states() -> Vec<(Slot, Option<NewAttempt>)> {
    let limits = Limits {
        attempts: 3,
        moves: 2,
        dialect: Dialect::Current,
    };
    let (attempt, boot) = (AttemptNo::new(1), BootNo::new(1));
    let events = [
        Event::Recover,
        Event::CutSeen { boot },
        Event::Proved { boot },
        Event::Build {
            call: CallId::new(1),
            build_id: super::build_id(),
        },
        Event::Acknowledged { attempt, boot },
        Event::Finished { attempt, boot },
        Event::Collected {
            attempt,
            boot,
            outcome: good(),
        },
        Event::CutSeen {
            boot: BootNo::new(2),
        },
        Event::Proved {
            boot: BootNo::new(2),
        },
    ];
    let mut slot = Slot::new();
    let mut states = Vec::new();
    for event in events {
        let accepted = matches!(event, Event::Build { .. }).then(|| NewAttempt {
            attempt,
            call: super::build_call(),
        });
        slot = step(&slot, event, &limits).next;
        states.push((slot.clone(), accepted));
    }
    states
}

#[tokio::test(start_paused = true)]
async fn a_kill_between_a_commit_and_its_effects_loses_no_build_and_hangs_no_slot() {
    let all = states();
    for killed_at in 1..=all.len() {
        let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
        let ledger = crate::ledger::Ledger::open(&dir.path().join("ledger.sqlite")).unwrap();
        for (slot, accepted) in &all[..killed_at] {
            ledger
                .commit("panda01", slot, accepted.clone())
                .await
                .unwrap();
        }
        drop(ledger);
        let mut bench = Bench::on(dir, Settings::default()).await;
        goes_on(&mut bench, usize::MAX).await;
        let view = bench.slot.view();
        assert!(view.is_fresh(), "{view:?}");
        let outcome = view.slot.kept.map(|kept| kept.outcome.build_status);
        let accepted = all[..killed_at]
            .iter()
            .any(|(_, accepted)| accepted.is_some());
        assert_eq!(
            outcome,
            accepted.then_some(BuildStatus::Ok),
            "killed at {killed_at}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_board_is_not_idle_after_a_restart_until_it_has_proved_itself_again() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    assert!(bench.slot.view().is_idle());
    let mut bench = bench.killed().await;
    // Not even in the moment before the task's first step.
    assert!(!bench.slot.view().is_idle() && !bench.slot.view().is_fresh());
    let prove = bench.expect(What::Prove(BootNo::new(1))).await;
    assert!(!bench.slot.view().is_idle());
    prove.report(Event::Proved {
        boot: BootNo::new(1),
    });
    bench.view(|view| view.is_idle()).await;
    bench
        .expect_nothing_for(std::time::Duration::from_secs(10))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_running_build_is_rejoined_on_its_own_boot() {
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
    guest.report(Event::Acknowledged {
        attempt: AttemptNo::new(1),
        boot: BootNo::new(1),
    });
    bench
        .view(|view| view.slot.live().is_some_and(|build| build.acknowledged))
        .await;
    let mut bench = bench.killed().await;
    bench
        .expect(What::Prove(BootNo::new(1)))
        .await
        .report(Event::Proved {
            boot: BootNo::new(1),
        });
    bench
        .expect(What::Guest {
            boot: BootNo::new(1),
            attempt: AttemptNo::new(1),
            acknowledged: true,
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn closing_answers_what_waits_and_leaves_the_board_alone() {
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
    bench.expect(What::Cut(BootNo::new(2))).await;
    bench.expect(What::BuildEnded(AttemptNo::new(1))).await;
    let slot = bench.slot.clone();
    let clean = tokio::spawn(async move { slot.clean().await });
    bench
        .view(|view| {
            view.slot
                .kept
                .as_ref()
                .is_some_and(|kept| kept.cleaning.is_some())
        })
        .await;

    bench.slot.close().await;
    assert_eq!(clean.await.unwrap(), Ok(Answer::Refused(Refusal::NotReady)));
    // The first reset lets go of what an earlier life may have had.
    assert_eq!(bench.told().await.what, What::ReleaseInputs);
    assert_eq!(bench.told().await.what, What::LetGo("cut"));
    assert!(
        bench.tells.recv().await.is_none(),
        "the activities are told nothing more"
    );
    bench.slot.build(super::build_call()).await.unwrap_err();
    let stored = bench.ledger.load_slot("panda01").await.unwrap().unwrap();
    assert!(matches!(stored.board, Board::Cutting { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_about_to_stop_says_idle_no_more_but_takes_the_build_it_promised() {
    let mut bench = Bench::new().await;
    bench.boots(BootNo::new(1)).await;
    bench.slot.quiesce().await.unwrap();
    let view = bench.view(|view| view.fault.is_some()).await;
    let reason = "the daemon is stopping".to_owned();
    assert_eq!(
        view.manager_status(Dialect::Current, true),
        ManagerStatus::Fault { reason }
    );
    assert_eq!(
        view.manager_status(Dialect::Y2011, true),
        ManagerStatus::Aborting { build_id: None }
    );
    assert_eq!(
        bench.builds().await,
        Answer::Building {
            attempt: AttemptNo::new(1)
        }
    );
}
