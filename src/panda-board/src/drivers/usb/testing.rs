//! A machine's USB for tests: a directory as Linux lays out its own, with what a test plugs in and takes out.

use std::fs;
use std::path::{Path, PathBuf};

use hex_literal::hex;

use super::sysfs::Sysfs;
use crate::port_path::{HubPath, PortPath};

/// An OMAP4430's boot ROM.
pub(super) const ROM: [u8; 50] = hex!(
    "12 01 1002 ff ff ff 40 5104 0fd0 0000 21 25 00 01"
    "09 02 2000 01 01 00 c0 32"
    "09 04 00 00 02 ff ff ff 00"
    "07 05 81 02 4000 00"
    "07 05 01 02 4000 00"
);
/// A keyboard.
pub(super) const KEYBOARD: [u8; 43] = hex!(
    "12 01 0002 00 00 00 08 2706 0100 0000 01 04 0b 01"
    "09 02 1900 01 01 08 a0 32"
    "09 04 00 00 01 03 01 01 00"
    "07 05 81 03 0800 07"
);
/// A hub with four ports.
pub(super) const HUB: [u8; 43] = hex!(
    "12 01 1001 09 00 00 08 0904 aa55 0101 01 02 03 01"
    "09 02 1900 01 01 00 e0 00"
    "09 04 00 00 01 09 00 00 00"
    "07 05 81 03 0200 ff"
);

/// Bus 1, with a hub of four ports on its port 2.
pub(super) struct Machine {
    directory: tempfile::TempDir,
    next: std::cell::Cell<u32>,
}

impl Machine {
    pub(super) fn new() -> Self {
        let machine = Self {
            directory: tempfile::tempdir().unwrap(),
            next: 1.into(),
        };
        machine.put("usb1", &HUB);
        machine.write("usb1/authorized_default", "1");
        machine.ports(&HubPath::root(1), 2);
        machine.put("1-2", &HUB);
        machine.ports(&"1-2".parse().unwrap(), 4);
        machine
    }

    pub(super) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.root())
    }

    fn ports(&self, hub: &HubPath, count: u8) {
        for number in 1..=count {
            let directory = self.root().join(hub.port(number).directory());
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("disable"), "0").unwrap();
        }
    }

    /// A device appears, with a number of its own, as authorised as its bus says.
    pub(super) fn plug(&self, port: &str, descriptors: &[u8]) -> u32 {
        self.put(port, descriptors)
    }

    fn put(&self, name: &str, descriptors: &[u8]) -> u32 {
        let devnum = self.next.get();
        self.next.set(devnum + 1);
        let authorized = fs::read_to_string(self.root().join("usb1/authorized_default"));
        // As sysfs does: a device is there with all its attributes, or not at all.
        let made = self.root().join(format!(".{name}"));
        fs::create_dir_all(&made).unwrap();
        let word = |at: usize| u16::from_le_bytes([descriptors[at], descriptors[at + 1]]);
        for (attribute, value) in [
            ("devnum", devnum.to_string()),
            ("busnum", "1".to_owned()),
            ("idVendor", format!("{:04x}", word(8))),
            ("idProduct", format!("{:04x}", word(10))),
            ("authorized", authorized.unwrap_or_else(|_| "1".to_owned())),
            ("speed", "12".to_owned()),
        ] {
            fs::write(made.join(attribute), format!("{}\n", value.trim())).unwrap();
        }
        fs::write(made.join("descriptors"), descriptors).unwrap();
        fs::rename(made, self.root().join(name)).unwrap();
        devnum
    }

    /// A device leaves.
    pub(super) fn unplug(&self, port: &str) {
        let gone = self.root().join(".gone");
        fs::rename(self.root().join(port), &gone).unwrap();
        fs::remove_dir_all(gone).unwrap();
    }

    /// A hub's ports go with it.
    pub(super) fn unplug_hub(&self, hub: &str) {
        fs::remove_dir_all(self.root().join(format!("{hub}:1.0"))).unwrap();
        self.unplug(hub);
    }

    pub(super) fn write(&self, file: &str, value: &str) {
        fs::write(self.root().join(file), value).unwrap();
    }

    pub(super) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.root().join(file))
            .unwrap()
            .trim()
            .to_owned()
    }

    pub(super) fn port(&self, port: &str, file: &str) -> PathBuf {
        let port: PortPath = port.parse().unwrap();
        self.root().join(port.directory()).join(file)
    }
}
