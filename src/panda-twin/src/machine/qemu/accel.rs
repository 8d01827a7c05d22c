//! Whether this host can run the boards' processors itself (KVM), or must emulate them (TCG). That `/dev/kvm` is
//! there says little: where a host is itself a guest, KVM may be missing parts, crawl, or hang. So a machine as the
//! boards have it is started with KVM and a program of a few instructions in the place of a kernel; only when that
//! has run to its end in time is KVM used.
//!
//! | | the program | its end |
//! | --- | --- | --- |
//! | amd64 | a multiboot kernel: through firmware and option ROM into 32-bit mode, then one byte to QEMU's debug port | exit status 33 (twice 16, plus 1) |
//! | arm64 | a raw kernel: asks PSCI to switch the machine off | exit status 0 |
//!
//! The verdict holds for as long as the twin runs.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::arch::Arch;
use super::{MachineError, Settings, command};

/// How long the program may take: it needs a tenth of a second where all is well.
const LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);
/// Where Linux offers it.
const DEVICE: &str = "/dev/kvm";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Accel {
    /// KVM where a probe succeeds, else emulation.
    #[default]
    Auto,
    /// KVM, without a probe.
    Kvm,
    /// Emulation.
    Tcg,
}

/// What runs the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    Kvm,
    Tcg,
}

/// Decides, once a process.
pub(super) fn engine(settings: &Settings, place: &Path) -> Engine {
    static VERDICT: OnceLock<Engine> = OnceLock::new();
    match settings.accel {
        Accel::Kvm => Engine::Kvm,
        Accel::Tcg => Engine::Tcg,
        Accel::Auto => *VERDICT.get_or_init(|| {
            let (engine, why) = match kvm_works(settings, place) {
                Ok(()) => (Engine::Kvm, "the probe ran to its end".to_owned()),
                Err(why) => (Engine::Tcg, why),
            };
            tracing::info!(?engine, why, "the boards' processors");
            engine
        }),
    }
}

/// Why KVM is not used, where it is not.
fn kvm_works(settings: &Settings, place: &Path) -> Result<(), String> {
    if Arch::of_host() != Some(settings.arch) {
        return Err(format!(
            "the boards are {}, and this host is not",
            settings.arch
        ));
    }
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .is_err()
    {
        return Err(format!("{DEVICE} is not there, or not for us"));
    }
    probe(settings, Engine::Kvm, place)
}

/// Runs the program on a machine as the boards have it.
fn probe(settings: &Settings, engine: Engine, place: &Path) -> Result<(), String> {
    let (program, end) = match settings.arch {
        Arch::Amd64 => (amd64(), 33),
        Arch::Arm64 => (arm64(), 0),
        Arch::Armhf => return Err("there is no probe for armhf".to_owned()),
    };
    let kernel = place.join("kvm-probe");
    let ran = fs::write(&kernel, program)
        .and_then(|()| run(command::probe(settings, engine, &kernel)))
        .map_err(|error| MachineError::io("probe KVM with", &kernel)(error).to_string());
    let removed = fs::remove_file(&kernel);
    match ran? {
        Some(status) if status.code() == Some(end) => {
            removed.map_err(|error| MachineError::io("remove", &kernel)(error).to_string())
        }
        Some(status) => Err(format!("QEMU ended with {status} on a probe")),
        None => Err(format!("a probe was not done within {LIMIT:?}")),
    }
}

/// Runs it to its end or the limit's.
fn run(mut command: Command) -> std::io::Result<Option<ExitStatus>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(PAUSE);
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Where the program is loaded: 1 MiB.
const LOAD: u32 = 0x10_0000;

/// A multiboot kernel (version 0.6.96, with addresses) whose code writes 16 to port 0xf4.
fn amd64() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const WITH_ADDRESSES: u32 = 1 << 16;
    let header = [
        MAGIC,
        WITH_ADDRESSES,
        0_u32.wrapping_sub(MAGIC + WITH_ADDRESSES),
        LOAD,      // header
        LOAD,      // load
        0,         // load end: the whole file
        0,         // bss end: none
        LOAD + 32, // entry: right after these
    ];
    let code = [
        0x66, 0xba, 0xf4, 0x00, // mov dx, 0xf4
        0xb0, 0x10, // mov al, 16
        0xee, // out dx, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to hlt
    ];
    let mut kernel: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
    kernel.extend(code);
    kernel
}

/// Code that asks PSCI, by the hypervisor call, for SYSTEM_OFF (0x84000008).
fn arm64() -> Vec<u8> {
    [
        0x5280_0100_u32, // mov  w0, #0x0008
        0x72b0_8000,     // movk w0, #0x8400, lsl #16
        0xd400_0002,     // hvc  #0
        0x1400_0000,     // b    .
    ]
    .into_iter()
    .flat_map(u32::to_le_bytes)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arch: Arch) -> Settings {
        Settings {
            arch,
            ..Settings::default()
        }
    }

    #[test]
    fn the_probes_run_to_their_end_where_processors_are_emulated() {
        let place = tempfile::tempdir().unwrap();
        for arch in [Arch::Amd64, Arch::Arm64] {
            let settings = settings(arch);
            if settings.check(1).is_err() {
                eprintln!("not tried: {} is not installed", arch.program().0);
                continue;
            }
            assert_eq!(
                probe(&settings, Engine::Tcg, place.path()),
                Ok(()),
                "{arch}"
            );
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_probe_that_does_not_end_is_killed_at_its_limit_and_one_that_fails_is_told() {
        let mut endless = Command::new("sleep");
        endless.arg("1000");
        assert!(run(endless).unwrap().is_none());
        assert_eq!(run(Command::new("false")).unwrap().unwrap().code(), Some(1));
        // Processors of another kind than the host's are never run by it.
        let other = if Arch::of_host() == Some(Arch::Arm64) {
            Arch::Amd64
        } else {
            Arch::Arm64
        };
        let why = kvm_works(&settings(other), Path::new("/nonexistent")).unwrap_err();
        assert!(why.contains("this host is not"), "{why}");
    }
}
