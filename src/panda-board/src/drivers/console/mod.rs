//! Consoles of real boards: a serial line of the master (`serial`), or a TCP port that passes one on (`tcp`: ser2net, a
//! console server). What an operator types is written to it, and nothing else ever.

#[cfg(feature = "serial")]
mod serial;
mod tcp;

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

#[cfg(feature = "serial")]
pub use self::serial::SerialConsoleSettings;
pub use self::tcp::TcpConsoleSettings;
use crate::{BoardError, Console};

/// What a console is to those who claim its line or address.
const USAGE: &str = "a console";
/// The most bytes that one read gives.
const CHUNK: usize = 8 * 1024;

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
