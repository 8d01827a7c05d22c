//! The drivers for a virtual Panda: each is a trait's logic over one of the board's three Unix sockets.
//! The daemon uses them as it uses a real board's; `panda-twin` is at the other end.
//!
//! # Layout
//! - [`wire`]: what goes over the three sockets, both ways
//! - [`qemu`]: the network of a board whose machine is QEMU
//! - [`TwinSettings`]: the table that names one of them
//! - [`TwinPower`], [`TwinPort`], [`TwinConsole`]: the drivers

mod console;
mod port;
mod power;
pub mod qemu;
mod settings;
pub mod wire;

pub use console::TwinConsole;
pub use port::TwinPort;
pub use power::TwinPower;
pub use settings::TwinSettings;
