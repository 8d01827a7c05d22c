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

#[cfg(test)]
mod tests {
    use nix::pty::{OpenptyResult, openpty};
    use nix::unistd::ttyname;

    use super::*;

    /// A rack of slots whose tables are these.
    fn config(slots: &[&str]) -> Config {
        let mut text = "[rack]\nname = \"r\"\nstate_dir = \"s\"\nimage = \"i\"\n\
                        [front]\nlisten = \"127.0.0.1:1\"\n[depot]\nlisten = \"127.0.0.1:2\"\n"
            .to_owned();
        for (n, tables) in slots.iter().enumerate() {
            text += &format!(
                "[[slot]]\nname = \"panda{n}\"\nlink = \"127.0.0.1:{}\"\n\
                 pipe = {{ driver = \"twin\", socket = \"pipe{n}\" }}\n{tables}\n",
                n + 10
            );
        }
        Config::parse(&text, Path::new("/rack.toml")).unwrap()
    }

    fn refusal(slots: &[&str]) -> String {
        match powers(&config(slots)) {
            Ok(_) => panic!("{slots:?} was not refused"),
            Err(error) => error.to_string(),
        }
    }

    /// A serial device that has two names.
    fn device() -> (OpenptyResult, tempfile::TempDir, [String; 2]) {
        let pty = openpty(None, None).unwrap();
        let name = ttyname(&pty.slave).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("by-id");
        std::os::unix::fs::symlink(&name, &link).unwrap();
        let names = [name, link].map(|path| path.to_str().unwrap().to_owned());
        (pty, directory, names)
    }

    fn relay(device: &str, relay: u8) -> String {
        format!("power = {{ driver = \"proxr-serial\", device = {device:?}, relay = {relay} }}")
    }

    #[tokio::test]
    async fn a_rack_may_mix_drivers_and_slots_on_one_relay_board_share_its_task() {
        let (_pty, _directory, [one, two]) = device();
        let marks = tempfile::tempdir().unwrap();
        let command = format!(
            "power = {{ driver = \"command\", argv = [\"touch\", \"{}/{{state}}\"] }}",
            marks.path().display()
        );
        let config = config(&[
            &relay(&one, 1),
            &relay(&two, 2),
            &command,
            "power = { driver = \"twin\", socket = \"power\" }",
            "power = { driver = \"proxr-tcp\", address = \"127.0.0.1\", relay = 1 }",
        ]);
        let mut drivers = Drivers::default();
        for slot in &config.slots {
            drivers.power(slot).unwrap();
        }
        assert_eq!(drivers.boards.len(), 2);
        powers(&config).unwrap()[2].off().await.unwrap();
        assert!(marks.path().join("off").exists());
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_a_device_is_named_with_slot_and_key() {
        let missing = refusal(&[&relay("/dev/serial/by-id/none", 1)]);
        assert!(
            missing.starts_with(
                "slot panda0: [slot.power]: device: /dev/serial/by-id/none: No such file"
            ),
            "{missing}"
        );
        let directory = refusal(&[&relay("/tmp", 1)]);
        assert!(
            directory.contains("device: /tmp: this is a directory"),
            "{directory}"
        );
        let twin = "power = { driver = \"twin\", socket = \"power\" }";
        let console =
            format!("{twin}\nconsole = {{ driver = \"serial\", device = \"/dev/none\" }}");
        let console = refusal(&[&console]);
        assert!(
            console.starts_with("slot panda0: [slot.console]: device: /dev/none"),
            "{console}"
        );
        let program =
            refusal(&["power = { driver = \"command\", argv = [\"no-such-pdu\", \"{state}\"] }"]);
        assert!(
            program.contains("argv: no program \"no-such-pdu\""),
            "{program}"
        );
    }

    #[tokio::test]
    async fn two_names_of_one_device_hide_nothing() {
        let (_pty, _directory, [one, two]) = device();
        let same = refusal(&[&relay(&one, 1), &relay(&two, 1)]);
        assert!(
            same.starts_with("slot panda1: ") && same.contains("another slot has this relay"),
            "{same}"
        );
        let line =
            |device: &str| format!("console = {{ driver = \"serial\", device = {device:?} }}");
        let twin = |n: u8| format!("power = {{ driver = \"twin\", socket = \"power{n}\" }}");
        let both = refusal(&[
            &format!("{}\n{}", twin(0), line(&one)),
            &format!("{}\n{}", twin(1), line(&two)),
        ]);
        assert!(
            both.contains("the console of slot panda0 already"),
            "{both}"
        );
        let mixed = refusal(&[&format!("{}\n{}", relay(&one, 1), line(&two))]);
        assert!(
            mixed.contains("this is the console of slot panda0"),
            "{mixed}"
        );
    }
}
