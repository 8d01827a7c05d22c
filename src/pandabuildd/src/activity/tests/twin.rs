//! The activities on a real virtual Panda: its sockets, ROM, second stage and machine. The kernel that is booted
//! is a shell script that brings out what its ramdisk held; a toy agent plays it from there.

use std::fs;
use std::path::PathBuf;

use panda_board::twin::{TwinPort, TwinPower};
use panda_twin::board::Timing;
use panda_twin::machine::Kind;
use panda_twin::{Settings, Twin};
use tokio::time::{sleep, timeout};

use super::*;

/// init --machine process --root ROOT --scratch SCRATCH
const KERNEL: &str = "#!/bin/sh\n\
    cp \"$5/boot.toml\" \"$7/new\"\n\
    echo \"booted $(cat \"$5/agent.toml\" | head -n 1)\" >> \"$7/boots\"\n\
    mv \"$7/new\" \"$7/boot.toml\"\n\
    while :; do sleep 1000; done\n";

struct TwinRack {
    rack: Rack,
    twin: Twin,
    scratch: PathBuf,
}

async fn twin_rack(timing: Timing) -> TwinRack {
    let mut rack = rack();
    let agent = rack.state.path().join("agent");
    fs::write(&agent, KERNEL).unwrap();
    let settings = AgentToml {
        version: agent_toml::VERSION,
        arch: "amd64".to_owned(),
        executor: None,
        insecure_fixed_disk_key: false,
    };
    let image = process::make(&rack.state.path().join("image"), &agent, &settings).unwrap();
    rack.image = Arc::new(image);
    let settings = Settings {
        state: rack.state.path().join("twin"),
        boards: 1,
        prefix: "panda".to_owned(),
        machine: Kind::Process,
        timing,
    };
    let scratch = settings.state.join("boards/panda01/scratch");
    let twin = Twin::start(settings).await.unwrap();
    TwinRack {
        rack,
        twin,
        scratch,
    }
}

impl TwinRack {
    async fn daemon(&self, boot: BootSettings) -> Daemon {
        let (_, sockets) = self.twin.boards().next().unwrap();
        let power = Arc::new(TwinPower::new(&sockets.power));
        let port = Arc::new(TwinPort::spawn(&sockets.pipe));
        let boot = BootSettings {
            cut_hold_ms: 20,
            ..boot
        };
        self.rack
            .start_on(power, port, boot, GuestSettings::default())
            .await
    }

    /// Plays the agent of the machine that has been started, from what its ramdisk held.
    async fn play(&self) -> (BootToml, ToyAgent) {
        let path = self.scratch.join("boot.toml");
        let brought_out = async {
            while !path.exists() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), brought_out)
            .await
            .expect("the machine was started");
        let boot = boot_toml::decode(&fs::read(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        let agent = ToyAgent::boot(&boot, self.rack.toy.clone()).await;
        (boot, agent)
    }
}

#[tokio::test]
async fn a_virtual_panda_is_reset_twice_and_proves_two_boots() {
    let twin = twin_rack(Timing::default()).await;
    let mut daemon = twin.daemon(BootSettings::default()).await;
    let mut boots = Vec::new();
    for boot in [1, 2].map(BootNo::new) {
        let (proved, (told, agent)) = tokio::join!(daemon.reset(boot), twin.play());
        assert_eq!(proved, Event::Proved { boot });
        assert_eq!(told.image, twin.rack.image.id());
        boots.push(told.boot);
        drop(agent);
    }
    assert_ne!(boots[0], boots[1]);
    // The scratch disk is kept across boots, so this really was one board booted twice.
    let booted = fs::read_to_string(twin.scratch.join("boots")).unwrap();
    assert_eq!(booted, "booted version = 1\nbooted version = 1\n");
    let history = twin.rack.ledger.boots(Some(SLOT), 10).await.unwrap();
    assert!(
        history.iter().all(|boot| boot.steps.len() == 10),
        "{history:?}"
    );
    twin.twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_virtual_panda_whose_rom_comes_too_late_is_not_booted() {
    let late = Timing {
        rom_delay: Duration::from_secs(30),
        ..Timing::default()
    };
    let twin = twin_rack(late).await;
    let settings = BootSettings {
        rom_window_ms: 100,
        ..BootSettings::default()
    };
    let mut daemon = twin.daemon(settings).await;
    failed(
        daemon.reset(BootNo::new(1)).await,
        "rom: no boot ROM on the port within 100ms of power on",
    );
    twin.twin.stop().await.unwrap();
}

#[tokio::test]
async fn the_next_daemon_cuts_a_board_that_it_finds_running() {
    let twin = twin_rack(Timing::default()).await;
    let mut daemon = twin.daemon(BootSettings::default()).await;
    let (proved, (_, agent)) = tokio::join!(daemon.reset(BootNo::new(1)), twin.play());
    assert_eq!(
        proved,
        Event::Proved {
            boot: BootNo::new(1)
        }
    );
    drop(daemon);
    drop(agent);

    let mut daemon = twin.daemon(BootSettings::default()).await;
    let (proved, (told, _agent)) = tokio::join!(daemon.reset(BootNo::new(2)), twin.play());
    assert_eq!(
        proved,
        Event::Proved {
            boot: BootNo::new(2)
        }
    );
    assert_eq!(daemon.activities.report().unwrap().boot, told.boot);
    twin.twin.stop().await.unwrap();
}
