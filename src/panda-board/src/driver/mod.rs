//! What a driver is: a settings type, read from a table of `rack.toml` that names it, which says what else is wrong with
//! its values, what it claims, and what it needs of this machine, and which makes what drives the board.
//!
//! ```text
//! [slot.power]                      POWER, PIPE, SENSE, CONSOLE: one table a kind lists its drivers by their names
//! driver = "proxr-tcp"  ──name──▶   ProxrTcpSettings
//! address = "10.77.0.5" ──keys──▶     ├ check   values that cannot be
//! relay = 1                           ├ claims  the relay for itself; the relay board in turns
//!                                     ├ find    what must be on this machine (a program, a port)
//!                                     └ make    dyn Power
//! ```
//!
//! A driver is one folder of [`crate::drivers`] (or one file of a folder, where several share their code), with its
//! settings, its code and its tests, and one line in its kind's table there. Nobody else knows its name.

pub mod claim;
mod machine;
pub(crate) mod table;
mod together;

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

pub use self::claim::{Claim, Claims, Clash, Share, Thing};
pub use self::machine::Machine;
pub use self::table::Drivers;
pub use self::together::Together;
use crate::settings::{Mistake, Mistakes};
use crate::{BoardError, Console, Port, Power, Sense};

/// What the settings of every driver say of themselves.
pub trait Settings: Any + fmt::Debug + Send + Sync {
    /// What is wrong with the values, beyond their types.
    ///
    /// # Errors
    /// All of it.
    fn check(&self) -> Result<(), Mistakes> {
        Ok(())
    }

    /// What no other driver may have at all, or only in turns with this one. Nothing, where it cannot be known.
    fn claims(&self) -> Vec<Claim>;

    /// Takes every path in it that is relative from `base`.
    fn rebase(&mut self, base: &Path) {
        let _ = base;
    }

    /// Looks for what it needs of this machine, beside the things that it claims. Opens nothing.
    ///
    /// # Errors
    /// It is not there.
    fn find(&self, machine: &Machine) -> Result<(), Mistake> {
        let _ = machine;
        Ok(())
    }
}

/// A driver of `[slot.power]`.
pub trait PowerDriver: Settings {
    /// The supply. Blocking.
    ///
    /// # Errors
    /// What it needs is not there, or cannot do what it must.
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Power>, Mistake>;
}

/// A driver of `[slot.pipe]`.
pub trait PipeDriver: Settings {
    /// The port that the board's OTG is on, watched from now on. Blocking.
    ///
    /// # Errors
    /// There is no such port.
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Port>, Mistake>;

    /// Closes the port to all but what a boot awaits, once no driver of the rack can be refused any more. Blocking.
    ///
    /// # Errors
    /// It cannot be closed.
    fn guard(&self, machine: &mut Machine) -> Result<(), Mistake> {
        let _ = machine;
        Ok(())
    }
}

/// A driver of `[slot.sense]`.
pub trait SenseDriver: Settings {
    /// What senses the rail.
    ///
    /// # Errors
    /// What it needs is not there.
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Sense>, Mistake>;
}

/// A driver of `[slot.console]`.
#[async_trait]
pub trait ConsoleDriver: Settings {
    /// Opens the console; it may go away at any time, and is opened again then.
    ///
    /// # Errors
    /// It cannot be opened now.
    async fn open(&self) -> Result<Box<dyn Console>, BoardError>;
}

/// `path`, from `base` where it is relative, and without a `.` in it.
pub(crate) fn rebase(base: &Path, path: &mut PathBuf) {
    *path = base.join(&*path).components().collect();
}
