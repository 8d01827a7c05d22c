//! Makes every slot's drivers before any board is touched. What a configuration alone cannot tell is found here: a
//! serial device that is not there, two names of one device, a program that is missing, a USB port that does not exist
//! or cannot be guarded, a hub that cannot switch its ports.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use panda_board::command::{CommandPower, CommandSense};
use panda_board::proxr::{Contact, ProxrPower, RelayBoard};
use panda_board::serial::identify;
use panda_board::together::Together;
use panda_board::twin::{TwinPort, TwinPower};
use panda_board::usb::{HubPower, PortPath, Sysfs, Usb};
use panda_board::{Port, Power, Sense};
use panda_protocol::proxr::Relay;

use super::RackError;
use crate::config::{
    Config, ConsoleSettings, PipeSettings, PowerSettings, SenseSettings, SlotSettings,
};

/// One slot's drivers.
pub(crate) struct Made {
    pub(crate) power: Arc<dyn Power>,
    pub(crate) port: Arc<dyn Port>,
    pub(crate) sense: Option<Arc<dyn Sense>>,
}

/// The drivers of each slot, in their order. USB is what `sysfs` shows.
///
/// # Errors
/// [`RackError::Driver`].
pub(crate) async fn make(config: &Config, sysfs: Sysfs) -> Result<Vec<Made>, RackError> {
    let slots = config.slots.clone();
    // Hubs are asked, and drivers taken from devices: that may last.
    let made = tokio::task::spawn_blocking(move || make_all(&slots, sysfs)).await;
    made.map_err(|_| RackError::Interrupted)?
}

fn make_all(slots: &[SlotSettings], sysfs: Sysfs) -> Result<Vec<Made>, RackError> {
    let mut drivers = Drivers::new(sysfs);
    for slot in slots {
        drivers.console(slot).map_err(refused(slot, "console"))?;
    }
    let mut made = Vec::new();
    for slot in slots {
        made.push(Made {
            power: drivers.power(&slot.power).map_err(refused(slot, "power"))?,
            port: drivers.port(slot).map_err(refused(slot, "pipe"))?,
            sense: sense(slot).map_err(refused(slot, "sense"))?,
        });
    }
    // Nothing else can be refused: now the ports are closed to all but what boots await.
    for slot in slots {
        drivers.guard(slot).map_err(refused(slot, "pipe"))?;
    }
    Ok(made)
}

fn sense(slot: &SlotSettings) -> Result<Option<Arc<dyn Sense>>, String> {
    Ok(match &slot.sense {
        Some(SenseSettings::Command(command)) => {
            command.find()?;
            Some(Arc::new(CommandSense::new(command)))
        }
        None => None,
    })
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

struct Drivers {
    sysfs: Sysfs,
    usb: Option<Usb>,
    boards: HashMap<Place, RelayBoard>,
    relays: HashSet<(Place, Relay)>,
    /// The serial lines of consoles, and whose they are.
    consoles: HashMap<u64, String>,
}

impl Drivers {
    fn new(sysfs: Sysfs) -> Self {
        Self {
            sysfs,
            usb: None,
            boards: HashMap::new(),
            relays: HashSet::new(),
            consoles: HashMap::new(),
        }
    }

    fn port(&mut self, slot: &SlotSettings) -> Result<Arc<dyn Port>, String> {
        match &slot.pipe {
            PipeSettings::Twin(twin) => Ok(Arc::new(TwinPort::spawn(&twin.socket))),
            PipeSettings::Usb(settings) => {
                let usb = self.usb()?;
                usb.has_port(&settings.port)
                    .map_err(|text| format!("port: {text}"))?;
                Ok(Arc::new(usb.port(&settings.port)))
            }
        }
    }

    fn guard(&self, slot: &SlotSettings) -> Result<(), String> {
        let (PipeSettings::Usb(settings), Some(usb)) = (&slot.pipe, &self.usb) else {
            return Ok(());
        };
        let port: &PortPath = &settings.port;
        usb.guard(std::slice::from_ref(port))
            .map_err(|error| format!("port: {error}"))
    }

    /// The machine's USB, watched from the first use on.
    fn usb(&mut self) -> Result<Usb, String> {
        if let Some(usb) = &self.usb {
            return Ok(usb.clone());
        }
        let usb = Usb::start(self.sysfs.clone())
            .map_err(|error| format!("USB cannot be watched: {error}"))?;
        Ok(self.usb.insert(usb).clone())
    }

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

    fn power(&mut self, settings: &PowerSettings) -> Result<Arc<dyn Power>, String> {
        Ok(match settings {
            PowerSettings::Twin(twin) => Arc::new(TwinPower::new(&twin.socket)),
            PowerSettings::Command(command) => {
                command.find()?;
                Arc::new(CommandPower::new(command.clone()))
            }
            PowerSettings::HubPort(hub) => Arc::new(HubPower::find(hub, &self.sysfs)?),
            PowerSettings::Together(supplies) => {
                let supplies = supplies.iter().map(|supply| self.power(supply));
                Arc::new(Together::new(supplies.collect::<Result<_, _>>()?))
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

    fn powers(config: &Config) -> Result<Vec<Arc<dyn Power>>, RackError> {
        let made = make_all(&config.slots, Sysfs::at("/nonexistent"))?;
        Ok(made.into_iter().map(|made| made.power).collect())
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
        let mut drivers = Drivers::new(Sysfs::default());
        for slot in &config.slots {
            drivers.power(&slot.power).unwrap();
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

    /// Bus 1 with two ports, as Linux lays it out.
    fn usb() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for port in ["usb1", "1-0:1.0/usb1-port1", "1-0:1.0/usb1-port2"] {
            std::fs::create_dir_all(root.join(port)).unwrap();
        }
        std::fs::write(root.join("usb1/authorized_default"), "1\n").unwrap();
        directory
    }

    fn on_usb(port: &str) -> Config {
        let power = "power = { driver = \"twin\", socket = \"power\" }";
        let mut config = config(&[power]);
        let settings = toml::from_str(&format!("port = {port:?}")).unwrap();
        config.slots[0].pipe = PipeSettings::Usb(settings);
        config
    }

    #[tokio::test]
    async fn at_the_start_every_bus_with_a_slot_port_is_closed_to_what_nobody_awaits() {
        let machine = usb();
        let default = machine.path().join("usb1/authorized_default");
        let made = make(&on_usb("1-2"), Sysfs::at(machine.path()))
            .await
            .unwrap();
        assert_eq!(std::fs::read_to_string(&default).unwrap(), "0\n");
        let presence = *made[0].port.watch().borrow();
        assert_eq!(presence, panda_board::Presence::Empty);

        std::fs::remove_file(&default).unwrap();
        let refused = make(&on_usb("1-2"), Sysfs::at(machine.path())).await;
        let error = refused.map(drop).unwrap_err().to_string();
        assert!(
            error.starts_with("slot panda0: [slot.pipe]: port: bus 1: ")
                && error.contains("Run the daemon as root"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_port_or_hub_that_does_not_exist_is_refused_with_those_that_do() {
        let machine = usb();
        let refused = make(&on_usb("1-2.4"), Sysfs::at(machine.path())).await;
        let error = refused.map(drop).unwrap_err().to_string();
        assert_eq!(
            error,
            "slot panda0: [slot.pipe]: port: port 1-2.4 does not exist; this machine has 1-1, 1-2"
        );
        // Nothing was closed for a rack that does not start.
        let default = machine.path().join("usb1/authorized_default");
        assert_eq!(std::fs::read_to_string(default).unwrap(), "1\n");
        let hub = config(&["power = { driver = \"hub-port\", hub = \"1-2\", port = 1 }"]);
        let error = make(&hub, Sysfs::at(machine.path())).await.map(drop);
        let error = error.unwrap_err().to_string();
        assert_eq!(
            error,
            "slot panda0: [slot.power]: hub: there is no hub 1-2 now; there are usb1"
        );
        let sense = "power = { driver = \"twin\", socket = \"power\" }\n\
                     sense = { driver = \"command\", argv = [\"no-such-sense\"] }";
        let error = make(&config(&[sense]), Sysfs::at(machine.path()))
            .await
            .map(drop);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("[slot.sense]: argv: no program"), "{error}");
    }
}
