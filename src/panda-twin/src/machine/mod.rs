//! The machine behind a virtual Panda: what the boot image that arrived describes, started. The board's task
//! starts one and ends it; a machine that ends by itself leaves a board that hangs.

mod process;
mod unpack;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::console::Console;

/// What kind of machine boards have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The kernel is a program on this host, in namespaces of its own.
    Process,
}

impl Kind {
    /// As an image's manifest says it.
    #[must_use]
    pub const fn manifest(self) -> panda_protocol::manifest::Machine {
        match self {
            Self::Process => panda_protocol::manifest::Machine::Process,
        }
    }

    /// Checks that this host has what such machines need.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn check_host(self) -> Result<(), MachineError> {
        match self {
            Self::Process => process::check_host(),
        }
    }
}

/// The board's places on this host's disk.
#[derive(Debug, Clone)]
pub struct Place {
    /// Holds what the board has in RAM; removed when power is cut.
    pub ram: PathBuf,
    /// The board's scratch disk; never touched.
    pub scratch: PathBuf,
}

impl Place {
    /// Those of the board whose directory this is.
    #[must_use]
    pub fn of(board: &Path) -> Self {
        Self {
            ram: board.join("ram"),
            scratch: board.join("scratch"),
        }
    }

    /// Removes what is left in RAM.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub async fn clear_ram(&self) -> Result<(), MachineError> {
        match tokio::fs::remove_dir_all(&self.ram).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(MachineError::io("remove", &self.ram)(error))
            }
            _ => Ok(()),
        }
    }
}

/// A machine that was started.
#[derive(Debug)]
pub enum Machine {
    /// See [`Kind::Process`].
    Process(process::ProcessMachine),
}

impl Machine {
    /// Starts what a boot image describes; must be called within a tokio runtime. Returns at once: an image
    /// that cannot be started makes a board that hangs, and says why on the console.
    ///
    /// # Errors
    /// When this host has no room for another machine at all.
    pub fn start(
        kind: Kind,
        image: Vec<u8>,
        place: &Place,
        console: &Console,
    ) -> Result<Self, MachineError> {
        match kind {
            Kind::Process => process::ProcessMachine::start(image, place.clone(), console.clone())
                .map(Self::Process),
        }
    }

    /// Cuts power: ends the machine with everything in it, and removes its RAM.
    ///
    /// # Errors
    /// When it is not gone within the limit. It may then be tried again.
    pub async fn end(&mut self, limit: Duration) -> Result<(), MachineError> {
        match self {
            Self::Process(machine) => machine.end(limit).await,
        }
    }
}

/// What went wrong with a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A program that it needs is not installed.
    #[error("the program `{program}` is not in PATH; install Debian's package {package}")]
    Missing {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// The boot image cannot be taken apart.
    #[error("boot image: {0}")]
    Image(#[from] panda_protocol::bootimg::BootImageError),
    /// The ramdisk cannot be taken apart.
    #[error("ramdisk: {0}")]
    Ramdisk(#[from] panda_protocol::cpio::CpioError),
    /// Something of this host failed.
    #[error("{what} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It does not die.
    #[error("the machine is not gone within {0:?}")]
    Lingers(Duration),
}

impl MachineError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }
}
