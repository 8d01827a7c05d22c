//! One virtual board: its power, what is on its port, and the machine behind it. One task owns it; the
//! sockets send it messages.
//!
//! ```text
//!  Off --on--> Waking --delay--> Rom --window over, host said nothing--> Dark
//!   ^                             |                                       |
//!   |                             | whole boot image: leaves the port     |
//!   |                             v                                       |
//!   +------------- off ------- Running (also when its machine has ended) -+
//!                              |
//!                              +-- its machine resets itself --> Waking
//! ```
//!
//! What it does wrong when that is ordered is in [`crate::faults`], and done in `misbehave`.
//!
//! `off` is answered when the machine and its RAM are gone. A driver that connects is told what is on the
//! port, and the one before it is cut off; the board itself does not notice.

use std::time::Duration;

use bytes::Bytes;
use panda_board::Device;
use panda_board::twin::wire::{FromDriver, FromTwin, PowerAnswer, PowerOrder, Refused};
use panda_protocol::digest::Sha256;
use panda_protocol::omap4::asic_id::Chip;
use panda_protocol::omap4::rom::{USB_INTERFACE_CLASS, USB_VENDOR};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::console::Console;
use crate::faults::{Fault, Order};
use crate::machine::{Kind, Machine, MachineError, Place};
use crate::rom::{Read, Rom, Written};

mod gadget;
mod misbehave;

use gadget::Gadget;
pub use misbehave::Neighbours;
use misbehave::{Foreign, chip};

/// Reads that may wait at a board.
const MAX_READS: usize = 16;

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From power-on until the ROM is on the port.
    pub rom_delay: Duration,
    /// From power-on until a ROM that no host talks to leaves the port.
    pub rom_window: Duration,
    /// How long a machine may take to die.
    pub end_limit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            rom_delay: Duration::from_millis(100),
            rom_window: Duration::from_secs(3),
            end_limit: Duration::from_secs(15),
        }
    }
}

/// What a board is told.
#[derive(Debug)]
pub enum Message {
    /// An order on its power socket.
    Power {
        /// The order.
        order: PowerOrder,
        /// Where the answer goes.
        answer: oneshot::Sender<PowerAnswer>,
    },
    /// A driver has connected to its pipe socket; it replaces any other.
    Connected(Driver),
    /// A driver wants a transfer, or one no more.
    Driver {
        /// Which connection.
        connection: u64,
        /// What it sent.
        message: FromDriver,
    },
    /// Do something wrong, or no more.
    Fault {
        /// What.
        order: Order,
        /// Where it is said whether that can be.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// The boot ROM of another board is on this one's port by mistake, or no more.
    Astray {
        /// Whether it is there.
        there: bool,
    },
    /// Cut power for good, and say so.
    Stop(oneshot::Sender<Result<(), MachineError>>),
}

/// A connected driver. Dropping it closes the connection.
#[derive(Debug)]
pub struct Driver {
    /// Which connection.
    pub connection: u64,
    /// What it is to be told.
    pub out: mpsc::Sender<FromTwin>,
}

/// What a board is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its name.
    pub name: String,
    /// Where it is on this host's disk.
    pub place: Place,
    /// Its console.
    pub console: Console,
    /// The kind of machine behind it.
    pub kind: Kind,
    /// How long things take.
    pub timing: Timing,
    /// Arrivals on its port are numbered from here: higher than any of an earlier twin.
    pub first_arrival: u64,
    /// The boards whose ports its boot ROM can come to by mistake.
    pub neighbours: Neighbours,
}

/// A board, without power at first.
#[derive(Debug)]
pub struct Board {
    parts: Parts,
    arrivals: u64,
    power: Power,
    driver: Option<Driver>,
    reads: Vec<WaitingRead>,
    fault: Option<Fault>,
    /// What is on the port and does not belong there.
    foreign: Option<Foreign>,
    /// Its image keeps a USB gadget up.
    keeps_gadget: bool,
    /// The archive that told the last boot what it is.
    last_boot: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Power {
    Off,
    Waking {
        arrives: Instant,
        leaves: Instant,
    },
    Rom {
        device: Device,
        rom: Rom,
        leaves: Instant,
    },
    Dark,
    Running {
        machine: Machine,
        gadget: Gadget,
    },
}

#[derive(Debug)]
struct WaitingRead {
    seq: u64,
    max: usize,
}

impl Board {
    /// A board of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let arrivals = parts.first_arrival;
        Self {
            parts,
            arrivals,
            power: Power::Off,
            driver: None,
            reads: Vec::new(),
            fault: None,
            foreign: None,
            keeps_gadget: false,
            last_boot: None,
        }
    }

    /// Lives until it is told to stop, or nobody is left to tell it anything.
    pub async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        loop {
            let due = self.due();
            let restarted = self.restarted();
            tokio::select! {
                message = messages.recv() => match message {
                    Some(Message::Power { order, answer }) => {
                        let result = self.handle_power(order).await;
                        if answer.send(result).is_err() {
                            tracing::debug!("a power order's caller has gone");
                        }
                    }
                    Some(Message::Connected(driver)) => self.handle_connected(driver),
                    Some(Message::Driver { connection, message }) => {
                        self.handle_driver(connection, message);
                    }
                    Some(Message::Fault { order, answer }) => {
                        let result = self.handle_order(order).await;
                        if answer.send(result).is_err() {
                            tracing::debug!("whoever ordered a fault has gone");
                        }
                    }
                    Some(Message::Astray { there }) => self.handle_astray(there),
                    Some(Message::Stop(answer)) => {
                        let result = self.cut().await;
                        if answer.send(result).is_err() {
                            tracing::debug!("nobody waits for this board to stop");
                        }
                        return;
                    }
                    None => return,
                },
                () = sleep_until(due) => self.handle_due(),
                () = restarted => self.handle_restarted().await,
            }
        }
    }

    /// When something happens by itself.
    fn due(&self) -> Option<Instant> {
        let own = match &self.power {
            Power::Waking { arrives, .. } => Some(*arrives),
            Power::Rom { rom, leaves, .. } if !rom.is_engaged() => Some(*leaves),
            Power::Running {
                gadget: Gadget::Comes(when),
                ..
            } => Some(*when),
            Power::Off | Power::Rom { .. } | Power::Dark | Power::Running { .. } => None,
        };
        let foreign = self.foreign.as_ref().and_then(|foreign| foreign.leaves);
        own.into_iter().chain(foreign).min()
    }

    /// Waits for a machine to reset itself, where there is one.
    fn restarted(&self) -> impl Future<Output = ()> + Send + 'static {
        let restarted = match &self.power {
            Power::Running { machine, .. } => Some(machine.restarted()),
            Power::Off | Power::Waking { .. } | Power::Rom { .. } | Power::Dark => None,
        };
        async {
            match restarted {
                Some(restarted) => restarted.await,
                None => std::future::pending().await,
            }
        }
    }

    /// The machine has reset itself, as a chip does: the ROM runs again, and what was in RAM is of no use.
    async fn handle_restarted(&mut self) {
        self.parts
            .console
            .note("the machine has reset itself: the boot ROM runs again");
        self.reboot().await;
    }

    fn handle_due(&mut self) {
        let now = Instant::now();
        if self
            .foreign
            .as_ref()
            .is_some_and(|foreign| foreign.leaves.is_some_and(|leaves| leaves <= now))
        {
            self.on_port(|board| board.foreign = None);
        }
        match &self.power {
            Power::Waking { arrives, leaves } if *arrives <= now => {
                let leaves = *leaves;
                self.appear(leaves);
            }
            Power::Rom { rom, leaves, .. } if !rom.is_engaged() && *leaves <= now => {
                self.on_port(|board| board.power = Power::Dark);
            }
            Power::Running {
                gadget: Gadget::Comes(when),
                ..
            } if *when <= now => self.show_gadget(),
            Power::Off
            | Power::Waking { .. }
            | Power::Rom { .. }
            | Power::Dark
            | Power::Running { .. } => {}
        }
    }

    /// The boot ROM runs and shows on the port.
    fn appear(&mut self, leaves: Instant) {
        if self.goes_astray() {
            self.power = Power::Dark;
            return;
        }
        let asic_id = chip(self.fault.as_ref());
        let device = self.new_device(asic_id.chip);
        let faults = misbehave::of_rom(self.fault.as_ref());
        let rom = Rom::faulty(asic_id, self.parts.kind.manifest(), faults);
        self.on_port(|board| {
            board.foreign = None;
            board.power = Power::Rom {
                device,
                rom,
                leaves,
            };
        });
    }

    /// A boot ROM that has just come to the port.
    fn new_device(&mut self, chip: Chip) -> Device {
        self.arrivals += 1;
        Device {
            vendor: USB_VENDOR,
            product: chip.usb_product(),
            interface_class: USB_INTERFACE_CLASS,
            arrival: self.arrivals,
        }
    }

    async fn handle_power(&mut self, order: PowerOrder) -> PowerAnswer {
        match (order, &self.power) {
            (PowerOrder::Read, Power::Off) => PowerAnswer::Off,
            (PowerOrder::Read, _) => PowerAnswer::On,
            (PowerOrder::On, Power::Off) => {
                self.power = self.waking();
                tracing::info!(board = self.parts.name, "power on");
                PowerAnswer::Ok
            }
            (PowerOrder::On, _) => PowerAnswer::Ok,
            (PowerOrder::Off, _) => match self.cut().await {
                Ok(()) => PowerAnswer::Ok,
                Err(error) => PowerAnswer::Error(error.to_string()),
            },
        }
    }

    /// Cuts power. What cannot be ended stays as it is, so that it can be tried again.
    async fn cut(&mut self) -> Result<(), MachineError> {
        // It leaves the port with the supply, and not only when what is left of the machine is gone.
        self.hide_gadget();
        if let Power::Running { machine, .. } = &mut self.power {
            if let Err(error) = machine.end(self.parts.timing.end_limit).await {
                tracing::error!(board = self.parts.name, %error, "power cannot be cut");
                return Err(error);
            }
            tracing::info!(board = self.parts.name, "power off, the machine is gone");
        }
        self.recall();
        self.on_port(|board| {
            board.foreign = board.still_on_port();
            board.power = Power::Off;
        });
        Ok(())
    }

    fn handle_connected(&mut self, driver: Driver) {
        self.driver = Some(driver);
        self.reads.clear();
        self.tell_presence();
    }

    fn handle_driver(&mut self, connection: u64, message: FromDriver) {
        if self
            .driver
            .as_ref()
            .is_none_or(|driver| driver.connection != connection)
        {
            return;
        }
        match message {
            FromDriver::Write {
                seq,
                arrival,
                bytes,
            } => {
                let Some(rom) = self.rom(seq, arrival) else {
                    return;
                };
                match rom.write(&bytes) {
                    Written::Taken => self.tell(FromTwin::Written { seq }),
                    Written::Stalled => self.tell(stalled(seq)),
                    Written::Ignored => {}
                    Written::Died => {
                        self.tell(FromTwin::Written { seq });
                        self.on_port(|board| board.power = Power::Dark);
                    }
                    Written::Started(image) => {
                        self.tell(FromTwin::Written { seq });
                        self.start(image);
                    }
                }
            }
            FromDriver::Read { seq, arrival, max } => {
                if self.rom(seq, arrival).is_none() {
                    return;
                }
                if self.reads.len() == MAX_READS {
                    self.tell(stalled(seq));
                    return;
                }
                let max = usize::try_from(max).unwrap_or(usize::MAX);
                self.reads.push(WaitingRead { seq, max });
            }
            FromDriver::Cancel { seq } => self.reads.retain(|read| read.seq != seq),
        }
        self.answer_reads();
    }

    /// The ROM that this arrival is; when it is not there, the transfer is refused.
    fn rom(&mut self, seq: u64, arrival: u64) -> Option<&mut Rom> {
        if self.device().is_none_or(|device| device.arrival != arrival) {
            self.tell(FromTwin::Refused {
                seq,
                why: Refused::Gone,
            });
            return None;
        }
        match &mut self.power {
            Power::Rom { rom, .. } => Some(rom),
            Power::Off | Power::Waking { .. } | Power::Dark | Power::Running { .. } => None,
        }
    }

    /// Answers waiting reads, in order, as long as the board has something to say.
    fn answer_reads(&mut self) {
        while let (Some(read), Power::Rom { rom, .. }) = (self.reads.first(), &mut self.power) {
            let seq = read.seq;
            let answer = match rom.read(read.max) {
                Read::Data(bytes) => FromTwin::Data {
                    seq,
                    bytes: Bytes::from(bytes),
                },
                Read::Stalled => stalled(seq),
                Read::Pending => return,
            };
            self.reads.remove(0);
            self.tell(answer);
        }
    }

    /// aboot has the whole image: it closes USB, says the command line, and starts the kernel.
    fn start(&mut self, image: Vec<u8>) {
        let kind = &self.parts.kind;
        if let Ok(image) = panda_protocol::omap4::bootimg::parse(&image, kind.manifest()) {
            self.parts
                .console
                .note(&format!("aboot: command line: {}", image.cmdline));
        }
        tracing::info!(
            board = self.parts.name,
            bytes = image.len(),
            sha256 = %Sha256::of(&image),
            "a boot image has arrived"
        );
        self.on_port(|board| board.power = Power::Dark);
        let Some(image) = self.spoiled(image) else {
            return;
        };
        match Machine::start(
            &self.parts.kind,
            image,
            &self.parts.place,
            &self.parts.console,
        ) {
            Ok(machine) => {
                tracing::info!(board = self.parts.name, "a boot image is started");
                let gadget = self.gadget();
                self.power = Power::Running { machine, gadget };
            }
            Err(error) => {
                self.parts
                    .console
                    .note(&format!("{error}; the board hangs"));
                tracing::error!(board = self.parts.name, %error, "a machine cannot be started");
            }
        }
    }

    /// Changes something that may change what is on the port; the driver is told where it does.
    fn on_port(&mut self, change: impl FnOnce(&mut Self)) {
        let before = self.device();
        change(self);
        if self.device() == before {
            return;
        }
        for read in std::mem::take(&mut self.reads) {
            self.tell(FromTwin::Refused {
                seq: read.seq,
                why: Refused::Gone,
            });
        }
        self.tell_presence();
    }

    fn device(&self) -> Option<Device> {
        match &self.power {
            Power::Rom { device, .. } => Some(*device),
            Power::Off | Power::Waking { .. } | Power::Dark | Power::Running { .. } => {
                let foreign = self.foreign.as_ref().map(|foreign| foreign.device);
                foreign.or_else(|| self.shown_gadget())
            }
        }
    }

    fn tell_presence(&mut self) {
        self.tell(self.device().map_or(FromTwin::Left, FromTwin::Arrived));
    }

    /// Tells the driver, where there is one; one that does not listen is cut off.
    fn tell(&mut self, message: FromTwin) {
        if let Some(driver) = &self.driver
            && driver.out.try_send(message).is_err()
        {
            tracing::debug!(
                board = self.parts.name,
                "a driver has gone, or does not listen"
            );
            self.driver = None;
            self.reads.clear();
        }
    }
}

fn stalled(seq: u64) -> FromTwin {
    FromTwin::Refused {
        seq,
        why: Refused::Stalled,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
