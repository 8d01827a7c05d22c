//! Consoles of real boards: a serial line of the master, or a TCP port that passes one on (ser2net, a console
//! server). What an operator types is written to it, and nothing else ever.

use std::io;
use std::net::SocketAddr;
#[cfg(feature = "serial")]
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::socket::{setsockopt, sockopt};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[cfg(feature = "serial")]
use crate::serial::{SerialLine, check_baud};
use crate::{BoardError, Console};

/// The most bytes that one read gives.
const CHUNK: usize = 8 * 1024;
/// A TCP console must be there within this.
const CONNECT: Duration = Duration::from_secs(10);

/// `driver = "tcp"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpConsoleSettings {
    /// Where the console is passed on, byte for byte.
    pub address: SocketAddr,
}

impl TcpConsoleSettings {
    /// What is wrong with these settings, as `key: what is expected`.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), String> {
        if self.address.port() == 0 || self.address.ip().is_unspecified() {
            return Err("address: expected address and port of this one console".to_owned());
        }
        Ok(())
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or it takes too long.
    pub async fn open(&self) -> Result<Box<dyn Console>, BoardError> {
        let place = self.address.to_string();
        let connected = match timeout(CONNECT, TcpStream::connect(self.address)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let stream = connected.map_err(|source| error(&place, source))?;
        // A console may be silent for days; a peer that has gone is noticed all the same.
        setsockopt(&stream, sockopt::KeepAlive, &true)
            .map_err(|errno| error(&place, errno.into()))?;
        Ok(Box::new(StreamConsole { place, stream }))
    }
}

/// `driver = "serial"`.
#[cfg(feature = "serial")]
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SerialConsoleSettings {
    /// The serial device.
    pub device: PathBuf,
    /// Its speed.
    #[serde(default = "usual_baud")]
    pub baud: u32,
}

#[cfg(feature = "serial")]
const fn usual_baud() -> u32 {
    115_200
}

#[cfg(feature = "serial")]
impl SerialConsoleSettings {
    /// What is wrong with these settings, as `key: what is expected`.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn check(&self) -> Result<(), String> {
        if self.device.as_os_str().is_empty() {
            return Err("device: expected the path of a serial device".to_owned());
        }
        check_baud(self.baud)
    }

    /// Opens the line.
    ///
    /// # Errors
    /// No such device, no right to it, or another program has it.
    pub fn open(&self) -> Result<Box<dyn Console>, BoardError> {
        let place = self.device.display().to_string();
        let stream =
            SerialLine::open(&self.device, self.baud).map_err(|source| error(&place, source))?;
        Ok(Box::new(StreamConsole { place, stream }))
    }
}

struct StreamConsole<S> {
    place: String,
    stream: S,
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Console for StreamConsole<S> {
    async fn read(&mut self) -> Result<Vec<u8>, BoardError> {
        let mut bytes = Vec::with_capacity(CHUNK);
        match self.stream.read_buf(&mut bytes).await {
            Ok(0) => Err(error(&self.place, io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(bytes),
            Err(source) => Err(error(&self.place, source)),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), BoardError> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|source| error(&self.place, source))
    }
}

fn error(place: &str, source: io::Error) -> BoardError {
    BoardError {
        what: format!("console at {place}"),
        source,
    }
}
