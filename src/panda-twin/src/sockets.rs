//! A board's sockets: bound with mode 0600, served, and removed when dropped. What is said on them is
//! in [`panda_board::twin::wire`].

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use panda_board::twin::wire::{
    FrameReader, FromDriver, FromTwin, MAX_LINE, PowerAnswer, PowerOrder,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use crate::board::{Driver, Message};
use crate::console::Console;
use crate::faults;

/// Connections that one socket serves at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 32;
/// What may wait for a driver before it is cut off: more than it can have asked for.
const DRIVER_QUEUE: usize = 64;
/// A pause after an accept that failed, so that a host out of descriptors is not kept busy.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Where a board's sockets are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPaths {
    /// Power: see [`panda_board::TwinPower`](panda_board::twin::TwinPower).
    pub power: PathBuf,
    /// Port and pipe: see [`TwinPort`](panda_board::twin::TwinPort).
    pub pipe: PathBuf,
    /// Console: see [`TwinConsole`](panda_board::twin::TwinConsole).
    pub console: PathBuf,
    /// Faults to order: see [`crate::faults`].
    pub fault: PathBuf,
}

impl SocketPaths {
    /// Those of the board whose directory this is.
    #[must_use]
    pub fn of(board: &Path) -> Self {
        let path = |name| board.join(name);
        Self {
            power: path("power.sock"),
            pipe: path("pipe.sock"),
            console: path("console.sock"),
            fault: path("fault.sock"),
        }
    }
}

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel's limit.
    #[error(
        "the socket's path {path} has {bytes} bytes, and Linux takes at most {MAX_PATH}; choose a shorter state directory",
        path = path.display(),
        bytes = path.as_os_str().len()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be bound.
    #[error("socket {path}: {source}", path = path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The longest path of a Unix socket: 108 bytes with its NUL.
const MAX_PATH: usize = 107;

/// A board's sockets, bound. Dropping them stops serving and removes them.
#[derive(Debug)]
pub struct Sockets {
    paths: SocketPaths,
    tasks: JoinSet<()>,
}

impl Sockets {
    /// Binds and serves; whoever holds the state directory's lock may take the place of a dead twin's sockets.
    ///
    /// # Errors
    /// When a path is too long or a socket cannot be bound.
    pub fn serve(
        paths: SocketPaths,
        board: &mpsc::Sender<Message>,
        console: &Console,
    ) -> Result<Self, SocketError> {
        let power = bind(&paths.power)?;
        let mut sockets = Self {
            paths,
            tasks: JoinSet::new(),
        };
        let pipe = bind(&sockets.paths.pipe)?;
        let reader = bind(&sockets.paths.console)?;
        let faults = bind(&sockets.paths.fault)?;
        let (to, to_pipe, console) = (board.clone(), board.clone(), console.clone());
        let to_faults = board.clone();
        sockets.tasks.spawn(accept(faults, move |_, stream| {
            serve_faults(stream, to_faults.clone())
        }));
        sockets.tasks.spawn(accept(power, move |_, stream| {
            serve_power(stream, to.clone())
        }));
        sockets.tasks.spawn(accept(pipe, move |connection, stream| {
            serve_pipe(connection, stream, to_pipe.clone())
        }));
        sockets.tasks.spawn(accept(reader, move |_, stream| {
            console.clone().serve(stream)
        }));
        Ok(sockets)
    }

    /// Where they are.
    #[must_use]
    pub fn paths(&self) -> &SocketPaths {
        &self.paths
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let SocketPaths {
            power,
            pipe,
            console,
            fault,
        } = &self.paths;
        for path in [power, pipe, console, fault] {
            remove(path);
        }
    }
}

/// Removes a socket that is served no more.
pub(crate) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a socket is left behind");
        }
        _ => {}
    }
}

/// Binds a socket that only we may use, in the place of a dead twin's.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(SocketError::PathTooLong {
            path: path.to_owned(),
        });
    }
    let failed = |source| SocketError::Bind {
        path: path.to_owned(),
        source,
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Accepts connections for ever; each is served by a task, numbered from 1.
pub(crate) async fn accept<F>(listener: UnixListener, mut serve: impl FnMut(u64, UnixStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    for connection in 1.. {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        let served = serve(connection, stream);
        tasks.spawn(async move {
            served.await;
            drop(place);
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn serve_power(stream: UnixStream, board: mpsc::Sender<Message>) {
    let mut lines = Lines::new(stream, MAX_LINE);
    while let Some(line) = lines.next().await {
        let answer = match PowerOrder::parse(&line) {
            Some(order) => ask(&board, order).await,
            None => PowerAnswer::Error("say on, off or read".to_owned()),
        };
        lines.say(&answer.line()).await;
    }
}

async fn serve_faults(stream: UnixStream, board: mpsc::Sender<Message>) {
    let mut lines = Lines::new(stream, faults::MAX_LINE);
    while let Some(line) = lines.next().await {
        let done = match line.parse::<faults::Order>() {
            Ok(order) => order_fault(&board, order).await,
            Err(error) => Err(error.to_string()),
        };
        let answer = done.map_or_else(|error| format!("error {error}"), |()| "ok".to_owned());
        lines.say(&answer).await;
    }
}

async fn order_fault(board: &mpsc::Sender<Message>, order: faults::Order) -> Result<(), String> {
    let stopping = || "the twin is stopping".to_owned();
    let (answer, answered) = oneshot::channel();
    board
        .send(Message::Fault { order, answer })
        .await
        .map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())?
}

/// A connection on which each line is answered by one.
struct Lines {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// The most bytes of a line with its end.
    max: usize,
    gone: bool,
}

impl Lines {
    fn new(stream: UnixStream, max: usize) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            max,
            gone: false,
        }
    }

    /// The next line without its end; none when the other side has gone, or says something else.
    async fn next(&mut self) -> Option<String> {
        if self.gone {
            return None;
        }
        let mut line = String::new();
        let mut bounded = (&mut self.reader).take(self.max as u64);
        bounded.read_line(&mut line).await.ok()?;
        line.strip_suffix('\n').map(str::to_owned)
    }

    async fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.gone = self.writer.write_all(line.as_bytes()).await.is_err();
    }
}

async fn ask(board: &mpsc::Sender<Message>, order: PowerOrder) -> PowerAnswer {
    let (answer, answered) = oneshot::channel();
    if board.send(Message::Power { order, answer }).await.is_err() {
        return PowerAnswer::Error("the twin is stopping".to_owned());
    }
    answered
        .await
        .unwrap_or_else(|_| PowerAnswer::Error("the twin is stopping".to_owned()))
}

async fn serve_pipe(connection: u64, stream: UnixStream, board: mpsc::Sender<Message>) {
    let (out, to_driver) = mpsc::channel(DRIVER_QUEUE);
    if board
        .send(Message::Connected(Driver { connection, out }))
        .await
        .is_err()
    {
        return;
    }
    let (reader, writer) = stream.into_split();
    let ended = tokio::select! {
        ended = hear(connection, FrameReader::new(reader), board) => ended,
        ended = say(writer, to_driver) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(connection, %error, "a driver's connection ended");
    }
}

async fn hear(
    connection: u64,
    mut frames: FrameReader<impl tokio::io::AsyncRead + Unpin>,
    board: mpsc::Sender<Message>,
) -> io::Result<()> {
    while let Some(frame) = frames.next().await? {
        let message = FromDriver::decode(frame)?;
        if board
            .send(Message::Driver {
                connection,
                message,
            })
            .await
            .is_err()
        {
            break;
        }
    }
    Ok(())
}

/// Sends until the board drops this driver.
async fn say(
    mut writer: impl tokio::io::AsyncWrite + Unpin,
    mut messages: mpsc::Receiver<FromTwin>,
) -> io::Result<()> {
    while let Some(message) = messages.recv().await {
        writer.write_all(&message.encode()).await?;
    }
    Ok(())
}
