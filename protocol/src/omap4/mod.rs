//! OMAP4's boot ROM over USB: its messages and the ASIC ID. `panda-hardware.md` holds the facts.

pub mod asic_id;
pub mod rom;
