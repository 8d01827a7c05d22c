//! The machine that is QEMU: the kernel and the ramdisk that arrived, on a machine of its own with two processors,
//! 1 GiB and a scratch disk. What the kernel finds there is in `command`.
//!
//! ```text
//! a thread ── takes the boot image apart: kernel (looked at: `arch`), ramdisk, command line
//!          ── the scratch disk (`disk`), KVM or emulation (`accel`)
//!          ── setpriv --pdeathsig KILL ── QEMU: dies with the thread, so with the twin
//!             serial line ─▶ the board's console     monitor ─▶ resets (`monitor`)
//! ```
//!
//! **Ending it** is a kill: QEMU is one process, and when the thread has reaped it, the kernel has taken all of it
//! back. The scratch disk stays as the machine left it.
//!
//! The machine is a real boundary for what runs in it, but its user network is not: from inside, 10.0.2.2 is this
//! host's loopback, and the rest is whatever this host reaches.

mod accel;
pub mod arch;
mod command;
mod disk;
mod monitor;

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use panda_protocol::manifest::Machine as ManifestMachine;
use panda_protocol::omap4::bootimg;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub use accel::Accel;
use arch::Arch;
use command::Files;

use super::keeper::{self, End, Keeper, SharedStage, pid};
use super::{MachineError, Place, listen, missing};
use crate::console::Console;

/// How long what QEMU has said last may take to be read, when it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The most bytes of a line of QEMU's own that are repeated.
const MAX_WORDS: u64 = 1000;
/// What the numbers of the settings may be.
const CPUS: std::ops::RangeInclusive<u32> = 1..=64;
const MEMORY_MIB: std::ops::RangeInclusive<u32> = 64..=1_048_576;
const DISK_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 44;

/// The command that starts the machine which such boards are, with processors that are emulated: without kernel, disk
/// and network, for tests that bring their own. It dies with the thread that starts it.
#[must_use]
pub fn bare(settings: &Settings) -> Command {
    command::bare(settings, accel::Engine::Tcg)
}

/// What such machines are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Their architecture.
    pub arch: Arch,
    /// Processors.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// Size of a new scratch disk.
    pub disk_bytes: u64,
    /// Where the boards' links are on this host, in the boards' order: on loopback. Empty: nowhere.
    pub links: Vec<SocketAddr>,
    /// What runs the processors.
    pub accel: Accel,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            arch: Arch::of_host().unwrap_or(Arch::Amd64),
            cpus: 2,
            memory_mib: 1024,
            disk_bytes: 8 << 30,
            links: Vec::new(),
            accel: Accel::Auto,
        }
    }
}

impl Settings {
    pub(super) fn check(&self, boards: u16) -> Result<(), MachineError> {
        let problem = |text: String| Err(MachineError::Settings(text));
        if !CPUS.contains(&self.cpus) {
            return problem(format!(
                "{} processors; expected 1 to {}",
                self.cpus,
                CPUS.end()
            ));
        }
        if !MEMORY_MIB.contains(&self.memory_mib) {
            return problem(format!(
                "{} MiB of memory; expected {} to {}",
                self.memory_mib,
                MEMORY_MIB.start(),
                MEMORY_MIB.end()
            ));
        }
        if !DISK_BYTES.contains(&self.disk_bytes) {
            return problem(format!(
                "a scratch disk of {} bytes; expected 1 MiB to 16 TiB",
                self.disk_bytes
            ));
        }
        if !self.links.is_empty() && self.links.len() != usize::from(boards) {
            return problem(format!(
                "{} links for {boards} boards; give each board one, in the boards' order",
                self.links.len()
            ));
        }
        if let Some(link) = self.links.iter().find(|link| !link.ip().is_loopback()) {
            return problem(format!(
                "the link {link}: a board's link is on loopback only, such as 127.0.0.1:4711"
            ));
        }
        missing(&[self.arch.program(), ("setpriv", "util-linux")])
    }

    pub(super) fn of_board(&self, number: usize) -> Self {
        Self {
            links: self.links.get(number).copied().into_iter().collect(),
            ..self.clone()
        }
    }
}

/// A machine that was started.
#[derive(Debug)]
pub struct QemuMachine {
    place: Place,
    keeper: Keeper,
}

impl QemuMachine {
    pub(super) fn start(
        settings: Settings,
        image: Vec<u8>,
        place: Place,
        console: Console,
    ) -> Result<Self, MachineError> {
        let failed = |source| MachineError::io("start a machine in", &place.ram)(source);
        let life = Life {
            settings,
            place: place.clone(),
            console: console.clone(),
            runtime: Handle::current(),
        };
        let keeper = Keeper::start(console, Signal::SIGKILL, move |stage| {
            life.live(image, stage)
        });
        Ok(Self {
            keeper: keeper.map_err(failed)?,
            place,
        })
    }

    pub(super) async fn end(&mut self, limit: Duration) -> Result<(), MachineError> {
        self.keeper.end(limit).await?;
        self.place.clear_ram().await
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<End>> {
        self.keeper.watch()
    }
}

/// What the thread needs for a machine's whole life.
struct Life {
    settings: Settings,
    place: Place,
    console: Console,
    runtime: Handle,
}

impl Life {
    fn live(self, image: Vec<u8>, stage: &SharedStage) -> Result<End, MachineError> {
        let Self {
            settings,
            place,
            console,
            runtime,
        } = &self;
        let parsed = bootimg::parse(&image, ManifestMachine::Qemu)?;
        settings.arch.check_kernel(parsed.kernel)?;
        let files = self.lay_out(&parsed)?;
        disk::ensure(&place.disk, settings.disk_bytes, console)?;
        for &link in &settings.links {
            // QEMU would say it too, in its own words.
            TcpListener::bind(link).map_err(|source| MachineError::Link {
                address: link,
                source,
            })?;
        }
        let engine = accel::engine(settings, &place.ram);
        let (cmdline, ramdisk) = (parsed.cmdline.to_owned(), !parsed.ramdisk.is_empty());
        drop(image);

        let failed = |source| MachineError::io("start QEMU in", &place.ram)(source);
        let monitor = {
            let _context = runtime.enter();
            UnixListener::bind(&files.monitor).map_err(failed)?
        };
        let mut words = None;
        let spawn = || {
            let (child, heard) =
                self.spawn(command::machine(settings, engine, place, &cmdline, ramdisk))?;
            words = Some(heard);
            Ok(child)
        };
        let Some(mut child) = keeper::started(stage, spawn)? else {
            return Ok(End::Ordered);
        };
        let (ended, end) = oneshot::channel();
        let monitor = runtime.spawn(monitor::listen(monitor, console.clone(), end));

        let exited = waitid(
            Id::Pid(pid(&child)),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT,
        );
        let ordered = keeper::was_ordered(stage);
        // Whatever the wait said: now it is reaped, so it is gone.
        let status = child.wait().map_err(failed)?;
        exited.map_err(|errno| failed(io::Error::from(errno)))?;
        drop(ended);
        if ordered {
            return Ok(End::Ordered);
        }
        if self.last(monitor).unwrap_or(false) {
            return Ok(End::Restarted);
        }
        let words = words.and_then(|words| self.last(words)).unwrap_or_default();
        Ok(End::Halted(match (status.success(), words.is_empty()) {
            (true, _) => "it has switched itself off".to_owned(),
            (false, true) => format!("QEMU: {status}"),
            (false, false) => format!("QEMU: {status}: {words}"),
        }))
    }

    /// The board's RAM: kernel and ramdisk as they came.
    fn lay_out(&self, image: &bootimg::BootImage<'_>) -> Result<Files, MachineError> {
        let ram = &self.place.ram;
        super::remove(ram)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(ram)
            .map_err(MachineError::io("create", ram))?;
        let files = Files::of(&self.place);
        write(&files.kernel, image.kernel)?;
        if !image.ramdisk.is_empty() {
            write(&files.ramdisk, image.ramdisk)?;
        }
        Ok(files)
    }

    /// Starts QEMU; with it comes what it says itself, its last line in the end.
    fn spawn(
        &self,
        mut command: std::process::Command,
    ) -> Result<(Child, JoinHandle<String>), MachineError> {
        let failed = |source| MachineError::io("start QEMU in", &self.place.ram)(source);
        let (said, serial) = io::pipe().map_err(failed)?;
        let (errors, stderr) = io::pipe().map_err(failed)?;
        let receiver = |end| {
            let _context = self.runtime.enter();
            pipe::Receiver::from_owned_fd(OwnedFd::from(end)).map_err(failed)
        };
        let (said, errors) = (receiver(said)?, receiver(errors)?);
        let child = command
            .current_dir(&self.place.ram)
            .stdin(Stdio::null())
            .stdout(serial)
            .stderr(stderr)
            .spawn()
            .map_err(failed)?;
        // The command holds the pipes' other ends; without it they close with QEMU.
        drop(command);
        self.runtime.spawn(listen(said, self.console.clone()));
        let words = self.runtime.spawn(repeat(errors, self.console.clone()));
        Ok((child, words))
    }

    /// What a listener has to say in the end, QEMU being gone.
    fn last<T>(&self, listener: JoinHandle<T>) -> Option<T> {
        let waited = self
            .runtime
            .block_on(async { tokio::time::timeout(LAST_WORDS, listener).await });
        waited.ok()?.ok()
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), MachineError> {
    File::create(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(MachineError::io("write", path))
}

/// Repeats what QEMU itself says on the console; the last line is returned.
async fn repeat(errors: pipe::Receiver, console: Console) -> String {
    let mut errors = BufReader::new(errors);
    let mut last = String::new();
    loop {
        let mut line = Vec::new();
        match (&mut errors)
            .take(MAX_WORDS)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return last,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if !text.is_empty() {
            console.note(&format!("QEMU: {text}"));
            last = text.to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_named() {
        let good = Settings {
            arch: Arch::Amd64,
            ..Settings::default()
        };
        let with = |change: fn(&mut Settings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings.check(2).unwrap_err().to_string()
        };
        for (found, expected) in [
            (with(|settings| settings.cpus = 0), "0 processors"),
            (with(|settings| settings.memory_mib = 1), "1 MiB of memory"),
            (
                with(|settings| settings.disk_bytes = 5),
                "a scratch disk of 5 bytes",
            ),
            (
                with(|settings| settings.links = vec![([127, 0, 0, 1], 5).into()]),
                "1 links for 2 boards",
            ),
            (
                with(|settings| settings.links = vec![([10, 0, 0, 1], 5).into(); 2]),
                "on loopback only",
            ),
        ] {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn each_board_has_its_own_link() {
        let settings = Settings {
            links: vec![([127, 0, 0, 1], 5).into(), ([127, 0, 0, 1], 6).into()],
            ..Settings::default()
        };
        assert_eq!(settings.of_board(1).links, [([127, 0, 0, 1], 6).into()]);
        assert!(settings.of_board(2).links.is_empty());
    }
}
