//! The real activities of a slot: a board in memory whose machine is a toy agent that is started from the boot
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
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildCall, BuildStatus, FileName, Outcome, Status, Sum};
use panda_protocol::link::{ALIVE_PATH, BootStep, FIXED_DISK_KEY};
use panda_protocol::manifest::Machine;
use panda_protocol::omap4::bootimg;
use panda_slot::{Board, Build, Phase, Rejoin, Slot};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::boot::board_in_memory::{Script, TestBoard, rom};
use crate::boot::{BootSettings, ExpectedBoard};
use crate::depot::Depot;
use crate::filecache;
use crate::guest::toy::{self, Toy, ToyAgent, build_id, building, waiting};
use crate::guest::{GuestSettings, Results};
use crate::identity::{self, KeyAndCertificate};
use crate::ledger::{Grade, Ledger, NewAttempt};
use panda_image::{Image, process};

mod boots;
mod builds;
mod faults;
mod presence;
mod twin;

const SLOT: &str = "panda01";

struct Rack {
    state: TempDir,
    board: TestBoard,
    toy: Arc<Toy>,
    /// The agents that were started, each from its own boot image.
    agents: mpsc::UnboundedReceiver<ToyAgent>,
    link: SocketAddr,
    ledger: Ledger,
    image: Arc<Image>,
}

/// One life of the daemon.
struct Daemon {
    activities: BoardActivities,
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
        let files: [&[u8]; 2] = [b"chroot", b"dsc"];
        let inputs =
            filecache::tests::holding(self.state.path(), self.ledger.clone(), &files).await;
        let (depot, _) =
            Depot::serve(listener, &own, inputs.clone(), settings, stop.clone()).unwrap();
        let parts = Parts {
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
                chip: "omap4430".parse().ok(),
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
            results: Results::at(self.state.path(), SLOT, &[AttemptNo::new(1)]).unwrap(),
            boot,
            guest: GuestSettings {
                poll_ms: 1,
                prove_ms: 1,
                ..guest
            },
        };
        let activities = BoardActivities::new(parts).unwrap();
        let (events, happened) = mpsc::unbounded_channel();
        Daemon {
            activities,
            events,
            happened,
            _depot: stop.drop_guard(),
        }
    }

    async fn commit(&self, boot: BootNo, board: Board, accepted: Option<NewAttempt>) {
        let slot = Slot {
            boot,
            attempt: AttemptNo::new(1),
            board,
            ..Slot::new()
        };
        self.ledger.commit(SLOT, &slot, accepted).await.unwrap();
    }

    async fn accept(&self, boot: BootNo) {
        let accepted = NewAttempt {
            attempt: AttemptNo::new(1),
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

    fn start(&self, activity: Activity) -> JoinHandle<()> {
        self.activities.start(activity, self.events.clone())
    }

    async fn reset(&mut self, boot: BootNo) -> Event {
        self.start(Activity::Cut { boot });
        assert_eq!(self.next().await, Event::CutSeen { boot });
        self.start(Activity::Boot { boot });
        self.next().await
    }
}

fn build() -> Build {
    Build {
        attempt: AttemptNo::new(1),
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
