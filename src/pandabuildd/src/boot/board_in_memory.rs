//! A board in memory, for tests on a paused clock: a supply, a port, and the ROM and second stage as far
//! as the happy path goes, with a knob for each thing that can go wrong.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use panda_board::{Device, Pipe, PipeError, Port, Power, PowerError, PowerState, Presence};
use panda_protocol::family::FamilyName;
use panda_protocol::omap4::asic_id::{AsicId, Chip};
use panda_protocol::omap4::{aboot, rom};
use panda_slot::BootNo;
use tokio::sync::watch;
use tokio::time::sleep;

use super::chain::{BoardParts, Journal, Sense};
use super::settings::{BootSettings, UsbId};
use crate::ledger::Step;

pub(crate) const GADGET: UsbId = UsbId {
    vendor: 0x1d6b,
    product: 0x0104,
};

/// The ROM of an OMAP4430, as its `arrival`th arrival.
pub(crate) fn rom(arrival: u64) -> Presence {
    device(rom::USB_VENDOR, rom::USB_PRODUCT_4430, 0xff, arrival)
}

pub(crate) fn device(vendor: u16, product: u16, interface_class: u8, arrival: u64) -> Presence {
    Presence::Device(Device {
        vendor,
        product,
        interface_class,
        arrival,
    })
}

type Machine = Box<dyn Fn(Vec<u8>) + Send>;

/// What the board does.
pub(crate) struct Script {
    /// What the driver reads back, when power is off.
    pub(crate) reads: Option<PowerState>,
    /// The driver never answers.
    pub(crate) power_silent: bool,
    /// After power off: what is on the port, and when (milliseconds).
    pub(crate) after_off: Vec<(u64, Presence)>,
    /// After power on.
    pub(crate) after_on: Vec<(u64, Presence)>,
    /// What the ROM says of its chip; none: it is silent.
    pub(crate) asic_id: Option<AsicId>,
    /// How the second stage announces itself; none: not at all.
    pub(crate) greeting: Option<Vec<u8>>,
    /// The second stage leaves the port when it has a boot image.
    pub(crate) releases: bool,
    /// What is started with the boot image.
    pub(crate) machine: Option<Machine>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            reads: Some(PowerState::Off),
            power_silent: false,
            after_off: vec![(0, Presence::Empty)],
            after_on: vec![(1000, rom(1))],
            asic_id: Some(asic_id(Chip::Omap4430)),
            greeting: Some(aboot::GREETING.to_le_bytes().to_vec()),
            releases: true,
            machine: None,
        }
    }
}

pub(crate) fn asic_id(chip: Chip) -> AsicId {
    AsicId {
        chip,
        ch: 7,
        rom_version: 3,
        block_13: [0; 2],
        public_id: [0; 20],
        mpk_hash: [0; 32],
        crcs: [1, 0],
    }
}

#[derive(Clone)]
pub(crate) struct TestBoard(Arc<Inner>);

struct Inner {
    script: Mutex<Script>,
    presence: watch::Sender<Presence>,
    power: Mutex<PowerState>,
    steps: Mutex<Vec<Step>>,
    second_stage: Mutex<Vec<u8>>,
    boot_image: Mutex<Vec<u8>>,
    dark: bool,
}

impl TestBoard {
    pub(crate) fn new(script: Script) -> Self {
        Self::with_rail(script, true)
    }

    pub(crate) fn with_rail(script: Script, dark: bool) -> Self {
        Self(Arc::new(Inner {
            script: Mutex::new(script),
            presence: watch::Sender::new(Presence::Empty),
            power: Mutex::new(PowerState::On),
            steps: Mutex::default(),
            second_stage: Mutex::default(),
            boot_image: Mutex::default(),
            dark,
        }))
    }

    pub(crate) fn drivers(&self, settings: BootSettings) -> Arc<BoardParts> {
        let board = Arc::new(self.clone());
        Arc::new(BoardParts {
            power: board.clone(),
            port: board.clone(),
            sense: None,
            families: settings.families(),
            family: Some(FamilyName::default()),
            settings,
            journal: board,
        })
    }

    pub(crate) fn sensed_drivers(&self, settings: BootSettings) -> Arc<BoardParts> {
        let board = Arc::new(self.clone());
        Arc::new(BoardParts {
            power: board.clone(),
            port: board.clone(),
            sense: Some(board.clone()),
            families: settings.families(),
            family: Some(FamilyName::default()),
            settings,
            journal: board,
        })
    }

    pub(crate) fn put(&self, presence: Presence) {
        self.0
            .presence
            .send_if_modified(|now| std::mem::replace(now, presence) != presence);
    }

    pub(crate) fn power(&self) -> PowerState {
        *self.0.power.lock().unwrap()
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.0.steps.lock().unwrap().clone()
    }

    pub(crate) fn second_stage(&self) -> Vec<u8> {
        self.0.second_stage.lock().unwrap().clone()
    }

    pub(crate) fn boot_image(&self) -> Vec<u8> {
        self.0.boot_image.lock().unwrap().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.0.script.lock().unwrap());
    }

    fn play(&self, then: Vec<(u64, Presence)>) {
        let board = self.clone();
        tokio::spawn(async move {
            let mut now = 0;
            for (at, presence) in then {
                sleep(Duration::from_millis(at - now)).await;
                now = at;
                board.put(presence);
            }
        });
    }

    async fn answers(&self) {
        if self.0.script.lock().unwrap().power_silent {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Power for TestBoard {
    async fn off(&self) -> Result<(), PowerError> {
        self.answers().await;
        *self.0.power.lock().unwrap() = PowerState::Off;
        let then = self.0.script.lock().unwrap().after_off.clone();
        self.play(then);
        Ok(())
    }

    async fn on(&self) -> Result<(), PowerError> {
        self.answers().await;
        *self.0.power.lock().unwrap() = PowerState::On;
        let then = self.0.script.lock().unwrap().after_on.clone();
        self.play(then);
        Ok(())
    }

    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        Ok(self.0.script.lock().unwrap().reads)
    }
}

#[async_trait]
impl Sense for TestBoard {
    async fn dark(&self) -> Result<bool, PowerError> {
        Ok(self.0.dark)
    }
}

#[async_trait]
impl Journal for TestBoard {
    async fn record(&self, _boot: BootNo, step: Step) -> Result<(), String> {
        self.0.steps.lock().unwrap().push(step);
        Ok(())
    }
}

#[async_trait]
impl Port for TestBoard {
    fn watch(&self) -> watch::Receiver<Presence> {
        self.0.presence.subscribe()
    }

    async fn open(&self, arrival: u64) -> Result<Box<dyn Pipe>, PipeError> {
        match *self.0.presence.borrow() {
            Presence::Device(device) if device.arrival == arrival => Ok(Box::new(TestPipe {
                board: self.clone(),
                awaits: Awaits::Message,
                answer: None,
            })),
            _ => Err(PipeError::Gone),
        }
    }
}

enum Awaits {
    Message,
    SecondStageSize,
    SecondStage { left: usize },
    ImageSize,
    Image { left: usize },
}

struct TestPipe {
    board: TestBoard,
    awaits: Awaits,
    answer: Option<Vec<u8>>,
}

#[async_trait]
impl Pipe for TestPipe {
    async fn write(&mut self, bytes: &[u8], _limit: Duration) -> Result<(), PipeError> {
        let inner = &self.board.0;
        match &mut self.awaits {
            Awaits::Message => match rom::parse_word(bytes) {
                Some(rom::GET_ASIC_ID) => {
                    let id = inner.script.lock().unwrap().asic_id;
                    self.answer = id.map(|id| id.encode().to_vec());
                }
                Some(rom::PERIPHERAL_BOOT) => self.awaits = Awaits::SecondStageSize,
                _ => return Err(PipeError::Stalled("write".to_owned())),
            },
            Awaits::SecondStageSize => {
                let left = rom::parse_word(bytes).unwrap() as usize;
                self.awaits = Awaits::SecondStage { left };
            }
            Awaits::SecondStage { left } => {
                inner.second_stage.lock().unwrap().extend_from_slice(bytes);
                *left -= bytes.len();
                if *left == 0 {
                    self.answer = inner.script.lock().unwrap().greeting.clone();
                    self.awaits = Awaits::ImageSize;
                }
            }
            Awaits::ImageSize => {
                let left = rom::parse_word(bytes).unwrap() as usize;
                inner.boot_image.lock().unwrap().clear();
                self.awaits = Awaits::Image { left };
            }
            Awaits::Image { left } => {
                inner.boot_image.lock().unwrap().extend_from_slice(bytes);
                *left -= bytes.len();
                if *left == 0 {
                    let script = inner.script.lock().unwrap();
                    if script.releases {
                        self.board.put(Presence::Empty);
                    }
                    if let Some(machine) = &script.machine {
                        machine(inner.boot_image.lock().unwrap().clone());
                    }
                }
            }
        }
        Ok(())
    }

    async fn read(&mut self, max: usize, limit: Duration) -> Result<Vec<u8>, PipeError> {
        match self.answer.take() {
            Some(mut answer) => {
                answer.truncate(max);
                Ok(answer)
            }
            None => {
                sleep(limit).await;
                Err(PipeError::TimedOut {
                    what: "read".to_owned(),
                    limit,
                })
            }
        }
    }
}
