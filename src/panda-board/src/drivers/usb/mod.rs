//! Real USB: boards by the path of their port, whatever address they get. [`Usb`] is the machine's; the rack makes
//! one, and a [`UsbPort`] of it for each slot.
//!
//! # Layout
//! - `sysfs`, `uevent`: what the kernel knows, and what it tells
//! - `watch`: who is on which port, from before power goes on; no arrival is missed
//! - `guard`: nothing on a slot's port gets a driver
//! - `settings`: `driver = "usb"`, a board's port
//! - `port`, `pipe`: opening a boot ROM, and transfers
//! - `hub_port`: `driver = "hub-port"`, power by a hub's ports
//! - `list`: everything, for people
//! - `libusb`: the only file that knows libusb
//!
//! Presence comes from the kernel's own events and sysfs, not from libusb: that needs no privilege, shows devices
//! that are not authorised, and tells one arrival from the next.

mod guard;
mod hub_port;
mod libusb;
mod list;
mod pipe;
mod port;
mod settings;
mod sysfs;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod uevent;
mod watch;

use std::io;
use std::sync::Arc;

use self::guard::Guard;
pub use self::guard::GuardError;
pub use self::hub_port::{HubPortSettings, HubPower};
use self::libusb::Libusb;
pub use self::libusb::UDEV_RULE;
pub use self::list::{Authorized, ListedDevice, ListedHub, ListedPort, list};
use self::port::Parts;
pub use self::port::UsbPort;
pub use self::settings::UsbPortSettings;
pub use self::sysfs::Sysfs;
use self::watch::Watcher;
pub use crate::port_path::{HubPath, PathError, PortPath};

/// This machine's USB, watched. Cheap to clone.
#[derive(Clone)]
pub struct Usb {
    parts: Parts,
}

impl std::fmt::Debug for Usb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Usb").finish_non_exhaustive()
    }
}

impl Usb {
    /// Starts to watch what `sysfs` shows.
    ///
    /// # Errors
    /// There can be no threads.
    pub fn start(sysfs: Sysfs) -> io::Result<Self> {
        Self::start_with(sysfs, Arc::new(Libusb))
    }

    fn start_with(sysfs: Sysfs, opener: Arc<dyn libusb::Opener>) -> io::Result<Self> {
        let guard = Guard::start(sysfs.clone())?;
        let weak = Arc::downgrade(&guard);
        let watcher = Watcher::start(sysfs.clone(), move || {
            if let Some(guard) = weak.upgrade() {
                guard.look();
            }
        })?;
        Ok(Self {
            parts: Parts {
                sysfs,
                watcher: Arc::new(watcher),
                guard,
                opener,
            },
        })
    }

    /// Keeps whatever comes to these ports without a driver, from now on. Blocking.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub fn guard(&self, ports: &[PortPath]) -> Result<(), GuardError> {
        self.parts.guard.add(ports)
    }

    /// Watches a port, from now on.
    #[must_use]
    pub fn port(&self, path: &PortPath) -> UsbPort {
        UsbPort {
            path: path.clone(),
            presence: self.parts.watcher.port(path),
            parts: self.parts.clone(),
        }
    }

    /// Whether there is such a port now; else those that there are, in words. Blocking.
    ///
    /// # Errors
    /// The words.
    pub fn has_port(&self, path: &PortPath) -> Result<(), String> {
        self.parts.sysfs.has_port(path)
    }

    /// Every port that there is now. Blocking.
    ///
    /// # Errors
    /// This machine has no USB.
    pub fn ports(&self) -> io::Result<Vec<PortPath>> {
        self.parts.sysfs.all_ports()
    }
}
