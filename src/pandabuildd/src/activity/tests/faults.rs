//! Every fault that a virtual board can be ordered to have, against the real activities and the real slot task, on a
//! paused clock: each ends within attempts × (sum of the step limits) + 5 s, with its reason. The board is
//! panda-twin's own, reached without its sockets, so that no time passes but the clock's.
//!
//! `cargo test -p pandabuildd every_fault_ends -- --nocapture` prints the table of docs/faults.md.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use panda_board::twin::wire::{
    FromDriver, FromTwin, MAX_TRANSFER, PowerAnswer, PowerOrder, Refused,
};
use panda_board::{Pipe, PipeError, Presence};
use panda_slot::FailureKind;
use panda_twin::board::{Board as Virtual, Driver, Message, Neighbours, Parts, Timing};
use panda_twin::console::Console;
use panda_twin::machine::{Kind, Place};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::*;
use crate::slot;

/// What waits for its answer.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<FromTwin>>>>;

/// A virtual board, its drivers included.
#[derive(Clone)]
struct Wire {
    board: mpsc::Sender<Message>,
    presence: watch::Receiver<Presence>,
    waiting: Waiting,
    next: Arc<AtomicU64>,
}

impl Wire {
    async fn new(name: &str, state: &Path, neighbours: Neighbours) -> Self {
        let (board, messages) = mpsc::channel(64);
        let parts = Parts {
            name: name.to_owned(),
            place: Place::of(&state.join(name)),
            console: Console::new(),
            kind: Kind::Process,
            timing: Timing::default(),
            first_arrival: 1,
            neighbours,
        };
        tokio::spawn(Virtual::new(parts).run(messages));
        let (out, mut said) = mpsc::channel(64);
        let driver = Driver { connection: 1, out };
        board.send(Message::Connected(driver)).await.unwrap();
        let (shown, presence) = watch::channel(Presence::Unknown);
        let waiting = Waiting::default();
        let answers = waiting.clone();
        tokio::spawn(async move {
            while let Some(message) = said.recv().await {
                let seq = match &message {
                    FromTwin::Arrived(device) => {
                        shown.send_replace(Presence::Device(*device));
                        continue;
                    }
                    FromTwin::Left => {
                        shown.send_replace(Presence::Empty);
                        continue;
                    }
                    FromTwin::Written { seq }
                    | FromTwin::Data { seq, .. }
                    | FromTwin::Refused { seq, .. } => *seq,
                };
                let waiter = answers.lock().unwrap().remove(&seq);
                drop(waiter.map(|waiter| waiter.send(message)));
            }
        });
        Self {
            board,
            presence,
            waiting,
            next: Arc::default(),
        }
    }

    async fn power(&self, order: PowerOrder) -> PowerAnswer {
        // A machine's end takes real time: the clock stands meanwhile.
        let (over, until) = std::sync::mpsc::channel::<()>();
        let standing = tokio::task::spawn_blocking(move || until.recv().is_err());
        let (answer, answered) = oneshot::channel();
        let message = Message::Power { order, answer };
        self.board.send(message).await.unwrap();
        let answer = answered.await.unwrap();
        drop(over);
        assert!(standing.await.unwrap());
        answer
    }

    async fn order(&self, fault: &str) {
        let (answer, answered) = oneshot::channel();
        let order = fault.parse().unwrap();
        self.board
            .send(Message::Fault { order, answer })
            .await
            .unwrap();
        answered.await.unwrap().unwrap();
    }

    async fn transfer(
        &self,
        limit: Duration,
        what: &str,
        message: impl FnOnce(u64) -> FromDriver,
    ) -> Result<FromTwin, PipeError> {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap().insert(seq, answer);
        let message = Message::Driver {
            connection: 1,
            message: message(seq),
        };
        self.board.send(message).await.unwrap();
        match timeout(limit, answered).await {
            Ok(Ok(FromTwin::Refused {
                why: Refused::Gone, ..
            })) => Err(PipeError::Gone),
            Ok(Ok(FromTwin::Refused {
                why: Refused::Stalled,
                ..
            })) => Err(PipeError::Stalled(what.to_owned())),
            Ok(answer) => Ok(answer.unwrap()),
            Err(_) => Err(PipeError::TimedOut {
                what: what.to_owned(),
                limit,
            }),
        }
    }
}

#[async_trait]
impl Power for Wire {
    async fn off(&self) -> Result<(), PowerError> {
        assert_eq!(self.power(PowerOrder::Off).await, PowerAnswer::Ok);
        Ok(())
    }

    async fn on(&self) -> Result<(), PowerError> {
        assert_eq!(self.power(PowerOrder::On).await, PowerAnswer::Ok);
        Ok(())
    }

    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        Ok(Some(match self.power(PowerOrder::Read).await {
            PowerAnswer::On => PowerState::On,
            _ => PowerState::Off,
        }))
    }
}

#[async_trait]
impl Port for Wire {
    fn watch(&self) -> watch::Receiver<Presence> {
        self.presence.clone()
    }

    async fn open(&self, arrival: u64) -> Result<Box<dyn Pipe>, PipeError> {
        Ok(Box::new(WirePipe {
            wire: self.clone(),
            arrival,
        }))
    }
}

struct WirePipe {
    wire: Wire,
    arrival: u64,
}

#[async_trait]
impl Pipe for WirePipe {
    async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), PipeError> {
        let arrival = self.arrival;
        for piece in bytes.chunks(MAX_TRANSFER) {
            let bytes = Bytes::copy_from_slice(piece);
            let what = format!("write of {} bytes", bytes.len());
            let make = |seq| FromDriver::Write {
                seq,
                arrival,
                bytes,
            };
            self.wire.transfer(limit, &what, make).await?;
        }
        Ok(())
    }

    async fn read(&mut self, max: usize, limit: Duration) -> Result<Vec<u8>, PipeError> {
        let (arrival, max) = (self.arrival, u32::try_from(max).unwrap());
        let make = |seq| FromDriver::Read { seq, arrival, max };
        match self.wire.transfer(limit, "read", make).await? {
            FromTwin::Data { bytes, .. } => Ok(bytes.into()),
            other => panic!("{other:?}"),
        }
    }
}

/// The hand-over of an image that is not large, all its steps together.
const HAND_OVER_MS: u64 = 130_000;

/// A slot of `attempts` attempts can be no longer on its way to its end.
fn bound(boot: &BootSettings, attempts: u32) -> Duration {
    let steps = [
        boot.power_ms,
        boot.port_clears_ms + boot.cut_hold_ms,
        boot.power_ms,
        boot.rom_window_ms,
        boot.identify_ms(),
        HAND_OVER_MS,
        boot.port_released_ms,
        boot.handshake_ms,
    ];
    attempts * Duration::from_millis(steps.iter().sum()) + Duration::from_secs(5)
}

struct Bench {
    rack: Rack,
    wire: Wire,
    daemon: Daemon,
}

async fn bench() -> Bench {
    let rack = rack();
    let neighbours = Neighbours::default();
    let wire = Wire::new("panda01", rack.state.path(), neighbours.clone()).await;
    let other = Wire::new("panda02", rack.state.path(), neighbours.clone()).await;
    let names = ["panda01".to_owned(), "panda02".to_owned()];
    neighbours.are(names.iter().zip([&wire.board, &other.board]));
    // Both live as long as somebody can tell them anything.
    tokio::spawn(async move { other.board.closed().await });
    let (power, port) = (Arc::new(wire.clone()), Arc::new(wire.clone()));
    let daemon = rack
        .start_on(
            power,
            port,
            BootSettings::default(),
            GuestSettings::default(),
        )
        .await;
    Bench { rack, wire, daemon }
}

/// Resets a slot whose board has this fault until it has failed: why, of what kind, after how long.
async fn failure(fault: &str) -> (FailureKind, String, Duration) {
    let Bench { rack, wire, daemon } = bench().await;
    if fault == "old-certificate" {
        // There has to have been another boot.
        let slot = slot::spawn(
            SLOT,
            None,
            rack.ledger.clone(),
            Arc::new(daemon.activities.clone()),
            slot::Settings::default(),
        );
        let mut watch = slot.watch();
        let booted = watch.wait_for(|view| view.slot.boot == BootNo::new(2));
        booted.await.unwrap();
        slot.close().await;
    }
    wire.order(fault).await;
    let initial = rack.ledger.load_slot(SLOT).await.unwrap();
    let began = Instant::now();
    let slot = slot::spawn(
        SLOT,
        initial,
        rack.ledger.clone(),
        Arc::new(daemon.activities.clone()),
        slot::Settings::default(),
    );
    let mut watch = slot.watch();
    let view = watch
        .wait_for(|view| matches!(view.slot.board, Board::Failed { .. }))
        .await
        .unwrap()
        .clone();
    let elapsed = began.elapsed();
    let Board::Failed { kind, reason } = view.slot.board else {
        panic!("not failed")
    };
    // What `slots` shows, and `boots`.
    let fault = view.fault.unwrap_or_default();
    assert!(fault.is_empty() || fault.contains(&reason), "{fault}");
    let boots = rack.ledger.boots(Some(SLOT), 1).await.unwrap();
    let error = boots[0].steps.iter().find_map(|step| step.error.clone());
    assert!(reason.ends_with(&error.unwrap()), "{reason}");
    slot.close().await;
    (kind, reason, elapsed)
}

#[tokio::test(start_paused = true)]
async fn every_fault_ends_in_time_with_its_reason() {
    use FailureKind::{Boot, Chip, Power};
    let boot = BootSettings::default();
    let within = bound(&boot, slot::Settings::default().attempts);
    // Four bytes ask, 81 answer, four and four announce the second stage.
    let second_stage = 85 + 8 + 5;
    let image = 85 + 8 + 30 + 4 + 4;
    let rows = [
        (
            "never-appears".to_owned(),
            Boot,
            "rom: no boot ROM on the port within 8s of power on",
        ),
        (
            "late 9000".to_owned(),
            Boot,
            "rom: no boot ROM on the port within 8s of power on",
        ),
        (
            "stall-at 0".to_owned(),
            Boot,
            "asic id: asking for the ASIC ID: write of 4 bytes: stalled",
        ),
        (
            "stall-at 4".to_owned(),
            Boot,
            "asic id: reading the ASIC ID: read: stalled",
        ),
        (
            "stall-at 85".to_owned(),
            Boot,
            "second stage: announcing the second stage: write of 4 bytes: stalled",
        ),
        (format!("stall-at {second_stage}"), Boot, "second stage: "),
        (
            format!("stall-at {}", image + 100_000),
            Boot,
            "boot image: sending the boot image: write of ",
        ),
        ("hang-at 0".to_owned(), Boot, "asic id: "),
        ("hang-at 85".to_owned(), Boot, "second stage: "),
        (format!("hang-at {}", image + 100_000), Boot, "boot image: "),
        ("short-reads 40".to_owned(), Boot, "asic id: ASIC ID: "),
        ("short-reads 3".to_owned(), Boot, "asic id: ASIC ID: "),
        ("wrong-asic-id".to_owned(), Boot, "asic id: ASIC ID: "),
        (
            "other-chip".to_owned(),
            Chip,
            "asic id: the board's chip is OMAP4460, and the slot's is OMAP4430",
        ),
        (
            "wrong-port panda02".to_owned(),
            Boot,
            "rom: no boot ROM on the port within 8s of power on",
        ),
        (
            "second-stage-dies".to_owned(),
            Boot,
            "second stage: waiting for the second stage's greeting: the device left the port",
        ),
        (
            "kernel-panics".to_owned(),
            Boot,
            "handshake: nothing was heard of the board within 60s of its kernel's start",
        ),
        (
            "agent-silent".to_owned(),
            Boot,
            "handshake: nothing was heard of the board within 60s of its kernel's start",
        ),
        (
            "old-certificate".to_owned(),
            Boot,
            "handshake: nothing was heard of the board within 60s of its kernel's start",
        ),
        (
            "stays-on-port".to_owned(),
            Power,
            "evidence: a device 0451:d00f (class ff, arrival ",
        ),
    ];
    let mut wrong = Vec::new();
    println!("\n| fault | the slot | with the reason | after |\n| --- | --- | --- | --- |");
    for (fault, kind, expected) in rows {
        let (found, reason, elapsed) = failure(&fault).await;
        println!(
            "| `{fault}` | failed ({}) | {reason} | {:.1} s |",
            format!("{found:?}").to_lowercase(),
            elapsed.as_secs_f64()
        );
        if found != kind || !reason.starts_with(expected) || elapsed > within {
            wrong.push(format!("{fault}: {found:?} after {elapsed:?}: {reason}"));
        }
    }
    println!("\nEach must end within {:.0} s.", within.as_secs_f64());
    assert!(wrong.is_empty(), "within {within:?}: {wrong:#?}");
}

#[tokio::test(start_paused = true)]
async fn every_fault_ends_a_board_that_restarts_or_shows_a_rom_at_once() {
    for (fault, building) in [
        ("reboot", false),
        ("reboot", true),
        ("rom", false),
        ("rom", true),
    ] {
        let Bench {
            rack,
            wire,
            mut daemon,
        } = bench().await;
        // A board that was booted, as far as its port and the ledger tell; nobody answers on its link.
        daemon.start(Activity::Cut {
            boot: BootNo::new(1),
        });
        assert_eq!(
            daemon.next().await,
            Event::CutSeen {
                boot: BootNo::new(1)
            }
        );
        wire.power(PowerOrder::On).await;
        let mut port = wire.presence.clone();
        for there in [true, false] {
            let wanted = |presence: &Presence| matches!(presence, Presence::Device(_)) == there;
            port.wait_for(wanted).await.unwrap();
        }
        let began = Instant::now();
        let activity = if building {
            rack.accept(BootNo::new(1)).await;
            daemon.start(Activity::Guest {
                boot: BootNo::new(1),
                attempt: AttemptNo::new(1),
                acknowledged: true,
            })
        } else {
            daemon.start(Activity::Prove {
                boot: BootNo::new(1),
            })
        };
        wire.order(fault).await;
        let event = daemon.next().await;
        let why = Lost::Rebooted;
        assert_eq!(
            event,
            Event::Lost {
                boot: BootNo::new(1),
                why
            },
            "{fault}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(1),
            "{:?}",
            began.elapsed()
        );
        activity.await.unwrap();
        println!(
            "| `{fault}` {} | lost (rebooted), so reset | | {:.1} s |",
            if building { "in a build" } else { "when Fresh" },
            began.elapsed().as_secs_f64()
        );
    }
}
