//! What goes over the three sockets of a virtual Panda. The drivers beside this file are one end,
//! `panda-twin` is the other; both take their words from here.
//!
//! **`power.sock`**: lines, any number on a connection, each answered by one line.
//! ```text
//! on | off    ->  ok | error TEXT      off is answered when the machine and its RAM are gone
//! read        ->  on | off
//! ```
//!
//! **`pipe.sock`**: frames. A new connection takes the port over (the older one is closed) and is told
//! first what is on it. Numbers are little-endian.
//! ```text
//! frame    length u32 (of what follows, 1 ..= MAX_FRAME), kind u8, fields
//!
//! twin -> driver                                   driver -> twin
//! 0x01 arrived  vendor u16 product u16             0x11 write   seq u64 arrival u64 bytes
//!               class u8 arrival u64               0x12 read    seq u64 arrival u64 max u32
//! 0x02 left                                        0x13 cancel  seq u64
//! 0x03 written  seq u64
//! 0x04 data     seq u64 bytes
//! 0x05 refused  seq u64 why u8 (1 gone, 2 stalled)
//! ```
//! A `write` or `read` is one transfer and has at most one answer; none comes while the board does not
//! take part in it. `cancel` withdraws it (the driver's time is over) and has no answer.
//!
//! **`console.sock`**: bytes from the machine; first those that are kept, then as they come. What a
//! reader writes is not looked at.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::Device;

/// The most bytes of one transfer.
pub const MAX_TRANSFER: usize = 64 * 1024;
/// The most bytes of a frame after its length.
pub const MAX_FRAME: usize = MAX_TRANSFER + 64;
/// The most bytes of a line on the power socket.
pub const MAX_LINE: usize = 1024;

const ARRIVED: u8 = 0x01;
const LEFT: u8 = 0x02;
const WRITTEN: u8 = 0x03;
const DATA: u8 = 0x04;
const REFUSED: u8 = 0x05;
const WRITE: u8 = 0x11;
const READ: u8 = 0x12;
const CANCEL: u8 = 0x13;
const WHY_GONE: u8 = 1;
const WHY_STALLED: u8 = 2;

/// What the twin sends on the pipe's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromTwin {
    /// This device is on the port now.
    Arrived(Device),
    /// Nothing is on the port now.
    Left,
    /// The board has taken a write.
    Written {
        /// Which.
        seq: u64,
    },
    /// The board has answered a read.
    Data {
        /// Which.
        seq: u64,
        /// At most as many as were asked for.
        bytes: Bytes,
    },
    /// The transfer will not happen.
    Refused {
        /// Which.
        seq: u64,
        /// Why not.
        why: Refused,
    },
}

/// Why a transfer will not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The device it was for is no longer there.
    Gone,
    /// The endpoint has stalled.
    Stalled,
}

/// What a driver sends on the pipe's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromDriver {
    /// Write these bytes to the board.
    Write {
        /// Names this transfer in its answer.
        seq: u64,
        /// The device it is for.
        arrival: u64,
        /// At most [`MAX_TRANSFER`].
        bytes: Bytes,
    },
    /// Read from the board.
    Read {
        /// Names this transfer in its answer.
        seq: u64,
        /// The device it is for.
        arrival: u64,
        /// The most bytes to answer with.
        max: u32,
    },
    /// The transfer is no longer wanted.
    Cancel {
        /// Which.
        seq: u64,
    },
}

impl FromTwin {
    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut frame = Frame::new();
        match self {
            Self::Arrived(device) => {
                frame.0.put_u8(ARRIVED);
                frame.0.put_u16_le(device.vendor);
                frame.0.put_u16_le(device.product);
                frame.0.put_u8(device.interface_class);
                frame.0.put_u64_le(device.arrival);
            }
            Self::Left => frame.0.put_u8(LEFT),
            Self::Written { seq } => frame.kind_and_seq(WRITTEN, *seq),
            Self::Data { seq, bytes } => {
                frame.kind_and_seq(DATA, *seq);
                frame.0.put_slice(bytes);
            }
            Self::Refused { seq, why } => {
                frame.kind_and_seq(REFUSED, *seq);
                frame.0.put_u8(match why {
                    Refused::Gone => WHY_GONE,
                    Refused::Stalled => WHY_STALLED,
                });
            }
        }
        frame.finish()
    }

    /// Reads what [`FrameReader::next`] gave.
    ///
    /// # Errors
    /// When it is no frame of the twin's.
    pub fn decode(mut frame: Bytes) -> Result<Self, WireError> {
        let kind = frame.try_get_u8().map_err(|_| WireError)?;
        let message = match kind {
            ARRIVED => Self::Arrived(Device {
                vendor: frame.try_get_u16_le().map_err(|_| WireError)?,
                product: frame.try_get_u16_le().map_err(|_| WireError)?,
                interface_class: frame.try_get_u8().map_err(|_| WireError)?,
                arrival: seq(&mut frame)?,
            }),
            LEFT => Self::Left,
            WRITTEN => Self::Written {
                seq: seq(&mut frame)?,
            },
            DATA => Self::Data {
                seq: seq(&mut frame)?,
                bytes: transfer(&mut frame)?,
            },
            REFUSED => Self::Refused {
                seq: seq(&mut frame)?,
                why: match frame.try_get_u8() {
                    Ok(WHY_GONE) => Refused::Gone,
                    Ok(WHY_STALLED) => Refused::Stalled,
                    _ => return Err(WireError),
                },
            },
            _ => return Err(WireError),
        };
        if frame.is_empty() {
            Ok(message)
        } else {
            Err(WireError)
        }
    }
}

impl FromDriver {
    /// The whole frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut frame = Frame::new();
        match self {
            Self::Write {
                seq,
                arrival,
                bytes,
            } => {
                frame.kind_and_seq(WRITE, *seq);
                frame.0.put_u64_le(*arrival);
                frame.0.put_slice(bytes);
            }
            Self::Read { seq, arrival, max } => {
                frame.kind_and_seq(READ, *seq);
                frame.0.put_u64_le(*arrival);
                frame.0.put_u32_le(*max);
            }
            Self::Cancel { seq } => frame.kind_and_seq(CANCEL, *seq),
        }
        frame.finish()
    }

    /// Reads what [`FrameReader::next`] gave.
    ///
    /// # Errors
    /// When it is no frame of a driver's.
    pub fn decode(mut frame: Bytes) -> Result<Self, WireError> {
        let kind = frame.try_get_u8().map_err(|_| WireError)?;
        let number = seq(&mut frame)?;
        let message = match kind {
            WRITE => Self::Write {
                seq: number,
                arrival: seq(&mut frame)?,
                bytes: transfer(&mut frame)?,
            },
            READ => Self::Read {
                seq: number,
                arrival: seq(&mut frame)?,
                max: frame.try_get_u32_le().map_err(|_| WireError)?,
            },
            CANCEL => Self::Cancel { seq: number },
            _ => return Err(WireError),
        };
        if frame.is_empty() {
            Ok(message)
        } else {
            Err(WireError)
        }
    }
}

/// A frame that is not one of this page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame that is none of the pipe socket's; are daemon and panda-twin of one version?")]
pub struct WireError;

impl From<WireError> for io::Error {
    fn from(error: WireError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// A frame being written: its length is filled in last.
struct Frame(BytesMut);

impl Frame {
    fn new() -> Self {
        Self(BytesMut::from(&[0; 4][..]))
    }

    fn kind_and_seq(&mut self, kind: u8, seq: u64) {
        self.0.put_u8(kind);
        self.0.put_u64_le(seq);
    }

    fn finish(mut self) -> Bytes {
        let length = u32::try_from(self.0.len() - 4).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0.freeze()
    }
}

fn seq(frame: &mut Bytes) -> Result<u64, WireError> {
    frame.try_get_u64_le().map_err(|_| WireError)
}

fn transfer(frame: &mut Bytes) -> Result<Bytes, WireError> {
    let bytes = frame.split_to(frame.len());
    if bytes.len() <= MAX_TRANSFER {
        Ok(bytes)
    } else {
        Err(WireError)
    }
}

/// Cuts a socket's bytes into frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `reader`.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: BytesMut::new(),
        }
    }

    /// The next frame without its length; `None` at the end. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When the socket fails, a frame is empty or too long, or the end comes within one.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(head) = self.buffer.first_chunk() {
                let length = u32::from_le_bytes(*head) as usize;
                if length == 0 || length > MAX_FRAME {
                    return Err(WireError.into());
                }
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            self.buffer.reserve(4 + MAX_FRAME);
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

/// An order on the power socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerOrder {
    /// Give power.
    On,
    /// Cut it.
    Off,
    /// Say what is.
    Read,
}

impl PowerOrder {
    /// The line, without its end.
    #[must_use]
    pub const fn line(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Read => "read",
        }
    }

    /// Reads a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        [Self::On, Self::Off, Self::Read]
            .into_iter()
            .find(|order| order.line() == line)
    }
}

/// An answer on the power socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PowerAnswer {
    /// Done.
    Ok,
    /// The board has power.
    On,
    /// The board has none.
    Off,
    /// It could not be done.
    Error(String),
}

impl PowerAnswer {
    /// The line, without its end: one line whatever the text holds.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Ok => "ok".to_owned(),
            Self::On => "on".to_owned(),
            Self::Off => "off".to_owned(),
            Self::Error(text) => {
                let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
                format!("error {text}")
            }
        }
    }

    /// Reads a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        match line {
            "ok" => Some(Self::Ok),
            "on" => Some(Self::On),
            "off" => Some(Self::Off),
            _ => line
                .strip_prefix("error ")
                .map(|text| Self::Error(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
