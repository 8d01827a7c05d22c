//! The real hands of a slot: a board in memory whose machine is a toy agent that is started from the boot
//! image that arrived, a real depot, a real link, a real ledger.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use panda_board::{Port, Power, PowerError, PowerState};
use panda_http::{Identity, ServerSettings};
use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::boot_toml::{self, BootToml, Network};
use panda_protocol::bootimg;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildCall, BuildStatus, FileName, Outcome, Status, Sum};
use panda_protocol::link::{ALIVE_PATH, BootStep, FIXED_DISK_KEY};
use panda_protocol::manifest::Machine;
use panda_protocol::omap4::asic_id::Chip;
use panda_slot::{Board, Build, Phase, Rejoin, Slot};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::boot::bench::{Script, TestBoard, rom};
use crate::boot::{BootSettings, ExpectedBoard};
use crate::depot::tests::TestInputs;
use crate::depot::{Depot, Inputs};
use crate::guest::toy::{self, Toy, ToyAgent, build_id, building, waiting};
use crate::guest::{GuestSettings, Results};
use crate::identity::{self, KeyAndCertificate};
use crate::images::{Image, process};
use crate::ledger::{Grade, Ledger, NewAttempt};

mod faults;
mod twin;

const SLOT: &str = "panda01";

struct Rack {
    state: TempDir,
    board: TestBoard,
    toy: Arc<Toy>,
    /// The agents that were started, each from its own boot image.
    agents: mpsc::UnboundedReceiver<ToyAgent>,
    link: SocketAddr,
    inputs: Arc<TestInputs>,
    ledger: Ledger,
    image: Arc<Image>,
}

/// One life of the daemon.
struct Daemon {
    rig: Rig,
    events: mpsc::UnboundedSender<Event>,
    happened: mpsc::UnboundedReceiver<Event>,
    _depot: DropGuard,
}

fn rack() -> Rack {
    let state = tempfile::tempdir().unwrap();
    let image = image(state.path(), "amd64");
    let toy = Toy::new();
    let (started, agents) = mpsc::unbounded_channel();
    let machine_toy = toy.clone();
    let machine = move |bytes: Vec<u8>| {
        let (toy, started) = (machine_toy.clone(), started.clone());
        tokio::spawn(async move {
            let parsed = bootimg::parse(&bytes, Machine::Process).unwrap();
            let boot = boot_toml::find(parsed.ramdisk).unwrap();
            started.send(ToyAgent::boot(&boot, toy).await).unwrap();
        });
    };
    let after_on = vec![(1, rom(1))];
    let script = Script {
        after_on,
        machine: Some(Box::new(machine)),
        ..Script::default()
    };
    Rack {
        board: TestBoard::new(script),
        toy,
        agents,
        link: free_address(),
        inputs: Arc::new(TestInputs::of(&[b"chroot", b"dsc"])),
        ledger: Ledger::open(&state.path().join("ledger.sqlite")).unwrap(),
        image: Arc::new(image),
        state,
    }
}

fn image(state: &Path, arch: &str) -> Image {
    let agent = state.join("agent");
    std::fs::write(&agent, vec![b'a'; 100_000]).unwrap();
    let settings = AgentToml {
        version: agent_toml::VERSION,
        arch: arch.to_owned(),
        executor: None,
        insecure_fixed_disk_key: false,
    };
    process::make(&state.join("image"), &agent, &settings).unwrap()
}

/// An address that nothing listens on; each process has a loopback network of its own to look for it.
fn free_address() -> SocketAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let host = std::net::Ipv4Addr::new(127, a | 1, b, c | 1);
    std::net::TcpListener::bind((host, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

impl Rack {
    async fn start(&self) -> Daemon {
        self.start_with(Arc::new(self.board.clone()), GuestSettings::default())
            .await
    }

    async fn start_with(&self, power: Arc<dyn Power>, guest: GuestSettings) -> Daemon {
        let boot = BootSettings {
            cut_hold_ms: 5,
            ..BootSettings::default()
        };
        self.start_on(power, Arc::new(self.board.clone()), boot, guest)
            .await
    }

    /// A daemon whose board is behind `power` and `port`.
    async fn start_on(
        &self,
        power: Arc<dyn Power>,
        port: Arc<dyn Port>,
        boot: BootSettings,
        guest: GuestSettings,
    ) -> Daemon {
        let master = Arc::new(KeyAndCertificate::master(self.state.path()).unwrap());
        let own = Identity::from_pem(&master.certificate_pem, &master.key_pem).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let depot_address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let settings = ServerSettings {
            drain: Duration::ZERO,
            ..ServerSettings::default()
        };
        let inputs: Arc<dyn Inputs> = self.inputs.clone();
        let (depot, _) =
            Depot::serve(listener, &own, inputs.clone(), settings, stop.clone()).unwrap();
        let parts = RigParts {
            slot: SLOT.to_owned(),
            link: self.link,
            link_listen: self.link,
            depot_address,
            network: Network {
                address: None,
                gateway: None,
                nameservers: Vec::new(),
                hostname: SLOT.to_owned(),
                mac: None,
            },
            // As every virtual board is.
            expected: ExpectedBoard {
                chip: Some(Chip::Omap4430),
                ..ExpectedBoard::default()
            },
            power,
            port,
            sense: None,
            image: self.image.clone(),
            master,
            ledger: self.ledger.clone(),
            depot,
            inputs,
            results: Results::at(self.state.path(), SLOT, &[1]).unwrap(),
            boot,
            guest: GuestSettings {
                poll_ms: 1,
                prove_ms: 1,
                ..guest
            },
        };
        let rig = Rig::new(parts).unwrap();
        let (events, happened) = mpsc::unbounded_channel();
        Daemon {
            rig,
            events,
            happened,
            _depot: stop.drop_guard(),
        }
    }

    async fn commit(&self, boot: BootNo, board: Board, accepted: Option<NewAttempt>) {
        let slot = Slot {
            boot,
            attempt: 1,
            board,
            ..Slot::new()
        };
        self.ledger.commit(SLOT, &slot, accepted).await.unwrap();
    }

    async fn accept(&self, boot: BootNo) {
        let accepted = NewAttempt {
            attempt: 1,
            call: call(),
        };
        let board = Board::Used {
            build: build(),
            phase: Phase::Running,
        };
        self.commit(boot, board, Some(accepted)).await;
    }
}

impl Daemon {
    async fn next(&mut self) -> Event {
        let event = tokio::time::timeout(Duration::from_secs(60), self.happened.recv()).await;
        event.expect("an activity always reports").unwrap()
    }

    async fn reset(&mut self, boot: BootNo) -> Event {
        self.rig.cut(boot, self.events.clone());
        assert_eq!(self.next().await, Event::CutSeen { boot });
        self.rig.boot(boot, self.events.clone());
        self.next().await
    }
}

fn build() -> Build {
    Build {
        attempt: 1,
        build_id: build_id(),
        acknowledged: true,
        moves: 0,
    }
}

fn call() -> BuildCall {
    let name = FileName::try_from("hello.dsc".to_owned()).unwrap();
    BuildCall {
        build_id: build_id(),
        build_type: "binarypackage".to_owned(),
        chroot: Sum::from(Sha1::of(b"chroot")),
        filemap: [(name, Sum::from(Sha1::of(b"dsc")))].into(),
        args: [("suite".to_owned(), dxr::Value::String("noble".to_owned()))].into(),
    }
}

fn failed(event: Event, text: &str) {
    match event {
        Event::BootFailed { reason, .. } | Event::CutFailed { reason, .. } => {
            assert!(reason.contains(text), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn a_reset_ends_with_a_proof_over_this_boots_own_certificate() {
    let mut rack = rack();
    let mut daemon = rack.start().await;
    assert_eq!(daemon.reset(1).await, Event::Proved { boot: 1 });
    assert_eq!(daemon.rig.report().unwrap().build_types, ["binarypackage"]);
    let first = rack.ledger.boot_secrets(SLOT, 1).await.unwrap().unwrap();
    assert_eq!(daemon.rig.report().unwrap().boot, first.id);

    drop(rack.agents.recv().await);
    assert_eq!(daemon.reset(2).await, Event::Proved { boot: 2 });
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
    daemon.rig.boot(1, daemon.events.clone());
    failed(daemon.next().await, "no evidenced cut precedes this boot");

    daemon.rig.cut(2, daemon.events.clone());
    assert_eq!(daemon.next().await, Event::CutSeen { boot: 2 });
    daemon.rig.boot(3, daemon.events.clone());
    failed(daemon.next().await, "no evidenced cut precedes this boot");
    assert_eq!(rack.board.power(), PowerState::Off);
}

#[tokio::test]
async fn an_agent_that_reports_another_boot_fails_the_handshake() {
    let rack = rack();
    *rack.toy.reports.lock().unwrap() = Some(identity::new_boot_id().unwrap());
    let mut daemon = rack.start().await;
    failed(
        daemon.reset(1).await,
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
    assert_eq!(daemon.reset(1).await, Event::Proved { boot: 1 });
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
        daemon.reset(1).await,
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
        daemon.reset(1).await,
        "handshake: the board failed at its step \"rootfs\": it has another digest",
    );
}

#[tokio::test]
async fn an_agent_for_another_architecture_fails_the_handshake() {
    let mut rack = rack();
    rack.image = Arc::new(image(rack.state.path(), "armhf"));
    let mut daemon = rack.start().await;
    failed(
        daemon.reset(1).await,
        "handshake: the agent announces a worker for amd64, and the image's manifest says armhf",
    );
}

#[tokio::test]
async fn a_worker_that_is_busy_right_after_its_boot_fails_the_proof() {
    let rack = rack();
    rack.toy.say(building());
    let mut daemon = rack.start().await;
    failed(
        daemon.reset(1).await,
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
        daemon.reset(1).await,
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
    let (event, ()) = tokio::join!(daemon.reset(1), restart);
    failed(event, "proof: a boot ROM came to the port");
}

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
