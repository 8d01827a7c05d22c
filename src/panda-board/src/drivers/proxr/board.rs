//! One relay board, and the task that alone talks to it. Orders of all slots on it wait in one queue and are
//! carried out one after the other, each switch read back before the next order begins.
//!
//! ```text
//! an order waits ─▶ pause since the last close ─▶ connect ─▶ test of the link (85)
//!     ─▶ order: switch (85), read back (as ordered)  or  read ─┬─ another waits ─▶ order
//!                                                              ├─ none waits ────▶ close
//!                                                              └─ failed ────────▶ close
//! ```
//!
//! A connection is closed when it fails, so a late answer is never taken for another command's: whatever comes
//! first on the next one is held against the test of the link. An order whose caller has gone (its time was up)
//! is not begun: power never comes on late.

use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use panda_protocol::proxr::{Answer, Command, Relay};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::PowerError;

/// Orders that may wait; a relay board has 32 relays.
const QUEUE: usize = 64;
/// More bytes than any answer has, so that too many are seen.
const MOST: usize = 16;

/// A connection to a relay board.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How a relay board is reached.
#[async_trait]
pub(super) trait Wire: Send + Sync + 'static {
    /// Its address or device, for people.
    fn place(&self) -> String;
    /// Opens a connection.
    async fn connect(&self) -> io::Result<Box<dyn Stream>>;
}

/// How long things may take, and the pause between two connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) connect: Duration,
    pub(super) answer: Duration,
    pub(super) pause: Duration,
}

/// A relay board, for all slots that are on it. Cheap to clone; its task ends with the last clone.
#[derive(Clone)]
pub struct RelayBoard {
    place: String,
    orders: mpsc::Sender<Order>,
}

impl fmt::Debug for RelayBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayBoard")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy)]
enum Task {
    Switch { relay: Relay, on: bool },
    Read { relay: Relay },
}

struct Order {
    task: Task,
    reply: oneshot::Sender<Result<bool, PowerError>>,
}

impl RelayBoard {
    pub(super) fn spawn(wire: impl Wire, pace: Pace) -> Self {
        let place = wire.place();
        let (orders, queue) = mpsc::channel(QUEUE);
        tokio::spawn(run(wire, pace, queue));
        Self { place, orders }
    }

    pub(super) async fn switch(&self, relay: Relay, on: bool) -> Result<(), PowerError> {
        self.order(Task::Switch { relay, on }).await.map(drop)
    }

    /// Whether the relay is on.
    pub(super) async fn read(&self, relay: Relay) -> Result<bool, PowerError> {
        self.order(Task::Read { relay }).await
    }

    async fn order(&self, task: Task) -> Result<bool, PowerError> {
        let (reply, done) = oneshot::channel();
        let gone = || PowerError::Answer(format!("{}: its task has ended", board(&self.place)));
        let order = Order { task, reply };
        self.orders.send(order).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

async fn run(wire: impl Wire, pace: Pace, mut queue: mpsc::Receiver<Order>) {
    let mut not_before = Instant::now();
    while let Some(first) = queue.recv().await {
        sleep_until(not_before).await;
        if converse(&wire, pace, first, &mut queue).await {
            not_before = Instant::now() + pace.pause;
        }
    }
}

/// One connection, if anybody still wants one: all orders that wait, or until one fails. Whether there was one.
async fn converse(
    wire: &impl Wire,
    pace: Pace,
    first: Order,
    queue: &mut mpsc::Receiver<Order>,
) -> bool {
    let mut connection: Option<Connection> = None;
    let mut tried = false;
    let mut next = Some(first);
    while let Some(Order { task, reply }) = next.take() {
        if !reply.is_closed() {
            tried = true;
            let done = async {
                let connection = match &mut connection {
                    Some(open) => open,
                    None => connection.insert(Connection::open(wire, pace).await?),
                };
                connection.carry_out(task).await
            };
            let done = done.await;
            let failed = done.is_err();
            if reply.send(done).is_err() {
                tracing::debug!(place = wire.place(), "nobody waits for the answer any more");
            }
            if failed {
                break;
            }
        }
        next = queue.try_recv().ok();
    }
    if let Some(connection) = connection {
        connection.close().await;
    }
    tried
}

struct Connection {
    place: String,
    stream: Box<dyn Stream>,
    answer: Duration,
}

impl Connection {
    async fn open(wire: &impl Wire, pace: Pace) -> Result<Self, PowerError> {
        let place = wire.place();
        let what = || format!("connecting to {}", board(&place));
        let stream = match timeout(pace.connect, wire.connect()).await {
            Ok(opened) => opened.map_err(|source| PowerError::Io {
                what: what(),
                source,
            })?,
            Err(_) => {
                return Err(PowerError::TimedOut {
                    what: what(),
                    limit: pace.connect,
                });
            }
        };
        let mut connection = Self {
            place,
            stream,
            answer: pace.answer,
        };
        connection.ask(Command::Test).await?;
        Ok(connection)
    }

    async fn carry_out(&mut self, task: Task) -> Result<bool, PowerError> {
        let (relay, ordered) = match task {
            Task::Switch { relay, on } => {
                let command = if on {
                    Command::On(relay)
                } else {
                    Command::Off(relay)
                };
                self.ask(command).await?;
                (relay, Some(on))
            }
            Task::Read { relay } => (relay, None),
        };
        let on = self.ask(Command::Read(relay)).await? == Answer::On;
        match ordered {
            Some(ordered) if ordered != on => Err(PowerError::Answer(format!(
                "{}: ordered {}, but it reads back {}; has the relay board its own supply?",
                self.relay(relay),
                state(ordered),
                state(on)
            ))),
            _ => Ok(on),
        }
    }

    async fn ask(&mut self, command: Command) -> Result<Answer, PowerError> {
        let answered = match timeout(self.answer, self.exchange(command)).await {
            Ok(answered) => answered.map_err(|source| PowerError::Io {
                what: self.what(command),
                source,
            })?,
            Err(_) => {
                return Err(PowerError::TimedOut {
                    what: self.what(command),
                    limit: self.answer,
                });
            }
        };
        let got = match answered.as_slice() {
            [byte] => match command.answer(*byte) {
                Ok(answer) => return Ok(answer),
                Err(error) => error.to_string(),
            },
            many => format!(
                "the relay board sent {many:?}, more than the one byte of an answer; does another program use it?"
            ),
        };
        let expected = match command {
            Command::Read(_) => "1 or 0",
            Command::On(_) | Command::Off(_) | Command::Test => "85",
        };
        Err(PowerError::Answer(format!(
            "{}: expected {expected}: {got}",
            self.what(command)
        )))
    }

    /// Sends a command and takes what comes, which must be one byte.
    async fn exchange(&mut self, command: Command) -> io::Result<Vec<u8>> {
        // What nobody has asked for would be taken for this command's answer.
        if let Ok(unasked) = timeout(Duration::ZERO, self.take()).await {
            return Err(io::Error::other(format!(
                "the relay board sent {:?}, which nobody has asked for; does another program use it?",
                unasked?
            )));
        }
        self.stream.write_all(&command.encode()).await?;
        self.stream.flush().await?;
        self.take().await
    }

    async fn take(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = [0; MOST];
        match self.stream.read(&mut bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(bytes.into_iter().take(count).collect()),
        }
    }

    async fn close(mut self) {
        if let Ok(Err(error)) = timeout(self.answer, self.stream.shutdown()).await {
            tracing::debug!(place = self.place, %error, "closing");
        }
    }

    fn what(&self, command: Command) -> String {
        match command {
            Command::On(relay) => format!("{}: switching it on", self.relay(relay)),
            Command::Off(relay) => format!("{}: switching it off", self.relay(relay)),
            Command::Read(relay) => format!("{}: reading it", self.relay(relay)),
            Command::Test => format!("{}: testing the link", board(&self.place)),
        }
    }

    fn relay(&self, relay: Relay) -> String {
        format!(
            "relay {} of bank {} on {}",
            relay.number(),
            relay.bank(),
            board(&self.place)
        )
    }
}

fn board(place: &str) -> String {
    format!("the ProXR relay board at {place}")
}

const fn state(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
