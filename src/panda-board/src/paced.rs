//! A pipe as boot ROMs like it: writes in bounded pieces, with a pause before each transfer. Host controllers that pack
//! data more tightly make some ROMs stall, and after a stall only another power cycle helps. Used by the families.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{Pipe, PipeError};

/// How a pipe is paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// Before each write.
    pub write_pause: Duration,
    /// Before each read.
    pub read_pause: Duration,
    /// The most bytes of one write, a multiple of 512.
    pub transfer_bytes: usize,
}

/// A paced pipe.
pub struct Paced<'a> {
    pipe: &'a mut dyn Pipe,
    pacing: Pacing,
}

impl fmt::Debug for Paced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paced").finish_non_exhaustive()
    }
}

impl<'a> Paced<'a> {
    /// Of this pipe.
    pub fn new(pipe: &'a mut dyn Pipe, pacing: Pacing) -> Self {
        Self { pipe, pacing }
    }

    /// Writes all of `bytes` before `deadline`.
    ///
    /// # Errors
    /// The transfer's.
    pub async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), PipeError> {
        for piece in bytes.chunks(self.transfer_bytes()) {
            sleep(self.pacing.write_pause).await;
            self.pipe.write(piece, left(deadline)).await?;
        }
        Ok(())
    }

    /// Reads one transfer before `deadline`.
    ///
    /// # Errors
    /// The transfer's.
    pub async fn read(&mut self, max: usize, deadline: Instant) -> Result<Vec<u8>, PipeError> {
        sleep(self.pacing.read_pause).await;
        self.pipe.read(max, left(deadline)).await
    }

    /// How much goes into one transfer.
    #[must_use]
    pub fn transfer_bytes(&self) -> usize {
        self.pacing.transfer_bytes.max(1)
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
