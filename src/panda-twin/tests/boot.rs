//! Whole boards over their real sockets, with the drivers that the daemon uses.

mod support;

use std::fs;
use std::time::Duration;

use panda_board::twin::TwinPort;
use panda_board::{PipeError, Port as _, Power as _, PowerState, Presence};
use panda_protocol::digest::Sha256;
use panda_protocol::omap4::rom;
use panda_twin::board::Timing;
use panda_twin::{Twin, TwinError};
use support::{
    CLINGING, CLINGING_AND_HEAVY, Host, LIMIT, ask, image, is_held, one_board, second_stage, send,
    settings,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Short: for what must not happen, or happens late.
const SOON: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_boot_starts_exactly_what_was_sent() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    let script = "sha256sum < \"$0\"\necho \"arguments: $*\"\ncat \"$root/boot.toml\" \"$root/etc/x\"\n\
                  echo \"pid $$ with $(ls -d /proc/[0-9]* | wc -l) processes at most\"\n\
                  exec sleep 1000";
    let files = [
        ("boot.toml", &b"old\n"[..]),
        ("etc/x", b"eks\n"),
        ("boot.toml", b"new\n"),
    ];
    let image = image(script, &files);
    host.boot(&image).await;
    let said = host.says("processes at most").await;
    let kernel = format!("#!/bin/sh\nroot=$5 scratch=$7\n{script}\n");
    assert!(
        said.contains("[twin] aboot: command line: console=ttyS2 quiet\r\n"),
        "{said}"
    );
    assert!(
        said.contains(&Sha256::of(kernel.as_bytes()).to_string()),
        "{said}"
    );
    let (root, scratch) = (host.dir.join("ram/root"), host.scratch());
    let arguments = format!(
        "arguments: init --machine process --root {} --scratch {}\nnew\neks\npid 1 with ",
        root.display(),
        scratch.display()
    );
    assert!(said.contains(&arguments), "{said}");
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn power_off_ends_everything_before_it_is_answered() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    host.boot(&image(CLINGING_AND_HEAVY, &[])).await;
    host.says("clinging").await;
    let alive = host.alive();
    assert!(is_held(&alive));
    assert!(host.dir.join("ram/kernel").exists());
    host.power.off().await.unwrap();
    assert!(!is_held(&alive));
    assert!(!host.dir.join("ram").exists());
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn stopping_the_twin_ends_every_machine_and_removes_sockets() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    host.boot(&image(CLINGING, &[])).await;
    host.says("clinging").await;
    let alive = host.alive();
    assert!(is_held(&alive));
    twin.stop().await.unwrap();
    assert!(!is_held(&alive));
    let left: Vec<_> = fs::read_dir(&host.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["scratch"]);
}

#[tokio::test]
async fn the_scratch_disk_survives_byte_for_byte_and_ram_does_not() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    let write = "head -c 100000 /dev/urandom > \"$scratch/data\"; echo secret > \"$root/left\"\n\
                 echo \"wrote $(sha256sum < \"$scratch/data\")\"; exec sleep 1000";
    host.boot(&image(write, &[])).await;
    host.says("wrote").await;
    host.says("  -").await;
    host.power.off().await.unwrap();
    let data = fs::read(host.scratch().join("data")).unwrap();
    assert_eq!(data.len(), 100_000);
    let read = "echo \"read $(sha256sum < \"$scratch/data\") $(ls \"$root\" | wc -l) in root\"\n\
                exec sleep 1000";
    host.boot(&image(read, &[])).await;
    let said = host.says("0 in root").await;
    assert_eq!(
        said.matches(&Sha256::of(&data).to_string()).count(),
        2,
        "{said}"
    );
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_missed_window_leaves_the_port_empty_until_the_next_power_on() {
    let state = tempfile::tempdir().unwrap();
    let mut settings = settings(state.path(), 1);
    settings.timing = Timing {
        rom_window: Duration::from_millis(300),
        ..Timing::default()
    };
    let twin = Twin::start(settings).await.unwrap();
    let host = Host::new(twin.boards().next().unwrap().1).await;
    host.empty().await;
    host.power.on().await.unwrap();
    let first = host.device().await;
    host.empty().await;
    assert!(matches!(
        host.port.open(first.arrival).await,
        Err(PipeError::Gone)
    ));
    host.power.on().await.unwrap();
    assert_eq!(*host.port.watch().borrow(), Presence::Empty);
    host.power.off().await.unwrap();
    host.power.on().await.unwrap();
    assert!(host.device().await.arrival > first.arrival);
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_host_that_talked_in_time_may_take_its_time() {
    let state = tempfile::tempdir().unwrap();
    let mut settings = settings(state.path(), 1);
    settings.timing = Timing {
        rom_window: Duration::from_millis(500),
        ..Timing::default()
    };
    let twin = Twin::start(settings).await.unwrap();
    let mut host = Host::new(twin.boards().next().unwrap().1).await;
    let mut pipe = host.power_on().await;
    ask(&mut *pipe).await;
    // Longer than the window: nothing is there to be read, and the device stays.
    let waited = pipe.read(4, Duration::from_secs(1)).await;
    assert!(
        matches!(waited, Err(PipeError::TimedOut { .. })),
        "{waited:?}"
    );
    second_stage(&mut *pipe).await;
    send(&mut *pipe, &image("echo up; exec sleep 1000", &[])).await;
    host.says("up").await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn the_driver_finds_a_twin_that_was_started_again() {
    let state = tempfile::tempdir().unwrap();
    let (twin, host) = one_board(state.path()).await;
    drop(host.power_on().await);
    let first = host.device().await;
    twin.stop().await.unwrap();
    host.presence(|presence| *presence == Presence::Unknown)
        .await;
    let twin = Twin::start(settings(state.path(), 1)).await.unwrap();
    host.empty().await;
    drop(host.power_on().await);
    assert!(host.device().await.arrival > first.arrival);
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_boot_goes_on_with_the_next_driver() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    let mut pipe = host.power_on().await;
    ask(&mut *pipe).await;
    let device = host.device().await;
    drop(pipe);
    host.port = TwinPort::spawn(twin.boards().next().unwrap().1.pipe.clone());
    assert_eq!(host.device().await, device);
    let mut pipe = host.port.open(device.arrival).await.unwrap();
    second_stage(&mut *pipe).await;
    send(&mut *pipe, &image("echo up; exec sleep 1000", &[])).await;
    host.empty().await;
    host.says("up").await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_new_connection_closes_the_one_before_it() {
    let state = tempfile::tempdir().unwrap();
    let (twin, host) = one_board(state.path()).await;
    drop(host.port);
    let pipe = &twin.boards().next().unwrap().1.pipe;
    let mut old = UnixStream::connect(pipe).await.unwrap();
    let mut left = [0; 5];
    old.read_exact(&mut left).await.unwrap();
    assert_eq!(left, [1, 0, 0, 0, 2]);
    let mut new = UnixStream::connect(pipe).await.unwrap();
    new.read_exact(&mut left).await.unwrap();
    assert_eq!(old.read(&mut left).await.unwrap(), 0);
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn power_reads_back_what_was_ordered() {
    let state = tempfile::tempdir().unwrap();
    let (twin, host) = one_board(state.path()).await;
    assert_eq!(host.power.read().await.unwrap(), Some(PowerState::Off));
    host.power.off().await.unwrap();
    drop(host.power_on().await);
    assert_eq!(host.power.read().await.unwrap(), Some(PowerState::On));
    host.power.off().await.unwrap();
    assert_eq!(host.power.read().await.unwrap(), Some(PowerState::Off));
    assert_eq!(*host.port.watch().borrow(), Presence::Empty);
    twin.stop().await.unwrap();
    assert!(
        host.power
            .read()
            .await
            .unwrap_err()
            .to_string()
            .contains("power.sock")
    );
}

#[tokio::test]
async fn a_machine_that_ends_by_itself_leaves_a_board_that_hangs() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    host.boot(&image("exit 3", &[])).await;
    host.says("the machine ended by itself (exit status: 3); the board hangs")
        .await;
    assert_eq!(host.power.read().await.unwrap(), Some(PowerState::On));
    host.power.off().await.unwrap();
    host.boot(&image("echo again; exec sleep 1000", &[])).await;
    host.says("again").await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_started_leaves_a_board_that_hangs_and_says_why() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    let spec = panda_protocol::omap4::bootimg::Spec {
        machine: panda_protocol::manifest::Machine::Process,
        page_size: 2048.try_into().unwrap(),
        cmdline: "",
    };
    let image = panda_protocol::omap4::bootimg::compose(&spec, b"x", &[&[0x1f; 200]]).unwrap();
    host.boot(&image).await;
    host.says("ramdisk: cpio: no entry of the newc form at byte 0")
        .await;
    host.power.off().await.unwrap();
    assert!(!host.dir.join("ram").exists());
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_read_that_was_given_up_takes_no_answer_with_it() {
    let state = tempfile::tempdir().unwrap();
    let (twin, host) = one_board(state.path()).await;
    let mut pipe = host.power_on().await;
    let early = pipe.read(81, SOON).await;
    assert!(
        matches!(early, Err(PipeError::TimedOut { limit: SOON, .. })),
        "{early:?}"
    );
    ask(&mut *pipe).await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_silent_a_stalled_and_an_absent_board_are_told_apart() {
    let state = tempfile::tempdir().unwrap();
    let (twin, host) = one_board(state.path()).await;
    let mut pipe = host.power_on().await;
    pipe.write(&rom::word(rom::PERIPHERAL_BOOT), LIMIT)
        .await
        .unwrap();
    let silent = pipe.write(&rom::word(rom::GET_ASIC_ID), SOON).await;
    assert!(
        matches!(silent, Err(PipeError::TimedOut { .. })),
        "{silent:?}"
    );
    host.power.off().await.unwrap();
    let gone = pipe.read(81, LIMIT).await;
    assert!(matches!(gone, Err(PipeError::Gone)), "{gone:?}");
    drop(pipe);
    let mut pipe = host.power_on().await;
    pipe.write(&rom::word(rom::GET_ASIC_ID), LIMIT)
        .await
        .unwrap();
    let stalled = pipe.write(&rom::word(rom::PERIPHERAL_BOOT), LIMIT).await;
    assert!(matches!(stalled, Err(PipeError::Stalled(_))), "{stalled:?}");
    let arrival = host.device().await.arrival;
    let busy = host.port.open(arrival).await.map(|_| ());
    assert!(matches!(busy, Err(PipeError::Io { .. })), "{busy:?}");
    twin.stop().await.unwrap();
    let lost = pipe.read(81, LIMIT).await;
    assert!(
        matches!(lost, Err(PipeError::Io { .. } | PipeError::Gone)),
        "{lost:?}"
    );
}

#[tokio::test]
async fn a_read_that_waits_ends_when_power_is_cut() {
    let state = tempfile::tempdir().unwrap();
    let (twin, host) = one_board(state.path()).await;
    let mut pipe = host.power_on().await;
    let (read, cut) = tokio::join!(pipe.read(81, LIMIT), host.power.off());
    cut.unwrap();
    assert!(matches!(read, Err(PipeError::Gone)), "{read:?}");
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_large_image_arrives_whole() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    let large: Vec<u8> = (0..40_000_000_u32).map(|at| (at % 251) as u8).collect();
    let script = "sha256sum < \"$root/large\"; exec sleep 1000";
    host.boot(&image(script, &[("large", &large)])).await;
    host.says(&Sha256::of(&large).to_string()).await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn rubbish_on_a_socket_closes_it_and_harms_no_board() {
    let state = tempfile::tempdir().unwrap();
    let (twin, host) = one_board(state.path()).await;
    let paths = twin.boards().next().unwrap().1.clone();
    let mut bytes = Vec::new();
    for rubbish in [&[0xff; 400][..], &[1, 0, 0, 0, 0x77], &[0; 4]] {
        let mut pipe = UnixStream::connect(&paths.pipe).await.unwrap();
        pipe.write_all(rubbish).await.unwrap();
        bytes.clear();
        let closed = tokio::time::timeout(LIMIT, pipe.read_to_end(&mut bytes)).await;
        assert!(closed.is_ok(), "{rubbish:?}");
    }
    let mut power = UnixStream::connect(&paths.power).await.unwrap();
    power.write_all(b"reboot\nread\n").await.unwrap();
    let mut answers = [0; 30];
    power.read_exact(&mut answers).await.unwrap();
    assert_eq!(&answers, b"error say on, off or read\noff\n");
    power.write_all(&[b'x'; 5000]).await.unwrap();
    assert_eq!(power.read(&mut answers).await.unwrap_or(0), 0);
    host.power_on().await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn boards_are_apart() {
    let state = tempfile::tempdir().unwrap();
    let twin = Twin::start(settings(state.path(), 3)).await.unwrap();
    let mut hosts = Vec::new();
    for (_, paths) in twin.boards() {
        hosts.push(Host::new(paths).await);
    }
    let names: Vec<_> = twin.boards().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names, ["panda01", "panda02", "panda03"]);
    let images: Vec<_> = names
        .iter()
        .map(|name| image(&format!("echo I am {name}; exec sleep 1000"), &[]))
        .collect();
    tokio::join!(hosts[0].boot(&images[0]), hosts[1].boot(&images[1]));
    hosts[0].says("I am panda01").await;
    hosts[1].says("I am panda02").await;
    hosts[0].power.off().await.unwrap();
    let states = [
        hosts[0].power.read().await,
        hosts[1].power.read().await,
        hosts[2].power.read().await,
    ];
    let states: Vec<_> = states
        .into_iter()
        .map(|state| state.unwrap().unwrap())
        .collect();
    assert_eq!(states, [PowerState::Off, PowerState::On, PowerState::Off]);
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_is_named() {
    let state = tempfile::tempdir().unwrap();
    let long = state.path().join("x".repeat(90));
    let error = Twin::start(settings(&long, 1)).await.unwrap_err();
    assert!(matches!(&error, TwinError::Socket(_)), "{error}");
    assert!(
        error.to_string().contains("panda01/power.sock has "),
        "{error}"
    );
    let first = Twin::start(settings(state.path(), 1)).await.unwrap();
    let error = Twin::start(settings(state.path(), 1)).await.unwrap_err();
    assert!(matches!(error, TwinError::InUse { .. }), "{error}");
    first.stop().await.unwrap();
    Twin::start(settings(state.path(), 1))
        .await
        .unwrap()
        .stop()
        .await
        .unwrap();
    assert!(matches!(
        Twin::start(settings(state.path(), 0)).await,
        Err(TwinError::Count(0))
    ));
}
