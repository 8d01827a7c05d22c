//! The board's serial console, watched while the board is booted: a second stage closes USB before it looks at what it
//! was sent, so that only there is it seen that it has not started it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use panda_board::Console;
use panda_board::console::{SerialConsoleSettings, TcpConsoleSettings};
use panda_board::driver::ConsoleDriver as _;
use panda_board::omap4::CONSOLE_FAILURES;
use tokio::time::{Instant, timeout_at};

/// What is kept of a console: the longest of the texts that are looked for, and more.
const KEPT: usize = 256;
const BAUD: u32 = 115_200;

/// Opens the console at `HOST:PORT`, or the serial device of that path.
pub(super) async fn open(place: &str) -> anyhow::Result<Box<dyn Console>> {
    let opened = match place.parse::<SocketAddr>() {
        Ok(address) => TcpConsoleSettings { address }.open().await,
        Err(_) => {
            let device = PathBuf::from(place);
            SerialConsoleSettings { device, baud: BAUD }.open().await
        }
    };
    opened.context("--console")
}

/// What a console is watched for.
pub(super) struct Watch {
    console: Box<dyn Console>,
    last: Vec<u8>,
}

impl Watch {
    pub(super) fn new(console: Box<dyn Console>) -> Self {
        let last = Vec::new();
        Self { console, last }
    }

    /// Reads for so long at most, and ends sooner with the text by which a second stage says that it has not started
    /// what it was sent. Called while the board is talked to as well, so that nothing is lost.
    pub(super) async fn failure(&mut self, limit: Duration) -> Option<&'static str> {
        let deadline = Instant::now() + limit;
        loop {
            let bytes = match timeout_at(deadline, self.console.read()).await {
                Ok(Ok(bytes)) => bytes,
                Ok(Err(error)) => {
                    eprintln!("pandabuildd: {error}; it is watched no more");
                    tokio::time::sleep_until(deadline).await;
                    return None;
                }
                Err(_) => return None,
            };
            self.last.extend_from_slice(&bytes);
            let says = |text: &&&str| {
                let text = text.as_bytes();
                self.last.windows(text.len()).any(|window| window == text)
            };
            if let Some(text) = CONSOLE_FAILURES.iter().find(says) {
                return Some(text);
            }
            let from = self.last.len().saturating_sub(KEPT);
            self.last.drain(..from);
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use panda_board::BoardError;

    use super::*;

    struct Says(Vec<&'static [u8]>);

    #[async_trait]
    impl Console for Says {
        async fn read(&mut self) -> Result<Vec<u8>, BoardError> {
            match self.0.pop() {
                Some(bytes) => Ok(bytes.to_vec()),
                None => std::future::pending().await,
            }
        }

        async fn write(&mut self, _: &[u8]) -> Result<(), BoardError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_seen_also_where_it_comes_in_pieces_and_nothing_else_is_one() {
        let limit = Duration::from_secs(5);
        let mut watch = Watch::new(Box::new(Says(vec![b"FAILED\r\n", b"aboot\r\nBOOT "])));
        assert_eq!(watch.failure(limit).await, Some("BOOT FAILED"));
        let mut watch = Watch::new(Box::new(Says(vec![b"Uncompressing Linux... done"])));
        assert_eq!(watch.failure(limit).await, None);
    }
}
