//! Everything that is on a machine's USB, for people: hubs with their ports, what is on each, and what could not be
//! looked at, and why. Nothing is changed, and no device that a daemon guards is touched. Used by `pandabuildd usb
//! list`.

use std::io;

use panda_protocol::family;
use panda_protocol::hub_power::Switching;

use super::hub_port::{self, HubRequests, Requests};
use super::sysfs::{self, Seen, Sysfs};
use crate::port_path::{HubPath, PortPath};

/// A hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedHub {
    /// Its path.
    pub path: HubPath,
    /// Its names for itself, cut to harmless characters.
    pub name: String,
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
    /// Its speed in Mb/s, as the kernel writes it.
    pub speed: String,
    /// How it switches power, or why it cannot be asked.
    pub switching: Result<Switching, String>,
    /// Its ports.
    pub ports: Vec<ListedPort>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedPort {
    /// Its path.
    pub path: PortPath,
    /// The kernel keeps it without power.
    pub disabled: bool,
    /// What is on it, or why that cannot be told.
    pub device: Result<Option<ListedDevice>, String>,
}

/// A device on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDevice {
    /// Its names for itself, cut to harmless characters.
    pub name: String,
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
    /// The chip whose boot ROM has this product number.
    pub chip: Option<&'static str>,
    /// Why it is no boot ROM although it has a ROM's number.
    pub not_rom: Option<String>,
    /// It is a hub.
    pub hub: bool,
    /// Whether the kernel gives it drivers.
    pub authorized: Authorized,
}

/// Whether the kernel gives a device drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorized {
    /// It does.
    Yes,
    /// It does not: a daemon guards the port.
    No,
    /// This kernel does not say.
    Unknown,
}

/// Looks at everything. Blocking.
///
/// # Errors
/// This machine has no USB.
pub fn list(sysfs: &Sysfs) -> io::Result<Vec<ListedHub>> {
    list_by(sysfs, &Requests(sysfs.clone()))
}

pub(super) fn list_by(sysfs: &Sysfs, requests: &dyn HubRequests) -> io::Result<Vec<ListedHub>> {
    let mut hubs = Vec::new();
    for name in sysfs.devices()? {
        let Ok(path) = name.parse::<HubPath>() else {
            continue;
        };
        let ports = sysfs.ports(&path);
        if ports.is_empty() {
            continue;
        }
        let id = |attribute| {
            let text = sysfs.text(&name, attribute).unwrap_or_default();
            u16::from_str_radix(&text, 16).unwrap_or_default()
        };
        let switching = hub_port::describe(sysfs, requests, &path);
        hubs.push(ListedHub {
            name: own_name(sysfs, &name),
            vendor: id("idVendor"),
            product: id("idProduct"),
            speed: printable(&sysfs.text(&name, "speed").unwrap_or_default()),
            switching: switching
                .map(|(_, hub)| hub.switching)
                .map_err(|error| error.to_string()),
            ports: ports.iter().map(|port| listed(sysfs, port)).collect(),
            path,
        });
    }
    Ok(hubs)
}

fn listed(sysfs: &Sysfs, port: &PortPath) -> ListedPort {
    let disabled = sysfs.port_directories(port).is_ok_and(|directories| {
        directories.first().is_some_and(|directory| {
            sysfs::read(&directory.join("disable"), 8).is_ok_and(|value| value.trim_ascii() == b"1")
        })
    });
    let device = match sysfs.look(port) {
        Ok(Seen::Device(_, facts)) => {
            let name = port.to_string();
            let authorized = match sysfs.text(&name, "authorized").as_deref() {
                Ok("0") => Authorized::No,
                Ok(_) => Authorized::Yes,
                Err(_) => Authorized::Unknown,
            };
            let chip = family::rom_of(facts.vendor, facts.product)
                .map(|(_, rom)| family::chip_name(rom.chip));
            let shape = match &facts.descriptors {
                Ok(descriptors) => descriptors.as_rom().err().map(|error| error.to_string()),
                Err(why) => Some(why.clone()),
            };
            Ok(Some(ListedDevice {
                name: own_name(sysfs, &name),
                vendor: facts.vendor,
                product: facts.product,
                not_rom: chip.and(shape),
                chip,
                hub: facts
                    .descriptors
                    .is_ok_and(|descriptors| descriptors.is_hub()),
                authorized,
            }))
        }
        Ok(Seen::Empty) => Ok(None),
        Ok(Seen::NoPort) => Err("the port has just gone".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    ListedPort {
        path: port.clone(),
        disabled,
        device,
    }
}

/// What a device calls itself. It may be anything: a board can be hostile.
fn own_name(sysfs: &Sysfs, device: &str) -> String {
    let part = |attribute| sysfs.text(device, attribute).unwrap_or_default();
    printable(&format!("{} {}", part("manufacturer"), part("product")))
}

/// Plain characters only, not too many.
fn printable(text: &str) -> String {
    const MOST: usize = 60;
    let plain = text.chars().filter(|c| (' '..='~').contains(c));
    plain.take(MOST).collect::<String>().trim().to_owned()
}
