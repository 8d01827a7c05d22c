//! Cuts that only the image's gadget can show, and boots that bring it up for the next one.

use super::*;
use crate::boot::board_in_memory::{GADGET, device};

fn demanding() -> BootSettings {
    BootSettings {
        cut_hold_ms: 5,
        require_cut: Grade::Presence,
        gadget: Some(GADGET),
        cut_delay_max_ms: 1,
        gadget_comes_ms: 300,
        ..BootSettings::default()
    }
}

async fn start(rack: &Rack) -> Daemon {
    let (power, port) = (Arc::new(rack.board.clone()), Arc::new(rack.board.clone()));
    rack.start_on(power, port, demanding(), GuestSettings::default())
        .await
}

fn weak(event: Event, boot: BootNo) {
    match event {
        Event::CutWeak { boot: of, reason } => {
            assert_eq!(of, boot);
            assert_eq!(
                reason,
                "evidence: the evidence of the cut is readback, and require_cut asks for presence"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// The names of a boot's steps, and which of them failed.
async fn steps(rack: &Rack, boot: BootNo) -> (Vec<String>, Vec<String>) {
    let boots = rack.ledger.boots(Some(SLOT), 10).await.unwrap();
    let found = boots.into_iter().find(|found| found.boot == boot).unwrap();
    assert!(found.attempts.is_empty());
    let failed = found.steps.iter().filter(|step| step.error.is_some());
    (
        found.steps.iter().map(|step| step.name.clone()).collect(),
        failed.map(|step| step.name.clone()).collect(),
    )
}

#[tokio::test]
async fn a_board_without_a_gadget_is_booted_once_and_its_next_cut_is_shown_by_it() {
    let mut rack = rack();
    let mut daemon = start(&rack).await;
    daemon.start(Activity::Cut {
        boot: BootNo::new(1),
    });
    weak(daemon.next().await, BootNo::new(1));
    daemon.start(Activity::Prepare {
        boot: BootNo::new(1),
    });
    let agent = rack.agents.recv().await;
    rack.board
        .put(device(GADGET.vendor, GADGET.product, 0xff, 2));
    assert_eq!(
        daemon.next().await,
        Event::Prepared {
            boot: BootNo::new(1)
        }
    );
    assert!(
        daemon.activities.report().is_none(),
        "what a boot for evidence says of itself is nobody's to know"
    );
    drop(agent);

    rack.board
        .change(|script| script.after_on = vec![(1, rom(3))]);
    assert_eq!(
        daemon.reset(BootNo::new(2)).await,
        Event::Proved {
            boot: BootNo::new(2)
        }
    );
    let (names, failed) = steps(&rack, BootNo::new(1)).await;
    assert_eq!(
        names,
        [
            "cut",
            "evidence",
            "prepare",
            "power on",
            "rom",
            "asic id",
            "second stage",
            "boot image",
            "started",
            "handshake",
            "proof",
            "gadget",
        ]
    );
    assert_eq!(failed, ["evidence"]);
    let boots = rack.ledger.boots(Some(SLOT), 1).await.unwrap();
    assert_eq!(boots[0].steps[1].grade, Some(Grade::Presence));
    assert!(!boots[0].steps.iter().any(|step| step.name == "prepare"));
}

#[tokio::test]
async fn a_gadget_that_never_comes_fails_the_boot_for_evidence_with_its_reason() {
    let rack = rack();
    let mut daemon = start(&rack).await;
    daemon.start(Activity::Cut {
        boot: BootNo::new(1),
    });
    weak(daemon.next().await, BootNo::new(1));
    daemon.start(Activity::Prepare {
        boot: BootNo::new(1),
    });
    failed(
        daemon.next().await,
        "gadget: the image's gadget is not on the port 300ms after its boot",
    );
}

#[tokio::test]
async fn a_weak_cut_leads_to_no_boot_but_one_for_evidence_and_a_shown_one_to_no_such_boot() {
    let rack = rack();
    let mut daemon = start(&rack).await;
    daemon.start(Activity::Cut {
        boot: BootNo::new(1),
    });
    weak(daemon.next().await, BootNo::new(1));
    daemon.start(Activity::Boot {
        boot: BootNo::new(1),
    });
    failed(daemon.next().await, "no evidenced cut precedes this boot");

    rack.board
        .put(device(GADGET.vendor, GADGET.product, 0xff, 2));
    daemon.start(Activity::Cut {
        boot: BootNo::new(2),
    });
    assert_eq!(
        daemon.next().await,
        Event::CutSeen {
            boot: BootNo::new(2)
        }
    );
    daemon.start(Activity::Prepare {
        boot: BootNo::new(2),
    });
    failed(
        daemon.next().await,
        "no cut that showed too little precedes this boot",
    );
    assert_eq!(rack.board.power(), PowerState::Off);
}
