//! A virtual Panda's USB port, and the pipe to what is on it.
//!
//! One task owns the socket. It publishes what is on the port, passes transfers on, hands each answer to
//! whoever waits for it, and connects again when the twin has gone away and come back:
//!
//! ```text
//!            connect fails: pause, growing
//!              +------+
//!              v      |
//!  spawn --> connecting ------> connected --+   presence as the twin says; transfers go over
//!              ^   presence                 |
//!              |   Unknown,                 |   the socket ends or breaks: every waiting
//!              +-- transfers fail <---------+   transfer fails
//! ```

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::wire::{FrameReader, FromDriver, FromTwin, MAX_TRANSFER, Refused};
use crate::{Pipe, PipeError, Port, Presence};

/// Transfers that may wait for the socket.
const QUEUE: usize = 16;
/// The first pause before connecting again; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The port of the board whose pipe socket is at a path. Dropping it, and every pipe opened on it, closes
/// the socket.
#[derive(Debug)]
pub struct TwinPort {
    presence: watch::Receiver<Presence>,
    line: Arc<Line>,
}

impl TwinPort {
    /// Starts watching the port behind the socket at this path; must be called within a tokio runtime. Until
    /// the twin has been reached, [`Presence::Unknown`] is on it.
    #[must_use]
    pub fn spawn(socket: impl Into<PathBuf>) -> Self {
        let (presence_out, presence) = watch::channel(Presence::Unknown);
        let (orders, orders_in) = mpsc::channel(QUEUE);
        let socket = socket.into();
        let task = Task {
            socket: socket.clone(),
            presence: presence_out,
            orders: orders_in,
        };
        let task = tokio::spawn(task.run()).abort_handle();
        let line = Line {
            socket,
            orders,
            next: AtomicU64::new(1),
            claimed: AtomicBool::new(false),
            task,
        };
        Self {
            presence,
            line: Arc::new(line),
        }
    }
}

#[async_trait]
impl Port for TwinPort {
    fn watch(&self) -> watch::Receiver<Presence> {
        self.presence.clone()
    }

    async fn open(&self, arrival: u64) -> Result<Box<dyn Pipe>, PipeError> {
        match *self.presence.borrow() {
            Presence::Device(device) if device.arrival == arrival => {}
            Presence::Device(_) | Presence::Empty | Presence::Unknown => {
                return Err(PipeError::Gone);
            }
        }
        if self.line.claimed.swap(true, Ordering::AcqRel) {
            return Err(PipeError::Io {
                what: format!("open of the device at {}", self.line.socket.display()),
                source: io::ErrorKind::ResourceBusy.into(),
            });
        }
        Ok(Box::new(TwinPipe {
            line: Arc::clone(&self.line),
            arrival,
        }))
    }
}

/// The way to the task, shared by the port and its pipe.
#[derive(Debug)]
struct Line {
    socket: PathBuf,
    orders: mpsc::Sender<Order>,
    next: AtomicU64,
    claimed: AtomicBool,
    task: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task is asked to do.
#[derive(Debug)]
struct Order {
    message: FromDriver,
    /// Where its answer goes; none for a cancel.
    answer: Option<(u64, oneshot::Sender<Answer>)>,
}

#[derive(Debug)]
enum Answer {
    Written,
    Data(Bytes),
    Refused(Refused),
}

/// An opened device.
struct TwinPipe {
    line: Arc<Line>,
    arrival: u64,
}

impl Drop for TwinPipe {
    fn drop(&mut self) {
        self.line.claimed.store(false, Ordering::Release);
    }
}

#[async_trait]
impl Pipe for TwinPipe {
    async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), PipeError> {
        let what = || format!("write of {} bytes", bytes.len());
        let all = async {
            for piece in bytes.chunks(MAX_TRANSFER) {
                let bytes = Bytes::copy_from_slice(piece);
                let make = |seq, arrival| FromDriver::Write {
                    seq,
                    arrival,
                    bytes,
                };
                match self.transfer(make, what).await? {
                    Answer::Written => {}
                    Answer::Data(_) | Answer::Refused(_) => {
                        return Err(self.broken(&what(), io::ErrorKind::InvalidData));
                    }
                }
            }
            Ok(())
        };
        within(limit, what, all).await
    }

    async fn read(&mut self, max: usize, limit: Duration) -> Result<Vec<u8>, PipeError> {
        let what = || "read".to_owned();
        let max = max.min(MAX_TRANSFER);
        let one = async {
            let wanted = u32::try_from(max).unwrap_or(u32::MAX);
            let make = |seq, arrival| FromDriver::Read {
                seq,
                arrival,
                max: wanted,
            };
            match self.transfer(make, what).await? {
                Answer::Data(bytes) if bytes.len() <= max => Ok(bytes.into()),
                Answer::Data(_) | Answer::Written | Answer::Refused(_) => {
                    Err(self.broken(&what(), io::ErrorKind::InvalidData))
                }
            }
        };
        within(limit, what, one).await
    }
}

async fn within<T>(
    limit: Duration,
    what: impl Fn() -> String,
    transfer: impl Future<Output = Result<T, PipeError>>,
) -> Result<T, PipeError> {
    match tokio::time::timeout(limit, transfer).await {
        Ok(result) => result,
        Err(_) => Err(PipeError::TimedOut {
            what: what(),
            limit,
        }),
    }
}

impl TwinPipe {
    /// One transfer; dropping the future withdraws it.
    async fn transfer(
        &self,
        message: impl FnOnce(u64, u64) -> FromDriver,
        what: impl Fn() -> String,
    ) -> Result<Answer, PipeError> {
        let seq = self.line.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answer_in) = oneshot::channel();
        let order = Order {
            message: message(seq, self.arrival),
            answer: Some((seq, answer)),
        };
        self.line
            .orders
            .send(order)
            .await
            .map_err(|_| self.broken(&what(), io::ErrorKind::NotConnected))?;
        let mut withdraw = Withdraw {
            line: &self.line,
            seq: Some(seq),
        };
        let answer = answer_in.await;
        withdraw.seq = None;
        match answer {
            Ok(Answer::Refused(Refused::Gone)) => Err(PipeError::Gone),
            Ok(Answer::Refused(Refused::Stalled)) => Err(PipeError::Stalled(what())),
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.broken(&what(), io::ErrorKind::NotConnected)),
        }
    }

    fn broken(&self, what: &str, kind: io::ErrorKind) -> PipeError {
        let what = format!("{what} at {}", self.line.socket.display());
        PipeError::Io {
            what,
            source: kind.into(),
        }
    }
}

/// Tells the twin, when dropped, that nobody waits for a transfer any more.
struct Withdraw<'a> {
    line: &'a Line,
    seq: Option<u64>,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        let Some(seq) = self.seq else { return };
        let order = Order {
            message: FromDriver::Cancel { seq },
            answer: None,
        };
        if let Err(error) = self.line.orders.try_send(order) {
            tracing::debug!(seq, %error, "a withdrawn transfer stays with the twin");
        }
    }
}

/// Transfers that wait for their answer.
type Waiting = Mutex<HashMap<u64, oneshot::Sender<Answer>>>;

/// The owner of the socket.
struct Task {
    socket: PathBuf,
    presence: watch::Sender<Presence>,
    orders: mpsc::Receiver<Order>,
}

impl Task {
    async fn run(mut self) {
        let mut pause = PAUSE;
        let mut silent = false;
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => {
                    tracing::debug!(socket = %self.socket.display(), "connected to the twin's port");
                    let since = Instant::now();
                    let error = self.connected(stream).await;
                    // Whoever is cut off again at once does not come back at once.
                    if since.elapsed() > LONGEST_PAUSE {
                        pause = PAUSE;
                    }
                    silent = false;
                    log(&self.socket, "the twin's port was lost", &error);
                }
                Err(error) if !silent => {
                    silent = true;
                    log(
                        &self.socket,
                        "the twin's port cannot be reached; trying on",
                        &error,
                    );
                }
                Err(_) => {}
            }
            self.presence.send_replace(Presence::Unknown);
            if !self.refuse_for(pause).await {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Serves one connection until it ends; every transfer that waits then fails.
    async fn connected(&mut self, stream: UnixStream) -> io::Error {
        let (reader, writer) = stream.into_split();
        let waiting = Waiting::default();
        tokio::select! {
            error = hear(reader, &self.presence, &waiting) => error,
            error = say(writer, &mut self.orders, &waiting) => error,
        }
    }

    /// Fails whatever is asked during a pause; false when nobody is left to ask.
    async fn refuse_for(&mut self, pause: Duration) -> bool {
        let refuse = async { while self.orders.recv().await.is_some() {} };
        tokio::time::timeout(pause, refuse).await.is_err()
    }
}

async fn hear(
    reader: OwnedReadHalf,
    presence: &watch::Sender<Presence>,
    waiting: &Waiting,
) -> io::Error {
    let mut frames = FrameReader::new(reader);
    loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
            Err(error) => return error,
        };
        let (seq, answer) = match FromTwin::decode(frame) {
            Ok(FromTwin::Arrived(device)) => {
                presence.send_replace(Presence::Device(device));
                continue;
            }
            Ok(FromTwin::Left) => {
                presence.send_replace(Presence::Empty);
                continue;
            }
            Ok(FromTwin::Written { seq }) => (seq, Answer::Written),
            Ok(FromTwin::Data { seq, bytes }) => (seq, Answer::Data(bytes)),
            Ok(FromTwin::Refused { seq, why }) => (seq, Answer::Refused(why)),
            Err(error) => return error.into(),
        };
        let waiter = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&seq);
        // A waiter may have gone meanwhile; its answer is then nobody's.
        if let Some(Err(_)) = waiter.map(|waiter| waiter.send(answer)) {
            tracing::debug!(seq, "an answer came too late");
        }
    }
}

async fn say(
    mut writer: OwnedWriteHalf,
    orders: &mut mpsc::Receiver<Order>,
    waiting: &Waiting,
) -> io::Error {
    while let Some(Order { message, answer }) = orders.recv().await {
        {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if let FromDriver::Cancel { seq } = message {
                waiting.remove(&seq);
            }
            if let Some((seq, answer)) = answer {
                waiting.insert(seq, answer);
            }
        }
        if let Err(error) = writer.write_all(&message.encode()).await {
            return error;
        }
    }
    io::ErrorKind::BrokenPipe.into()
}

fn log(socket: &Path, what: &str, error: &io::Error) {
    tracing::warn!(socket = %socket.display(), %error, "{what}");
}
