//! Boards from the outside: [`Power`], [`Port`] with its [`Pipe`], and [`Console`], and their drivers.
//! The traits are narrow: a driver is a wire format and its logic over a transport.
//!
//! # Layout
//! - [`traits`]: the traits, their values and errors
//! - [`driver`]: what a driver is: its settings, and what they claim
//! - [`drivers`]: every driver, a folder each, and the tables that list them
//! - [`family`]: families of boards, behind one trait; [`omap4`] is one; [`paced`]: a pipe as boot ROMs like it
//! - [`settings`]: reading and checking settings, all mistakes at once
//! - `serial`: serial lines (feature `serial`); [`device`]: which device a path names
//! - [`port_path`]: names of USB ports and hubs

pub mod device;
pub mod driver;
pub mod drivers;
pub mod family;
pub mod omap4;
pub mod paced;
pub mod port_path;
#[cfg(feature = "serial")]
pub mod serial;
pub mod settings;
pub mod traits;

#[cfg(feature = "usb")]
pub use drivers::usb;
pub use drivers::{command, console, proxr, twin};
pub use traits::{
    BoardError, Console, Device, Pipe, PipeError, Port, Power, PowerError, PowerState, Presence,
    Sense,
};
