//! `driver = "serial"`: a console on a serial line of the master.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Deserialize;

use super::{StreamConsole, USAGE, error};
use crate::driver::{Claim, ConsoleDriver, Settings, Thing, rebase};
use crate::serial::{SerialLine, check_baud};
use crate::settings::Mistakes;
use crate::{BoardError, Console};

/// `driver = "serial"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialConsoleSettings {
    /// The serial device.
    pub device: PathBuf,
    /// Its speed.
    #[serde(default = "usual_baud")]
    pub baud: u32,
}

const fn usual_baud() -> u32 {
    115_200
}

impl SerialConsoleSettings {
    /// What `driver` says.
    pub const DRIVER: &'static str = "serial";
}

impl Settings for SerialConsoleSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let path = !self.device.as_os_str().is_empty();
        mistakes.unless(path, "device", "expected the path of a serial device");
        check_baud(self.baud, &mut mistakes);
        mistakes.end()
    }

    fn claims(&self) -> Vec<Claim> {
        let line = Thing::Line(self.device.clone());
        vec![Claim::alone("device", line, USAGE)]
    }

    fn rebase(&mut self, base: &Path) {
        rebase(base, &mut self.device);
    }
}

#[async_trait]
impl ConsoleDriver for SerialConsoleSettings {
    async fn open(&self) -> Result<Box<dyn Console>, BoardError> {
        let place = self.device.display().to_string();
        let stream =
            SerialLine::open(&self.device, self.baud).map_err(|source| error(&place, source))?;
        Ok(Box::new(StreamConsole { place, stream }))
    }
}
