//! A pipe as the boot ROM likes it: writes in bounded pieces, with a pause before each transfer. Host
//! controllers that pack data more tightly make this ROM stall, and after a stall only another power
//! cycle helps. Used by the steps that talk to ROM and second stage.

use std::fmt;
use std::time::Duration;

use panda_board::{Pipe, PipeError};
use tokio::time::{Instant, sleep};

use super::settings::{BootSettings, ms};

/// A paced pipe.
pub(crate) struct Paced {
    pipe: Box<dyn Pipe>,
    write_pause: Duration,
    read_pause: Duration,
    transfer_bytes: usize,
}

impl fmt::Debug for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paced").finish_non_exhaustive()
    }
}

impl Paced {
    pub(crate) fn new(pipe: Box<dyn Pipe>, settings: &BootSettings) -> Self {
        Self {
            pipe,
            write_pause: ms(settings.write_pause_ms),
            read_pause: ms(settings.read_pause_ms),
            transfer_bytes: settings.transfer_bytes.max(1),
        }
    }

    /// Writes all of `bytes` before `deadline`.
    pub(crate) async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), PipeError> {
        for piece in bytes.chunks(self.transfer_bytes) {
            sleep(self.write_pause).await;
            self.pipe.write(piece, left(deadline)).await?;
        }
        Ok(())
    }

    /// Reads one transfer before `deadline`.
    pub(crate) async fn read(
        &mut self,
        max: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, PipeError> {
        sleep(self.read_pause).await;
        self.pipe.read(max, left(deadline)).await
    }

    /// How much goes into one transfer.
    pub(super) fn transfer_bytes(&self) -> usize {
        self.transfer_bytes
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
