//! OMAP4, the PandaBoard's family: its boot ROM over USB, its second stage `aboot`, and the boot image that this
//! takes. `panda-hardware.md` holds the facts.
//!
//! - [`rom`], [`asic_id`]: the boot ROM's messages, and what it says of its chip
//! - [`aboot`], [`bootimg`]: the second stage, and what it starts
//! - [`payload`]: what an image holds for these boards
//! - `stores`: what survives a power cut on them

pub mod aboot;
pub mod asic_id;
pub mod bootimg;
pub mod payload;
pub mod rom;
mod stores;

use crate::family::{Chip, FamilyFacts, FamilyName, RomUsb};
use crate::operators::HandOver;

/// The step in which the second stage is sent to the ROM, and announces itself.
pub const SECOND_STAGE: HandOver = HandOver::named("second stage");
/// The step in which the boot image is sent to the second stage.
pub const BOOT_IMAGE: HandOver = HandOver::named("boot image");

/// The family.
pub const FAMILY: FamilyFacts = FamilyFacts {
    name: FamilyName::named("omap4"),
    roms: &[
        usb(rom::USB_PRODUCT_4430, OMAP4430.key),
        usb(rom::USB_PRODUCT_4460, OMAP4460.key),
    ],
    chips: &[OMAP4430, OMAP4460],
    public_id_bytes: 20,
    hand_over: &[SECOND_STAGE, BOOT_IMAGE],
    check: payload::check,
    stores: stores::STORES,
};

const OMAP4430: Chip = Chip {
    key: "omap4430",
    name: "OMAP4430",
};
const OMAP4460: Chip = Chip {
    key: "omap4460",
    name: "OMAP4460",
};

const fn usb(product: u16, chip: &'static str) -> RomUsb {
    RomUsb {
        vendor: rom::USB_VENDOR,
        product,
        interface_class: rom::USB_INTERFACE_CLASS,
        endpoint_out: rom::ENDPOINT_OUT,
        endpoint_in: rom::ENDPOINT_IN,
        chip,
    }
}
