//! Boards from the outside: [`Power`], [`Port`] with its [`Pipe`], and [`Console`], and their drivers.
//! The traits are narrow: a driver is a wire format and its logic over a transport.
//!
//! # Layout
//! - [`traits`]: the traits, their values and errors
//! - [`twin`]: the drivers for a virtual Panda's three sockets

pub mod traits;
pub mod twin;

pub use traits::{
    BoardError, Console, Device, Pipe, PipeError, Port, Power, PowerError, PowerState, Presence,
};
