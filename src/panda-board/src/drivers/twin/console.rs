//! A virtual Panda's serial console.

use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::{BoardError, Console};

/// The most bytes that one read gives.
const CHUNK: usize = 8 * 1024;

/// A connection to a console: first what the twin has kept, then bytes as they come.
#[derive(Debug)]
pub struct TwinConsole {
    socket: PathBuf,
    stream: UnixStream,
}

impl TwinConsole {
    /// Connects to the console socket at this path.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(socket: &Path) -> Result<Self, BoardError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| error(socket, source))?;
        Ok(Self {
            socket: socket.to_owned(),
            stream,
        })
    }
}

#[async_trait]
impl Console for TwinConsole {
    async fn read(&mut self) -> Result<Vec<u8>, BoardError> {
        let mut bytes = Vec::with_capacity(CHUNK);
        match self.stream.read_buf(&mut bytes).await {
            Ok(0) => Err(error(&self.socket, io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(bytes),
            Err(source) => Err(error(&self.socket, source)),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), BoardError> {
        let written = self.stream.write_all(bytes).await;
        written.map_err(|source| error(&self.socket, source))
    }
}

fn error(socket: &Path, source: io::Error) -> BoardError {
    BoardError {
        what: format!("console at {}", socket.display()),
        source,
    }
}
