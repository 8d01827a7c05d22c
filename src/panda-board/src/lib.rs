//! Boards from the outside: [`Power`], [`Port`] with its [`Pipe`], and [`Console`], and their drivers.
//! The traits are narrow: a driver is a wire format and its logic over a transport.
//!
//! # Layout
//! - [`traits`]: the traits, their values and errors
//! - [`twin`]: the drivers for a virtual Panda's three sockets
//! - [`proxr`]: power by ProXR relay boards, on TCP or a serial line
//! - [`command`]: power by a command of the rack's owner
//! - [`console`]: consoles on serial lines and TCP
//! - `serial`: serial lines (feature `serial`)
//! - `usb`: boards on real USB ports, and power by a hub's ports (feature `usb`)
//! - [`together`]: several supplies as one

pub mod command;
pub mod console;
pub mod proxr;
#[cfg(feature = "serial")]
pub mod serial;
pub mod together;
pub mod traits;
pub mod twin;
#[cfg(feature = "usb")]
pub mod usb;

pub use traits::{
    BoardError, Console, Device, Pipe, PipeError, Port, Power, PowerError, PowerState, Presence,
    Sense,
};

/// `key: expected …` where a number of milliseconds is not in 1 to a minute (0 too, where `zero`).
fn check_ms(key: &str, value: u64, zero: bool) -> Result<(), String> {
    const MOST: u64 = 60_000;
    let least = u64::from(!zero);
    if (least..=MOST).contains(&value) {
        Ok(())
    } else {
        Err(format!(
            "{key}: expected {least} to {MOST} milliseconds, got {value}"
        ))
    }
}
