//! That no two drivers share what only one can have: a socket, a relay, a console. Serial devices by their names
//! here; two names of one device are told apart when the rack starts.

use std::path::Path;

use panda_board::proxr::Contact;

use super::check::Taken;
use super::driver::{ConsoleSettings, DriverTable, PipeSettings, PowerSettings};
use super::error::Problem;
use super::{File, FileSlot};

/// The most bytes of a Unix socket's path, less its NUL.
const MAX_SOCKET: usize = 107;

/// Reads every driver's table, and checks that all can be together.
pub(super) fn check(file: &File) -> Result<(), Problem> {
    let mut shared = Shared::default();
    for slot in &file.slot {
        shared.slot(slot.get_ref())?;
    }
    Ok(())
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
}

impl<'a> Shared<'a> {
    fn slot(&mut self, slot: &'a FileSlot) -> Result<(), Problem> {
        let name = slot.name.get_ref();
        let table = slot.power.get_ref();
        let header = slot.power.span();
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
            PowerSettings::Command(_) => {}
        }
        self.one_board_one_way(name, settings, header)?;

        let pipe = slot.pipe.get_ref();
        let PipeSettings::Twin(twin) = pipe.settings(slot.pipe.span())?;
        self.socket(&twin.socket, pipe, name)?;
        if let Some(spanned) = &slot.console {
            self.console(spanned.get_ref(), spanned.span(), name)?;
        }
        Ok(())
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
