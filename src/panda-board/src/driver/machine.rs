//! What the drivers of one machine share: its USB, and whatever several slots are on, such as one relay board.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;

use super::Thing;
#[cfg(feature = "usb")]
use crate::usb::{Sysfs, Usb};

/// The machine that the drivers run on. The rack has one; drivers are handed it when they are made.
#[derive(Default)]
pub struct Machine {
    #[cfg(feature = "usb")]
    sysfs: Sysfs,
    #[cfg(feature = "usb")]
    usb: Option<Usb>,
    shared: HashMap<(Thing, TypeId), Box<dyn Any + Send>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("shared", &self.shared.len())
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Whose USB is what `sysfs` shows.
    #[cfg(feature = "usb")]
    #[must_use]
    pub fn at(sysfs: Sysfs) -> Self {
        Self {
            sysfs,
            ..Self::default()
        }
    }

    /// What every driver that is on `thing` shares: what was made for the first of them. A thing on this machine is asked
    /// for as it was found here ([`Thing::found`]), so that it is one by whatever name.
    pub fn shared<T: Any + Send + Clone>(&mut self, thing: Thing, make: impl FnOnce() -> T) -> T {
        let key = (thing, TypeId::of::<T>());
        if let Some(known) = self.shared.get(&key).and_then(|it| it.downcast_ref::<T>()) {
            return known.clone();
        }
        let made = make();
        self.shared.insert(key, Box::new(made.clone()));
        made
    }

    /// How many things are shared.
    #[must_use]
    pub fn shares(&self) -> usize {
        self.shared.len()
    }

    /// What the kernel knows of this machine's USB.
    #[cfg(feature = "usb")]
    #[must_use]
    pub const fn sysfs(&self) -> &Sysfs {
        &self.sysfs
    }

    /// This machine's USB, watched from the first use on.
    ///
    /// # Errors
    /// There can be no threads.
    #[cfg(feature = "usb")]
    pub fn usb(&mut self) -> std::io::Result<Usb> {
        if let Some(usb) = &self.usb {
            return Ok(usb.clone());
        }
        let usb = Usb::start(self.sysfs.clone())?;
        Ok(self.usb.insert(usb).clone())
    }
}
