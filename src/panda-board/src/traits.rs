//! What a board can do, seen from the master.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

/// What a power driver reads back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// The board has power.
    On,
    /// The board has none.
    Off,
}

/// A board's supply.
#[async_trait]
pub trait Power: Send + Sync {
    /// Cuts power. Returns when the order was given and acknowledged; not evidence of a cut.
    async fn off(&self) -> Result<(), PowerError>;
    /// Gives power.
    async fn on(&self) -> Result<(), PowerError>;
    /// What the driver reads back; `None` where it cannot.
    async fn read(&self) -> Result<Option<PowerState>, PowerError>;
    /// Whether it switches the power of a USB port: what leaves that port then shows nothing of the board's supply.
    fn switches_port(&self) -> bool {
        false
    }
}

/// A sense of a board's supply rail that does not go through what switches it.
#[async_trait]
pub trait Sense: Send + Sync {
    /// The rail carries nothing.
    async fn dark(&self) -> Result<bool, PowerError>;
}

/// Why power could not be switched or read.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The driver's transport failed.
    #[error("power: {what}: {source}")]
    Io {
        /// What was being done, with the device or address.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The driver answered, but not as it must.
    #[error("power: {0}")]
    Answer(String),
    /// It did not answer in time.
    #[error("power: {what}: no answer within {limit:?}")]
    TimedOut {
        /// What was being done.
        what: String,
        /// The limit.
        limit: Duration,
    },
}

/// A device that is on a port: its descriptors, as far as they matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
    /// Class of interface 0; the ROM's is vendor-specific (0xff).
    pub interface_class: u8,
    /// Counts arrivals on this port, so that a device that left and returned is seen as another.
    pub arrival: u64,
}

/// What is on a port now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is not known: the driver cannot see the port (and says why in its log).
    Unknown,
    /// Nothing.
    Empty,
    /// A device. It may not be what it says it is.
    Device(Device),
}

/// The port (USB, by its path) that a board's OTG is on. Watching needs no trust in the device.
#[async_trait]
pub trait Port: Send + Sync {
    /// What is on the port, and every change; arrivals must not be missed between two looks, so
    /// [`Device::arrival`] counts them.
    fn watch(&self) -> watch::Receiver<Presence>;
    /// Opens the device with this arrival number; fails if it is no longer the one there.
    async fn open(&self, arrival: u64) -> Result<Box<dyn Pipe>, PipeError>;
}

/// A byte pipe to the boot ROM and the second stage. Dropping it releases the device.
#[async_trait]
pub trait Pipe: Send {
    /// Writes all of `bytes` on bulk OUT within `limit`.
    async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), PipeError>;
    /// Reads one transfer of at most `max` bytes from bulk IN within `limit`.
    async fn read(&mut self, max: usize, limit: Duration) -> Result<Vec<u8>, PipeError>;
}

/// Why a transfer did not happen. After a time-out in a transfer only another power cycle helps.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The device left.
    #[error("the device left the port")]
    Gone,
    /// The transfer took too long.
    #[error("{what}: not done within {limit:?}")]
    TimedOut {
        /// `write of N bytes`, `read`.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The endpoint stalled.
    #[error("{0}: stalled")]
    Stalled(String),
    /// The transport failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        source: io::Error,
    },
}

/// A board's serial console.
#[async_trait]
pub trait Console: Send {
    /// The next bytes, as they come; waits for them. An error means the console went away: open again. Nothing is lost
    /// when the future is dropped.
    async fn read(&mut self) -> Result<Vec<u8>, BoardError>;
    /// Types `bytes`: what an operator has typed, and nothing else.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), BoardError>;
}

/// A board's console or transport could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct BoardError {
    /// What was being done, with the device or address.
    pub what: String,
    /// The cause.
    pub source: io::Error,
}
