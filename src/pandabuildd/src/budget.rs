//! What a boot and a build's inputs move, over which wire, and how long that takes one slot alone and all slots of the
//! rack at once. Pure arithmetic; `pandabuildd check` shows it, and `docs/turnaround.md` holds it beside measurements.
//!
//! ```text
//!            ┌── USB, one host: second stage, kernel, ramdisk ──▶ board 1 … board N
//!   master ──┤
//!            └── one network port: root file system, inputs ────▶ switch ─▶ board 1 … board N
//!                                  ◀── inputs, once, from Launchpad
//! ```
//!
//! The master's port is what all share: a board's own link is as fast as it, so N boards at once get an Nth each.
//! Shared fairly, and all beginning together, all end together: after N times what one alone takes. The USB host is
//! shared in the same way; the pauses between its transfers are not, for every board has its own.

use std::time::Duration;

use panda_protocol::boot_toml;
use panda_protocol::family::FamilyName;
use panda_protocol::manifest::Manifest;
use serde::Serialize;

use crate::boot::BootSettings;
use crate::guest::GuestSettings;

/// Of a full Ethernet frame's 1538 bytes on the wire (preamble and gap included), those that TCP carries over IPv4,
/// with time stamps.
const FRAME_PAYLOAD: (u64, u64) = (1448, 1538);
/// Of a full TLS 1.3 record's 16,406 bytes, those that it carries.
const RECORD_PAYLOAD: (u64, u64) = (16_384, 16_406);

/// How fast a rack's wires are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    /// The master's network port.
    pub(crate) link_mbit_per_s: u32,
    /// The USB host that the boards are at.
    pub(crate) usb_mbit_per_s: u32,
}

/// What moves, and how long that takes. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Budget {
    /// The slots that move at once.
    pub(crate) slots: u64,
    /// The parts of the image.
    pub(crate) parts: Vec<Moved>,
    /// A boot over USB.
    pub(crate) usb: Wire,
    /// A boot over the network.
    pub(crate) link: Wire,
    /// A build's inputs, where they were asked about.
    pub(crate) inputs: Option<Inputs>,
    /// Times of `rack.toml` that are shorter than what they allow for.
    pub(crate) warnings: Vec<String>,
}

/// One part of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Moved {
    /// Its key in the image's manifest.
    pub(crate) part: String,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// Whether it moves over the network; over USB otherwise.
    pub(crate) over_link: bool,
}

/// What one wire moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Wire {
    /// Its rate.
    pub(crate) mbit_per_s: u32,
    /// What moves for one slot.
    pub(crate) bytes: u64,
    /// For one slot alone.
    pub(crate) one_ms: u64,
    /// For all at once.
    pub(crate) all_ms: u64,
}

/// A build's inputs on a rack that has none of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Inputs {
    /// Their bytes.
    pub(crate) bytes: u64,
    /// From Launchpad to the master, once for all slots.
    pub(crate) in_ms: u64,
    /// From the master to one slot's board.
    pub(crate) one_ms: u64,
    /// From the master to all boards at once.
    pub(crate) all_ms: u64,
}

impl Budget {
    /// Of `slots` slots that boot the image of `manifest`; `inputs` is what a build is given, in bytes.
    #[must_use]
    pub(crate) fn of(
        manifest: &Manifest,
        slots: usize,
        rates: Rates,
        boot: &BootSettings,
        guest: &GuestSettings,
        inputs: Option<u64>,
    ) -> Self {
        let slots = slots as u64;
        let parts: Vec<Moved> = manifest
            .parts()
            .map(|(part, file)| Moved {
                part: part.to_owned(),
                bytes: file.bytes,
                over_link: part == "rootfs",
            })
            .collect();
        let over = |link: bool| -> u64 {
            let parts = parts.iter().filter(|moved| moved.over_link == link);
            parts.map(|moved| moved.bytes).sum()
        };
        // Each boot's own boot.toml, at its longest.
        let usb_bytes = over(false).saturating_add(boot_toml::MAX_BYTES as u64);
        let transfer = boot.transfer_bytes.max(1) as u64;
        let pauses = usb_bytes
            .div_ceil(transfer)
            .saturating_mul(boot.write_pause_ms);
        let usb_ms = |slots: u64| {
            milliseconds(usb_bytes.saturating_mul(slots), rates.usb_mbit_per_s)
                .saturating_add(pauses)
        };
        let link_bytes = over(true);
        let link_ms = |bytes: u64| milliseconds(on_the_wire(bytes), rates.link_mbit_per_s);
        let usb = Wire {
            mbit_per_s: rates.usb_mbit_per_s,
            bytes: usb_bytes,
            one_ms: usb_ms(1),
            all_ms: usb_ms(slots),
        };
        let link = Wire {
            mbit_per_s: rates.link_mbit_per_s,
            bytes: link_bytes,
            one_ms: link_ms(link_bytes),
            all_ms: link_ms(link_bytes.saturating_mul(slots)),
        };
        let inputs = inputs.map(|bytes| Inputs {
            bytes,
            in_ms: link_ms(bytes),
            one_ms: link_ms(bytes),
            all_ms: link_ms(bytes.saturating_mul(slots)),
        });
        let mut budget = Self {
            slots,
            parts,
            usb,
            link,
            inputs,
            warnings: Vec::new(),
        };
        budget.warn(manifest.family, boot, guest);
        budget
    }

    fn warn(&mut self, family: FamilyName, boot: &BootSettings, guest: &GuestSettings) {
        let families = boot.families();
        let limit = families
            .named(family)
            .map(|family| family.hand_over_limit(self.usb.bytes));
        let hand_over_ms = limit.map_or(u64::MAX, |limit| {
            u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)
        });
        let hand_over = "the hand-over's limit (boot.families)";
        let inputs = self.inputs.as_ref().map_or(0, |inputs| inputs.all_ms);
        let allowed = [
            (hand_over, hand_over_ms, self.usb.all_ms),
            ("boot.handshake_ms", boot.handshake_ms, self.link.all_ms),
            ("guest.input_ms", guest.input_ms, inputs),
            ("guest.dispatch_ms", guest.dispatch_ms, inputs),
        ];
        for (key, allowed, needed) in allowed {
            if needed >= allowed {
                let (slots, needed) = (self.slots, Duration::from_millis(needed).as_secs_f64());
                self.warnings.push(format!(
                    "{key} is {allowed}, and what it allows for takes {needed:.0} s by itself when all {slots} slots \
                     do it at once: raise it"
                ));
            }
        }
    }

    /// From cold, until every board has booted and has its inputs: boots and inputs one after the other.
    #[must_use]
    pub(crate) fn cold_ms(&self) -> u64 {
        let inputs = self.inputs.as_ref();
        let inputs = inputs.map_or(0, |inputs| inputs.in_ms.saturating_add(inputs.all_ms));
        self.usb
            .all_ms
            .saturating_add(self.link.all_ms)
            .saturating_add(inputs)
    }
}

/// What so many bytes of a file are on the wire, TLS, TCP, IP and Ethernet included.
fn on_the_wire(bytes: u64) -> u64 {
    let grown = |bytes: u128, (carried, whole): (u64, u64)| {
        (bytes * u128::from(whole)).div_ceil(u128::from(carried))
    };
    let bytes = grown(grown(u128::from(bytes), RECORD_PAYLOAD), FRAME_PAYLOAD);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// How long so many bytes take.
fn milliseconds(bytes: u64, mbit_per_s: u32) -> u64 {
    let bits_per_ms = u128::from(mbit_per_s.max(1)) * 1000;
    u64::try_from((u128::from(bytes) * 8).div_ceil(bits_per_ms)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(rootfs: u64) -> Manifest {
        let digest = "00".repeat(32);
        let part = |name: &str, bytes: u64| {
            format!("[{name}]\nfile = \"{name}\"\nsha256 = \"{digest}\"\nbytes = {bytes}\n")
        };
        let mut text =
            "version = 1\nname = \"n\"\narch = \"armhf\"\nmachine = \"panda\"\n".to_owned();
        text += &part("second_stage", 10_000);
        text += &part("kernel", 8_000_000);
        text += &part("ramdisk", 11_924_464);
        if rootfs > 0 {
            text += &part("rootfs", rootfs);
        }
        panda_protocol::manifest::parse(text.as_bytes()).unwrap()
    }

    const RATES: Rates = Rates {
        link_mbit_per_s: 100,
        usb_mbit_per_s: 160,
    };

    fn budget(rootfs: u64, slots: usize, inputs: Option<u64>) -> Budget {
        let (boot, guest) = (BootSettings::default(), GuestSettings::default());
        Budget::of(&manifest(rootfs), slots, RATES, &boot, &guest, inputs)
    }

    #[test]
    fn what_a_boot_moves_is_told_part_by_part_and_by_wire() {
        let budget = budget(100_000_000, 20, None);
        let parts: Vec<_> = budget
            .parts
            .iter()
            .map(|moved| (moved.part.as_str(), moved.bytes, moved.over_link))
            .collect();
        assert_eq!(
            parts,
            [
                ("second_stage", 10_000, false),
                ("kernel", 8_000_000, false),
                ("ramdisk", 11_924_464, false),
                ("rootfs", 100_000_000, true),
            ]
        );
        // 20 MB at 20 MB/s, and a pause of 1 ms for each of 306 pieces of 64 KiB.
        assert_eq!(budget.usb.bytes, 19_934_464 + boot_toml::MAX_BYTES as u64);
        assert_eq!((budget.usb.one_ms, budget.usb.all_ms), (1306, 20306));
    }

    #[test]
    fn twenty_boards_at_once_share_the_masters_link_fairly() {
        let budget = budget(100_000_000, 20, Some(200_000_000));
        // 100 MB are 106.36 MB on the wire: 8.51 s at 12.5 MB/s.
        assert_eq!(budget.link.one_ms, 8509);
        assert_eq!(budget.link.all_ms, 170_173);
        let inputs = budget.inputs.clone().unwrap();
        assert_eq!((inputs.in_ms, inputs.all_ms), (17_018, 340_346));
        assert_eq!(budget.cold_ms(), 20_306 + 170_173 + 17_018 + 340_346);
    }

    #[test]
    fn a_time_out_that_is_shorter_than_what_it_allows_for_is_named() {
        let budget = budget(100_000_000, 20, Some(2_000_000_000));
        let named: Vec<_> = budget
            .warnings
            .iter()
            .filter_map(|text| text.split(' ').next())
            .collect();
        // 170 s for root file systems, and nearly an hour for inputs.
        assert_eq!(
            named,
            ["boot.handshake_ms", "guest.input_ms", "guest.dispatch_ms"]
        );
        assert!(
            self::budget(50_000_000, 20, Some(200_000_000))
                .warnings
                .is_empty()
        );
    }

    #[test]
    fn numbers_that_cannot_be_do_not_overflow() {
        let budget = budget(0, usize::MAX, Some(u64::MAX));
        assert_eq!(budget.link.all_ms, 0);
        assert!(budget.inputs.as_ref().unwrap().all_ms > budget.usb.one_ms);
        assert!(budget.cold_ms() >= budget.usb.all_ms);
    }
}
