//! Builds and aborts on a board, across daemons; what ends them from outside.

use super::*;

#[tokio::test]
async fn a_build_goes_from_dispatch_to_collected_results() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.reset(1).await;
    rack.accept(1).await;
    daemon.rig.guest(1, 1, false, daemon.events.clone());
    assert_eq!(
        daemon.next().await,
        Event::Acknowledged {
            attempt: 1,
            boot: 1
        }
    );
    rack.toy.has("buildlog", b"log\n");
    let deb = Sha1::of(b"deb");
    rack.toy.has(&deb.to_string(), b"deb");
    let name = FileName::try_from("hello.deb".to_owned()).unwrap();
    let outcome = Outcome {
        filemap: [(name, deb)].into(),
        ..Outcome::bare(BuildStatus::Ok)
    };
    rack.toy.say(Status::Waiting {
        build_id: build_id(),
        outcome: outcome.clone(),
    });
    assert_eq!(
        daemon.next().await,
        Event::Finished {
            attempt: 1,
            boot: 1
        }
    );
    daemon.rig.collect(1, 1, daemon.events.clone());
    assert_eq!(
        daemon.next().await,
        Event::Collected {
            attempt: 1,
            boot: 1,
            outcome
        }
    );

    let directory = rack.state.path().join("slots/panda01");
    assert_eq!(
        std::fs::read(directory.join("attempt-1").join(deb.to_string())).unwrap(),
        b"deb"
    );
    daemon.rig.build_ended(1);
    assert_eq!(*rack.inputs.released.lock().unwrap(), [SLOT]);
    daemon.rig.drop_kept(1);
    assert!(!names(&directory).contains(&"attempt-1".to_owned()));
}

#[tokio::test]
async fn the_next_daemon_rejoins_a_board_that_proves_the_same_boot() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.reset(1).await;
    rack.accept(1).await;
    rack.toy.say(building());
    drop(daemon);

    let mut daemon = rack.start().await;
    rack.commit(1, Board::Rejoining(Rejoin::Running(build())), None)
        .await;
    let proving = daemon.rig.prove(1, daemon.events.clone());
    assert_eq!(daemon.next().await, Event::Proved { boot: 1 });
    assert!(daemon.rig.report().is_some());
    proving.abort();
    // Not known to be acknowledged, and the worker has it already: it is asked, and not told twice.
    daemon.rig.guest(1, 1, false, daemon.events.clone());
    while daemon.next().await
        != (Event::Acknowledged {
            attempt: 1,
            boot: 1,
        })
    {}
    rack.toy.say(waiting(BuildStatus::PackageFail));
    assert_eq!(
        daemon.next().await,
        Event::Finished {
            attempt: 1,
            boot: 1
        }
    );
    assert!(!rack.toy.called().contains(&"build".to_owned()));

    // As a board that waits for a build it would have to be idle.
    rack.commit(1, Board::Rejoining(Rejoin::Fresh { n: 1 }), None)
        .await;
    daemon.rig.prove(1, daemon.events.clone());
    let event = daemon.next().await;
    assert!(
        matches!(
            event,
            Event::Lost {
                boot: 1,
                why: Lost::Lied(_)
            }
        ),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_rom_that_nobody_awaits_ends_builds_and_proofs() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.reset(1).await;
    rack.accept(1).await;
    rack.toy.say(building());
    daemon.rig.guest(1, 1, true, daemon.events.clone());
    rack.toy.until_called("status", 3).await;
    rack.board.put(rom(2));
    assert_eq!(
        daemon.next().await,
        Event::Lost {
            boot: 1,
            why: Lost::Rebooted
        }
    );
    // It is there already when the next activity begins.
    daemon.rig.prove(1, daemon.events.clone());
    assert_eq!(
        daemon.next().await,
        Event::Lost {
            boot: 1,
            why: Lost::Rebooted
        }
    );
    daemon.rig.collect(1, 1, daemon.events.clone());
    assert_eq!(
        daemon.next().await,
        Event::Lost {
            boot: 1,
            why: Lost::Rebooted
        }
    );
}

#[tokio::test]
async fn an_abort_always_ends() {
    let mut rack = rack();
    let mut daemon = rack
        .start_with(
            Arc::new(rack.board.clone()),
            GuestSettings {
                abort_ms: 50,
                ..GuestSettings::default()
            },
        )
        .await;
    daemon.reset(1).await;
    rack.accept(1).await;
    rack.toy.say(building());
    daemon.rig.abort(1, 1, daemon.events.clone());
    assert_eq!(
        daemon.next().await,
        Event::AbortEnded {
            attempt: 1,
            boot: 1
        }
    );
    assert!(rack.toy.called().contains(&"abort".to_owned()));

    drop(rack.agents.recv().await);
    daemon.rig.abort(1, 1, daemon.events.clone());
    assert_eq!(
        daemon.next().await,
        Event::AbortEnded {
            attempt: 1,
            boot: 1
        }
    );
    // Of a boot that the ledger knows nothing of.
    daemon.rig.abort(7, 1, daemon.events.clone());
    assert_eq!(
        daemon.next().await,
        Event::AbortEnded {
            attempt: 1,
            boot: 7
        }
    );
}

#[tokio::test]
async fn a_new_cut_takes_the_board_from_the_boot_that_it_cancels() {
    let rack = rack();
    rack.board.change(|script| script.machine = None);
    let mut daemon = rack.start().await;
    daemon.rig.cut(1, daemon.events.clone());
    daemon.next().await;
    // This boot's agent never comes.
    let boot = daemon.rig.boot(1, daemon.events.clone());
    daemon.rig.cut(2, daemon.events.clone());
    boot.abort();
    assert_eq!(daemon.next().await, Event::CutSeen { boot: 2 });
    assert_eq!(rack.board.power(), PowerState::Off);
}

struct Panics;

#[async_trait]
impl Power for Panics {
    async fn off(&self) -> Result<(), PowerError> {
        panic!("a bug in a driver")
    }

    async fn on(&self) -> Result<(), PowerError> {
        Ok(())
    }

    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        Ok(None)
    }
}

#[tokio::test]
async fn an_activity_that_panics_still_reports() {
    let rack = rack();
    let mut daemon = rack
        .start_with(Arc::new(Panics), GuestSettings::default())
        .await;
    daemon.rig.cut(1, daemon.events.clone());
    failed(daemon.next().await, "internal error");
    // And the slot is not stuck with it.
    daemon.rig.cut(2, daemon.events.clone());
    failed(daemon.next().await, "internal error");
}

#[tokio::test]
async fn power_off_cuts_and_lets_the_board_in_no_more() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.reset(1).await;
    daemon.rig.power_off().await.unwrap();
    assert_eq!(rack.board.power(), PowerState::Off);
    let secrets = rack.ledger.boot_secrets(SLOT, 1).await.unwrap().unwrap();
    assert!(!daemon.rig.inner.parts.depot.admits(SLOT, &secrets.id));
    assert!(daemon.rig.report().is_none());
}
