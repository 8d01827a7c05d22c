//! One board's port on a usbredir socket: a driver of the board, as one on its pipe socket is, whose other end is
//! QEMU. A kernel in a guest enumerates what is on the port, and its transfers go to the board one by one.
//!
//! ```text
//!            hello, hello                 arrived: interfaces, endpoints, connect
//!  connect -------------> nothing there -------------------------------------> there --+
//!                               ^                                                      | control: answered here
//!                               +---------------- left: disconnect --------------------+ bulk: to the board
//! ```
//!
//! # What is chosen where hardware is undocumented
//!
//! | situation | here |
//! | --- | --- |
//! | a bus reset, a new configuration | the ROM goes on where it was |
//! | "clear halt" after a stall | taken; the endpoint stalls again |
//! | a transfer on another endpoint, or too many at once | stall |
//! | a transfer that is withdrawn | answered as such; what the board has taken of it stays taken |

use std::collections::{HashMap, VecDeque};
use std::io;

use bytes::Bytes;
use panda_board::Device;
use panda_board::twin::wire::{FromDriver, FromTwin, MAX_TRANSFER, Refused};
use panda_protocol::omap4::rom::{ENDPOINT_IN, ENDPOINT_OUT};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::descriptors;
use super::wire::{self, Dialect, FromGuest, PacketReader, Setup, Status, ToGuest};
use crate::board::{Driver, Message};

/// What may wait for QEMU before it is cut off: more than it can have asked for.
const QUEUE: usize = 256;
/// Transfers that a guest may have under way at once.
const MAX_TRANSFERS: usize = 128;
/// Sets our connections' numbers apart from those of the pipe socket.
const NUMBERS: u64 = 1 << 63;

/// Serves one connection of QEMU's until it ends, or another takes the port over.
pub(super) async fn serve(connection: u64, stream: UnixStream, board: mpsc::Sender<Message>) {
    if let Err(error) = session(connection | NUMBERS, stream, board).await {
        tracing::debug!(connection, %error, "a usbredir connection ended");
    }
}

async fn session(
    connection: u64,
    stream: UnixStream,
    board: mpsc::Sender<Message>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = PacketReader::new(reader);
    writer.write_all(&wire::hello()).await?;
    let dialect = reader.hello().await?;
    let (out, mut told) = mpsc::channel(QUEUE);
    let mut front = Front {
        connection,
        board,
        guest: Guest { dialect, writer },
        device: None,
        configuration: 0,
        next: 1,
        reads: HashMap::new(),
        writes: VecDeque::new(),
    };
    front
        .tell(Message::Connected(Driver { connection, out }))
        .await?;
    loop {
        tokio::select! {
            packet = reader.next() => match packet? {
                Some(packet) => front.handle_guest(packet).await?,
                None => return Ok(()),
            },
            message = told.recv() => match message {
                Some(message) => front.handle_board(message).await?,
                None => return Ok(()),
            },
        }
    }
}

/// The way to QEMU.
struct Guest<W> {
    dialect: Dialect,
    writer: W,
}

impl<W: AsyncWrite + Unpin> Guest<W> {
    async fn send(&mut self, message: &ToGuest) -> io::Result<()> {
        self.writer.write_all(&self.dialect.encode(message)).await
    }
}

struct Front<W> {
    connection: u64,
    board: mpsc::Sender<Message>,
    guest: Guest<W>,
    device: Option<Device>,
    configuration: u8,
    /// The number of the next transfer at the board.
    next: u64,
    /// Reads at the board: their guest's id by the board's number.
    reads: HashMap<u64, u64>,
    /// Writes, the first of them at the board; the others wait, so that they stay in order.
    writes: VecDeque<Write>,
}

struct Write {
    id: u64,
    length: usize,
    /// What the board has not been given yet.
    left: Bytes,
    /// The board's number of the piece that it has.
    seq: u64,
}

impl<W: AsyncWrite + Unpin> Front<W> {
    async fn handle_guest(&mut self, packet: FromGuest) -> io::Result<()> {
        let Some(device) = self.device else {
            // It had not seen yet that the device left; QEMU forgets these by itself.
            return Ok(());
        };
        match packet {
            FromGuest::Reset | FromGuest::Other(_) => Ok(()),
            FromGuest::SetConfiguration { id, configuration } => {
                let status = if configuration <= 1 {
                    self.configuration = configuration;
                    Status::Done
                } else {
                    Status::Invalid
                };
                self.tell_configuration(id, status).await
            }
            FromGuest::GetConfiguration { id } => self.tell_configuration(id, Status::Done).await,
            FromGuest::SetAltSetting { id, interface, alt } => {
                self.tell_alt(id, interface, alt).await
            }
            FromGuest::GetAltSetting { id, interface } => self.tell_alt(id, interface, 0).await,
            FromGuest::Control {
                id,
                endpoint,
                setup,
                data: _,
            } => self.control(&device, id, endpoint, setup).await,
            FromGuest::Bulk {
                id,
                endpoint,
                length,
                data,
            } => {
                if self.reads.len() + self.writes.len() >= MAX_TRANSFERS {
                    return self.end(id, endpoint, Status::Stalled, 0).await;
                }
                match endpoint {
                    ENDPOINT_OUT => self.write(id, data).await,
                    ENDPOINT_IN => self.read(&device, id, length).await,
                    _ => self.end(id, endpoint, Status::Stalled, 0).await,
                }
            }
            FromGuest::Cancel { id } => self.cancel(id).await,
        }
    }

    async fn handle_board(&mut self, message: FromTwin) -> io::Result<()> {
        match message {
            FromTwin::Arrived(device) => {
                self.leave().await?;
                self.device = Some(device);
                for message in descriptors::connect(&device) {
                    self.guest.send(&message).await?;
                }
                Ok(())
            }
            FromTwin::Left => self.leave().await,
            FromTwin::Written { seq } => self.written(seq).await,
            FromTwin::Data { seq, bytes } => match self.reads.remove(&seq) {
                Some(id) => {
                    let answer = ToGuest::Bulk {
                        id,
                        endpoint: ENDPOINT_IN,
                        status: Status::Done,
                        length: bytes.len(),
                        data: bytes,
                    };
                    self.guest.send(&answer).await
                }
                None => Ok(()),
            },
            FromTwin::Refused { seq, why } => match why {
                // That it left is told by itself, and ends all transfers.
                Refused::Gone => Ok(()),
                Refused::Stalled => self.stalled(seq).await,
            },
        }
    }

    /// Nothing is on the port any more: QEMU ends its transfers by itself.
    async fn leave(&mut self) -> io::Result<()> {
        self.reads.clear();
        self.writes.clear();
        self.configuration = 0;
        match self.device.take() {
            Some(_) => self.guest.send(&ToGuest::Disconnect).await,
            None => Ok(()),
        }
    }

    async fn control(
        &mut self,
        device: &Device,
        id: u64,
        endpoint: u8,
        setup: Setup,
    ) -> io::Result<()> {
        let (status, data) = match descriptors::answer(device, &setup) {
            Some(data) => (Status::Done, data),
            None => (Status::Stalled, Bytes::new()),
        };
        let answer = ToGuest::Control {
            id,
            endpoint,
            setup,
            status,
            data,
        };
        self.guest.send(&answer).await
    }

    async fn write(&mut self, id: u64, data: Bytes) -> io::Result<()> {
        self.writes.push_back(Write {
            id,
            length: data.len(),
            left: data,
            seq: 0,
        });
        if self.writes.len() == 1 {
            self.write_next().await?;
        }
        Ok(())
    }

    /// Gives the board the next piece of the first write.
    async fn write_next(&mut self) -> io::Result<()> {
        let (Some(device), Some(write)) = (self.device, self.writes.front_mut()) else {
            return Ok(());
        };
        write.seq = self.next;
        self.next += 1;
        let piece = write.left.split_to(write.left.len().min(MAX_TRANSFER));
        let message = FromDriver::Write {
            seq: write.seq,
            arrival: device.arrival,
            bytes: piece,
        };
        self.ask(message).await
    }

    async fn written(&mut self, seq: u64) -> io::Result<()> {
        let Some(write) = self.first_write(seq) else {
            return Ok(());
        };
        if write.left.is_empty() {
            self.end(write.id, ENDPOINT_OUT, Status::Done, write.length)
                .await?;
        } else {
            self.writes.push_front(write);
        }
        self.write_next().await
    }

    /// The write at the board, if this is the number of its piece.
    fn first_write(&mut self, seq: u64) -> Option<Write> {
        match self.writes.front() {
            Some(write) if write.seq == seq => self.writes.pop_front(),
            _ => None,
        }
    }

    async fn stalled(&mut self, seq: u64) -> io::Result<()> {
        if let Some(id) = self.reads.remove(&seq) {
            return self.end(id, ENDPOINT_IN, Status::Stalled, 0).await;
        }
        if let Some(write) = self.first_write(seq) {
            self.end(write.id, ENDPOINT_OUT, Status::Stalled, 0).await?;
            return self.write_next().await;
        }
        Ok(())
    }

    async fn read(&mut self, device: &Device, id: u64, length: usize) -> io::Result<()> {
        let seq = self.next;
        self.next += 1;
        self.reads.insert(seq, id);
        let message = FromDriver::Read {
            seq,
            arrival: device.arrival,
            max: u32::try_from(length.min(MAX_TRANSFER)).unwrap_or(u32::MAX),
        };
        self.ask(message).await
    }

    async fn cancel(&mut self, id: u64) -> io::Result<()> {
        let read = self.reads.iter().find(|(_, read)| **read == id);
        if let Some((&seq, _)) = read {
            self.reads.remove(&seq);
            self.ask(FromDriver::Cancel { seq }).await?;
            return self.end(id, ENDPOINT_IN, Status::Cancelled, 0).await;
        }
        let Some(place) = self.writes.iter().position(|write| write.id == id) else {
            // It was answered before this came.
            return Ok(());
        };
        self.writes.remove(place);
        self.end(id, ENDPOINT_OUT, Status::Cancelled, 0).await?;
        if place == 0 {
            self.write_next().await?;
        }
        Ok(())
    }

    /// Answers a bulk transfer that read nothing.
    async fn end(
        &mut self,
        id: u64,
        endpoint: u8,
        status: Status,
        length: usize,
    ) -> io::Result<()> {
        let answer = ToGuest::Bulk {
            id,
            endpoint,
            status,
            length,
            data: Bytes::new(),
        };
        self.guest.send(&answer).await
    }

    async fn tell_configuration(&mut self, id: u64, status: Status) -> io::Result<()> {
        let answer = ToGuest::Configuration {
            id,
            status,
            configuration: self.configuration,
        };
        self.guest.send(&answer).await
    }

    async fn tell_alt(&mut self, id: u64, interface: u8, alt: u8) -> io::Result<()> {
        let known = interface == 0 && alt == 0;
        let answer = ToGuest::AltSetting {
            id,
            status: if known { Status::Done } else { Status::Invalid },
            interface,
            alt: 0,
        };
        self.guest.send(&answer).await
    }

    async fn ask(&mut self, message: FromDriver) -> io::Result<()> {
        let connection = self.connection;
        self.tell(Message::Driver {
            connection,
            message,
        })
        .await
    }

    async fn tell(&mut self, message: Message) -> io::Result<()> {
        let stopped = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the board is stopping");
        self.board.send(message).await.map_err(stopped)
    }
}
