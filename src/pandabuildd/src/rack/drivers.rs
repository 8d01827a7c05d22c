//! Makes every slot's power driver before any board is touched. What a configuration alone cannot tell is found
//! here: a serial device that is not there, two names of one device, a program that is missing.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use panda_board::Power;
use panda_board::command::CommandPower;
use panda_board::proxr::{Contact, ProxrPower, RelayBoard};
use panda_board::serial::identify;
use panda_board::twin::TwinPower;
use panda_protocol::proxr::Relay;

use super::RackError;
use crate::config::{Config, ConsoleSettings, PowerSettings, SlotSettings};

/// The supply of each slot, in their order.
///
/// # Errors
/// [`RackError::Driver`].
pub(super) fn powers(config: &Config) -> Result<Vec<Arc<dyn Power>>, RackError> {
    let mut drivers = Drivers::default();
    for slot in &config.slots {
        drivers.console(slot).map_err(refused(slot, "console"))?;
    }
    let powers = config.slots.iter();
    powers
        .map(|slot| drivers.power(slot).map_err(refused(slot, "power")))
        .collect()
}

fn refused(slot: &SlotSettings, table: &'static str) -> impl Fn(String) -> RackError {
    let slot = slot.name.get_ref().clone();
    move |problem| RackError::Driver {
        slot: slot.clone(),
        table,
        problem,
    }
}

/// Where a relay board is: serial lines by their device's number, which all its names share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Tcp(SocketAddr),
    Serial(u64),
}

#[derive(Default)]
struct Drivers {
    boards: HashMap<Place, RelayBoard>,
    relays: HashSet<(Place, Relay)>,
    /// The serial lines of consoles, and whose they are.
    consoles: HashMap<u64, String>,
}

impl Drivers {
    fn console(&mut self, slot: &SlotSettings) -> Result<(), String> {
        let Some(ConsoleSettings::Serial(serial)) = &slot.console else {
            return Ok(());
        };
        let line = device(&serial.device)?;
        match self.consoles.insert(line, slot.name.get_ref().clone()) {
            Some(other) => Err(format!(
                "device: {}: this is the console of slot {other} already, by whatever name",
                serial.device.display()
            )),
            None => Ok(()),
        }
    }

    fn power(&mut self, slot: &SlotSettings) -> Result<Arc<dyn Power>, String> {
        Ok(match &slot.power {
            PowerSettings::Twin(twin) => Arc::new(TwinPower::new(&twin.socket)),
            PowerSettings::Command(command) => {
                command.find()?;
                Arc::new(CommandPower::new(command.clone()))
            }
            PowerSettings::ProxrTcp(proxr) => {
                let place = Place::Tcp(proxr.address.0);
                Arc::new(self.relay(place, proxr.contact()?, || proxr.board())?)
            }
            PowerSettings::ProxrSerial(proxr) => {
                let line = device(&proxr.device)?;
                if let Some(other) = self.consoles.get(&line) {
                    return Err(format!(
                        "device: {}: this is the console of slot {other}",
                        proxr.device.display()
                    ));
                }
                let place = Place::Serial(line);
                Arc::new(self.relay(place, proxr.contact()?, || proxr.board())?)
            }
        })
    }

    fn relay(
        &mut self,
        place: Place,
        contact: Contact,
        board: impl FnOnce() -> RelayBoard,
    ) -> Result<ProxrPower, String> {
        if !self.relays.insert((place, contact.relay)) {
            return Err(
                "relay: another slot has this relay already, by whatever name its board is written"
                    .to_owned(),
            );
        }
        let board = self.boards.entry(place).or_insert_with(board).clone();
        Ok(ProxrPower::new(board, contact))
    }
}

fn device(path: &Path) -> Result<u64, String> {
    identify(path).map_err(|error| format!("device: {}: {error}", path.display()))
}
