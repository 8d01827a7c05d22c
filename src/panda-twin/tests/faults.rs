//! Each fault that can be ordered, as the board's drivers see it.
#![expect(clippy::unwrap_used, reason = "a test's step fails by panicking")]

mod support;

use std::process::{Command, Output};
use std::time::Duration;

use panda_board::{PipeError, Port as _, Power as _, PowerState};
use panda_protocol::omap4::asic_id::{AsicId, Chip};
use panda_protocol::omap4::rom;
use panda_twin::Twin;
use support::{Host, LIMIT, image, one_board, second_stage, send, settings};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

const SHORT: Duration = Duration::from_millis(200);

/// Orders a fault, and takes the answer.
async fn order(host: &Host, line: &str) -> String {
    let mut stream = UnixStream::connect(host.dir.join("fault.sock"))
        .await
        .unwrap();
    stream
        .write_all(format!("{line}\n").as_bytes())
        .await
        .unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await.unwrap();
    answer.trim_end().to_owned()
}

async fn cycle(host: &Host, line: &str) -> Box<dyn panda_board::Pipe> {
    host.power.off().await.unwrap();
    assert_eq!(order(host, line).await, "ok");
    host.power_on().await
}

#[tokio::test]
async fn the_rom_does_not_come_comes_late_or_is_another() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    assert_eq!(order(&host, "never-appears").await, "ok");
    host.power.on().await.unwrap();
    host.says("fault: never-appears").await;
    let came = host.presence(|presence| matches!(presence, panda_board::Presence::Device(_)));
    assert!(tokio::time::timeout(2 * SHORT, came).await.is_err());
    host.power.off().await.unwrap();

    assert_eq!(order(&host, "late 400").await, "ok");
    let since = tokio::time::Instant::now();
    host.power.on().await.unwrap();
    host.device().await;
    assert!(since.elapsed() >= Duration::from_millis(400));

    let mut pipe = cycle(&host, "other-chip").await;
    assert_eq!(support::ask(&mut *pipe).await.chip, Chip::Omap4460);
    drop(pipe);
    let mut pipe = cycle(&host, "wrong-asic-id").await;
    pipe.write(&rom::word(rom::GET_ASIC_ID), LIMIT)
        .await
        .unwrap();
    assert!(AsicId::parse(&pipe.read(512, LIMIT).await.unwrap()).is_err());
    drop(pipe);
    let mut pipe = cycle(&host, "none").await;
    assert_eq!(support::ask(&mut *pipe).await.chip, Chip::Omap4430);
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn the_pipe_breaks_where_it_is_ordered_and_the_second_stage_dies() {
    let state = tempfile::tempdir().unwrap();
    let (twin, host) = one_board(state.path()).await;
    let mut pipe = cycle(&host, "short-reads 40").await;
    pipe.write(&rom::word(rom::GET_ASIC_ID), LIMIT)
        .await
        .unwrap();
    assert_eq!(pipe.read(81, LIMIT).await.unwrap().len(), 40);
    drop(pipe);
    // Four bytes ask, 81 answer: the next is the first of "peripheral boot".
    let mut pipe = cycle(&host, "stall-at 85").await;
    support::ask(&mut *pipe).await;
    let stalled = pipe.write(&rom::word(rom::PERIPHERAL_BOOT), LIMIT).await;
    assert!(matches!(stalled, Err(PipeError::Stalled(_))), "{stalled:?}");
    drop(pipe);
    let mut pipe = cycle(&host, "hang-at 85").await;
    support::ask(&mut *pipe).await;
    let hung = pipe.write(&rom::word(rom::PERIPHERAL_BOOT), SHORT).await;
    assert!(matches!(hung, Err(PipeError::TimedOut { .. })), "{hung:?}");
    drop(pipe);
    let mut pipe = cycle(&host, "second-stage-dies").await;
    support::ask(&mut *pipe).await;
    for word in [rom::PERIPHERAL_BOOT, 4] {
        pipe.write(&rom::word(word), LIMIT).await.unwrap();
    }
    pipe.write(b"boot", LIMIT).await.unwrap();
    let gone = pipe.read(4, LIMIT).await;
    assert!(matches!(gone, Err(PipeError::Gone)), "{gone:?}");
    host.empty().await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn kernel_and_agent_do_not_come_up_or_are_those_of_the_boot_before() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    // The scratch disk says whether it is the second time.
    let script = "test -e $scratch/seen && again=again; touch $scratch/seen; cat $root/boot.toml; echo $again; exec sleep 1000";
    for (fault, said) in [
        ("kernel-panics", "Kernel panic"),
        ("agent-silent", "its agent never calls"),
    ] {
        assert_eq!(order(&host, fault).await, "ok");
        host.boot(&image(script, &[("boot.toml", b"told: never")]))
            .await;
        host.says(said).await;
        assert!(!host.dir.join("ram").exists());
        host.power.off().await.unwrap();
    }
    assert_eq!(order(&host, "none").await, "ok");
    host.boot(&image(script, &[("boot.toml", b"told: the first, ")]))
        .await;
    host.says("told: the first, ").await;
    host.power.off().await.unwrap();
    assert_eq!(order(&host, "old-certificate").await, "ok");
    host.boot(&image(script, &[("boot.toml", b"told: the second")]))
        .await;
    let said = host.says("told: the first, again").await;
    assert!(!said.contains("told: the second"), "{said}");
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_board_restarts_by_itself_shows_a_rom_or_stays_on_the_port_without_power() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    assert_eq!(order(&host, "reboot").await, "error the board has no power");
    host.boot(&image("echo up; exec sleep 1000", &[])).await;
    host.says("up").await;
    assert_eq!(order(&host, "rom").await, "ok");
    let shown = host.device().await;
    // It is not the board's own: nobody answers.
    let mut pipe = host.port.open(shown.arrival).await.unwrap();
    let asked = pipe.write(&rom::word(rom::GET_ASIC_ID), SHORT).await;
    assert!(
        matches!(asked, Err(PipeError::TimedOut { .. })),
        "{asked:?}"
    );
    drop(pipe);
    assert!(host.dir.join("ram").exists());
    assert_eq!(order(&host, "reboot").await, "ok");
    assert!(!host.dir.join("ram").exists());
    host.presence(|presence| {
        matches!(presence, panda_board::Presence::Device(device) if device.arrival > shown.arrival)
    })
    .await;

    assert_eq!(order(&host, "stays-on-port").await, "ok");
    host.power.off().await.unwrap();
    assert_eq!(host.power.read().await.unwrap(), Some(PowerState::Off));
    host.device().await;
    assert_eq!(order(&host, "none").await, "ok");
    host.empty().await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_gadget_is_up_while_the_machine_runs_and_leaves_with_its_power() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    let runs = image("echo up; exec sleep 1000", &[]);
    assert_eq!(order(&host, "gadget").await, "ok");
    assert_eq!(order(&host, "agent-silent").await, "ok");
    host.boot(&runs).await;
    let came = host.presence(|presence| matches!(presence, panda_board::Presence::Device(_)));
    assert!(tokio::time::timeout(5 * SHORT, came).await.is_err());
    host.power.off().await.unwrap();

    // It is no fault: `none` leaves it.
    assert_eq!(order(&host, "none").await, "ok");
    for leaves in ["off", "no-gadget"] {
        host.boot(&runs).await;
        let gadget = host.device().await;
        assert_eq!((gadget.vendor, gadget.product), (0x1d6b, 0x0104));
        assert!(host.dir.join("ram").exists());
        if leaves == "off" {
            host.power.off().await.unwrap();
            host.empty().await;
        } else {
            assert_eq!(order(&host, leaves).await, "ok");
            host.empty().await;
            assert!(host.dir.join("ram").exists());
        }
    }
    host.says("up").await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn a_rom_on_another_boards_port_leaves_with_its_own_boards_power() {
    let state = tempfile::tempdir().unwrap();
    let twin = Twin::start(settings(state.path(), 2)).await.unwrap();
    let mut boards = twin.boards();
    let one = Host::new(boards.next().unwrap().1).await;
    let other = Host::new(boards.next().unwrap().1).await;
    drop(boards);
    let refused = order(&one, "wrong-port panda07").await;
    assert_eq!(
        refused,
        "error there is no other board \"panda07\" in this twin"
    );
    assert_eq!(order(&one, "wrong-port panda02").await, "ok");
    one.power.on().await.unwrap();
    other.device().await;
    one.empty().await;
    one.power.off().await.unwrap();
    other.empty().await;
    // The neighbour itself is sound.
    let mut pipe = other.power_on().await;
    support::ask(&mut *pipe).await;
    second_stage(&mut *pipe).await;
    send(&mut *pipe, &image("exec sleep 1000", &[])).await;
    other.empty().await;
    twin.stop().await.unwrap();
}

#[tokio::test]
async fn the_program_orders_faults_and_says_what_is_wrong_with_an_order() {
    let state = tempfile::tempdir().unwrap();
    let (twin, mut host) = one_board(state.path()).await;
    let path = state.path().to_owned();
    let fault = |words: &'static [&'static str]| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || -> Output {
            Command::new(env!("CARGO_BIN_EXE_panda-twin"))
                .args(["fault", "--state"])
                .arg(path)
                .args(words)
                .output()
                .unwrap()
        })
    };
    let done = fault(&["panda01", "late", "9000"]).await.unwrap();
    assert!(done.status.success(), "{done:?}");
    host.says("fault: late 9000").await;
    for (words, expected) in [
        (
            &["panda01", "reboot"][..],
            "panda01: the board has no power",
        ),
        (
            &["panda01", "explode"],
            "\"explode\" is no fault; expected none,",
        ),
        (
            &["panda07", "none"],
            "no virtual board \"panda07\" runs there",
        ),
        (&["panda01", "late"], "late needs a number of milliseconds"),
    ] {
        let refused = fault(words).await.unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(
            !refused.status.success() && said.contains(expected),
            "{said}"
        );
    }
    twin.stop().await.unwrap();
}
