//! A relay board on a serial line.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;

use super::board::{Pace, Stream, Wire};
use super::{Contact, MOST_MS, ProxrPower, RelayBoard, claims, first_bank, one_second, yes};
use crate::Power;
use crate::driver::{Claim, Machine, PowerDriver, Settings, Thing, rebase};
use crate::serial::{SerialLine, check_baud};
use crate::settings::{Mistake, Mistakes};

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
    /// What `driver` says.
    pub const DRIVER: &'static str = "proxr-serial";

    /// The relay and its wiring.
    ///
    /// # Errors
    /// No such bank or relay.
    pub fn contact(&self) -> Result<Contact, Mistake> {
        Contact::new(self.bank, self.relay, self.normally_closed)
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

impl Settings for ProxrSerialSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let path = !self.device.as_os_str().is_empty();
        mistakes.unless(path, "device", "expected the path of a serial device");
        check_baud(self.baud, &mut mistakes);
        mistakes.milliseconds("answer_ms", self.answer_ms, 1..=MOST_MS);
        mistakes.milliseconds("pause_ms", self.pause_ms, 0..=MOST_MS);
        mistakes.note(self.contact());
        mistakes.end()
    }

    fn claims(&self) -> Vec<Claim> {
        let board = Thing::Line(self.device.clone());
        let way = vec![self.baud.into(), self.answer_ms, self.pause_ms];
        claims("device", board, way, self.contact().ok())
    }

    fn rebase(&mut self, base: &Path) {
        rebase(base, &mut self.device);
    }
}

impl PowerDriver for ProxrSerialSettings {
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Power>, Mistake> {
        let contact = self.contact()?;
        let found = Thing::Line(self.device.clone()).found();
        let line = found.map_err(|error| Mistake::new("device", error.to_string()))?;
        let board = machine.shared(line, || self.board());
        Ok(Arc::new(ProxrPower::new(board, contact)))
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
