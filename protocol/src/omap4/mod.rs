//! OMAP4's boot ROM over USB: its messages and the ASIC ID. `panda-hardware.md` holds the facts.

pub mod asic_id;
pub mod rom;

use crate::operators::HandOver;

/// The step in which the second stage is sent to the ROM, and announces itself.
pub const SECOND_STAGE: HandOver = HandOver::named("second stage");
/// The step in which the boot image is sent to the second stage.
pub const BOOT_IMAGE: HandOver = HandOver::named("boot image");
/// How this family hands a board what it boots, step by step.
pub const HAND_OVER: [HandOver; 2] = [SECOND_STAGE, BOOT_IMAGE];
