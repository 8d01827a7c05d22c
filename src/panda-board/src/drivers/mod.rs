//! Every driver, a folder each, and the table of each kind that lists them: a new driver is a folder, its `pub mod` and a line
//! here. What a driver is: [`crate::driver`].
//!
//! # Layout
//! - [`twin`]: a virtual Panda's three sockets, as supply, port and console
//! - [`proxr`]: power by ProXR relay boards, on TCP or a serial line
//! - [`command`]: power, and a sense of it, by a command of the rack's owner
//! - `usb`: boards on real USB ports, and power by a hub's ports (feature `usb`)
//! - [`console`]: consoles on serial lines and TCP

pub mod command;
pub mod console;
pub mod proxr;
pub mod twin;
#[cfg(feature = "usb")]
pub mod usb;

use crate::driver::table::{Driver, settings};
use crate::driver::{ConsoleDriver, Drivers, PipeDriver, PowerDriver, SenseDriver};

/// A driver, by its settings type.
macro_rules! driver {
    ($settings:ty) => {
        Driver {
            name: <$settings>::DRIVER,
            read: |keys, span| settings::<$settings>(keys, span).map(|it| Box::new(it) as Box<_>),
        }
    };
}

/// The drivers of `[slot.power]`.
pub static POWER: Drivers<dyn PowerDriver> = Drivers {
    table: "power",
    all: &[
        driver!(twin::TwinSettings),
        driver!(proxr::ProxrTcpSettings),
        #[cfg(feature = "serial")]
        driver!(proxr::ProxrSerialSettings),
        driver!(command::CommandSettings),
        #[cfg(feature = "usb")]
        driver!(usb::HubPortSettings),
    ],
};

/// The drivers of `[slot.pipe]`.
pub static PIPE: Drivers<dyn PipeDriver> = Drivers {
    table: "pipe",
    all: &[
        driver!(twin::TwinSettings),
        #[cfg(feature = "usb")]
        driver!(usb::UsbPortSettings),
    ],
};

/// The drivers of `[slot.sense]`.
pub static SENSE: Drivers<dyn SenseDriver> = Drivers {
    table: "sense",
    all: &[driver!(command::CommandSenseSettings)],
};

/// The drivers of `[slot.console]`.
pub static CONSOLE: Drivers<dyn ConsoleDriver> = Drivers {
    table: "console",
    all: &[
        driver!(twin::TwinSettings),
        #[cfg(feature = "serial")]
        driver!(console::SerialConsoleSettings),
        driver!(console::TcpConsoleSettings),
    ],
};
