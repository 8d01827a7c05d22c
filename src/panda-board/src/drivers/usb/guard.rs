//! Keeps what comes to a slot's port from getting a driver: a board with root on it can come back as a keyboard, a
//! network card or a disk. Every bus with a slot port authorises nothing by itself any more; what is elsewhere on it
//! (hubs, console adapters) is authorised by us instead, as the kernel would have done.
//!
//! ```text
//! comes to            authorised
//! a slot's port       a boot ROM that a boot awaits, while its pipe is open (see `open`); nothing else, ever
//! behind one          never (a board that says it is a hub)
//! anywhere else       when it comes
//! ```
//!
//! Linux has this switch for a whole bus, not for a port. Descriptors can be read all the same, so ports are watched
//! without it. When the daemon ends, buses stay as they are: boards go on running.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::sysfs::{Identity, Seen, Sysfs};
use crate::port_path::{HubPath, PortPath};

const DEFAULT: &str = "authorized_default";
const AUTHORIZED: &str = "authorized";

/// Slot ports cannot be guarded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// There is no such port.
    #[error(
        "port {port} does not exist; this machine has {known}. Is its hub plugged in and powered?"
    )]
    NoPort {
        /// The port.
        port: PortPath,
        /// Those that do, in words.
        known: String,
    },
    /// No USB at all.
    #[error("{}: {source}; this machine has no USB, or its kernel no driver for it", path.display())]
    NoUsb {
        /// Where it should be.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The bus cannot be told.
    #[error(
        "bus {bus}: {file} cannot be set to 0: {problem}; without it a board could come back as a keyboard, a network \
         card or a disk of this machine. Run the daemon as root, with sysfs writable"
    )]
    Bus {
        /// The bus.
        bus: u16,
        /// The file.
        file: String,
        /// Why.
        problem: String,
    },
}

/// The guard of a rack's slot ports.
#[derive(Debug)]
pub(super) struct Guard {
    sysfs: Sysfs,
    state: Mutex<State>,
    nudge: SyncSender<()>,
}

#[derive(Debug, Default)]
struct State {
    slots: BTreeSet<PortPath>,
    buses: BTreeSet<u16>,
    /// Devices that a boot has awaited, while their pipe is open.
    open: HashMap<PortPath, Identity>,
    /// Devices that were dealt with since they came.
    done: HashMap<String, Identity>,
}

impl Guard {
    /// A guard of nothing yet.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start(sysfs: Sysfs) -> io::Result<Arc<Self>> {
        let (nudge, nudged) = sync_channel(1);
        let guard = Arc::new(Self {
            sysfs,
            state: Mutex::default(),
            nudge,
        });
        let weak = Arc::downgrade(&guard);
        // Taking a driver from a device may last as long as the device likes: not in the watcher's thread.
        let rounds = move || weak.upgrade().is_some_and(|guard| guard.round());
        std::thread::Builder::new()
            .name("usb-guard".to_owned())
            .spawn(move || follow(&nudged, rounds))?;
        Ok(guard)
    }

    /// Guards these ports too: sets their buses, and reads back.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub(super) fn add(&self, ports: &[PortPath]) -> Result<(), GuardError> {
        let known = self.sysfs.all_ports().map_err(|source| GuardError::NoUsb {
            path: self.sysfs.root().to_owned(),
            source,
        })?;
        if let Some(port) = ports.iter().find(|port| !known.contains(port)) {
            return Err(GuardError::NoPort {
                port: port.clone(),
                known: told(&known),
            });
        }
        for port in ports {
            self.close_bus(port.bus())?;
        }
        let mut state = self.state();
        state.slots.extend(ports.iter().cloned());
        state.buses.extend(ports.iter().map(PortPath::bus));
        drop(state);
        self.round();
        Ok(())
    }

    /// Something may have changed.
    pub(super) fn look(&self) {
        if self.nudge.try_send(()).is_err() {
            // One that is waiting already will see all of it.
        }
    }

    /// Authorises what a boot has awaited, where it is not: whether it was not.
    pub(super) fn authorize(&self, port: &PortPath, identity: Identity) -> io::Result<bool> {
        let name = port.to_string();
        if self.sysfs.text(&name, AUTHORIZED)? != "0" {
            // Where nothing guards the port (one board by hand), there is nothing to lift.
            if !self.state().slots.contains(port) {
                return Ok(false);
            }
        }
        self.state().open.insert(port.clone(), identity);
        match self.sysfs.write(&name, AUTHORIZED, "1") {
            Ok(()) => Ok(true),
            Err(error) => {
                self.state().open.remove(port);
                Err(error)
            }
        }
    }

    /// Takes that back, if it is still the same device.
    pub(super) fn withdraw(&self, port: &PortPath, identity: Identity) {
        self.state().open.remove(port);
        match self.sysfs.look(port) {
            Ok(Seen::Device(now, _)) if now == identity => {
                self.set(&port.to_string(), "0", "a device that was talked to");
            }
            _ => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deals with every device that has come since the last round. Always true.
    fn round(&self) -> bool {
        let buses = self.state().buses.clone();
        for bus in &buses {
            // A controller that was bound anew begins as the kernel likes.
            match self.sysfs.text(&HubPath::root(*bus).to_string(), DEFAULT) {
                Ok(value) if value == "0" => {}
                Ok(_) => {
                    tracing::warn!(bus, "authorises devices by itself again; told not to");
                    if let Err(error) = self.close_bus(*bus) {
                        tracing::error!(%error, "a slot's port is open");
                    }
                }
                Err(error) => tracing::debug!(bus, %error, "the bus is away"),
            }
        }
        let Ok(names) = self.sysfs.devices() else {
            return true;
        };
        let mut seen = HashMap::new();
        for name in names {
            let Ok(port) = name.parse::<PortPath>() else {
                continue;
            };
            if !buses.contains(&port.bus()) {
                continue;
            }
            if let Ok(Seen::Device(identity, _)) = self.sysfs.look(&port)
                && self.deal_with(&port, identity)
            {
                seen.insert(name, identity);
            }
        }
        self.state().done = seen;
        true
    }

    /// Whether it is dealt with; else it is tried again.
    fn deal_with(&self, port: &PortPath, identity: Identity) -> bool {
        let name = port.to_string();
        // Before the state is asked: what a boot has authorised meanwhile is then known to be awaited.
        let Ok(authorized) = self.sysfs.text(&name, AUTHORIZED) else {
            return false;
        };
        let (guarded, awaited, new) = {
            let state = self.state();
            (
                state.slots.iter().any(|slot| port.is_at_or_behind(slot)),
                state.open.get(port) == Some(&identity),
                state.done.get(&name) != Some(&identity),
            )
        };
        match (guarded, authorized.as_str()) {
            (true, "0") => true,
            // It was there before the bus was told.
            (true, _) if !awaited => self.set(&name, "0", "a device on a slot's port"),
            (false, "0") if new => self.set(&name, "1", "a device beside the slots' ports"),
            _ => true,
        }
    }

    fn set(&self, device: &str, value: &str, what: &str) -> bool {
        match self.sysfs.write(device, AUTHORIZED, value) {
            Ok(()) => {
                tracing::info!(device, authorized = value, "{what}");
                true
            }
            Err(error) => {
                tracing::warn!(device, authorized = value, %error, "{what}");
                false
            }
        }
    }

    fn close_bus(&self, bus: u16) -> Result<(), GuardError> {
        let hub = HubPath::root(bus).to_string();
        let written = self
            .sysfs
            .write(&hub, DEFAULT, "0")
            .and_then(|()| self.sysfs.text(&hub, DEFAULT));
        let problem = match written {
            Ok(value) if value == "0" => return Ok(()),
            Ok(value) => format!("it reads back as {value:?}"),
            Err(error) => error.to_string(),
        };
        let file = self.sysfs.root().join(hub).join(DEFAULT);
        Err(GuardError::Bus {
            bus,
            file: file.display().to_string(),
            problem,
        })
    }
}

fn follow(nudged: &Receiver<()>, round: impl Fn() -> bool) {
    while nudged.recv().is_ok() {
        if !round() {
            return;
        }
    }
}

/// Ports in words, not too many.
pub(super) fn told(ports: &[PortPath]) -> String {
    const MOST: usize = 64;
    if ports.is_empty() {
        return "no port".to_owned();
    }
    let mut names: Vec<String> = ports.iter().take(MOST).map(ToString::to_string).collect();
    if ports.len() > MOST {
        names.push(format!("{} more", ports.len() - MOST));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{HUB, KEYBOARD, Machine, ROM};
    use super::*;

    fn ports(texts: &[&str]) -> Vec<PortPath> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn whatever_comes_to_a_slots_port_stays_without_a_driver_and_all_else_gets_one() {
        let machine = Machine::new();
        machine.plug("1-2.3", &KEYBOARD);
        let guard = Guard::start(machine.sysfs()).unwrap();
        guard.add(&ports(&["1-2.3", "1-2.4"])).unwrap();
        assert_eq!(machine.read("usb1/authorized_default"), "0");
        // It was there before, with a driver.
        assert_eq!(machine.read("1-2.3/authorized"), "0");
        for (port, descriptors, authorized) in [
            ("1-2.4", &ROM[..], "0"),
            ("1-1", &KEYBOARD, "1"),
            ("1-2.1", &HUB, "1"),
            ("1-2.4.1", &KEYBOARD, "0"),
        ] {
            machine.plug(port, descriptors);
            assert_eq!(machine.read(&format!("{port}/authorized")), "0", "{port}");
            guard.round();
            assert_eq!(
                machine.read(&format!("{port}/authorized")),
                authorized,
                "{port}"
            );
        }
        // What an operator decides beside the slots' ports is left alone.
        machine.write("1-1/authorized", "0");
        guard.round();
        assert_eq!(machine.read("1-1/authorized"), "0");
        machine.unplug("1-1");
        guard.round();
        machine.plug("1-1", &KEYBOARD);
        guard.round();
        assert_eq!(machine.read("1-1/authorized"), "1");
    }

    #[test]
    fn what_a_boot_awaits_is_authorised_until_it_is_let_go() {
        let machine = Machine::new();
        let guard = Guard::start(machine.sysfs()).unwrap();
        let slot = ports(&["1-2.3"]);
        guard.add(&slot).unwrap();
        machine.plug("1-2.3", &ROM);
        let Seen::Device(identity, _) = machine.sysfs().look(&slot[0]).unwrap() else {
            panic!("a device")
        };
        assert!(guard.authorize(&slot[0], identity).unwrap());
        assert_eq!(machine.read("1-2.3/authorized"), "1");
        guard.round();
        assert_eq!(machine.read("1-2.3/authorized"), "1");
        guard.withdraw(&slot[0], identity);
        assert_eq!(machine.read("1-2.3/authorized"), "0");

        // Another device in its place is none of what was awaited.
        assert!(guard.authorize(&slot[0], identity).unwrap());
        machine.unplug("1-2.3");
        machine.plug("1-2.3", &KEYBOARD);
        machine.write("1-2.3/authorized", "1");
        guard.round();
        assert_eq!(machine.read("1-2.3/authorized"), "0");
    }

    /// The attribute is a named pipe, so that the guard can be held up in the middle of its look.
    #[test]
    fn a_boot_that_opens_its_rom_while_the_guard_looks_keeps_it() {
        use std::io::{Read as _, Write as _};
        use std::os::unix::fs::OpenOptionsExt as _;

        let machine = Machine::new();
        let guard = Guard::start(machine.sysfs()).unwrap();
        let slot = ports(&["1-2.3"]);
        guard.add(&slot).unwrap();
        machine.plug("1-2.3", &ROM);
        let Seen::Device(identity, _) = machine.sysfs().look(&slot[0]).unwrap() else {
            panic!("a device")
        };
        let attribute = machine.root().join("1-2.3/authorized");
        std::fs::remove_file(&attribute).unwrap();
        nix::unistd::mkfifo(&attribute, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let looking = std::thread::spawn({
            let (guard, port) = (guard.clone(), slot[0].clone());
            move || guard.deal_with(&port, identity)
        });
        // Opened only once the guard reads.
        let mut said = std::fs::OpenOptions::new()
            .write(true)
            .open(&attribute)
            .unwrap();
        guard.state().open.insert(slot[0].clone(), identity);
        said.write_all(b"1\n").unwrap();
        drop(said);
        let mut options = std::fs::OpenOptions::new();
        let options = options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut written = options.open(&attribute).unwrap();
        assert!(looking.join().unwrap());
        let mut bytes = [0; 8];
        let count = written.read(&mut bytes).unwrap_or(0);
        assert_eq!(bytes[..count], *b"", "its authorisation was taken back");
    }

    #[test]
    fn a_bus_that_begins_anew_is_told_again() {
        let machine = Machine::new();
        let guard = Guard::start(machine.sysfs()).unwrap();
        guard.add(&ports(&["1-2.3"])).unwrap();
        machine.write("usb1/authorized_default", "1");
        guard.round();
        assert_eq!(machine.read("usb1/authorized_default"), "0");
    }

    #[test]
    fn what_cannot_be_guarded_is_refused_with_what_to_do() {
        let machine = Machine::new();
        let guard = Guard::start(machine.sysfs()).unwrap();
        let error = guard.add(&ports(&["1-2.9"])).unwrap_err().to_string();
        assert!(
            error.contains("port 1-2.9 does not exist")
                && error.contains("1-1, 1-2, 1-2.1, 1-2.2, 1-2.3, 1-2.4"),
            "{error}"
        );
        assert_eq!(machine.read("usb1/authorized_default"), "1");
        std::fs::remove_file(machine.root().join("usb1/authorized_default")).unwrap();
        let error = guard.add(&ports(&["1-2.3"])).unwrap_err().to_string();
        assert!(error.contains("Run the daemon as root"), "{error}");
        let none = Guard::start(Sysfs::at("/nonexistent")).unwrap();
        let error = none.add(&ports(&["1-2.3"])).unwrap_err().to_string();
        assert!(error.contains("this machine has no USB"), "{error}");
    }
}
