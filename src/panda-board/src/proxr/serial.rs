//! A relay board on a serial line.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use super::board::{Pace, Stream, Wire};
use super::{Contact, RelayBoard, first_bank, one_second, yes};
use crate::check_ms;
use crate::serial::{SerialLine, check_baud};

/// Opening a serial device does not wait for its other end.
const OPEN: Duration = Duration::from_secs(2);

/// `driver = "proxr-serial"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxrSerialSettings {
    /// The serial device.
    pub device: PathBuf,
    /// Its speed.
    #[serde(default = "usual_baud")]
    pub baud: u32,
    /// The relay's bank, 1 to 4.
    #[serde(default = "first_bank")]
    pub bank: u8,
    /// The relay, 1 to 8.
    pub relay: u8,
    /// A relay that is on cuts power.
    #[serde(default = "yes")]
    pub normally_closed: bool,
    /// Each answer must come within this.
    #[serde(default = "one_second")]
    pub answer_ms: u64,
    /// After the line was closed, it is left alone this long; a late answer then falls into the pause.
    #[serde(default = "short_pause")]
    pub pause_ms: u64,
}

const fn usual_baud() -> u32 {
    115_200
}

const fn short_pause() -> u64 {
    100
}

impl ProxrSerialSettings {
    /// What is wrong with these settings, as `key: what is expected`.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), String> {
        if self.device.as_os_str().is_empty() {
            return Err("device: expected the path of a serial device".to_owned());
        }
        check_baud(self.baud)?;
        check_ms("answer_ms", self.answer_ms, false)?;
        check_ms("pause_ms", self.pause_ms, true)?;
        self.contact().map(drop)
    }

    /// The relay and its wiring.
    ///
    /// # Errors
    /// No such bank or relay, as `key: what is expected`.
    pub fn contact(&self) -> Result<Contact, String> {
        Contact::new(self.bank, self.relay, self.normally_closed)
    }

    /// Whether both speak to their relay boards in one way.
    #[must_use]
    pub fn same_pace(&self, other: &Self) -> bool {
        let paces = |settings: &Self| (settings.baud, settings.answer_ms, settings.pause_ms);
        paces(self) == paces(other)
    }

    /// The relay board; nothing is opened before the first order.
    #[must_use]
    pub fn board(&self) -> RelayBoard {
        let pace = Pace {
            connect: OPEN,
            answer: Duration::from_millis(self.answer_ms),
            pause: Duration::from_millis(self.pause_ms),
        };
        let line = Line {
            device: self.device.clone(),
            baud: self.baud,
        };
        RelayBoard::spawn(line, pace)
    }
}

#[derive(Debug)]
struct Line {
    device: PathBuf,
    baud: u32,
}

#[async_trait]
impl Wire for Line {
    fn place(&self) -> String {
        self.device.display().to_string()
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(SerialLine::open(&self.device, self.baud)?))
    }
}
