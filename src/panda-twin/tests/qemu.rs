//! Boards that are QEMU, with a kernel of a few instructions: it counts its boots on the scratch disk, says the
//! number on the serial line, and resets the machine or stays. Not tried where QEMU is not installed.
#![expect(clippy::unwrap_used, reason = "a test's step fails by panicking")]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use panda_board::{Port as _, Power as _};
use panda_protocol::manifest::Machine;
use panda_protocol::omap4::bootimg::{self, PageSize, Spec};
use panda_twin::machine::Kind;
use panda_twin::machine::qemu::arch::Arch;
use panda_twin::machine::qemu::{self, Accel};
use panda_twin::{Settings, Twin};
use support::{Host, LIMIT};

/// A bzImage: the header that a boot loader looks at, and 16-bit code. It reads the first sector of the first disk
/// (BIOS interrupt 13h), adds one to its first byte, writes it back, says `boot N` on the first serial port, and
/// asks the keyboard controller for a reset.
fn kernel(resets: bool) -> Vec<u8> {
    let mut code = *b"\
        \x0e\x1f\x0e\x07\
        \xb8\x01\x02\xbb\x00\x10\xb9\x01\x00\xba\x80\x00\xcd\x13\x72\x13\
        \xfe\x06\x00\x10\xb8\x01\x03\xcd\x13\x72\x08\
        \xa0\x00\x10\x04\x30\xa2\xb1\x00\
        \xbe\xac\x00\xac\x84\xc0\x74\x06\xba\xf8\x03\xee\xeb\xf5\
        \xb0\xfe\xe6\x64\xf4\xeb\xfd\
        boot ?\n\0";
    if !resets {
        let reset = code.windows(2).position(|pair| pair == b"\xe6\x64");
        let at = reset.unwrap();
        code[at..at + 2].copy_from_slice(b"\x90\x90");
    }
    let mut kernel = vec![0; 1536];
    // One sector of set-up code; entered by a jump over the header.
    for (at, bytes) in [
        (0x1f1, &b"\x01"[..]),
        (0x1fe, b"\x55\xaa\xeb\x6eHdrS\x0c\x02"),
        (0x211, b"\x01"),
        (0x22c, b"\xff\xff\xff\x7f"),
        (0x236, b"\x01"),
        (0x270, &code),
    ] {
        kernel[at..at + bytes.len()].copy_from_slice(bytes);
    }
    kernel
}

fn image(kernel: &[u8]) -> Vec<u8> {
    let spec = Spec {
        machine: Machine::Qemu,
        page_size: PageSize::try_from(2048).unwrap(),
        cmdline: "console=ttyS0 quiet",
    };
    bootimg::compose(&spec, kernel, &[b"a ramdisk"]).unwrap()
}

fn settings() -> qemu::Settings {
    qemu::Settings {
        arch: Arch::Amd64,
        disk_bytes: 16 << 20,
        accel: Accel::Tcg,
        ..qemu::Settings::default()
    }
}

/// A twin of one board, and its host; none where QEMU is not installed.
async fn board(state: &Path, qemu: qemu::Settings) -> Option<(Twin, Host)> {
    let settings = Settings {
        machine: Kind::Qemu(qemu),
        ..support::settings(state, 1)
    };
    if let Err(error) = settings.machine.check_host(1) {
        eprintln!("not tried: {error}");
        return None;
    }
    let twin = Twin::start(settings).await.unwrap();
    let paths = twin.boards().next().unwrap().1.clone();
    Some((twin, Host::new(&paths).await))
}

/// How many processes have this board's files on their command line.
fn machines(directory: &Path) -> usize {
    let directory = directory.to_string_lossy().into_owned();
    let of = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    fs::read_dir("/proc")
        .unwrap()
        .map(|entry| String::from_utf8_lossy(&of(entry.unwrap())).into_owned())
        .filter(|line| line.contains("qemu-system") && line.contains(&directory))
        .count()
}

#[tokio::test]
async fn power_off_ends_the_machine_and_the_next_one_finds_the_disk_as_it_was() {
    let state = tempfile::tempdir().unwrap();
    let Some((twin, mut host)) = board(state.path(), settings()).await else {
        return;
    };
    host.boot(&image(&kernel(false))).await;
    let said = host.says("boot 1").await;
    assert!(said.contains("command line: console=ttyS0 quiet"), "{said}");
    assert_eq!(machines(&host.dir), 1);
    host.power.off().await.unwrap();
    assert_eq!(machines(&host.dir), 0);
    assert!(!host.dir.join("ram").exists());
    let disk = fs::read(host.dir.join("scratch.img")).unwrap();
    assert_eq!((disk.len(), disk[0]), (16 << 20, 1));

    host.boot(&image(&kernel(false))).await;
    host.says("boot 2").await;
    twin.stop().await.unwrap();
    assert_eq!(machines(&host.dir), 0);
    assert_eq!(fs::read(host.dir.join("scratch.img")).unwrap()[0], 2);
}

#[tokio::test]
async fn a_machine_that_resets_itself_shows_its_boot_rom_again() {
    let state = tempfile::tempdir().unwrap();
    let Some((twin, mut host)) = board(state.path(), settings()).await else {
        return;
    };
    host.boot(&image(&kernel(true))).await;
    host.says("boot 1").await;
    host.says("the machine has reset itself").await;
    let again = host.device().await;
    assert_eq!(machines(&host.dir), 0);
    // It is a boot ROM like any other.
    let mut pipe = host.port.open(again.arrival).await.unwrap();
    support::ask(&mut *pipe).await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_hangs_the_board_and_says_why_on_its_console() {
    let state = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let link: SocketAddr = taken.local_addr().unwrap();
    let with_link = qemu::Settings {
        links: vec![link],
        ..settings()
    };
    let Some((twin, mut host)) = board(state.path(), with_link).await else {
        return;
    };
    let mut arm = vec![0; 1024];
    arm[36..40].copy_from_slice(&0x016f_2818_u32.to_le_bytes());
    let good = kernel(false);
    for (kernel, expected) in [
        (
            &b"#!/bin/sh\n"[..],
            "arrived as the kernel are none (they begin with 23 21",
        ),
        (&arm, "is for armhf, and this board is amd64"),
        (&good, "the board's link cannot be at 127.0.0.1:"),
    ] {
        host.boot(&image(kernel)).await;
        host.says(expected).await;
        assert_eq!(machines(&host.dir), 0);
        host.power.off().await.unwrap();
    }
    drop(taken);
    host.boot(&image(&good)).await;
    host.says("boot 1").await;
    // The forward is there, though nothing on the machine answers.
    std::net::TcpStream::connect(link).unwrap();
    // A disk that cannot be.
    host.power.off().await.unwrap();
    let disk = host.dir.join("scratch.img");
    fs::remove_file(&disk).unwrap();
    fs::create_dir(&disk).unwrap();
    host.boot(&image(&good)).await;
    host.says("it is no regular file; make room there").await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn the_machine_dies_with_a_twin_that_is_killed() {
    let state = tempfile::tempdir().unwrap();
    let arguments = [
        "--machine=qemu",
        "--arch=amd64",
        "--accel=tcg",
        "--scratch-mib=16",
    ];
    let mut program = Command::new(env!("CARGO_BIN_EXE_panda-twin"))
        .arg("--state")
        .arg(state.path())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = std::io::BufReader::new(program.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    if line.is_empty() {
        eprintln!("not tried: {}", program.wait().unwrap());
        return;
    }
    let boards = state.path().canonicalize().unwrap().join("boards/panda01");
    let paths = panda_twin::sockets::SocketPaths::of(&boards);
    let mut host = Host::new(&paths).await;
    host.boot(&image(&kernel(false))).await;
    host.says("boot 1").await;
    assert_eq!(machines(&boards), 1);
    program.kill().unwrap();
    program.wait().unwrap();
    let gone = async {
        while machines(&boards) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
}

#[test]
fn an_emulator_that_is_missing_is_named_with_its_package() {
    let state = tempfile::tempdir().unwrap();
    let result = Command::new(env!("CARGO_BIN_EXE_panda-twin"))
        .arg("--state")
        .arg(state.path())
        .args(["--machine=qemu", "--arch=arm64"])
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8(result.stderr).unwrap();
    assert!(
        said.contains(
            "`qemu-system-aarch64` is not in PATH; install Debian's package qemu-system-arm"
        ),
        "{said}"
    );
}
