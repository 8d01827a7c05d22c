//! The machine behind a virtual Panda: what the boot image that arrived describes, started. The board's task
//! starts one and ends it; a machine that ends by itself leaves a board that hangs, and one that resets itself a
//! board whose boot ROM runs again.
//!
//! # Layout
//! - `keeper`: the thread that both kinds live on
//! - `process`, `unpack`: a program on this host
//! - [`qemu`]: a machine of its own

mod keeper;
mod process;
pub mod qemu;
mod unpack;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::console::Console;
use keeper::End;
use qemu::arch::Arch;

/// What kind of machine boards have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The kernel is a program on this host, in namespaces of its own.
    Process,
    /// The kernel runs in QEMU.
    Qemu(qemu::Settings),
}

impl Kind {
    /// As an image's manifest says it.
    #[must_use]
    pub const fn manifest(&self) -> panda_protocol::manifest::Machine {
        match self {
            Self::Process => panda_protocol::manifest::Machine::Process,
            Self::Qemu(_) => panda_protocol::manifest::Machine::Qemu,
        }
    }

    /// Checks that this host has what `boards` such machines need; blocks.
    ///
    /// # Errors
    /// When a program is missing, or the settings cannot be.
    pub fn check_host(&self, boards: u16) -> Result<(), MachineError> {
        match self {
            Self::Process => process::check_host(),
            Self::Qemu(settings) => settings.check(boards),
        }
    }

    /// The kind of the board with this number, counted from 0.
    #[must_use]
    pub fn of_board(&self, number: usize) -> Self {
        match self {
            Self::Process => Self::Process,
            Self::Qemu(settings) => Self::Qemu(settings.of_board(number)),
        }
    }
}

/// The board's places on this host's disk.
#[derive(Debug, Clone)]
pub struct Place {
    /// Holds what the board has in RAM; removed when power is cut.
    pub ram: PathBuf,
    /// The board's scratch disk, where its machine is a process; never touched.
    pub scratch: PathBuf,
    /// The same, where it is QEMU: what is on it, byte for byte.
    pub disk: PathBuf,
}

impl Place {
    /// Those of the board whose directory this is.
    #[must_use]
    pub fn of(board: &Path) -> Self {
        Self {
            ram: board.join("ram"),
            scratch: board.join("scratch"),
            disk: board.join("scratch.img"),
        }
    }

    /// Removes what is left in RAM.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub async fn clear_ram(&self) -> Result<(), MachineError> {
        let ram = self.ram.clone();
        let removed = tokio::task::spawn_blocking(move || remove(&ram)).await;
        removed.unwrap_or_else(|error| {
            Err(MachineError::io("remove", &self.ram)(io::Error::other(
                error.to_string(),
            )))
        })
    }
}

/// Removes a board's RAM: what ran on it may have done anything to it.
fn remove(ram: &Path) -> Result<(), MachineError> {
    panda_tree::remove(ram).map_err(|error| MachineError::io("remove", &error.first)(error.source))
}

/// A machine that was started.
#[derive(Debug)]
pub enum Machine {
    /// See [`Kind::Process`].
    Process(process::ProcessMachine),
    /// See [`Kind::Qemu`].
    Qemu(qemu::QemuMachine),
}

impl Machine {
    /// Starts what a boot image describes; must be called within a tokio runtime. Returns at once: an image
    /// that cannot be started makes a board that hangs, and says why on the console.
    ///
    /// # Errors
    /// When this host has no room for another machine at all.
    pub fn start(
        kind: &Kind,
        image: Vec<u8>,
        place: &Place,
        console: &Console,
    ) -> Result<Self, MachineError> {
        let (place, console) = (place.clone(), console.clone());
        match kind {
            Kind::Process => {
                process::ProcessMachine::start(image, place, console).map(Self::Process)
            }
            Kind::Qemu(settings) => {
                qemu::QemuMachine::start(settings.clone(), image, place, console).map(Self::Qemu)
            }
        }
    }

    /// Cuts power: ends the machine with everything in it, and removes its RAM.
    ///
    /// # Errors
    /// When it is not gone within the limit. It may then be tried again.
    pub async fn end(&mut self, limit: Duration) -> Result<(), MachineError> {
        match self {
            Self::Process(machine) => machine.end(limit).await,
            Self::Qemu(machine) => machine.end(limit).await,
        }
    }

    /// Returns when the machine has reset itself, and never if it ends otherwise.
    pub fn restarted(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut gone = match self {
            Self::Process(machine) => machine.watch(),
            Self::Qemu(machine) => machine.watch(),
        };
        async move {
            let restarted = |end: &Option<End>| *end == Some(End::Restarted);
            if gone.wait_for(restarted).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Copies what the machine says to its console, until nothing of it is left.
async fn listen(mut output: pipe::Receiver, console: Console) {
    let mut bytes = vec![0; 8 * 1024];
    loop {
        match output.read(&mut bytes).await {
            Ok(0) => return,
            Ok(count) => console.push(&bytes[..count]),
            Err(error) => {
                tracing::warn!(%error, "a machine's output cannot be read");
                return;
            }
        }
    }
}

/// Refuses the first of these programs, each with its Debian package, that is not in PATH.
fn missing(programs: &[(&'static str, &'static str)]) -> Result<(), MachineError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    match programs.iter().find(|(program, _)| !found(program)) {
        Some(&(program, package)) => Err(MachineError::Missing { program, package }),
        None => Ok(()),
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
    Image(#[from] panda_protocol::omap4::bootimg::BootImageError),
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
    /// What arrived as a kernel is none.
    #[error(
        "the {bytes} bytes that arrived as the kernel are none (they begin with {head}); expected a bzImage \
         (amd64), an Image (arm64) or a zImage (armhf): is the image made for QEMU?"
    )]
    NoKernel {
        /// How many.
        bytes: usize,
        /// The first of them.
        head: String,
    },
    /// A kernel for another machine.
    #[error(
        "the kernel that arrived is for {kernel}, and this board is {board}; boot an image that was made for \
         {board}, or start the twin with `--arch {kernel}`"
    )]
    WrongArch {
        /// What the kernel is for.
        kernel: &'static str,
        /// What the board is.
        board: Arch,
    },
    /// Another program listens where the board's link is to be.
    #[error(
        "the board's link cannot be at {address}: {source}; end the program that listens there, or give the \
         board another port"
    )]
    Link {
        /// Where.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The scratch disk.
    #[error("scratch disk {path}, {bytes} bytes: {source}; make room there, or choose another state directory", path = path.display())]
    Disk {
        /// Its file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The cause.
        source: io::Error,
    },
    /// Settings that cannot be.
    #[error("{0}")]
    Settings(String),
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
