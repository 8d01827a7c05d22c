//! A simulated relay board that checks every byte: on TCP, on a pty, and in memory on a paused clock.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use panda_protocol::proxr::Command;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::board::{Pace, Stream, Wire};
use super::*;
use crate::driver::Settings as _;

const PACE: Pace = Pace {
    connect: Duration::from_millis(2_000),
    answer: Duration::from_millis(1_000),
    pause: Duration::from_millis(1_000),
};

fn contact(bank: u8, relay: u8) -> Contact {
    Contact::new(bank, relay, true).unwrap()
}

/// A relay board in memory: the test plays it, connection by connection.
struct Memory(mpsc::UnboundedSender<DuplexStream>);

#[async_trait]
impl Wire for Memory {
    fn place(&self) -> String {
        "10.77.0.5:2101".into()
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let (ours, boards) = duplex(64);
        self.0.send(boards).unwrap();
        Ok(Box::new(ours))
    }
}

fn in_memory() -> (RelayBoard, mpsc::UnboundedReceiver<DuplexStream>) {
    let (sender, connections) = mpsc::unbounded_channel();
    (RelayBoard::spawn(Memory(sender), PACE), connections)
}

/// Exactly these bytes must come; then these are answered.
async fn expect(line: &mut (impl Stream + ?Sized), bytes: &[u8], answer: &[u8]) {
    let mut got = vec![0; bytes.len()];
    line.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
    line.write_all(answer).await.unwrap();
}

async fn closed(line: &mut (impl Stream + ?Sized)) {
    assert_eq!(line.read(&mut [0; 8]).await.unwrap(), 0, "expected a close");
}

fn settings(address: std::net::SocketAddr) -> ProxrTcpSettings {
    ProxrTcpSettings {
        address: RelayAddress(address),
        bank: 2,
        relay: 3,
        normally_closed: true,
        connect_ms: 5_000,
        answer_ms: 5_000,
        pause_ms: 0,
    }
}

#[tokio::test]
async fn over_tcp_these_bytes_go_out_and_no_connection_is_held() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings(listener.local_addr().unwrap());
    settings.check().unwrap();
    let power = ProxrPower::new(settings.board(), settings.contact().unwrap());
    let board = async {
        for (switch, read, state) in [
            ([254, 110, 2], [254, 118, 2], 1),
            ([254, 102, 2], [254, 118, 2], 0),
        ] {
            let (mut line, _): (TcpStream, _) = listener.accept().await.unwrap();
            expect(&mut line, &[254, 33], &[85]).await;
            expect(&mut line, &switch, &[85]).await;
            expect(&mut line, &read, &[state]).await;
            closed(&mut line).await;
        }
        let (mut line, _) = listener.accept().await.unwrap();
        expect(&mut line, &[254, 33], &[85]).await;
        expect(&mut line, &[254, 118, 2], &[1]).await;
        closed(&mut line).await;
    };
    let orders = async {
        power.off().await.unwrap();
        power.on().await.unwrap();
        power.read().await.unwrap()
    };
    let (state, ()) = tokio::join!(orders, board);
    assert_eq!(state, Some(PowerState::Off));
}

#[tokio::test]
async fn a_board_wired_normally_open_has_power_while_its_relay_is_on() {
    let (board, mut connections) = in_memory();
    let contact = Contact::new(1, 8, false).unwrap();
    let power = ProxrPower::new(board, contact);
    let play = async {
        let mut line = connections.recv().await.unwrap();
        expect(&mut line, &[254, 33], &[85]).await;
        expect(&mut line, &[254, 107, 1], &[85]).await;
        expect(&mut line, &[254, 123, 1], &[0]).await;
        closed(&mut line).await;
    };
    let (off, ()) = tokio::join!(power.off(), play);
    off.unwrap();
}

#[tokio::test(start_paused = true)]
async fn between_two_connections_there_is_the_pause_and_never_two_at_once() {
    let (board, mut connections) = in_memory();
    let power = ProxrPower::new(board, contact(1, 1));
    let mut last = None;
    for _ in 0..3 {
        let play = async {
            let mut line = connections.recv().await.unwrap();
            let opened = Instant::now();
            expect(&mut line, &[254, 33], &[85]).await;
            expect(&mut line, &[254, 116, 1], &[0]).await;
            closed(&mut line).await;
            (opened, Instant::now())
        };
        let (read, (opened, closed)) = tokio::join!(power.read(), play);
        assert_eq!(read.unwrap(), Some(PowerState::On));
        if let Some(before) = last {
            assert_eq!(opened.duration_since(before), PACE.pause);
        }
        last = Some(closed);
    }
}

/// A board that takes 20 ms for each command, and writes down what came and when. docs/rack.md shows this list.
#[tokio::test(start_paused = true)]
async fn a_board_is_cut_held_and_given_power_by_these_bytes_at_these_times() {
    let (board, mut connections) = in_memory();
    let power = ProxrPower::new(board, contact(1, 3));
    let began = Instant::now();
    let at = move || began.elapsed().as_millis();
    let play = tokio::spawn(async move {
        let mut lines = Vec::new();
        let mut on = false;
        for _ in 0..2 {
            let mut line = connections.recv().await.unwrap();
            lines.push(format!("{:>5} ms  connected", at()));
            loop {
                let mut bytes = vec![0; 2];
                if line.read_exact(&mut bytes).await.is_err() {
                    break;
                }
                if bytes[1] != 33 {
                    bytes.push(line.read_u8().await.unwrap());
                }
                let came = at();
                tokio::time::sleep(Duration::from_millis(20)).await;
                let answer = match bytes[1] {
                    118 => u8::from(on),
                    command => {
                        on = if command == 33 { on } else { command == 110 };
                        85
                    }
                };
                line.write_u8(answer).await.unwrap();
                lines.push(format!("{came:>5} ms  {bytes:?} -> {answer}"));
            }
            lines.push(format!("{:>5} ms  closed", at()));
        }
        lines
    });
    power.off().await.unwrap();
    // The hold.
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    power.on().await.unwrap();
    let lines = play.await.unwrap();
    println!("{}", lines.join("\n"));
    assert_eq!(
        lines,
        [
            "    0 ms  connected",
            "    0 ms  [254, 33] -> 85",
            "   20 ms  [254, 110, 1] -> 85",
            "   40 ms  [254, 118, 1] -> 1",
            "   60 ms  closed",
            " 3060 ms  connected",
            " 3060 ms  [254, 33] -> 85",
            " 3080 ms  [254, 102, 1] -> 85",
            " 3100 ms  [254, 118, 1] -> 0",
            " 3120 ms  closed",
        ]
    );
}

/// A whole relay board: keeps its relays, and tells every command that came, by connection.
async fn obey(mut line: impl Stream, relays: &Mutex<BTreeMap<Relay, bool>>) -> Vec<Command> {
    let mut commands = Vec::new();
    loop {
        let mut bytes = vec![0; 2];
        if line.read_exact(&mut bytes).await.is_err() {
            return commands;
        }
        if bytes[1] != 33 {
            bytes.push(line.read_u8().await.unwrap());
        }
        let command = Command::decode(&bytes).unwrap();
        commands.push(command);
        let answer = {
            let mut relays = relays.lock().unwrap();
            match command {
                Command::Test => 85,
                Command::On(relay) => relays.insert(relay, true).map_or(85, |_| 85),
                Command::Off(relay) => relays.insert(relay, false).map_or(85, |_| 85),
                Command::Read(relay) => u8::from(relays.get(&relay).copied().unwrap_or(false)),
            }
        };
        line.write_u8(answer).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn slots_on_one_relay_board_take_turns_and_each_switch_is_read_back_before_the_next() {
    let (board, mut connections) = in_memory();
    let relays = Arc::new(Mutex::new(BTreeMap::new()));
    let known = relays.clone();
    let play = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(line) = connections.recv().await {
            all.push(obey(line, &known).await);
        }
        all
    });
    let orders = (0..32_u8).map(|n| {
        let power = ProxrPower::new(board.clone(), contact(n / 8 + 1, n % 8 + 1));
        tokio::spawn(async move {
            if n % 2 == 0 {
                power.off().await
            } else {
                power.on().await
            }
        })
    });
    for order in orders.collect::<Vec<_>>() {
        order.await.unwrap().unwrap();
    }
    drop(board);
    let all = play.await.unwrap();
    assert_eq!(all.len(), 1, "waiting orders share a connection");
    let (test, commands) = all[0].split_first().unwrap();
    assert_eq!(*test, Command::Test);
    assert_eq!(commands.len(), 64);
    for pair in commands.chunks(2) {
        match pair {
            [
                Command::On(switched) | Command::Off(switched),
                Command::Read(read),
            ] => {
                assert_eq!(switched, read);
            }
            other => panic!("{other:?}"),
        }
    }
    for (relay, on) in relays.lock().unwrap().iter() {
        assert_eq!(*on, relay.number() % 2 == 1, "normally closed: on is off");
    }
}

/// How a board misbehaves after a good test of the link, and what must be said of it.
enum Bad {
    Answers(&'static [u8]),
    Nothing,
    Drops,
}

#[tokio::test(start_paused = true)]
async fn a_wrong_answer_or_none_names_board_relay_and_what_was_expected_and_the_next_order_works() {
    for (bad, says) in [
        (Bad::Answers(&[13]), &["expected 85", "answered 13"][..]),
        (Bad::Answers(&[1]), &["expected 85", "answered 1,"]),
        (
            Bad::Answers(b"85\r\n"),
            &["expected 85", "[56, 53, 13, 10]"],
        ),
        (Bad::Nothing, &["no answer within 1s"]),
        (Bad::Drops, &["end of file"]),
    ] {
        let (board, mut connections) = in_memory();
        let power = ProxrPower::new(board, contact(2, 3));
        let play = async {
            let mut line = connections.recv().await.unwrap();
            expect(&mut line, &[254, 33], &[85]).await;
            match bad {
                Bad::Answers(bytes) => expect(&mut line, &[254, 110, 2], bytes).await,
                Bad::Nothing => expect(&mut line, &[254, 110, 2], &[]).await,
                Bad::Drops => drop(line),
            }
            let mut line = connections.recv().await.unwrap();
            expect(&mut line, &[254, 33], &[85]).await;
            expect(&mut line, &[254, 118, 2], &[0]).await;
        };
        let orders = async {
            let error = power.off().await.unwrap_err().to_string();
            assert_eq!(power.read().await.unwrap(), Some(PowerState::On));
            error
        };
        let (error, ()) = tokio::join!(orders, play);
        let place = "relay 3 of bank 2 on the ProXR relay board at 10.77.0.5:2101";
        for part in says.iter().chain(&[place, "switching it on"]) {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_back_that_differs_is_an_error() {
    let (board, mut connections) = in_memory();
    let power = ProxrPower::new(board, contact(1, 1));
    let play = async {
        let mut line = connections.recv().await.unwrap();
        expect(&mut line, &[254, 33], &[85]).await;
        expect(&mut line, &[254, 108, 1], &[85]).await;
        expect(&mut line, &[254, 116, 1], &[0]).await;
    };
    let (off, ()) = tokio::join!(power.off(), play);
    let error = off.unwrap_err().to_string();
    assert!(
        error.contains("ordered on, but it reads back off"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_has_asked_for_is_not_taken_for_the_next_commands() {
    let (board, mut connections) = in_memory();
    let one = ProxrPower::new(board.clone(), contact(1, 1));
    let two = ProxrPower::new(board, contact(1, 2));
    let play = async {
        let mut line = connections.recv().await.unwrap();
        expect(&mut line, &[254, 33], &[85]).await;
        // The second byte comes in time to be the answer for relay 2.
        let mut got = [0; 3];
        line.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [254, 116, 1]);
        line.write_all(&[0]).await.unwrap();
        line.write_all(&[1]).await.unwrap();
        closed(&mut line).await;
    };
    let (one, two, ()) = tokio::join!(one.read(), two.read(), play);
    // Both bytes at once, or one after the other: never an answer about relay 2.
    let told = [one.err(), two.err()]
        .into_iter()
        .flatten()
        .map(|error| error.to_string())
        .collect::<Vec<_>>();
    assert!(
        told.iter()
            .any(|error| error.contains("does another program use it?")),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_that_fails_its_test_switches_nothing() {
    let (board, mut connections) = in_memory();
    let power = ProxrPower::new(board, contact(1, 1));
    let play = async {
        let mut line = connections.recv().await.unwrap();
        expect(&mut line, &[254, 33], b"H").await;
        closed(&mut line).await;
    };
    let (on, ()) = tokio::join!(power.on(), play);
    let error = on.unwrap_err().to_string();
    assert!(
        error
            .contains("10.77.0.5:2101: testing the link: expected 85: the relay board answered 72"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_order_whose_caller_has_gone_is_not_begun() {
    let (board, mut connections) = in_memory();
    let first = ProxrPower::new(board.clone(), contact(1, 1));
    let second = ProxrPower::new(board, contact(1, 2));
    let play = async {
        let mut line = connections.recv().await.unwrap();
        expect(&mut line, &[254, 33], &[85]).await;
        expect(&mut line, &[254, 116, 1], &[]).await;
        // The first answer is awaited for a second; then the connection is closed.
        closed(&mut line).await;
    };
    let impatient = timeout(PACE.answer / 2, second.on());
    let (read, on, ()) = tokio::join!(first.read(), impatient, play);
    assert!(matches!(read, Err(PowerError::TimedOut { .. })), "{read:?}");
    assert!(on.is_err(), "{on:?}");
    drop((first, second));
    assert!(connections.recv().await.is_none(), "power came on late");
}

#[tokio::test]
async fn a_board_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings(free.local_addr().unwrap());
    drop(free);
    let power = ProxrPower::new(settings.board(), settings.contact().unwrap());
    let error = power.off().await.unwrap_err().to_string();
    assert!(
        error.contains(&format!(
            "connecting to the ProXR relay board at {}",
            settings.address
        )),
        "{error}"
    );
}

#[test]
fn settings_that_cannot_be_name_their_key() {
    let good = "address = \"10.77.0.5\"\nrelay = 1";
    let tcp = |more: &str| {
        let settings: ProxrTcpSettings = toml::from_str(&format!("{good}\n{more}")).unwrap();
        settings.check()
    };
    assert_eq!(tcp(""), Ok(()));
    for (more, key) in [
        ("bank = 0", "bank: "),
        ("bank = 5", "bank: "),
        ("answer_ms = 0", "answer_ms: "),
        ("pause_ms = 60001", "pause_ms: "),
        ("connect_ms = 0", "connect_ms: "),
    ] {
        assert!(
            tcp(more).unwrap_err().to_string().starts_with(key),
            "{more}"
        );
    }
    let parse = |text: &str| toml::from_str::<ProxrTcpSettings>(text);
    assert_eq!(parse(good).unwrap().address.to_string(), "10.77.0.5:2101");
    for relay in [0, 9] {
        let settings = parse(&format!("address = \"10.77.0.5:9\"\nrelay = {relay}")).unwrap();
        assert!(
            settings
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("relay: ")
        );
    }
    let error = parse("address = \"relays\"\nrelay = 1")
        .unwrap_err()
        .to_string();
    assert!(error.contains("expected an IP address"), "{error}");
    assert!(
        parse("address = \"0.0.0.0\"\nrelay = 1")
            .unwrap()
            .check()
            .is_err()
    );
    parse(&format!("{good}\nrelais = 2")).unwrap_err();
}

#[cfg(feature = "serial")]
mod on_a_pty {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;

    use nix::pty::openpty;
    use nix::unistd::ttyname;

    use super::*;

    /// Plays a board on a pty's other end: each exchange is (bytes that must come, bytes to answer).
    fn play(
        exchanges: Vec<(&'static [u8], &'static [u8])>,
    ) -> (
        ProxrSerialSettings,
        std::thread::JoinHandle<(File, OwnedFd)>,
    ) {
        let pty = openpty(None, None).unwrap();
        let device = ttyname(&pty.slave).unwrap();
        let settings = ProxrSerialSettings {
            device,
            baud: 115_200,
            bank: 1,
            relay: 1,
            normally_closed: true,
            answer_ms: 5_000,
            pause_ms: 0,
        };
        let mut line = File::from(pty.master);
        let slave = pty.slave;
        let board = std::thread::spawn(move || {
            for (bytes, answer) in exchanges {
                let mut got = vec![0; bytes.len()];
                line.read_exact(&mut got).unwrap();
                assert_eq!(got, bytes);
                line.write_all(answer).unwrap();
            }
            // Both ends stay open: between two of the driver's openings, and until it has read the last answer.
            (line, slave)
        });
        (settings, board)
    }

    #[tokio::test]
    async fn over_a_serial_line_the_same_bytes_go_raw() {
        let (settings, board) = play(vec![
            (&[254, 33], &[85]),
            (&[254, 108, 1], &[85]),
            (&[254, 116, 1], &[1]),
            (&[254, 33], &[85]),
            (&[254, 100, 1], &[85]),
            (&[254, 116, 1], &[0]),
        ]);
        settings.check().unwrap();
        let power = ProxrPower::new(settings.board(), settings.contact().unwrap());
        power.off().await.unwrap();
        power.on().await.unwrap();
        board.join().unwrap();
    }

    #[tokio::test]
    async fn garbage_on_a_serial_line_is_an_error_that_names_it() {
        let (settings, board) = play(vec![(&[254, 33], b"\xff\xfe")]);
        let device = settings.device.display().to_string();
        let power = ProxrPower::new(settings.board(), settings.contact().unwrap());
        let error = power.off().await.unwrap_err().to_string();
        assert!(
            error.contains(&device) && error.contains("expected 85"),
            "{error}"
        );
        board.join().unwrap();
    }

    #[tokio::test]
    async fn a_device_that_has_gone_is_named() {
        let (mut settings, board) = play(Vec::new());
        settings.device = "/dev/serial/by-id/usb-none".into();
        let power = ProxrPower::new(settings.board(), settings.contact().unwrap());
        let error = power.off().await.unwrap_err().to_string();
        assert!(error.contains("/dev/serial/by-id/usb-none"), "{error}");
        board.join().unwrap();
    }

    #[test]
    fn settings_that_cannot_be_name_their_key() {
        let serial = |text: &str| toml::from_str::<ProxrSerialSettings>(text).unwrap().check();
        assert_eq!(serial("device = \"/dev/ttyUSB0\"\nrelay = 8"), Ok(()));
        for (text, key) in [
            ("device = \"\"\nrelay = 1", "device: "),
            ("device = \"x\"\nrelay = 1\nbaud = 7", "baud: "),
            ("device = \"x\"\nrelay = 9", "relay: "),
            ("device = \"x\"\nrelay = 1\nbank = 9", "bank: "),
        ] {
            assert!(
                serial(text).unwrap_err().to_string().starts_with(key),
                "{text}"
            );
        }
    }
}
