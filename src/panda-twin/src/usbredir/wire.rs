//! The usbredir protocol, as far as a device at the end of a socket needs it: the *host* side, which has the device.
//! The other end, QEMU's `usb-redir` device, is the *guest*. `front` speaks it for a board; the hostile
//! devices of the drills speak it too.
//!
//! ```text
//! packet    type u32, length u32 (of what follows the header), id u32 -- u64 once both have said so --, fields, data
//!
//! guest -> host                                    host -> guest
//!   0 hello   version [64], capabilities u32...      0 hello
//!   3 reset                                          1 connect     speed class subclass protocol u8, vendor
//!   6 set configuration   u8                                       product version u16
//!   7 get configuration                              2 disconnect
//!   9 set alt setting     interface, alt u8          4 interfaces  count u32, 4 x [u8; 32]
//!  10 get alt setting     interface u8               5 endpoints   3 x [u8; 32], packet size [u16; 32]
//!  21 cancel  (the id is that of the transfer)       8 configuration status   status, configuration u8
//! 100 control                                       11 alt setting status     status, interface, alt u8
//! 101 bulk                                         100 control    101 bulk
//!
//! control   endpoint request type status u8, value index length u16, data
//! bulk      endpoint status u8, length u16, stream u32, length's upper half u16, data
//! ```
//! Data goes with a request out of the guest, and with an answer into it. A transfer has one answer, with its id.
//! Source of the facts: the protocol's public description, version 0.7. Numbers are little-endian.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The most data of one packet: more than a kernel puts into one transfer.
pub const MAX_DATA: usize = 1 << 20;
/// The longest head of a packet's fields that is known.
const MAX_FIELDS: usize = 512;
/// The length of a hello's version text.
const VERSION: usize = 64;
/// Endpoints that a device may have: 16 out, 16 in.
const ENDPOINTS: usize = 32;

const HELLO: u32 = 0;
const CONNECT: u32 = 1;
const DISCONNECT: u32 = 2;
const RESET: u32 = 3;
const INTERFACES: u32 = 4;
const ENDPOINT_INFO: u32 = 5;
const SET_CONFIGURATION: u32 = 6;
const GET_CONFIGURATION: u32 = 7;
const CONFIGURATION_STATUS: u32 = 8;
const SET_ALT_SETTING: u32 = 9;
const GET_ALT_SETTING: u32 = 10;
const ALT_SETTING_STATUS: u32 = 11;
const CANCEL: u32 = 21;
const CONTROL: u32 = 100;
const BULK: u32 = 101;

/// What we can: a version in `connect`, packet sizes of endpoints, 64-bit ids, 32-bit lengths of bulk transfers.
const OWN_CAPABILITIES: u32 = CAN_VERSION | CAN_PACKET_SIZE | CAN_WIDE_IDS | CAN_WIDE_BULK;
const CAN_VERSION: u32 = 1 << 1;
const CAN_PACKET_SIZE: u32 = 1 << 4;
const CAN_WIDE_IDS: u32 = 1 << 5;
const CAN_WIDE_BULK: u32 = 1 << 6;

/// What became of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It was done.
    Done = 0,
    /// The guest had withdrawn it.
    Cancelled = 1,
    /// It makes no sense.
    Invalid = 2,
    /// The endpoint stalled.
    Stalled = 4,
}

/// A setup packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Direction, kind and recipient (bmRequestType).
    pub kind: u8,
    /// What is wanted (bRequest).
    pub request: u8,
    /// wValue.
    pub value: u16,
    /// wIndex.
    pub index: u16,
    /// wLength.
    pub length: u16,
}

/// What the guest sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGuest {
    /// The port was reset.
    Reset,
    /// Choose a configuration; wants [`ToGuest::Configuration`].
    SetConfiguration {
        /// Names it in its answer.
        id: u64,
        /// Which.
        configuration: u8,
    },
    /// Say which configuration is chosen.
    GetConfiguration {
        /// Names it in its answer.
        id: u64,
    },
    /// Choose an interface's setting; wants [`ToGuest::AltSetting`].
    SetAltSetting {
        /// Names it in its answer.
        id: u64,
        /// The interface.
        interface: u8,
        /// Its setting.
        alt: u8,
    },
    /// Say an interface's setting.
    GetAltSetting {
        /// Names it in its answer.
        id: u64,
        /// The interface.
        interface: u8,
    },
    /// A control transfer; wants [`ToGuest::Control`].
    Control {
        /// Names it in its answer.
        id: u64,
        /// The endpoint: 0x00 or 0x80.
        endpoint: u8,
        /// What is wanted.
        setup: Setup,
        /// What is sent with it.
        data: Bytes,
    },
    /// A bulk transfer; wants [`ToGuest::Bulk`].
    Bulk {
        /// Names it in its answer.
        id: u64,
        /// The endpoint; with bit 7 it is a read.
        endpoint: u8,
        /// How much is read at most, or written.
        length: usize,
        /// What is written.
        data: Bytes,
    },
    /// A transfer is no longer wanted.
    Cancel {
        /// Which.
        id: u64,
    },
    /// Something that no board needs: streams, filters, interrupts, isochronous data.
    Other(u32),
}

/// What we send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// The interfaces of what is to be connected: class, subclass, protocol of each, from 0.
    Interfaces(Vec<[u8; 3]>),
    /// Its bulk endpoints beside endpoint 0: address, interface, packet size.
    Endpoints(Vec<(u8, u8, u16)>),
    /// A full-speed device is on the port. [`Self::Interfaces`] and [`Self::Endpoints`] come before.
    Connect {
        /// Vendor.
        vendor: u16,
        /// Product.
        product: u16,
        /// Its version, in decimal digits.
        version: u16,
        /// Class, subclass and protocol of the device.
        class: [u8; 3],
    },
    /// Nothing is on the port.
    Disconnect,
    /// Which configuration is chosen now.
    Configuration {
        /// The request's.
        id: u64,
        /// Whether it could be.
        status: Status,
        /// Which.
        configuration: u8,
    },
    /// Which setting an interface has now.
    AltSetting {
        /// The request's.
        id: u64,
        /// Whether it could be.
        status: Status,
        /// The interface.
        interface: u8,
        /// Its setting.
        alt: u8,
    },
    /// A control transfer's answer.
    Control {
        /// The transfer's.
        id: u64,
        /// The transfer's.
        endpoint: u8,
        /// The transfer's.
        setup: Setup,
        /// What became of it.
        status: Status,
        /// What was read.
        data: Bytes,
    },
    /// A bulk transfer's answer.
    Bulk {
        /// The transfer's.
        id: u64,
        /// The transfer's.
        endpoint: u8,
        /// What became of it.
        status: Status,
        /// How much was written or read.
        length: usize,
        /// What was read.
        data: Bytes,
    },
}

/// How packets look once both have said what they can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    version: bool,
    packet_size: bool,
    wide_ids: bool,
    wide_bulk: bool,
}

impl Dialect {
    /// Before both hellos.
    const FIRST: Self = Self::agreed(0);

    const fn agreed(theirs: u32) -> Self {
        let both = theirs & OWN_CAPABILITIES;
        Self {
            version: both & CAN_VERSION != 0,
            packet_size: both & CAN_PACKET_SIZE != 0,
            wide_ids: both & CAN_WIDE_IDS != 0,
            wide_bulk: both & CAN_WIDE_BULK != 0,
        }
    }

    const fn header(self) -> usize {
        if self.wide_ids { 16 } else { 12 }
    }

    /// A whole packet.
    fn packet(self, kind: u32, id: u64, body: &[u8]) -> Bytes {
        let mut packet = BytesMut::with_capacity(self.header() + body.len());
        packet.put_u32_le(kind);
        packet.put_u32_le(u32::try_from(body.len()).unwrap_or(u32::MAX));
        if self.wide_ids {
            packet.put_u64_le(id);
        } else {
            // It came in 32 bits, or is 0.
            packet.put_u32_le(u32::try_from(id).unwrap_or(u32::MAX));
        }
        packet.put_slice(body);
        packet.freeze()
    }

    /// The whole packet of a message.
    #[must_use]
    pub fn encode(self, message: &ToGuest) -> Bytes {
        let mut body = BytesMut::new();
        let (kind, id) = match message {
            ToGuest::Interfaces(interfaces) => {
                body.put_u32_le(u32::try_from(interfaces.len()).unwrap_or(u32::MAX));
                body.put_slice(&table(interfaces.iter().zip(0..).map(|(_, n)| (n, n))));
                for part in 0..3 {
                    let column = interfaces.iter().map(|class| class[part]);
                    body.put_slice(&table((0..).zip(column)));
                }
                (INTERFACES, 0)
            }
            ToGuest::Endpoints(endpoints) => {
                self.endpoints(&mut body, endpoints);
                (ENDPOINT_INFO, 0)
            }
            ToGuest::Connect {
                vendor,
                product,
                version,
                class,
            } => {
                const FULL_SPEED: u8 = 1;
                body.put_u8(FULL_SPEED);
                body.put_slice(class);
                body.put_u16_le(*vendor);
                body.put_u16_le(*product);
                if self.version {
                    body.put_u16_le(*version);
                }
                (CONNECT, 0)
            }
            ToGuest::Disconnect => (DISCONNECT, 0),
            ToGuest::Configuration {
                id,
                status,
                configuration,
            } => {
                body.put_slice(&[*status as u8, *configuration]);
                (CONFIGURATION_STATUS, *id)
            }
            ToGuest::AltSetting {
                id,
                status,
                interface,
                alt,
            } => {
                body.put_slice(&[*status as u8, *interface, *alt]);
                (ALT_SETTING_STATUS, *id)
            }
            ToGuest::Control {
                id,
                endpoint,
                setup,
                status,
                data,
            } => {
                body.put_slice(&[*endpoint, setup.request, setup.kind, *status as u8]);
                body.put_u16_le(setup.value);
                body.put_u16_le(setup.index);
                body.put_u16_le(if setup.kind & 0x80 == 0 {
                    setup.length
                } else {
                    u16::try_from(data.len()).unwrap_or(u16::MAX)
                });
                body.put_slice(data);
                (CONTROL, *id)
            }
            ToGuest::Bulk {
                id,
                endpoint,
                status,
                length,
                data,
            } => {
                let length = u32::try_from(*length).unwrap_or(u32::MAX);
                body.put_slice(&[*endpoint, *status as u8]);
                body.put_u16_le((length & 0xffff) as u16);
                body.put_u32_le(0);
                if self.wide_bulk {
                    body.put_u16_le((length >> 16) as u16);
                }
                body.put_slice(data);
                (BULK, *id)
            }
        };
        self.packet(kind, id, &body)
    }

    fn endpoints(self, body: &mut BytesMut, endpoints: &[(u8, u8, u16)]) {
        const NONE: u8 = 255;
        const CONTROL_ENDPOINT: u8 = 0;
        const BULK_ENDPOINT: u8 = 2;
        let place = |address: u8| usize::from((address & 0x80) >> 3 | address & 0x0f);
        let mut kinds = [NONE; ENDPOINTS];
        let mut interfaces = [0; ENDPOINTS];
        let mut sizes = [0_u16; ENDPOINTS];
        for control in [0, 16] {
            kinds[control] = CONTROL_ENDPOINT;
            sizes[control] = 64;
        }
        for &(address, interface, size) in endpoints {
            kinds[place(address)] = BULK_ENDPOINT;
            interfaces[place(address)] = interface;
            sizes[place(address)] = size;
        }
        body.put_slice(&kinds);
        body.put_slice(&[0; ENDPOINTS]);
        body.put_slice(&interfaces);
        if self.packet_size {
            sizes.iter().for_each(|&size| body.put_u16_le(size));
        }
    }

    fn decode(self, kind: u32, id: u64, mut body: Bytes) -> Result<FromGuest, io::Error> {
        Ok(match kind {
            RESET => FromGuest::Reset,
            SET_CONFIGURATION => FromGuest::SetConfiguration {
                id,
                configuration: body.try_get_u8()?,
            },
            GET_CONFIGURATION => FromGuest::GetConfiguration { id },
            SET_ALT_SETTING => FromGuest::SetAltSetting {
                id,
                interface: body.try_get_u8()?,
                alt: body.try_get_u8()?,
            },
            GET_ALT_SETTING => FromGuest::GetAltSetting {
                id,
                interface: body.try_get_u8()?,
            },
            CANCEL => FromGuest::Cancel { id },
            CONTROL => {
                let (endpoint, request, kind) =
                    (body.try_get_u8()?, body.try_get_u8()?, body.try_get_u8()?);
                body.try_get_u8()?;
                let setup = Setup {
                    kind,
                    request,
                    value: body.try_get_u16_le()?,
                    index: body.try_get_u16_le()?,
                    length: body.try_get_u16_le()?,
                };
                FromGuest::Control {
                    id,
                    endpoint,
                    setup,
                    data: body,
                }
            }
            BULK => {
                let endpoint = body.try_get_u8()?;
                body.try_get_u8()?;
                let mut length = u32::from(body.try_get_u16_le()?);
                body.try_get_u32_le()?;
                if self.wide_bulk {
                    length |= u32::from(body.try_get_u16_le()?) << 16;
                }
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let written = endpoint & 0x80 == 0;
                if length > MAX_DATA || written && body.len() != length {
                    return Err(broken("a bulk transfer's length"));
                }
                FromGuest::Bulk {
                    id,
                    endpoint,
                    length,
                    data: body,
                }
            }
            other => FromGuest::Other(other),
        })
    }
}

/// A column of 32, from pairs of place and value; what lies outside is left out.
fn table(values: impl Iterator<Item = (u8, u8)>) -> [u8; ENDPOINTS] {
    let mut table = [0; ENDPOINTS];
    for (place, value) in values.take(ENDPOINTS) {
        if let Some(entry) = table.get_mut(usize::from(place)) {
            *entry = value;
        }
    }
    table
}

/// Our hello, the first packet of a connection.
#[must_use]
pub fn hello() -> Bytes {
    let mut body = BytesMut::zeroed(VERSION);
    let name = concat!("panda-twin ", env!("CARGO_PKG_VERSION")).as_bytes();
    body[..name.len()].copy_from_slice(name);
    body.put_u32_le(OWN_CAPABILITIES);
    Dialect::FIRST.packet(HELLO, 0, &body)
}

/// Cuts a socket's bytes into packets.
#[derive(Debug)]
pub struct PacketReader<R> {
    reader: R,
    buffer: BytesMut,
    dialect: Option<Dialect>,
}

impl<R: AsyncRead + Unpin> PacketReader<R> {
    /// Reads packets from `reader`.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: BytesMut::new(),
            dialect: None,
        }
    }

    /// The guest's hello, which comes before all else: how both speak from now on.
    ///
    /// # Errors
    /// When the socket fails or ends, or something else comes.
    pub async fn hello(&mut self) -> io::Result<Dialect> {
        let packet = self.packet(Dialect::FIRST).await?;
        let Some((HELLO, _, body)) = packet else {
            return Err(broken("no hello"));
        };
        let theirs = body
            .get(VERSION..VERSION + 4)
            .and_then(|word| word.first_chunk())
            .map_or(0, |word| u32::from_le_bytes(*word));
        let dialect = Dialect::agreed(theirs);
        self.dialect = Some(dialect);
        Ok(dialect)
    }

    /// The next packet; `None` at the end. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the socket fails, or what comes is no packet.
    pub async fn next(&mut self) -> io::Result<Option<FromGuest>> {
        let dialect = self.dialect.unwrap_or(Dialect::FIRST);
        match self.packet(dialect).await? {
            Some((kind, id, body)) => dialect.decode(kind, id, body).map(Some),
            None => Ok(None),
        }
    }

    async fn packet(&mut self, dialect: Dialect) -> io::Result<Option<(u32, u64, Bytes)>> {
        loop {
            if self.buffer.len() >= dialect.header() {
                let mut head = &self.buffer[..dialect.header()];
                let kind = head.get_u32_le();
                let length = usize::try_from(head.get_u32_le()).unwrap_or(usize::MAX);
                let id = if dialect.wide_ids {
                    head.get_u64_le()
                } else {
                    head.get_u32_le().into()
                };
                if length > MAX_FIELDS + MAX_DATA {
                    return Err(broken("a packet's length"));
                }
                if self.buffer.len() >= dialect.header() + length {
                    self.buffer.advance(dialect.header());
                    let body = self.buffer.split_to(length).freeze();
                    return Ok(Some((kind, id, body)));
                }
            }
            self.buffer.reserve(64 * 1024);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}

fn broken(what: &str) -> io::Error {
    let text = format!("{what}: this is not usbredir as QEMU speaks it");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests;
