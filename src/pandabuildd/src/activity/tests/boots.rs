//! Boots: what proves one, and what does not.

use super::*;

#[tokio::test]
async fn a_reset_ends_with_a_proof_over_this_boots_own_certificate() {
    let mut rack = rack();
    let mut daemon = rack.start().await;
    assert_eq!(
        daemon.reset(BootNo::new(1)).await,
        Event::Proved {
            boot: BootNo::new(1)
        }
    );
    assert_eq!(
        daemon.activities.report().unwrap().build_types,
        ["binarypackage"]
    );
    let first = rack
        .ledger
        .boot_secrets(SLOT, BootNo::new(1))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(daemon.activities.report().unwrap().boot, first.id);

    drop(rack.agents.recv().await);
    assert_eq!(
        daemon.reset(BootNo::new(2)).await,
        Event::Proved {
            boot: BootNo::new(2)
        }
    );
    let boots = rack.ledger.boots(Some(SLOT), 10).await.unwrap();
    assert_eq!(boots.len(), 2);
    assert_ne!(boots[0].id, boots[1].id);
    for boot in boots {
        let names: Vec<&str> = boot.steps.iter().map(|step| step.name.as_str()).collect();
        let expected = [
            "cut",
            "evidence",
            "power on",
            "rom",
            "asic id",
            "second stage",
            "boot image",
            "started",
            "handshake",
            "proof",
        ];
        assert_eq!(names, expected);
        assert_eq!(boot.steps[1].grade, Some(Grade::Readback));
        assert!(boot.steps.iter().all(|step| step.error.is_none()));
        assert_eq!(boot.image, rack.image.id());
    }
}

#[tokio::test]
async fn a_boot_without_an_evidenced_cut_of_its_own_is_refused() {
    let rack = rack();
    let mut daemon = rack.start().await;
    daemon.start(Activity::Boot {
        boot: BootNo::new(1),
    });
    failed(daemon.next().await, "no evidenced cut precedes this boot");

    daemon.start(Activity::Cut {
        boot: BootNo::new(2),
    });
    assert_eq!(
        daemon.next().await,
        Event::CutSeen {
            boot: BootNo::new(2)
        }
    );
    daemon.start(Activity::Boot {
        boot: BootNo::new(3),
    });
    failed(daemon.next().await, "no evidenced cut precedes this boot");
    assert_eq!(rack.board.power(), PowerState::Off);
}

#[tokio::test]
async fn an_agent_that_reports_another_boot_fails_the_handshake() {
    let rack = rack();
    *rack.toy.reports.lock().unwrap() = Some(identity::new_boot_id().unwrap());
    let mut daemon = rack.start().await;
    failed(
        daemon.reset(BootNo::new(1)).await,
        "handshake: the agent's report names another boot",
    );
}

#[tokio::test]
async fn a_board_tells_its_own_steps_and_whether_its_image_is_insecure() {
    let rack = rack();
    let step = |name: &str, elapsed_ms| BootStep {
        name: name.to_owned(),
        elapsed_ms,
        detail: format!("{name} done"),
    };
    *rack.toy.told.lock().unwrap() = (
        vec![step("kernel", 7_700), step("modules", 300)],
        vec![FIXED_DISK_KEY.to_owned()],
    );
    let mut daemon = rack.start().await;
    assert_eq!(
        daemon.reset(BootNo::new(1)).await,
        Event::Proved {
            boot: BootNo::new(1)
        }
    );
    let boots = rack.ledger.boots(Some(SLOT), 1).await.unwrap();
    let told: Vec<_> = boots[0]
        .steps
        .iter()
        .filter(|step| step.name.starts_with("agent: "))
        .map(|step| (&step.name[7..], step.elapsed_ms, step.detail.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("kernel", 7_700, "kernel done"),
            ("modules", 300, "modules done"),
            (
                "INSECURE",
                0,
                "the image is for demonstrations only: fixed-disk-key"
            ),
        ]
    );
    let at = |name: &str| {
        let step = boots[0].steps.iter().find(|step| step.name == name);
        step.unwrap().at_unix_ms
    };
    assert_eq!(at("agent: modules") - at("agent: kernel"), 7_700);
}

#[tokio::test]
async fn a_board_that_dies_while_it_boots_is_not_waited_for() {
    let rack = rack();
    let master = KeyAndCertificate::master(rack.state.path()).unwrap();
    let machine = move |bytes: Vec<u8>| {
        let master = master.certificate_pem.clone();
        tokio::spawn(async move {
            let parsed = bootimg::parse(&bytes, Machine::Process).unwrap();
            let boot = boot_toml::find(parsed.ramdisk).unwrap();
            let identity = Identity::from_pem(&boot.link.certificate, &boot.link.key).unwrap();
            let depot = toy::depot_as(&boot.link.depot, &identity, &master);
            // Its only words.
            let said = toy::post(&depot, ALIVE_PATH, String::new()).await;
            assert_eq!(said.unwrap(), 204);
        });
    };
    let board = TestBoard::new(Script {
        after_on: vec![(1, rom(1))],
        machine: Some(Box::new(machine)),
        ..Script::default()
    });
    let boot = BootSettings {
        cut_hold_ms: 5,
        silent_ms: 100,
        ..BootSettings::default()
    };
    let (power, port) = (Arc::new(board.clone()), Arc::new(board));
    let mut daemon = rack
        .start_on(power, port, boot, GuestSettings::default())
        .await;
    failed(
        daemon.reset(BootNo::new(1)).await,
        "handshake: the board fell silent while it booted: nothing was heard of it for 100ms",
    );
}

#[tokio::test]
async fn a_board_that_fails_names_its_step_at_once() {
    let rack = rack();
    *rack.toy.fails.lock().unwrap() =
        Some(("rootfs".to_owned(), "it has another digest".to_owned()));
    let mut daemon = rack.start().await;
    failed(
        daemon.reset(BootNo::new(1)).await,
        "handshake: the board failed at its step \"rootfs\": it has another digest",
    );
}

#[tokio::test]
async fn an_agent_for_another_architecture_fails_the_handshake() {
    let mut rack = rack();
    rack.image = Arc::new(image(rack.state.path(), "armhf"));
    let mut daemon = rack.start().await;
    failed(
        daemon.reset(BootNo::new(1)).await,
        "handshake: the agent announces a worker for amd64, and the image's manifest says armhf",
    );
}

#[tokio::test]
async fn a_worker_that_is_busy_right_after_its_boot_fails_the_proof() {
    let rack = rack();
    rack.toy.say(building());
    let mut daemon = rack.start().await;
    failed(
        daemon.reset(BootNo::new(1)).await,
        "proof: link: the worker was given no build, and says BUILDING",
    );
}

#[tokio::test]
async fn a_rom_while_the_agent_is_awaited_means_that_the_board_has_restarted() {
    let rack = rack();
    let (board, ledger) = (rack.board.clone(), rack.ledger.clone());
    rack.board.change(|script| {
        script.machine = Some(Box::new(move |_| {
            let (board, ledger) = (board.clone(), ledger.clone());
            tokio::spawn(async move {
                // When the second stage has been seen to leave, the ROM comes back.
                let started = async || {
                    let boots = ledger.boots(Some(SLOT), 1).await.unwrap();
                    boots[0].steps.iter().any(|step| step.name == "started")
                };
                while !started().await {
                    tokio::task::yield_now().await;
                }
                board.put(rom(2));
            });
        }));
    });
    let mut daemon = rack.start().await;
    failed(
        daemon.reset(BootNo::new(1)).await,
        "handshake: a boot ROM came to the port",
    );
}

#[tokio::test]
async fn a_rom_while_the_worker_is_asked_means_that_the_board_has_restarted() {
    let rack = rack();
    rack.toy.silent.store(true, Ordering::Relaxed);
    let mut daemon = rack.start().await;
    let restart = async {
        rack.toy.until_called("status", 1).await;
        rack.board.put(rom(2));
    };
    let (event, ()) = tokio::join!(daemon.reset(BootNo::new(1)), restart);
    failed(event, "proof: a boot ROM came to the port");
}
