//! QEMU's command line: the machine that a board is. What the kernel finds:
//!
//! | | amd64 | arm64, armhf |
//! | --- | --- | --- |
//! | machine | `pc` | `virt` (armhf: all of it below 4 GiB) |
//! | console | ttyS0 | ttyAMA0 |
//! | scratch disk | /dev/vda (virtio-blk, PCI) | the same |
//! | network | virtio-net (PCI), on QEMU's user network: 10.0.2.0/24, gateway and host 10.0.2.2, names 10.0.2.3 | the same |
//! | random source | virtio-rng (PCI) | the same |
//! | clock | 2011: a board has none worth the name | the same |
//!
//! It never restarts by itself: QEMU ends with the reset, and the board's boot ROM takes over.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use panda_board::twin::qemu::{GUEST, LINK_PORT};
use serde_json::json;

use super::accel::Engine;
use super::arch::Arch;
use super::{Place, Settings};

/// Everything that QEMU can, AES instructions above all, less what makes software choose a way that is slow where it is
/// emulated: bytes copied one by one (ERMS), a switch around each copy from and to a program (SMAP), wide vectors, a fifth
/// level of page tables. A third of the time, measured on what a build does.
const EMULATED_AMD64: &str =
    "max,la57=off,erms=off,smap=off,smep=off,avx=off,avx2=off,f16c=off,xsave=off";

/// What the files of a board's RAM are called.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) kernel: PathBuf,
    pub(super) ramdisk: PathBuf,
    pub(super) monitor: PathBuf,
}

impl Files {
    pub(super) fn of(place: &Place) -> Self {
        Self {
            kernel: place.ram.join("kernel"),
            ramdisk: place.ram.join("ramdisk"),
            monitor: place.ram.join("qmp.sock"),
        }
    }
}

/// The whole machine. Dies with the thread that starts it.
pub(super) fn machine(
    settings: &Settings,
    engine: Engine,
    place: &Place,
    cmdline: &str,
    ramdisk: bool,
) -> Command {
    let files = Files::of(place);
    let mut command = bare(settings, engine);
    // No files but those that are open, no programs, no other user.
    command.args([
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]);
    command.arg("-kernel").arg(&files.kernel);
    if ramdisk {
        command.arg("-initrd").arg(&files.ramdisk);
    }
    command.args(["-append", cmdline]);
    command.args([
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
    ]);
    command
        .arg("-chardev")
        .arg(with_path("socket,id=monitor,path=", &files.monitor));
    command.args(["-mon", "chardev=monitor,mode=control"]);
    let disk = json!({
        "driver": "raw",
        "node-name": "scratch",
        // What the machine gives up takes no room on this host.
        "discard": "unmap",
        // What the machine has written is kept when QEMU is killed; the host's own crash may cost it.
        "cache": { "direct": false, "no-flush": true },
        "file": {
            "driver": "file",
            "filename": place.disk.to_string_lossy(),
            "discard": "unmap",
            "cache": { "direct": false, "no-flush": true },
        },
    });
    command.args(["-blockdev", &disk.to_string()]);
    command.args([
        "-device",
        "virtio-blk-pci,drive=scratch,serial=panda-scratch,werror=report,rerror=report",
    ]);
    let forward = settings
        .links
        .first()
        .map(|link| format!(",hostfwd=tcp:{link}-{GUEST}:{LINK_PORT}"))
        .unwrap_or_default();
    command.args(["-netdev", &format!("user,id=net,ipv6=off{forward}")]);
    command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
    command.args(["-object", "rng-random,id=rng,filename=/dev/urandom"]);
    command.args(["-device", "virtio-rng-pci,rng=rng"]);
    command
}

/// The board as such: no kernel, no disk, no network.
pub(super) fn bare(settings: &Settings, engine: Engine) -> Command {
    let mut command = base(settings, engine);
    command.args(["-no-reboot", "-rtc", "base=2011-01-01"]);
    command
}

/// A machine like that, without anything on it, that runs a program which ends it.
pub(super) fn probe(settings: &Settings, engine: Engine, kernel: &Path) -> Command {
    let mut command = base(settings, engine);
    command.arg("-kernel").arg(kernel);
    if settings.arch == Arch::Amd64 {
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    }
    command
}

/// Processors, memory, board.
fn base(settings: &Settings, engine: Engine) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", settings.arch.program().0]);
    let (accel, processor) = match (engine, settings.arch) {
        (Engine::Kvm, _) => ("kvm", "host"),
        (Engine::Tcg, Arch::Amd64) => (emulation(), EMULATED_AMD64),
        (Engine::Tcg, Arch::Arm64) => (emulation(), "cortex-a57"),
        (Engine::Tcg, Arch::Armhf) => (emulation(), "cortex-a15"),
    };
    let machine = match settings.arch {
        Arch::Amd64 => "pc",
        Arch::Arm64 => "virt",
        Arch::Armhf => "virt,highmem=off",
    };
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command.args(["-machine", machine, "-accel", accel, "-cpu", processor]);
    command.args(["-smp", &settings.cpus.to_string()]);
    command.args(["-m", &format!("{}M", settings.memory_mib)]);
    command
}

/// A thread for each of the board's processors where the host has enough of its own, else one for both. A build is mostly
/// one process after the other, and handing over from one thread to another costs much where threads wait for their turn:
/// two boards on two processors took 201 s with two threads a board for what they did in 128 s with one. Alone on them, one
/// board built `hello` in 311 s with two and in 339 s with one.
fn emulation() -> &'static str {
    match std::thread::available_parallelism() {
        Ok(count) if count.get() >= 4 => "tcg,thread=multi",
        _ => "tcg,thread=single",
    }
}

/// An option that ends in a path: QEMU takes a comma only when it is doubled.
fn with_path(option: &str, path: &Path) -> OsString {
    OsString::from(format!(
        "{option}{}",
        path.to_string_lossy().replace(',', ",,")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_forwarded_from_loopback_alone_and_odd_paths_are_quoted() {
        let settings = Settings {
            links: vec!["127.0.0.1:4711".parse().unwrap()],
            ..Settings::default()
        };
        let place = Place::of(Path::new("/boards/a,b"));
        let command = machine(&settings, Engine::Tcg, &place, "console=ttyS0", true);
        let arguments: Vec<_> = command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        for expected in [
            "user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:4711-10.0.2.15:8222",
            "socket,id=monitor,path=/boards/a,,b/ram/qmp.sock",
            "-no-reboot",
            "console=ttyS0",
            "/boards/a,b/ram/ramdisk",
        ] {
            assert!(
                arguments.iter().any(|found| found == expected),
                "{expected} in {arguments:?}"
            );
        }
        assert!(
            arguments
                .iter()
                .any(|found| found.contains("\"filename\":\"/boards/a,b/scratch.img\""))
        );
    }
}
