//! A host for a virtual board: its drivers, and the steps of a boot as the daemon takes them.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's step fails by panicking"
)]

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use panda_board::twin::{TwinConsole, TwinPort, TwinPower};
use panda_board::{Console as _, Device, Pipe, Port as _, Power as _, Presence};
use panda_protocol::cpio::{ArchivePath, Writer};
use panda_protocol::manifest::Machine;
use panda_protocol::omap4::aboot;
use panda_protocol::omap4::asic_id::AsicId;
use panda_protocol::omap4::bootimg::{self, PageSize, Spec};
use panda_protocol::omap4::rom;
use panda_twin::board::Timing;
use panda_twin::machine::Kind;
use panda_twin::sockets::SocketPaths;
use panda_twin::{Settings, Twin};

/// Long enough for anything that does happen.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A board's drivers.
pub(crate) struct Host {
    pub(crate) dir: PathBuf,
    pub(crate) power: TwinPower,
    pub(crate) port: TwinPort,
    pub(crate) console: TwinConsole,
    said: Vec<u8>,
}

pub(crate) fn settings(state: &Path, boards: u16) -> Settings {
    Settings {
        state: state.to_owned(),
        boards,
        prefix: "panda".to_owned(),
        machine: Kind::Process,
        timing: Timing {
            rom_window: LIMIT,
            ..Timing::default()
        },
    }
}

/// A twin of one board, and its host.
pub(crate) async fn one_board(state: &Path) -> (Twin, Host) {
    let twin = Twin::start(settings(state, 1)).await.unwrap();
    let paths = twin.boards().next().unwrap().1.clone();
    (twin, Host::new(&paths).await)
}

impl Host {
    pub(crate) async fn new(paths: &SocketPaths) -> Self {
        Self {
            dir: paths.power.parent().unwrap().to_owned(),
            power: TwinPower::new(&paths.power),
            port: TwinPort::spawn(&paths.pipe),
            console: TwinConsole::connect(&paths.console).await.unwrap(),
            said: Vec::new(),
        }
    }

    /// Waits until the port is in the wanted state.
    pub(crate) async fn presence(&self, wanted: impl Fn(&Presence) -> bool) -> Presence {
        let mut watch = self.port.watch();
        let presence = tokio::time::timeout(LIMIT, watch.wait_for(wanted)).await;
        *presence.expect("the port gets there").unwrap()
    }

    pub(crate) async fn device(&self) -> Device {
        match self
            .presence(|presence| matches!(presence, Presence::Device(_)))
            .await
        {
            Presence::Device(device) => device,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn empty(&self) {
        self.presence(|presence| *presence == Presence::Empty).await;
    }

    pub(crate) async fn power_on(&self) -> Box<dyn Pipe> {
        self.empty().await;
        self.power.on().await.unwrap();
        let device = self.device().await;
        self.port.open(device.arrival).await.unwrap()
    }

    /// A whole boot, from power-on until the ROM has left the port.
    pub(crate) async fn boot(&self, image: &[u8]) {
        let mut pipe = self.power_on().await;
        let chip = ask(&mut *pipe).await;
        assert_eq!(chip.board(), None);
        second_stage(&mut *pipe).await;
        send(&mut *pipe, image).await;
        self.empty().await;
    }

    /// Reads the console until it has said `text`, and gives all it has said.
    pub(crate) async fn says(&mut self, text: &str) -> String {
        let text = text.as_bytes();
        while !self.said.windows(text.len()).any(|window| window == text) {
            let more = tokio::time::timeout(LIMIT, self.console.read()).await;
            self.said.extend(
                more.unwrap_or_else(|_| {
                    panic!(
                        "the console says only {}",
                        String::from_utf8_lossy(&self.said)
                    )
                })
                .unwrap(),
            );
        }
        String::from_utf8_lossy(&self.said).into_owned()
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// A lock that a machine may hold, on its scratch disk.
    pub(crate) fn alive(&self) -> File {
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.scratch().join("alive"))
            .unwrap()
    }
}

/// Whether a process has this lock.
pub(crate) fn is_held(lock: &File) -> bool {
    match lock.try_lock() {
        Ok(()) => {
            lock.unlock().unwrap();
            false
        }
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => panic!("{error}"),
    }
}

pub(crate) async fn ask(pipe: &mut dyn Pipe) -> AsicId {
    pipe.write(&rom::word(rom::GET_ASIC_ID), LIMIT)
        .await
        .unwrap();
    AsicId::parse(&pipe.read(512, LIMIT).await.unwrap()).unwrap()
}

pub(crate) async fn second_stage(pipe: &mut dyn Pipe) {
    let stage = [0x5a; 15_000];
    pipe.write(&rom::word(rom::PERIPHERAL_BOOT), LIMIT)
        .await
        .unwrap();
    pipe.write(
        &rom::word(rom::second_stage_size(stage.len()).unwrap()),
        LIMIT,
    )
    .await
    .unwrap();
    pipe.write(&stage, LIMIT).await.unwrap();
    assert!(aboot::is_greeting(&pipe.read(4, LIMIT).await.unwrap()));
}

pub(crate) async fn send(pipe: &mut dyn Pipe, image: &[u8]) {
    pipe.write(&aboot::size_word(image.len()).unwrap(), LIMIT)
        .await
        .unwrap();
    for piece in aboot::pieces(image) {
        pipe.write(piece, LIMIT).await.unwrap();
    }
}

/// A boot image whose kernel is this shell script, and whose ramdisk has these files.
pub(crate) fn image(script: &str, files: &[(&str, &[u8])]) -> Vec<u8> {
    let kernel = format!("#!/bin/sh\nroot=$5 scratch=$7\n{script}\n");
    let mut ramdisk = Writer::new();
    for (path, bytes) in files {
        ramdisk
            .file(&ArchivePath::try_from(*path).unwrap(), 0o600, bytes)
            .unwrap();
    }
    let spec = Spec {
        machine: Machine::Process,
        page_size: PageSize::try_from(2048).unwrap(),
        cmdline: "console=ttyS2 quiet",
    };
    bootimg::compose(&spec, kernel.as_bytes(), &[&ramdisk.finish()]).unwrap()
}

/// A script that starts a process which has forked twice, has a session of its own, ignores signals and holds
/// the lock `alive` for as long as it lives.
pub(crate) const CLINGING: &str = r#"
(setsid sh -c '
    trap "" TERM HUP INT
    exec 9>>"$0/alive"
    flock 9 && echo clinging
    while :; do sleep 1000; done
' "$scratch" &)
exec sleep 1000
"#;

/// As [`CLINGING`], with so much memory that it takes a while to die: its files are closed after that.
pub(crate) const CLINGING_AND_HEAVY: &str = r#"
(setsid sh -c '
    trap "" TERM HUP INT
    exec 9>>"$0/alive"
    flock 9
    { head -c 400000000 /dev/zero; echo clinging >&2; sleep 1000; } | tail -c 500000000
' "$scratch" &)
exec sleep 1000
"#;
