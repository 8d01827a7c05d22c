//! The pipe to a boot ROM and its second stage: bulk transfers, each on a thread of its own, so that a board that
//! takes its time holds up nobody. A board that is unplugged, or loses power, ends a transfer as `Gone`, however
//! libusb calls it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use panda_protocol::family::RomUsb;
use tokio::sync::watch;
use tokio::time::timeout;

use super::guard::Guard;
use super::libusb::{TransferError, Transfers};
use super::sysfs::Identity;
use crate::port_path::PortPath;
use crate::{Pipe, PipeError, Presence};

/// A thread looks so often whether anybody still waits for its transfer.
const SLICE: Duration = Duration::from_secs(1);
/// A transfer that fails because the board leaves fails before the port is seen empty; and one that has been done
/// just before is not lost.
const LEAVES: Duration = Duration::from_secs(1);
/// The most bytes of one read.
const MOST_READ: usize = 1 << 20;

/// An opened device. Dropping it closes it, and takes its authorisation back.
pub(super) struct Session {
    pub(super) transfers: Option<Box<dyn Transfers>>,
    guard: Arc<Guard>,
    path: PortPath,
    identity: Identity,
    /// The boot ROM that it is.
    rom: &'static RomUsb,
    /// It was authorised for this.
    lifted: bool,
}

impl Session {
    pub(super) fn new(
        guard: Arc<Guard>,
        path: PortPath,
        identity: Identity,
        rom: &'static RomUsb,
        lifted: bool,
    ) -> Self {
        Self {
            transfers: None,
            guard,
            path,
            identity,
            rom,
            lifted,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.transfers = None;
        if self.lifted {
            self.guard.withdraw(&self.path, self.identity);
        }
    }
}

/// See [`Pipe`].
pub(super) struct UsbPipe {
    session: Option<Arc<Session>>,
    presence: watch::Receiver<Presence>,
    arrival: u64,
    rom: &'static RomUsb,
    dropped: Arc<AtomicBool>,
}

impl UsbPipe {
    pub(super) fn new(session: Session, presence: watch::Receiver<Presence>, arrival: u64) -> Self {
        Self {
            rom: session.rom,
            session: Some(Arc::new(session)),
            presence,
            arrival,
            dropped: Arc::default(),
        }
    }

    /// Runs a transfer on a thread, until it is done or the device has left.
    async fn transfer<T: Send + 'static>(
        &mut self,
        what: &str,
        limit: Duration,
        work: impl FnOnce(&dyn Transfers, &Waited) -> Result<T, TransferError> + Send + 'static,
    ) -> Result<T, PipeError> {
        let Some(session) = self.session.clone() else {
            return Err(PipeError::Gone);
        };
        let waited = Waited {
            until: Instant::now() + limit,
            dropped: self.dropped.clone(),
        };
        let mut done = tokio::task::spawn_blocking(move || {
            session
                .transfers
                .as_deref()
                .map_or(Err(TransferError::Gone), |open| work(open, &waited))
        });
        let arrival = self.arrival;
        let here = move |seen: &Presence| matches!(seen, Presence::Device(there) if there.arrival == arrival);
        let mut presence = self.presence.clone();
        let leaves = async {
            // A watcher that has ended sees nothing leave.
            if presence.wait_for(|seen| !here(seen)).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            biased;
            ended = &mut done => Some(ended),
            () = leaves => timeout(LEAVES, &mut done).await.ok(),
            // The thread keeps to its limit; a kernel that does not let it is not waited for.
            () = tokio::time::sleep(limit + 2 * SLICE) => {
                return Err(PipeError::TimedOut { what: what.to_owned(), limit });
            }
        };
        let Some(Ok(ended)) = ended else {
            return Err(PipeError::Gone);
        };
        match ended {
            Ok(done) => Ok(done),
            Err(TransferError::Gone) => Err(PipeError::Gone),
            Err(TransferError::Stalled) => Err(PipeError::Stalled(what.to_owned())),
            Err(TransferError::TimedOut) => Err(PipeError::TimedOut {
                what: what.to_owned(),
                limit,
            }),
            Err(TransferError::Io(source)) => {
                let left = self.presence.wait_for(|seen| !here(seen));
                if timeout(LEAVES, left).await.is_ok() {
                    return Err(PipeError::Gone);
                }
                Err(PipeError::Io {
                    what: what.to_owned(),
                    source,
                })
            }
        }
    }
}

impl Drop for UsbPipe {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Release);
        // Closing talks to the device, which may be dead: not on a thread of the runtime.
        let session = self.session.take();
        let closing = std::thread::Builder::new()
            .name("usb-close".to_owned())
            .spawn(move || drop(session));
        if let Err(error) = closing {
            tracing::warn!(%error, "a device was closed where it may block");
        }
    }
}

#[async_trait]
impl Pipe for UsbPipe {
    async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), PipeError> {
        let what = format!("write of {} bytes", bytes.len());
        let bytes = bytes.to_vec();
        let endpoint = self.rom.endpoint_out;
        self.transfer(&what, limit, move |open, waited| {
            let mut left = &bytes[..];
            while !left.is_empty() {
                let slice = waited.slice()?;
                match open.write(endpoint, left, slice) {
                    Ok(count) => left = left.get(count..).unwrap_or_default(),
                    Err(TransferError::TimedOut) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
        .await
    }

    async fn read(&mut self, max: usize, limit: Duration) -> Result<Vec<u8>, PipeError> {
        let max = max.min(MOST_READ);
        let endpoint = self.rom.endpoint_in;
        self.transfer("read", limit, move |open, waited| {
            // A device sends whole packets: room for less than one would lose the rest of it.
            let mut bytes = vec![0; max.next_multiple_of(512)];
            loop {
                let slice = waited.slice()?;
                match open.read(endpoint, &mut bytes, slice) {
                    Ok(count) if count > max => {
                        let text = format!("{count} bytes came; expected at most {max}");
                        return Err(TransferError::Io(std::io::Error::other(text)));
                    }
                    Ok(count) => {
                        bytes.truncate(count);
                        return Ok(bytes);
                    }
                    Err(TransferError::TimedOut) => {}
                    Err(error) => return Err(error),
                }
            }
        })
        .await
    }
}

/// How long a transfer is waited for.
struct Waited {
    until: Instant,
    dropped: Arc<AtomicBool>,
}

impl Waited {
    /// The next slice of it.
    fn slice(&self) -> Result<Duration, TransferError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() || self.dropped.load(Ordering::Acquire) {
            return Err(TransferError::TimedOut);
        }
        // libusb takes no time at all for no limit, and counts milliseconds.
        Ok(left.min(SLICE).max(Duration::from_millis(1)))
    }
}
