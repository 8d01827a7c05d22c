//! Builds and aborts on a board, across daemons; what ends them from outside.

use super::*;

#[tokio::test]
async fn a_build_goes_from_dispatch_to_collected_results() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.reset(BootNo::new(1)).await;
    rack.accept(BootNo::new(1)).await;
    daemon.start(Activity::Guest {
        boot: BootNo::new(1),
        attempt: AttemptNo::new(1),
        acknowledged: false,
    });
    assert_eq!(
        daemon.next().await,
        Event::Acknowledged {
            attempt: AttemptNo::new(1),
            boot: BootNo::new(1)
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
            attempt: AttemptNo::new(1),
            boot: BootNo::new(1)
        }
    );
    daemon.start(Activity::Collect {
        boot: BootNo::new(1),
        attempt: AttemptNo::new(1),
    });
    assert_eq!(
        daemon.next().await,
        Event::Collected {
            attempt: AttemptNo::new(1),
            boot: BootNo::new(1),
            outcome
        }
    );

    let directory = rack.state.path().join("slots/panda01");
    assert_eq!(
        std::fs::read(directory.join("attempt-1").join(deb.to_string())).unwrap(),
        b"deb"
    );
    let inputs = &daemon.activities.common.parts.inputs;
    let dsc = Sha1::of(b"dsc");
    assert!(inputs.open_for(SLOT, dsc).await.unwrap().is_some());
    daemon.activities.release_inputs();
    assert!(inputs.open_for(SLOT, dsc).await.unwrap().is_none());
    daemon.activities.drop_kept(AttemptNo::new(1));
    assert!(!names(&directory).contains(&"attempt-1".to_owned()));
}

#[tokio::test]
async fn the_next_daemon_rejoins_a_board_that_proves_the_same_boot() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.reset(BootNo::new(1)).await;
    rack.accept(BootNo::new(1)).await;
    rack.toy.say(building());
    drop(daemon);

    let mut daemon = rack.start().await;
    rack.commit(
        BootNo::new(1),
        Board::Rejoining(Rejoin::Running(build())),
        None,
    )
    .await;
    let proving = daemon.start(Activity::Prove {
        boot: BootNo::new(1),
    });
    assert_eq!(
        daemon.next().await,
        Event::Proved {
            boot: BootNo::new(1)
        }
    );
    assert!(daemon.activities.report().is_some());
    proving.abort();
    // Not known to be acknowledged, and the worker has it already: it is asked, and not told twice.
    daemon.start(Activity::Guest {
        boot: BootNo::new(1),
        attempt: AttemptNo::new(1),
        acknowledged: false,
    });
    while daemon.next().await
        != (Event::Acknowledged {
            attempt: AttemptNo::new(1),
            boot: BootNo::new(1),
        })
    {}
    rack.toy.say(waiting(BuildStatus::PackageFail));
    assert_eq!(
        daemon.next().await,
        Event::Finished {
            attempt: AttemptNo::new(1),
            boot: BootNo::new(1)
        }
    );
    assert!(!rack.toy.called().contains(&"build".to_owned()));

    // As a board that waits for a build it would have to be idle.
    rack.commit(
        BootNo::new(1),
        Board::Rejoining(Rejoin::Fresh { n: 1 }),
        None,
    )
    .await;
    daemon.start(Activity::Prove {
        boot: BootNo::new(1),
    });
    let event = daemon.next().await;
    assert!(
        matches!(
            event,
            Event::Lost { boot, why: Lost::Lied(_) } if boot == BootNo::new(1)
        ),
        "{event:?}"
    );
}

#[tokio::test]
async fn a_rom_that_nobody_awaits_ends_builds_and_proofs() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.reset(BootNo::new(1)).await;
    rack.accept(BootNo::new(1)).await;
    rack.toy.say(building());
    daemon.start(Activity::Guest {
        boot: BootNo::new(1),
        attempt: AttemptNo::new(1),
        acknowledged: true,
    });
    rack.toy.until_called("status", 3).await;
    rack.board.put(rom(2));
    assert_eq!(
        daemon.next().await,
        Event::Lost {
            boot: BootNo::new(1),
            why: Lost::Rebooted
        }
    );
    // It is there already when the next activity begins.
    daemon.start(Activity::Prove {
        boot: BootNo::new(1),
    });
    assert_eq!(
        daemon.next().await,
        Event::Lost {
            boot: BootNo::new(1),
            why: Lost::Rebooted
        }
    );
    daemon.start(Activity::Collect {
        boot: BootNo::new(1),
        attempt: AttemptNo::new(1),
    });
    assert_eq!(
        daemon.next().await,
        Event::Lost {
            boot: BootNo::new(1),
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
    daemon.reset(BootNo::new(1)).await;
    rack.accept(BootNo::new(1)).await;
    rack.toy.say(building());
    daemon.start(Activity::Abort {
        boot: BootNo::new(1),
        attempt: AttemptNo::new(1),
    });
    assert_eq!(
        daemon.next().await,
        Event::AbortEnded {
            attempt: AttemptNo::new(1),
            boot: BootNo::new(1)
        }
    );
    assert!(rack.toy.called().contains(&"abort".to_owned()));

    drop(rack.agents.recv().await);
    daemon.start(Activity::Abort {
        boot: BootNo::new(1),
        attempt: AttemptNo::new(1),
    });
    assert_eq!(
        daemon.next().await,
        Event::AbortEnded {
            attempt: AttemptNo::new(1),
            boot: BootNo::new(1)
        }
    );
    // Of a boot that the ledger knows nothing of.
    daemon.start(Activity::Abort {
        boot: BootNo::new(7),
        attempt: AttemptNo::new(1),
    });
    assert_eq!(
        daemon.next().await,
        Event::AbortEnded {
            attempt: AttemptNo::new(1),
            boot: BootNo::new(7)
        }
    );
}

#[tokio::test]
async fn a_new_cut_takes_the_board_from_the_boot_that_it_cancels() {
    let rack = rack();
    rack.board.change(|script| script.machine = None);
    let mut daemon = rack.start().await;
    daemon.start(Activity::Cut {
        boot: BootNo::new(1),
    });
    daemon.next().await;
    // This boot's agent never comes.
    let boot = daemon.start(Activity::Boot {
        boot: BootNo::new(1),
    });
    daemon.start(Activity::Cut {
        boot: BootNo::new(2),
    });
    boot.abort();
    assert_eq!(
        daemon.next().await,
        Event::CutSeen {
            boot: BootNo::new(2)
        }
    );
    assert_eq!(rack.board.power(), PowerState::Off);
}

#[tokio::test]
async fn power_off_cuts_and_lets_the_board_in_no_more() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.reset(BootNo::new(1)).await;
    daemon.start(Activity::PowerOff).await.unwrap();
    assert_eq!(rack.board.power(), PowerState::Off);
    let secrets = rack
        .ledger
        .boot_secrets(SLOT, BootNo::new(1))
        .await
        .unwrap()
        .unwrap();
    assert!(
        !daemon
            .activities
            .common
            .parts
            .depot
            .admits(SLOT, &secrets.id)
    );
    assert!(daemon.activities.report().is_none());
}
