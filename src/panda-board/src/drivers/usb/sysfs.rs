//! What Linux knows of its USB, in sysfs: which device is at a port, what it says of itself, and whether it is
//! authorised. Every file is read within bounds. The rest of the driver looks here only; tests give a directory of
//! their own.
//!
//! ```text
//! /sys/bus/usb/devices/1-2.3/               a device: devnum, descriptors, authorized, …
//!                      1-2.3:1.0/driver     an interface of it, and the driver that has it
//!                      1-2:1.0/1-2-port3/   the port itself: disable (Linux 6.0), peer
//!                      usb1/                a bus's root hub: authorized_default
//! ```

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use panda_protocol::usb_descriptors::{self, Device as Descriptors};

use crate::port_path::{HubPath, PortPath};

/// Where Linux has it.
const SYSTEM: &str = "/sys/bus/usb/devices";
/// The most bytes of a short attribute.
const SHORT: u64 = 256;
/// The most entries of a directory that are looked at.
const MOST_ENTRIES: usize = 4096;

/// A machine's USB in sysfs.
#[derive(Debug, Clone)]
pub struct Sysfs {
    root: PathBuf,
}

/// What tells one arrival from another: the device's number on its bus, and its directory's. Linux gives neither
/// again soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) devnum: u32,
    pub(super) inode: u64,
}

/// What is at a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// There is no such port now: its hub is away, or not authorised.
    NoPort,
    /// Nothing.
    Empty,
    /// A device.
    Device(Identity, Facts),
}

/// What a device says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) vendor: u16,
    pub(super) product: u16,
    /// All of it, or why it cannot be read.
    pub(super) descriptors: Result<Descriptors, String>,
}

impl Facts {
    pub(super) fn interface_class(&self) -> u8 {
        self.descriptors
            .as_ref()
            .map_or(0, Descriptors::first_class)
    }
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at(SYSTEM)
    }
}

impl Sysfs {
    /// In another directory than the system's own.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at a port. A device that comes or leaves during the look is an error that the next look does not have.
    pub(super) fn look(&self, port: &PortPath) -> io::Result<Seen> {
        let name = port.to_string();
        match self.identity(&name) {
            Ok(identity) => {
                let facts = self.facts(&name)?;
                // Of one and the same device.
                if self.identity(&name)? == identity {
                    Ok(Seen::Device(identity, facts))
                } else {
                    Err(io::ErrorKind::Interrupted.into())
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(if self.root.join(port.directory()).is_dir() {
                    Seen::Empty
                } else {
                    Seen::NoPort
                })
            }
            Err(error) => Err(error),
        }
    }

    fn identity(&self, device: &str) -> io::Result<Identity> {
        let devnum = self.number(device, "devnum")?;
        let inode = std::fs::metadata(self.root.join(device))?.ino();
        Ok(Identity { devnum, inode })
    }

    fn facts(&self, device: &str) -> io::Result<Facts> {
        let id = |attribute| {
            let text = self.text(device, attribute)?;
            u16::from_str_radix(&text, 16).map_err(|_| invalid(device, attribute))
        };
        Ok(Facts {
            vendor: id("idVendor")?,
            product: id("idProduct")?,
            descriptors: self.descriptors(device),
        })
    }

    fn descriptors(&self, device: &str) -> Result<Descriptors, String> {
        let most = usb_descriptors::MAX_BYTES as u64 + 1;
        let bytes = read(&self.root.join(device).join("descriptors"), most)
            .map_err(|error| format!("its descriptors cannot be read: {error}"))?;
        usb_descriptors::parse(&bytes).map_err(|error| error.to_string())
    }

    /// Every device, hubs and root hubs included, by name.
    pub(super) fn devices(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root)?.take(MOST_ENTRIES) {
            if let Ok(name) = entry?.file_name().into_string()
                && (name.parse::<PortPath>().is_ok() || name.parse::<HubPath>().is_ok())
            {
                names.push(name);
            }
        }
        names.sort_by_key(|name| {
            let port = name.parse::<PortPath>().ok();
            let bus = name.parse::<HubPath>().ok().map(|hub| hub.port(1).bus());
            (bus, port)
        });
        Ok(names)
    }

    /// The ports of a hub that the kernel has taken on; none of one that it has not.
    pub(super) fn ports(&self, hub: &HubPath) -> Vec<PortPath> {
        (1..=u8::MAX)
            .map(|number| hub.port(number))
            .take_while(|port| self.root.join(port.directory()).is_dir())
            .collect()
    }

    /// Whether there is such a port now; else those that there are, in words.
    ///
    /// # Errors
    /// The words.
    pub fn has_port(&self, path: &PortPath) -> Result<(), String> {
        let known = self.all_ports().map_err(|error| {
            let root = self.root.display();
            format!("{root}: {error}; this machine has no USB, or its kernel no driver for it")
        })?;
        if known.contains(path) {
            return Ok(());
        }
        Err(format!(
            "port {path} does not exist; this machine has {}",
            super::guard::told(&known)
        ))
    }

    /// Every port of every hub.
    pub(super) fn all_ports(&self) -> io::Result<Vec<PortPath>> {
        let hubs = self.devices()?.into_iter();
        let hubs = hubs.filter_map(|name| name.parse::<HubPath>().ok());
        Ok(hubs.flat_map(|hub| self.ports(&hub)).collect())
    }

    /// A short attribute of a device.
    pub(super) fn text(&self, device: &str, attribute: &str) -> io::Result<String> {
        let bytes = read(&self.root.join(device).join(attribute), SHORT)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    pub(super) fn number(&self, device: &str, attribute: &str) -> io::Result<u32> {
        let text = self.text(device, attribute)?;
        text.parse().map_err(|_| invalid(device, attribute))
    }

    /// Writes an attribute, in one piece.
    pub(super) fn write(&self, device: &str, attribute: &str, value: &str) -> io::Result<()> {
        write(&self.root.join(device).join(attribute), value)
    }

    /// Interfaces of a device that a driver of the kernel has, and that driver's name.
    pub(super) fn driven(&self, device: &str) -> io::Result<Option<(String, String)>> {
        let prefix = format!("{device}:");
        for entry in std::fs::read_dir(&self.root)?.take(MOST_ENTRIES) {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if !name.starts_with(&prefix) {
                continue;
            }
            if let Ok(driver) = std::fs::read_link(entry.path().join("driver")) {
                let driver = driver.file_name().unwrap_or_default();
                return Ok(Some((name, driver.to_string_lossy().into_owned())));
            }
        }
        Ok(None)
    }

    /// Where the kernel has a port itself, and the port of a SuperSpeed hub's other half that is the same socket.
    pub(super) fn port_directories(&self, port: &PortPath) -> io::Result<Vec<PathBuf>> {
        let directory = self.root.join(port.directory());
        if !directory.is_dir() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let peer = directory.join("peer");
        let mut all = vec![directory];
        if peer.is_dir() {
            all.push(peer);
        }
        Ok(all)
    }
}

/// Reads at most `most` bytes of an attribute.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes an attribute that is there. It is not cut off first: the kernel takes what is written for the whole of it, and
/// a file in its place would be empty for a moment, to whoever reads it then.
pub(super) fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

fn invalid(device: &str, attribute: &str) -> io::Error {
    let text = format!("{device}/{attribute} holds something else than Linux writes there");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
