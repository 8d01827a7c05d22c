//! Devices that do as they like, behind a port of the guest's hub: what a board with root on it, or a broken one,
//! could be. Each is a script: when it is on the port, what it says it is, and what it does in the middle of a boot.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use panda_board::Device;
use panda_protocol::manifest::Machine;
use panda_protocol::omap4::asic_id::{AsicId, Chip};
use panda_protocol::omap4::rom::{ENDPOINT_IN, ENDPOINT_OUT};
use panda_twin::rom::{Read, Rom, Written};
use panda_twin::usbredir::descriptors;
use panda_twin::usbredir::wire::{Dialect, FromGuest, PacketReader, Setup, Status, ToGuest, hello};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::time::Instant;

/// From power-on until a ROM is on the port.
const ROM_DELAY: Duration = Duration::from_millis(100);

/// What a device does.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// When it is on the port.
    pub(crate) life: Life,
    /// What it says it is.
    pub(crate) face: Face,
    /// What its ROM says of itself.
    pub(crate) id: AsicId,
    /// What it does in a boot.
    pub(crate) trick: Trick,
}

/// When a device is on the port.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Life {
    /// As a ROM: from power-on to power-off.
    Powered,
    /// Always, whatever the power is: it has a supply of its own.
    Always,
    /// For so long, then away for so long, whatever the power is.
    Cycle(Duration, Duration),
}

/// What a device says it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Face {
    /// A boot ROM of this chip.
    Rom(Chip),
    /// A keyboard.
    Keyboard,
    /// What a running image keeps up.
    Gadget,
    /// A boot ROM with strings as long as strings can be, of bytes that are none.
    HugeStrings,
    /// A boot ROM that announces 255 configurations, each of so many bytes.
    EndlessConfigurations(u16),
    /// A boot ROM whose interface is another at each look: vendor-specific, keyboard, disk.
    ChangingInterfaces,
}

/// What a device does in a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trick {
    /// Nothing else.
    None,
    /// Stalls when it is told to boot.
    Stall,
    /// Leaves after so many bytes of the boot image.
    Leave(usize),
}

/// A ROM's ID whose public ID is this byte, all over.
pub(crate) fn id(chip: Chip, public: u8) -> AsicId {
    AsicId {
        chip,
        ch: 7,
        rom_version: 4,
        block_13: [1, 0],
        public_id: [public; 20],
        mpk_hash: [0; 32],
        crcs: [0xf0d7_5e1b, 0],
    }
}

/// The gadget that the image keeps up: vendor and product.
pub(crate) const GADGET: (u16, u16) = (0x1d6b, 0x0104);

/// Serves one connection of QEMU's as a running board does, whose image keeps its gadget up: until it is cut.
pub(crate) async fn serve_gadget(
    stream: UnixStream,
    power: watch::Receiver<bool>,
) -> io::Result<()> {
    let script = Script {
        life: Life::Powered,
        face: Face::Gadget,
        id: id(Chip::Omap4430, 0),
        trick: Trick::None,
    };
    let mut cut = power.clone();
    tokio::select! {
        ended = serve(script, stream, power) => ended,
        // Its connection ends with it, which is how QEMU sees it leave.
        _ = cut.wait_for(|on| !on) => Ok(()),
    }
}

/// Serves one connection of QEMU's until it ends.
pub(crate) async fn serve(
    script: Script,
    stream: UnixStream,
    mut power: watch::Receiver<bool>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = PacketReader::new(reader);
    writer.write_all(&hello()).await?;
    let dialect = reader.hello().await?;
    let now = Instant::now();
    let mut session = Session {
        due: match script.life {
            Life::Powered => power.borrow_and_update().then_some(now + ROM_DELAY),
            Life::Always | Life::Cycle(..) => Some(now + ROM_DELAY),
        },
        rom: Rom::new(script.id, Machine::Process),
        script,
        dialect,
        writer,
        there: false,
        taken: 0,
        looks: 0,
        reads: Vec::new(),
    };
    loop {
        let due = session.due;
        tokio::select! {
            packet = reader.next() => match packet? {
                Some(packet) => session.handle_guest(packet).await?,
                None => return Ok(()),
            },
            () = until(due) => session.handle_due().await?,
            changed = power.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let on = *power.borrow_and_update();
                session.handle_power(on).await?;
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

struct Session {
    script: Script,
    dialect: Dialect,
    writer: OwnedWriteHalf,
    rom: Rom,
    there: bool,
    due: Option<Instant>,
    /// Bytes that it has taken in this life.
    taken: usize,
    /// How often its configuration was looked at.
    looks: usize,
    /// Reads that wait: id and length.
    reads: Vec<(u64, usize)>,
}

impl Session {
    async fn handle_power(&mut self, on: bool) -> io::Result<()> {
        match (self.script.life, on) {
            (Life::Powered, true) => self.due = Some(Instant::now() + ROM_DELAY),
            (Life::Powered, false) => {
                self.due = None;
                self.leave().await?;
            }
            (Life::Always | Life::Cycle(..), _) => {}
        }
        Ok(())
    }

    async fn handle_due(&mut self) -> io::Result<()> {
        self.due = None;
        let there = self.there;
        if let Life::Cycle(on, off) = self.script.life {
            self.due = Some(Instant::now() + if there { off } else { on });
        }
        if there {
            self.leave().await
        } else {
            self.arrive().await
        }
    }

    async fn arrive(&mut self) -> io::Result<()> {
        self.renew();
        self.there = true;
        for message in descriptors::connect(&self.device()) {
            let message = match (message, self.script.face) {
                (ToGuest::Interfaces(_), Face::Keyboard) => ToGuest::Interfaces(vec![[3, 1, 1]]),
                (message, _) => message,
            };
            self.send(&message).await?;
        }
        Ok(())
    }

    async fn leave(&mut self) -> io::Result<()> {
        self.reads.clear();
        if std::mem::take(&mut self.there) {
            self.send(&ToGuest::Disconnect).await?;
        }
        Ok(())
    }

    /// Whoever enumerates it finds a ROM at its beginning.
    fn renew(&mut self) {
        self.rom = Rom::new(self.script.id, Machine::Process);
        self.taken = 0;
        self.reads.clear();
    }

    fn device(&self) -> Device {
        let (vendor, product) = match self.script.face {
            Face::Keyboard => (0x0627, 0x0001),
            Face::Rom(chip) => (0x0451, chip.usb_product()),
            Face::Gadget => GADGET,
            Face::HugeStrings | Face::EndlessConfigurations(_) | Face::ChangingInterfaces => {
                (0x0451, Chip::Omap4430.usb_product())
            }
        };
        Device {
            vendor,
            product,
            interface_class: 0xff,
            arrival: 1,
        }
    }

    async fn handle_guest(&mut self, packet: FromGuest) -> io::Result<()> {
        if !self.there {
            return Ok(());
        }
        let answer = match packet {
            FromGuest::SetConfiguration { id, configuration } => {
                self.renew();
                ToGuest::Configuration {
                    id,
                    status: Status::Done,
                    configuration,
                }
            }
            FromGuest::GetConfiguration { id } => ToGuest::Configuration {
                id,
                status: Status::Done,
                configuration: 1,
            },
            FromGuest::SetAltSetting { id, interface, alt } => ToGuest::AltSetting {
                id,
                status: Status::Done,
                interface,
                alt,
            },
            FromGuest::GetAltSetting { id, interface } => ToGuest::AltSetting {
                id,
                status: Status::Done,
                interface,
                alt: 0,
            },
            FromGuest::Control {
                id,
                endpoint,
                setup,
                data: _,
            } => {
                let data = self.control(&setup);
                ToGuest::Control {
                    id,
                    endpoint,
                    setup,
                    status: if data.is_some() {
                        Status::Done
                    } else {
                        Status::Stalled
                    },
                    data: data.unwrap_or_default(),
                }
            }
            FromGuest::Bulk {
                id,
                endpoint: ENDPOINT_OUT,
                data,
                ..
            } => return self.written(id, &data).await,
            FromGuest::Bulk { id, length, .. } => {
                self.reads.push((id, length));
                return self.answer_reads().await;
            }
            FromGuest::Cancel { id } => {
                self.reads.retain(|read| read.0 != id);
                bulk(id, ENDPOINT_IN, Status::Cancelled, 0)
            }
            FromGuest::Reset | FromGuest::Other(_) => return Ok(()),
        };
        self.send(&answer).await
    }

    async fn written(&mut self, id: u64, data: &[u8]) -> io::Result<()> {
        self.taken += data.len();
        match self.script.trick {
            // After the four bytes that ask for its ID.
            Trick::Stall if self.taken > 4 => {
                let stalled = bulk(id, ENDPOINT_OUT, Status::Stalled, 0);
                return self.send(&stalled).await;
            }
            Trick::Leave(after) if self.taken > after => return self.leave().await,
            Trick::None | Trick::Stall | Trick::Leave(_) => {}
        }
        let (status, started) = match self.rom.write(data) {
            Written::Started(_) => (Status::Done, true),
            Written::Taken | Written::Died => (Status::Done, false),
            Written::Stalled => (Status::Stalled, false),
            Written::Ignored => return Ok(()),
        };
        self.send(&bulk(id, ENDPOINT_OUT, status, data.len()))
            .await?;
        self.answer_reads().await?;
        // As a second stage leaves the port before it starts the kernel.
        if started && matches!(self.script.life, Life::Powered) {
            self.leave().await?;
        }
        Ok(())
    }

    async fn answer_reads(&mut self) -> io::Result<()> {
        while let Some(&(id, length)) = self.reads.first() {
            let answer = match self.rom.read(length) {
                Read::Data(bytes) => ToGuest::Bulk {
                    id,
                    endpoint: ENDPOINT_IN,
                    status: Status::Done,
                    length: bytes.len(),
                    data: bytes.into(),
                },
                Read::Stalled => bulk(id, ENDPOINT_IN, Status::Stalled, 0),
                Read::Pending => return Ok(()),
            };
            self.reads.remove(0);
            self.send(&answer).await?;
        }
        Ok(())
    }

    /// Answers a question about descriptors; `None` is a stall.
    fn control(&mut self, setup: &Setup) -> Option<Bytes> {
        let honest = descriptors::answer(&self.device(), setup);
        let [kind, _] = setup.value.to_be_bytes();
        let asks = setup.kind == 0x80 && setup.request == 6;
        let mut bytes = match (self.script.face, kind) {
            _ if !asks => return honest,
            (Face::Keyboard, 1) => {
                vec![18, 1, 0, 2, 0, 0, 0, 64, 0x27, 6, 1, 0, 0, 0, 1, 2, 0, 1]
            }
            (Face::Keyboard, 2) => KEYBOARD.to_vec(),
            (Face::HugeStrings, 3) => {
                let mut text = vec![0xff; 255];
                text[1] = 3;
                text
            }
            (Face::EndlessConfigurations(_), 1) => {
                let mut device = honest?.to_vec();
                if let Some(count) = device.get_mut(17) {
                    *count = 255;
                }
                device
            }
            (Face::EndlessConfigurations(size), 2) => {
                // As long as it says, and full of interfaces.
                let [low, high] = size.to_le_bytes();
                let mut all = vec![9, 2, low, high, 255, 1, 0, 0xc0, 50];
                while all.len() < usize::from(size) {
                    all.extend([9, 4, 0, 0, 30, 0xff, 0xff, 0xff, 0]);
                }
                all.truncate(usize::from(size));
                all
            }
            (Face::ChangingInterfaces, 2) => {
                self.looks += 1;
                let mut configuration = honest?.to_vec();
                if let Some(class) = configuration.get_mut(14) {
                    *class = [0xff, 0x03, 0x08][self.looks % 3];
                }
                configuration
            }
            _ => return honest,
        };
        bytes.truncate(usize::from(setup.length));
        Some(bytes.into())
    }

    async fn send(&mut self, message: &ToGuest) -> io::Result<()> {
        self.writer.write_all(&self.dialect.encode(message)).await
    }
}

fn bulk(id: u64, endpoint: u8, status: Status, length: usize) -> ToGuest {
    ToGuest::Bulk {
        id,
        endpoint,
        status,
        length,
        data: Bytes::new(),
    }
}

/// A boot keyboard's configuration: one interface, one interrupt endpoint.
const KEYBOARD: [u8; 34] = [
    9, 2, 34, 0, 1, 1, 0, 0xa0, 50, 9, 4, 0, 0, 1, 3, 1, 1, 0, 9, 0x21, 0x11, 1, 0, 1, 0x22, 63, 0,
    7, 5, 0x81, 3, 8, 0, 10,
];
