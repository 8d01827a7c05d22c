//! Step 4, `rom`: a boot ROM must come to the slot's own port, first seen after power on and inside its
//! window. Anything else that comes is not talked to. The same eye serves the rest of a board's life:
//! a ROM where none is awaited means that the board has restarted ([`wait_for_unawaited_rom`]).

use std::fmt;
use std::sync::Arc;

use panda_board::family::Family;
use panda_board::{Device, Pipe, Presence};
use panda_protocol::family;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::chain::{Chain, Note};
use super::cut::{describe, unseen};
use super::error::{Failure, StepError, pipe};
use super::power_on::Powered;
use super::settings::ms;

/// The boot ROM is there and open.
pub(crate) struct Rom {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) family: Arc<dyn Family>,
    pub(super) pipe: Box<dyn Pipe>,
    pub(super) arrival: u64,
}

impl fmt::Debug for Rom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rom")
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

impl Powered {
    /// Waits for the boot ROM and opens it.
    ///
    /// # Errors
    /// No ROM in its window, something else, or one that was there before.
    pub(crate) async fn rom(self) -> Result<Rom, Failure> {
        arrive(self).await
    }
}

async fn arrive(powered: Powered) -> Result<Rom, Failure> {
    let Powered {
        chain,
        mut port,
        last_arrival,
        at,
    } = powered;
    let window = ms(chain.settings().rom_window_ms);
    let work = async {
        let device = arrival(&mut port, at + window).await?;
        let Some(device) = device else {
            return Err(StepError::NoRom { window });
        };
        if last_arrival.is_some_and(|last| device.arrival <= last) {
            return Err(StepError::StaleArrival {
                found: describe(device),
            });
        }
        let family = judge(&chain, device)?;
        let opened = chain
            .board
            .port
            .open(device.arrival)
            .await
            .map_err(pipe("opening the ROM"))?;
        let detail = format!(
            "{}, {} ms after power on",
            describe(device),
            at.elapsed().as_millis()
        );
        Ok(((family, opened, device.arrival), Note::from(detail)))
    };
    // The window is judged by itself; the rest is for opening.
    let limit = window + ms(chain.settings().identify_ms());
    let (family, pipe, arrival) = chain.step("rom", limit, work).await?;
    Ok(Rom {
        chain,
        port,
        family,
        pipe,
        arrival,
    })
}

/// The slot's own family, where the device is its boot ROM as far as its descriptors tell.
fn judge(chain: &Chain, device: Device) -> Result<Arc<dyn Family>, StepError> {
    let board = &chain.board;
    let Some(found) = board.families.of_rom(device) else {
        return Err(StepError::NotRom {
            found: describe(device),
        });
    };
    match board.family {
        Some(family) if found.name() != family => Err(StepError::OtherFamily {
            found: format!(
                "a boot ROM of family {} ({})",
                found.name(),
                describe(device)
            ),
            expected: family.to_string(),
        }),
        _ => Ok(found.clone()),
    }
}

/// The first device to come, or none by `deadline`. A driver that loses sight of the port may get it
/// back in time.
async fn arrival(
    port: &mut watch::Receiver<Presence>,
    deadline: Instant,
) -> Result<Option<Device>, StepError> {
    loop {
        let now = *port.borrow_and_update();
        if let Presence::Device(device) = now {
            return Ok(Some(device));
        }
        match timeout_at(deadline, port.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(unseen()),
            Err(_) if now == Presence::Unknown => return Err(unseen()),
            Err(_) => return Ok(None),
        }
    }
}

/// Returns when something that calls itself a boot ROM is on the port of a board that is not being booted;
/// never otherwise.
pub(crate) async fn wait_for_unawaited_rom(mut port: watch::Receiver<Presence>) {
    loop {
        if let Presence::Device(device) = *port.borrow_and_update()
            && family::rom_of(device.vendor, device.product).is_some()
        {
            return;
        }
        if port.changed().await.is_err() {
            // The driver has ended; whoever runs it says so.
            std::future::pending::<()>().await;
        }
    }
}
