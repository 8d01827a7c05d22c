//! The USB gadget that an image may keep up on the board's port while its machine runs: what a host watches to see
//! the board lose its power. Ordered by `gadget` (see [`crate::faults`]), since the images of process machines have
//! no kernel of their own to bring one up.

use std::time::Duration;

use panda_board::Device;
use tokio::time::Instant;

use super::{Board, Power};
use crate::faults::Fault;

/// Vendor and product: the Linux Foundation's composite gadget.
const ID: (u16, u16) = (0x1d6b, 0x0104);
/// Vendor-specific, so that no host has a driver for it.
const CLASS: u8 = 0xff;
/// From the machine's start until its kernel has brought the gadget up.
const DELAY: Duration = Duration::from_millis(500);

/// The gadget of a machine that runs.
#[derive(Debug)]
pub(super) enum Gadget {
    /// There is none.
    None,
    /// It comes then.
    Comes(Instant),
    /// It is on the port.
    Up(Device),
}

impl Board {
    /// Whether the image keeps a gadget up: from the next boot on, or no more, at once.
    pub(super) fn keep_gadget(&mut self, kept: bool) {
        self.keeps_gadget = kept;
        if !kept {
            self.hide_gadget();
        }
    }

    /// The gadget of a machine that has just been started.
    pub(super) fn gadget(&self) -> Gadget {
        let panics = self.fault == Some(Fault::KernelPanics);
        if self.keeps_gadget && !panics {
            Gadget::Comes(Instant::now() + DELAY)
        } else {
            Gadget::None
        }
    }

    pub(super) fn show_gadget(&mut self) {
        self.arrivals += 1;
        let device = Device {
            vendor: ID.0,
            product: ID.1,
            interface_class: CLASS,
            arrival: self.arrivals,
        };
        self.change_gadget(Gadget::Up(device));
    }

    pub(super) fn hide_gadget(&mut self) {
        self.change_gadget(Gadget::None);
    }

    fn change_gadget(&mut self, to: Gadget) {
        self.on_port(|board| {
            if let Power::Running { gadget, .. } = &mut board.power {
                *gadget = to;
            }
        });
    }

    pub(super) fn shown_gadget(&self) -> Option<Device> {
        match &self.power {
            Power::Running {
                gadget: Gadget::Up(device),
                ..
            } => Some(*device),
            Power::Running { .. }
            | Power::Off
            | Power::Waking { .. }
            | Power::Rom { .. }
            | Power::Dark => None,
        }
    }
}
