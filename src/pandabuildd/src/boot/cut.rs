//! Step 1, `cut`: power off is ordered, and the driver has acknowledged it. That is no evidence yet; see
//! [`super::evidence`]. Called by the slot's activities for every reset.
//!
//! Where the image keeps a USB gadget up, its leaving is part of the evidence, so the order then waits a
//! random time first: a hostile board that leaves the port by itself must guess when. A supply that switches the
//! port too makes whatever is there leave, powered or not: then nothing can be learnt from it.

use panda_board::{Device, Presence};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::chain::{Chain, Note};
use super::error::{Failure, StepError};
use super::settings::{UsbId, ms};

/// Power off has been ordered.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    /// The image's own gadget was on the port when power off was ordered.
    pub(super) gadget: bool,
    pub(super) at: Instant,
    /// The highest arrival number seen so far: what arrived before power on.
    pub(super) last_arrival: Option<u64>,
}

/// Orders power off.
///
/// # Errors
/// The driver's, or its silence.
pub(crate) async fn order(chain: Chain) -> Result<Ordered, Failure> {
    let settings = chain.settings();
    let limit = ms(settings.cut_delay_max_ms) + ms(settings.power_ms) * 2;
    let mut port = chain.board.port.watch();
    let work = async {
        let mut delay = None;
        let tells = !chain.board.power.switches_port();
        let mut gadget = tells && is_gadget(*port.borrow_and_update(), settings.gadget);
        if gadget {
            let chosen = random_below(settings.cut_delay_max_ms);
            sleep(ms(chosen)).await;
            delay = Some(chosen);
            // One that came or went meanwhile says nothing about the cut.
            gadget =
                is_gadget(*port.borrow(), settings.gadget) && !port.has_changed().unwrap_or(true);
        }
        let last_arrival = device(*port.borrow_and_update()).map(|device| device.arrival);
        let at = Instant::now();
        chain.power("power off", chain.board.power.off()).await?;
        let detail = match (delay, gadget) {
            (None, _) => "ordered and acknowledged".to_owned(),
            (Some(ms), true) => {
                format!("ordered {ms} ms after the decision, with the gadget on the port")
            }
            (Some(ms), false) => {
                format!("ordered {ms} ms after the decision; the gadget came or went before it")
            }
        };
        Ok(((gadget, at, last_arrival), Note::from(detail)))
    };
    let (gadget, at, last_arrival) = chain.step("cut", limit, work).await?;
    Ok(Ordered {
        chain,
        port,
        gadget,
        at,
        last_arrival,
    })
}

/// The image's own gadget is there.
pub(super) fn is_gadget(presence: Presence, gadget: Option<UsbId>) -> bool {
    match (device(presence), gadget) {
        (Some(device), Some(id)) => device.vendor == id.vendor && device.product == id.product,
        _ => false,
    }
}

/// The device that is there, if any.
pub(super) fn device(presence: Presence) -> Option<Device> {
    match presence {
        Presence::Device(device) => Some(device),
        Presence::Empty | Presence::Unknown => None,
    }
}

/// A device's descriptors, for a message.
pub(super) fn describe(device: Device) -> String {
    format!(
        "a device {:04x}:{:04x} (class {:02x}, arrival {})",
        device.vendor, device.product, device.interface_class, device.arrival
    )
}

/// A random number from 0 to `most`; `most` itself where there is no randomness to be had.
fn random_below(most: u64) -> u64 {
    let Some(span) = most.checked_add(1) else {
        return most;
    };
    let mut bytes = [0; 8];
    match crate::identity::fill_random(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes) % span,
        Err(_) => most,
    }
}

/// Nothing was seen of the port: what the driver cannot see, nobody can vouch for.
pub(super) fn unseen() -> StepError {
    StepError::PortUnseen
}
