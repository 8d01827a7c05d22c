//! Virtual Pandas: the boot ROM and aboot in software, with a machine behind them, each board with a socket
//! for its supply, its port and its console. The daemon's drivers ([`panda_board::twin`]) open those
//! sockets, so power, pipe and boot are the very code that a real rack runs.
//!
//! ```text
//! STATE/twin.lock                         held while a twin runs
//! STATE/boards/panda01/{power,pipe,console}.sock
//! STATE/boards/panda01/fault.sock         orders to do something wrong
//! STATE/boards/panda01/scratch/           the scratch disk: kept across boots, byte for byte
//! STATE/boards/panda01/scratch.img        the same of a board that is QEMU
//! STATE/boards/panda01/ram/               the board's RAM: there while it runs
//! ```
//!
//! The twin outlives the daemon: boards stay as they are, and the next driver that connects is told what is
//! on the port.
//!
//! # Layout
//! - [`rom`]: ROM and aboot as a state machine; the table of what is chosen where hardware is undocumented
//! - [`board`]: power, port and machine of one board
//! - [`machine`]: what is started from the boot image that arrived
//! - [`console`], [`sockets`]: the way out
//! - [`faults`]: what a board does wrong when that is ordered
//! - [`usbredir`]: the boards' ports for the USB of a guest

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

pub mod board;
pub mod console;
pub mod faults;
pub mod machine;
pub mod rom;
pub mod sockets;
pub mod usbredir;

use board::{Board, Message, Neighbours, Parts, Timing};
use console::Console;
use machine::{Kind, MachineError, Place};
use sockets::{SocketError, SocketPaths, Sockets};
use usbredir::UsbSocket;
use usbredir::hub::{Follower, HubError};

/// The most boards of one twin.
pub const MAX_BOARDS: u16 = 99;
/// Messages that may wait for a board.
const QUEUE: usize = 64;

/// What a twin is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its state directory; made when it is not there.
    pub state: PathBuf,
    /// How many boards: 1 to [`MAX_BOARDS`].
    pub boards: u16,
    /// Their names are this and a number of two digits.
    pub prefix: String,
    /// The kind of machine behind them.
    pub machine: Kind,
    /// How long things take.
    pub timing: Timing,
}

/// A twin that runs. [`Twin::stop`] ends it as it should be; dropping it ends its machines too, but waits for
/// nothing and leaves their RAM directories to the next twin.
#[derive(Debug)]
pub struct Twin {
    boards: Vec<Running>,
    hub: Option<Follower>,
    _lock: File,
}

/// One board that runs.
#[derive(Debug)]
struct Running {
    name: String,
    sockets: Sockets,
    usbredir: Option<UsbSocket>,
    messages: mpsc::Sender<Message>,
}

impl Twin {
    /// Starts the boards, all without power; must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the settings cannot be, another twin has the state directory, or this host lacks something.
    pub async fn start(settings: Settings) -> Result<Self, TwinError> {
        check(&settings)?;
        settings.machine.check_host(settings.boards)?;
        private_dir(&settings.state)?;
        let state = fs::canonicalize(&settings.state).map_err(io_error(&settings.state))?;
        let lock = lock(&state)?;
        let first_arrival = first_arrival();
        let mut boards: Vec<Running> = Vec::new();
        let neighbours = Neighbours::default();
        for number in 1..=settings.boards {
            let kind = settings.machine.of_board(usize::from(number - 1));
            let name = format!("{}{number:02}", settings.prefix);
            let dir = state.join("boards").join(&name);
            let place = Place::of(&dir);
            private_dir(match kind {
                Kind::Process => &place.scratch,
                Kind::Qemu(_) => &dir,
            })?;
            place.clear_ram().await?;
            let console = Console::new();
            let (messages, to_board) = mpsc::channel(QUEUE);
            let sockets = Sockets::serve(SocketPaths::of(&dir), &messages, &console)?;
            let parts = Parts {
                name: name.clone(),
                place,
                console,
                kind,
                timing: settings.timing,
                first_arrival,
                neighbours: neighbours.clone(),
            };
            tokio::spawn(Board::new(parts).run(to_board));
            boards.push(Running {
                name,
                sockets,
                usbredir: None,
                messages,
            });
        }
        neighbours.are(boards.iter().map(|board| (&board.name, &board.messages)));
        Ok(Self {
            boards,
            hub: None,
            _lock: lock,
        })
    }

    /// The boards' names and sockets, in order.
    pub fn boards(&self) -> impl Iterator<Item = (&str, &SocketPaths)> {
        self.boards
            .iter()
            .map(|board| (board.name.as_str(), board.sockets.paths()))
    }

    /// Serves the port of every board to QEMU too, on `usbredir.sock` beside its other sockets.
    ///
    /// # Errors
    /// A socket cannot be bound.
    pub fn serve_usbredir(&mut self) -> Result<(), TwinError> {
        for board in &mut self.boards {
            let path = board.sockets.paths().pipe.with_file_name("usbredir.sock");
            board.usbredir = Some(UsbSocket::serve(path, &board.messages)?);
        }
        Ok(())
    }

    /// The usbredir sockets, in the boards' order; none where they are not served.
    pub fn usbredir(&self) -> impl Iterator<Item = Option<&Path>> {
        self.boards
            .iter()
            .map(|board| board.usbredir.as_ref().map(UsbSocket::path))
    }

    /// Gives the boards power as the hub does whose trace QEMU writes to a named pipe; `ports` are the paths of
    /// their ports, in order. Orders on their power sockets count all the same.
    ///
    /// # Errors
    /// The pipe cannot be read, or there are more ports than boards.
    pub fn follow_hub(&mut self, trace: &Path, ports: Vec<String>) -> Result<(), TwinError> {
        if ports.len() > self.boards.len() {
            return Err(TwinError::Ports {
                ports: ports.len(),
                boards: self.boards.len(),
            });
        }
        let boards = self.boards.iter().map(|board| board.messages.clone());
        let ports = ports.into_iter().zip(boards).collect();
        self.hub = Some(Follower::start(trace, ports)?);
        Ok(())
    }

    /// Cuts the power of every board, and removes sockets and RAM.
    ///
    /// # Errors
    /// When a machine does not die; all others are gone then.
    pub async fn stop(mut self) -> Result<(), TwinError> {
        self.hub = None;
        let mut answers = Vec::new();
        for board in &self.boards {
            let (answer, answered) = oneshot::channel();
            if board.messages.send(Message::Stop(answer)).await.is_ok() {
                answers.push((board.name.clone(), answered));
            }
        }
        let mut result = Ok(());
        for (board, answered) in answers {
            if let Ok(Err(source)) = answered.await {
                result = Err(TwinError::Board { board, source });
            }
        }
        result
    }
}

fn check(settings: &Settings) -> Result<(), TwinError> {
    if !(1..=MAX_BOARDS).contains(&settings.boards) {
        return Err(TwinError::Count(settings.boards));
    }
    let letters = settings
        .prefix
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let bounded = (1..=32).contains(&settings.prefix.len());
    if !letters || !bounded || settings.prefix.starts_with('-') {
        return Err(TwinError::Prefix);
    }
    Ok(())
}

/// Makes a directory that is ours alone, and those above it.
fn private_dir(path: &Path) -> Result<(), TwinError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error(path))
}

fn lock(state: &Path) -> Result<File, TwinError> {
    let path = state.join("twin.lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(&path).map_err(io_error(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TwinError::InUse {
            state: state.to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(io_error(&path)(error)),
    }
}

/// Later twins number arrivals from later times, so that no driver takes a device for one it knew.
fn first_arrival() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TwinError {
    move |source| TwinError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Why a twin does not start, or not stop.
#[derive(Debug, thiserror::Error)]
pub enum TwinError {
    /// Too few or too many boards.
    #[error("{0} boards; a twin has 1 to {MAX_BOARDS}")]
    Count(u16),
    /// Names that cannot be.
    #[error(
        "the prefix of the boards' names must be 1 to 32 of a-z and -, and begin with a letter"
    )]
    Prefix,
    /// Another twin.
    #[error(
        "another panda-twin runs in {state}; use its boards, end it, or choose another state directory",
        state = state.display()
    )]
    InUse {
        /// The state directory.
        state: PathBuf,
    },
    /// A file or directory.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Ports of a hub that no board is behind.
    #[error("{ports} hub ports for {boards} boards; give each board one, in the boards' order")]
    Ports {
        /// How many ports.
        ports: usize,
        /// How many boards.
        boards: usize,
    },
    /// A machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A board that does not stop.
    #[error("{board}: {source}")]
    Board {
        /// Which.
        board: String,
        /// Why.
        source: MachineError,
    },
}
