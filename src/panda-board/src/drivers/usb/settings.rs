//! `driver = "usb"`: the port of this machine that a board's OTG is plugged into.

use std::sync::Arc;

use serde::Deserialize;

use crate::Port;
use crate::driver::{Claim, Machine, PipeDriver, Settings, Thing};
use crate::port_path::PortPath;
use crate::settings::Mistake;

/// `driver = "usb"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsbPortSettings {
    /// The port that the board's OTG is plugged into.
    pub port: PortPath,
}

impl UsbPortSettings {
    /// What `driver` says.
    pub const DRIVER: &'static str = "usb";
}

impl Settings for UsbPortSettings {
    fn claims(&self) -> Vec<Claim> {
        let port = Thing::Port(self.port.clone());
        vec![Claim::alone("port", port, "a board's port")]
    }

    fn find(&self, machine: &Machine) -> Result<(), Mistake> {
        let there = machine.sysfs().has_port(&self.port);
        there.map_err(|text| Mistake::new("port", text))
    }
}

impl PipeDriver for UsbPortSettings {
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Port>, Mistake> {
        self.find(machine)?;
        let usb = machine.usb().map_err(|error| unwatched(&error))?;
        Ok(Arc::new(usb.port(&self.port)))
    }

    fn guard(&self, machine: &mut Machine) -> Result<(), Mistake> {
        let usb = machine.usb().map_err(|error| unwatched(&error))?;
        usb.guard(std::slice::from_ref(&self.port))
            .map_err(|error| Mistake::new("port", error.to_string()))
    }
}

fn unwatched(error: &std::io::Error) -> Mistake {
    Mistake::new("port", format!("USB cannot be watched: {error}"))
}
