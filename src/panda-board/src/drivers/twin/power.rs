//! A virtual Panda's supply: one connection per order, so that it works whichever twin is there now.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::wire::{MAX_LINE, PowerAnswer, PowerOrder};
use crate::{Power, PowerError, PowerState};

/// How long an order may take: `off` waits until the machine is gone.
const LIMIT: Duration = Duration::from_secs(20);

/// The supply of the board whose power socket is at a path.
#[derive(Debug, Clone)]
pub struct TwinPower {
    socket: PathBuf,
    limit: Duration,
}

impl TwinPower {
    /// For the socket at this path. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            limit: LIMIT,
        }
    }

    /// With another limit on how long an order may take.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn order(&self, order: PowerOrder) -> Result<PowerAnswer, PowerError> {
        let what = || format!("{} to {}", order.line(), self.socket.display());
        let line = match tokio::time::timeout(self.limit, self.exchange(order)).await {
            Ok(Ok(line)) => line,
            Ok(Err(source)) => {
                return Err(PowerError::Io {
                    what: what(),
                    source,
                });
            }
            Err(_) => {
                return Err(PowerError::TimedOut {
                    what: what(),
                    limit: self.limit,
                });
            }
        };
        match PowerAnswer::parse(&line) {
            Some(PowerAnswer::Error(text)) => {
                Err(PowerError::Answer(format!("{}: {text}", what())))
            }
            Some(answer) => Ok(answer),
            None => Err(self.unexpected(order)),
        }
    }

    async fn exchange(&self, order: PowerOrder) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream
            .write_all(format!("{}\n", order.line()).as_bytes())
            .await?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_LINE as u64))
            .read_line(&mut line)
            .await?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    async fn switch(&self, order: PowerOrder) -> Result<(), PowerError> {
        match self.order(order).await? {
            PowerAnswer::Ok => Ok(()),
            _ => Err(self.unexpected(order)),
        }
    }

    fn unexpected(&self, order: PowerOrder) -> PowerError {
        PowerError::Answer(format!(
            "{} to {}: an answer that is none; are daemon and panda-twin of one version?",
            order.line(),
            self.socket.display()
        ))
    }
}

#[async_trait]
impl Power for TwinPower {
    async fn off(&self) -> Result<(), PowerError> {
        self.switch(PowerOrder::Off).await
    }

    async fn on(&self) -> Result<(), PowerError> {
        self.switch(PowerOrder::On).await
    }

    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        match self.order(PowerOrder::Read).await? {
            PowerAnswer::On => Ok(Some(PowerState::On)),
            PowerAnswer::Off => Ok(Some(PowerState::Off)),
            _ => Err(self.unexpected(PowerOrder::Read)),
        }
    }
}
