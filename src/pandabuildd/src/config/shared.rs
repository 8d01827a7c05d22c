//! That no two drivers share what only one can have: a socket, a relay, a USB port, a console. Serial devices by their names
//! here; two names of one device are told apart when the rack starts.

use std::path::Path;

use panda_board::proxr::Contact;
use panda_board::usb::PortPath;

use super::check::Taken;
use super::driver::{ConsoleSettings, DriverTable, PipeSettings, PowerSettings};
use super::error::Problem;
use super::{File, FileSlot};
use crate::ledger::Grade;

/// The most bytes of a Unix socket's path, less its NUL.
const MAX_SOCKET: usize = 107;

/// Reads every driver's table, and checks that all can be together.
pub(super) fn check(file: &File) -> Result<(), Problem> {
    let mut shared = Shared::default();
    for slot in &file.slot {
        shared.slot(slot.get_ref())?;
    }
    shared.usb()?;
    let least = file.boot.as_ref().map(|boot| boot.get_ref().require_cut);
    if least == Some(Grade::Presence) {
        shared.presence_tells()?;
    }
    Ok(())
}

/// A USB port, and where it is written.
struct Used<'a> {
    path: PortPath,
    slot: &'a str,
    span: std::ops::Range<usize>,
}

#[derive(Default)]
struct Shared<'a> {
    sockets: Taken,
    relays: Taken,
    consoles: Taken,
    /// What a serial line is used for.
    lines: Vec<(String, &'static str)>,
    /// The first slot on each relay board.
    boards: Vec<(&'a str, PowerSettings)>,
    /// The ports of boards.
    ports: Vec<Used<'a>>,
    /// The ports that power is switched of.
    switched: Vec<Used<'a>>,
}

impl<'a> Shared<'a> {
    fn slot(&mut self, slot: &'a FileSlot) -> Result<(), Problem> {
        let name = slot.name.get_ref();
        slot.power.get_ref().settings(&slot.power.span())?;
        for (table, header) in slot.power.get_ref().each(&slot.power.span()) {
            self.supply(table, header, name)?;
        }
        let pipe = slot.pipe.get_ref();
        match pipe.settings(slot.pipe.span())? {
            PipeSettings::Twin(twin) => self.socket(&twin.socket, pipe, name)?,
            PipeSettings::Usb(usb) => self.ports.push(Used {
                path: usb.port,
                slot: name,
                span: pipe.place("port", slot.pipe.span()),
            }),
        }
        if let Some(spanned) = &slot.sense {
            spanned.get_ref().settings(spanned.span())?;
        }
        if let Some(spanned) = &slot.console {
            self.console(spanned.get_ref(), spanned.span(), name)?;
        }
        Ok(())
    }

    fn supply(
        &mut self,
        table: &DriverTable<PowerSettings>,
        header: std::ops::Range<usize>,
        name: &'a str,
    ) -> Result<(), Problem> {
        let place = |key: &str| table.place(key, header.clone());
        let settings = table.settings(header.clone())?;
        let relay = |contact: Result<Contact, String>, at: String| {
            let contact =
                contact.map_err(|text| Problem::at(place("relay"), "slot.power.relay", text))?;
            let (bank, number) = (contact.relay.bank(), contact.relay.number());
            Ok(format!("relay {number} of bank {bank} at {at}"))
        };
        match &settings {
            PowerSettings::Twin(twin) => {
                self.socket(&twin.socket, table, name)?;
            }
            PowerSettings::ProxrTcp(proxr) => {
                let what = relay(proxr.contact(), proxr.address.to_string())?;
                let span = place("relay");
                self.relays.take(what, name, span, "slot.power.relay")?;
            }
            PowerSettings::ProxrSerial(proxr) => {
                let device = proxr.device.display().to_string();
                let what = relay(proxr.contact(), device.clone())?;
                let span = place("relay");
                self.relays.take(what, name, span, "slot.power.relay")?;
                self.line(
                    device,
                    "a relay board",
                    place("device"),
                    "slot.power.device",
                )?;
            }
            PowerSettings::HubPort(port) => self.switched.push(Used {
                path: port.path(),
                slot: name,
                span: place("port"),
            }),
            PowerSettings::Command(_) | PowerSettings::Together(_) => {}
        }
        self.one_board_one_way(name, settings, header)
    }

    /// No board's port, and no port that is switched, is or leads to another slot's.
    fn usb(&self) -> Result<(), Problem> {
        let meets = |one: &PortPath, other: &PortPath| {
            one.is_at_or_behind(other) || other.is_at_or_behind(one)
        };
        for (at, used) in self.ports.iter().enumerate() {
            let mut others = self.ports[..at].iter();
            if let Some(other) = others.find(|other| meets(&other.path, &used.path)) {
                let text = if other.path == used.path {
                    format!(
                        "{}: slot {} has it already; no two slots may share one",
                        used.path, other.slot
                    )
                } else {
                    format!(
                        "{}: slot {} is on {}, and no board is behind another's port",
                        used.path, other.slot, other.path
                    )
                };
                return Err(Problem::at(used.span.clone(), "slot.pipe.port", text));
            }
        }
        for (at, used) in self.switched.iter().enumerate() {
            let problem =
                |text: String| Err(Problem::at(used.span.clone(), "slot.power.port", text));
            let mut others = self.switched[..at].iter();
            if let Some(other) = others.find(|other| meets(&other.path, &used.path)) {
                return problem(format!(
                    "{}: slot {} switches {} already",
                    used.path, other.slot, other.path
                ));
            }
            let mut boards = self.ports.iter();
            if let Some(other) =
                boards.find(|board| board.slot != used.slot && meets(&board.path, &used.path))
            {
                return problem(format!(
                    "{}: the board of slot {} is on {}, and would lose its port with it",
                    used.path, other.slot, other.path
                ));
            }
        }
        Ok(())
    }

    /// A gadget that leaves because its port was switched off shows nothing of the board's supply.
    fn presence_tells(&self) -> Result<(), Problem> {
        match self.switched.first() {
            Some(used) => Err(Problem::at(
                used.span.clone(),
                "slot.power.port",
                "boot.require_cut is `presence`, and whatever is on a port that is switched off leaves it, \
                 powered or not; require `readback` or `sensed`",
            )),
            None => Ok(()),
        }
    }

    fn console(
        &mut self,
        table: &DriverTable<ConsoleSettings>,
        header: std::ops::Range<usize>,
        name: &str,
    ) -> Result<(), Problem> {
        let (what, key) = match table.settings(header.clone())? {
            ConsoleSettings::Twin(twin) => return self.socket(&twin.socket, table, name),
            ConsoleSettings::Serial(serial) => {
                let device = serial.device.display().to_string();
                let span = table.place("device", header.clone());
                self.line(device.clone(), "a console", span, "slot.console.device")?;
                (device, "device")
            }
            ConsoleSettings::Tcp(tcp) => (tcp.address.to_string(), "address"),
        };
        let span = table.place(key, header);
        self.consoles
            .take(what, name, span, &format!("slot.console.{key}"))
    }

    fn socket<T: super::driver::Drivers>(
        &mut self,
        socket: &Path,
        table: &DriverTable<T>,
        name: &str,
    ) -> Result<(), Problem> {
        let span = table.place("socket", 0..0);
        let key = format!("{}.socket", T::TABLE);
        let text = socket.display().to_string();
        if text.is_empty() || socket.as_os_str().len() > MAX_SOCKET {
            let problem = format!("{text:?}: expected a path of 1 to {MAX_SOCKET} bytes");
            return Err(Problem::at(span, key, problem));
        }
        self.sockets.take(text, name, span, &key)
    }

    /// A serial line has one use.
    fn line(
        &mut self,
        device: String,
        usage: &'static str,
        span: std::ops::Range<usize>,
        key: &str,
    ) -> Result<(), Problem> {
        match self.lines.iter().find(|(known, _)| *known == device) {
            Some((_, other)) if *other != usage => Err(Problem::at(
                span,
                key,
                format!("{device:?}: this is {other} already; a serial line has one use"),
            )),
            Some(_) => Ok(()),
            None => {
                self.lines.push((device, usage));
                Ok(())
            }
        }
    }

    /// One task talks to a relay board for all slots, so they must agree on how.
    fn one_board_one_way(
        &mut self,
        name: &'a str,
        settings: PowerSettings,
        header: std::ops::Range<usize>,
    ) -> Result<(), Problem> {
        for (other, known) in &self.boards {
            let differs = match (&settings, known) {
                (PowerSettings::ProxrTcp(one), PowerSettings::ProxrTcp(two)) => {
                    one.address == two.address && !one.same_pace(two)
                }
                (PowerSettings::ProxrSerial(one), PowerSettings::ProxrSerial(two)) => {
                    one.device == two.device && !one.same_pace(two)
                }
                _ => false,
            };
            if differs {
                return Err(Problem::at(
                    header,
                    "slot.power",
                    format!(
                        "slot {other} is on the same relay board; expected its speed and times here too"
                    ),
                ));
            }
        }
        if matches!(
            settings,
            PowerSettings::ProxrTcp(_) | PowerSettings::ProxrSerial(_)
        ) {
            self.boards.push((name, settings));
        }
        Ok(())
    }
}
