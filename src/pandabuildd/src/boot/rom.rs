//! Step 4, `rom`: a boot ROM must come to the slot's own port, first seen after power on and inside its
//! window. Anything else that comes is not talked to. The same eye serves the rest of a board's life:
//! a ROM where none is awaited means that the board has restarted ([`wait_for_unawaited_rom`]).

use panda_board::{Device, Presence};
use panda_protocol::omap4::rom;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::asic::Identified;
use super::chain::{Chain, Note};
use super::cut::{describe, unseen};
use super::error::{Failure, StepError, pipe};
use super::paced::Paced;
use super::power_on::Powered;
use super::settings::{ExpectedBoard, ms};

/// The boot ROM is there and open.
#[derive(Debug)]
pub struct Rom {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    pub(super) pipe: Paced,
}

pub(super) async fn arrive(powered: Powered) -> Result<Rom, Failure> {
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
        if !is_rom(device) {
            return Err(StepError::NotRom {
                found: describe(device),
            });
        }
        let opened = chain
            .bench
            .port
            .open(device.arrival)
            .await
            .map_err(pipe("opening the ROM"))?;
        let detail = format!(
            "{}, {} ms after power on",
            describe(device),
            at.elapsed().as_millis()
        );
        Ok((Paced::new(opened, chain.settings()), Note::from(detail)))
    };
    // The window is judged by itself; the rest is for opening.
    let limit = window + ms(chain.settings().asic_id_ms);
    let opened = chain.step("rom", limit, work).await?;
    Ok(Rom {
        chain,
        port,
        pipe: opened,
    })
}

impl Rom {
    /// Asks the ROM for its ASIC ID and compares it with the slot's.
    ///
    /// # Errors
    /// A transfer's, an answer that is none, or another chip.
    pub async fn identify(self, expected: &ExpectedBoard) -> Result<Identified, Failure> {
        super::asic::identify(self, expected).await
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

/// A device that is an OMAP boot ROM, as far as its descriptors tell.
pub(crate) fn is_rom(device: Device) -> bool {
    names_rom(device) && device.interface_class == rom::USB_INTERFACE_CLASS
}

fn names_rom(device: Device) -> bool {
    device.vendor == rom::USB_VENDOR
        && [rom::USB_PRODUCT_4430, rom::USB_PRODUCT_4460].contains(&device.product)
}

/// Returns when something that calls itself a boot ROM is on the port of a board that is not being booted;
/// never otherwise.
pub async fn wait_for_unawaited_rom(mut port: watch::Receiver<Presence>) {
    loop {
        if let Presence::Device(device) = *port.borrow_and_update()
            && names_rom(device)
        {
            return;
        }
        if port.changed().await.is_err() {
            // The driver has ended; whoever runs it says so.
            std::future::pending::<()>().await;
        }
    }
}
