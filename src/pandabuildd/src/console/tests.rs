//! Recorders on consoles that a test plays: a pty, a TCP port, a twin's socket.

use panda_slot::BootNo;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::unistd::ttyname;
use panda_board::console::{SerialConsoleSettings, TcpConsoleSettings};
use panda_board::twin::TwinSettings;
use panda_protocol::operators::Place;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::*;

struct Recording {
    _directory: tempfile::TempDir,
    log: ConsoleLog,
    current: watch::Sender<Current>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Recording {
    fn start(source: impl ConsoleDriver) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let current = Current {
            boot: BootNo::new(7),
            secrets: Secrets::new(["open sesame".to_owned()]),
        };
        let (current, watch) = watch::channel(current);
        let path = directory.path().join(DIRECTORY);
        let (recorder, log) = Recorder::new(Arc::new(source), &path, watch).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(recorder.run(stop.clone()));
        Self {
            _directory: directory,
            log,
            current,
            stop,
            task,
        }
    }

    /// Waits until the log of a boot has `text`: the log.
    async fn until(&mut self, boot: BootNo, text: &str) -> String {
        let start = Place {
            boot,
            part: 0,
            offset: 0,
        };
        loop {
            let (all, _) = self.log.read(start, true).await.unwrap();
            if all.contains(text) {
                return all;
            }
            self.log.grown().await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn a_tcp_console_that_goes_away_and_comes_back_is_recorded_again_with_times_and_without_secrets()
 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut recording = Recording::start(TcpConsoleSettings { address });
    let (mut board, _) = listener.accept().await.unwrap();
    board
        .write_all(b"\x1b[2JLinux\r\nkey open sesame\r\nlogin: ")
        .await
        .unwrap();
    // Shown before its line ends.
    let text = recording.until(BootNo::new(7), "login: ").await;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].ends_with("Z --- console opened ---"), "{text}");
    assert!(lines[1].ends_with("Z \\x1b[2JLinux"), "{text}");
    assert!(lines[2].ends_with("Z key [removed]"), "{text}");
    let (time, _) = lines[2].split_once(' ').unwrap();
    time.parse::<jiff::Timestamp>().unwrap();
    drop(board);
    recording
        .until(BootNo::new(7), "--- console went away ---")
        .await;
    let (mut board, _) = listener.accept().await.unwrap();
    board.write_all(b"again\n").await.unwrap();
    recording.until(BootNo::new(7), "Z again\n").await;
    recording.stop().await;
}

#[tokio::test]
async fn a_serial_console_that_is_unplugged_and_comes_back_is_recorded_again() {
    let directory = tempfile::tempdir().unwrap();
    let device: PathBuf = directory.path().join("console");
    let plug = || {
        let pty = openpty(None, None).unwrap();
        std::os::unix::fs::symlink(ttyname(&pty.slave).unwrap(), &device).unwrap();
        // Nobody reads yet: a write must not wait for that.
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (File::from(pty.master), pty.slave)
    };
    let (mut board, slave) = plug();
    let settings = SerialConsoleSettings {
        device: device.clone(),
        baud: 115_200,
    };
    let mut recording = Recording::start(settings);
    // What comes before the line is open is not the console's; so it is said until it is heard.
    let mut said = 0;
    while recording.log.boots().await.unwrap().is_empty() {
        drop(board.write(b"Starting kernel ...\r\n"));
        said += 1;
        assert!(said < 1_000_000);
        tokio::task::yield_now().await;
    }
    recording
        .until(BootNo::new(7), "Z Starting kernel ...\n")
        .await;
    std::fs::remove_file(&device).unwrap();
    drop((board, slave));
    recording
        .until(BootNo::new(7), "--- console went away ---")
        .await;
    let (mut board, _slave) = plug();
    let heard = async { recording.until(BootNo::new(7), "Z back").await };
    tokio::pin!(heard);
    loop {
        tokio::select! {
            biased;
            _ = &mut heard => break,
            () = tokio::task::yield_now() => drop(board.write(b"\nback\n")),
        }
    }
}

#[tokio::test]
async fn each_boot_has_a_log_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut recording = Recording::start(TwinSettings { socket });
    let (mut board, _) = listener.accept().await.unwrap();
    board.write_all(b"one\n").await.unwrap();
    recording.until(BootNo::new(7), "Z one\n").await;
    recording
        .current
        .send_modify(|current| current.boot = BootNo::new(8));
    board.write_all(b"two\n").await.unwrap();
    let second = recording.until(BootNo::new(8), "Z two\n").await;
    assert!(!second.contains("one"), "{second}");
    assert_eq!(
        recording.log.boots().await.unwrap(),
        [7, 8].map(BootNo::new)
    );
    recording.stop().await;
}

#[tokio::test]
async fn a_new_boots_key_is_left_out_as_soon_as_it_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut recording = Recording::start(TwinSettings { socket });
    let (mut board, _) = listener.accept().await.unwrap();
    recording.current.send_modify(|current| {
        current.secrets = Secrets::new(["MIGHAgEAMBMGByqGSM49".to_owned()]);
    });
    board.write_all(b"key: MIGHAgEAMBMG").await.unwrap();
    board.write_all(b"ByqGSM49; end\n").await.unwrap();
    let text = recording.until(BootNo::new(7), "end\n").await;
    assert!(text.contains("Z key: [removed]; end\n"), "{text}");
    assert!(!text.contains("MIGH"), "{text}");
    recording.stop().await;
}

#[tokio::test]
async fn keys_go_to_an_open_console_and_are_refused_while_there_is_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let recording = Recording::start(TcpConsoleSettings { address });
    let (mut board, _) = listener.accept().await.unwrap();
    recording.log.type_keys(b"uname\r".to_vec()).await.unwrap();
    let mut heard = [0; 6];
    tokio::io::AsyncReadExt::read_exact(&mut board, &mut heard)
        .await
        .unwrap();
    assert_eq!(&heard, b"uname\r");
    drop(listener);
    drop(board);
    // Until its end has been seen, keys may still be taken.
    let refused = loop {
        if let Err(refused) = recording.log.type_keys(b"x".to_vec()).await {
            break refused;
        }
    };
    assert!(!refused.is_empty());
    let refused = recording.log.type_keys(b"x".to_vec()).await.unwrap_err();
    assert_eq!(refused, "the console is not open; it is tried again");
    let log = recording.log.clone();
    recording.stop().await;
    let refused = log.type_keys(b"x".to_vec()).await.unwrap_err();
    assert_eq!(refused, "nobody records the console any more");
}
