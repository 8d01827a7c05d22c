//! The boot's settings: how sure a cut must be, and how long each step may take. Part of `rack.toml`.

use std::fmt;
use std::time::Duration;

use panda_board::settings::Mistakes;
use panda_protocol::omap4::asic_id::Chip;
use serde::{Deserialize, Serialize};

use crate::ledger::Grade;

/// `[boot]` of `rack.toml`. Every time is in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BootSettings {
    /// The least evidence of a power cut that this rack accepts.
    pub require_cut: Grade,
    /// The USB gadget that the image keeps up while a board runs; its leaving is evidence of a cut.
    pub gadget: Option<UsbId>,
    /// A cut of a board whose gadget is there waits a random time of up to this before the order, so
    /// that a hostile board cannot leave the port at the right moment by plan.
    pub cut_delay_max_ms: u64,
    /// The gadget must have left within this after the order.
    pub gadget_leaves_ms: u64,
    /// In a boot that only prepares the next cut, the gadget must be on the port within this of the proof.
    pub gadget_comes_ms: u64,
    /// The power driver must answer each order and question within this.
    pub power_ms: u64,
    /// After the order the port must be empty within this.
    pub port_clears_ms: u64,
    /// How long the board then stays without power, watched. Supplies have capacitors: seconds.
    pub cut_hold_ms: u64,
    /// After power on, the boot ROM must be on the port within this.
    pub rom_window_ms: u64,
    /// The ROM must have told its ASIC ID within this.
    pub asic_id_ms: u64,
    /// The second stage must have been sent, and have announced itself, within this.
    pub second_stage_ms: u64,
    /// The boot image must have been sent within this.
    pub boot_image_ms: u64,
    /// After it, the second stage must have left the port within this.
    pub port_released_ms: u64,
    /// From there, the agent must have reported, and its worker be idle, within this.
    pub handshake_ms: u64,
    /// Meanwhile, its first word must have come within this: its kernel starts, and finds the network.
    pub first_word_ms: u64,
    /// An agent that has said that it boots must go on saying so (it does every 3 s): after such a silence the board
    /// is taken for dead. The same holds for its link once it has reported.
    pub silent_ms: u64,
    /// A pause before each write to the ROM and second stage: host controllers that pack data more
    /// tightly make the ROM stall.
    pub write_pause_ms: u64,
    /// A pause before each read from the second stage, for the same reason.
    pub read_pause_ms: u64,
    /// The most bytes of one transfer to the ROM and the second stage.
    pub transfer_bytes: usize,
}

impl Default for BootSettings {
    fn default() -> Self {
        Self {
            require_cut: Grade::Readback,
            gadget: None,
            cut_delay_max_ms: 2_000,
            gadget_leaves_ms: 1_500,
            gadget_comes_ms: 30_000,
            power_ms: 5_000,
            port_clears_ms: 5_000,
            cut_hold_ms: 3_000,
            rom_window_ms: 8_000,
            asic_id_ms: 5_000,
            second_stage_ms: 10_000,
            boot_image_ms: 120_000,
            port_released_ms: 10_000,
            handshake_ms: 120_000,
            first_word_ms: 60_000,
            silent_ms: 30_000,
            write_pause_ms: 1,
            read_pause_ms: 20,
            transfer_bytes: 64 * 1024,
        }
    }
}

/// The least and most bytes of one transfer: a USB high-speed bulk packet, and what drivers take.
const TRANSFER_BYTES: std::ops::RangeInclusive<usize> = 512..=1024 * 1024;
/// The longest any step may be given: an hour.
const LONGEST_MS: u64 = 3_600_000;

impl BootSettings {
    /// What is wrong with these settings; the configuration's check.
    ///
    /// # Errors
    /// All of it.
    pub fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let must_be_given = [
            ("gadget_comes_ms", self.gadget_comes_ms),
            ("power_ms", self.power_ms),
            ("port_clears_ms", self.port_clears_ms),
            // No hold is no cut: nothing would be seen of it.
            ("cut_hold_ms", self.cut_hold_ms),
            ("rom_window_ms", self.rom_window_ms),
            ("asic_id_ms", self.asic_id_ms),
            ("second_stage_ms", self.second_stage_ms),
            ("boot_image_ms", self.boot_image_ms),
            ("port_released_ms", self.port_released_ms),
            ("handshake_ms", self.handshake_ms),
            ("first_word_ms", self.first_word_ms),
            ("silent_ms", self.silent_ms),
        ];
        for (key, value) in must_be_given {
            mistakes.milliseconds(key, value, 1..=LONGEST_MS);
        }
        let may_be_zero = [
            ("cut_delay_max_ms", self.cut_delay_max_ms),
            ("gadget_leaves_ms", self.gadget_leaves_ms),
            ("write_pause_ms", self.write_pause_ms),
            ("read_pause_ms", self.read_pause_ms),
        ];
        for (key, value) in may_be_zero {
            mistakes.milliseconds(key, value, 0..=LONGEST_MS);
        }
        if !TRANSFER_BYTES.contains(&self.transfer_bytes)
            || !self.transfer_bytes.is_multiple_of(512)
        {
            let expected = format!(
                "expected a multiple of 512 from {} to {}, got {}",
                TRANSFER_BYTES.start(),
                TRANSFER_BYTES.end(),
                self.transfer_bytes
            );
            mistakes.add("transfer_bytes", expected);
        }
        if self.require_cut == Grade::Presence && self.gadget.is_none() {
            let needs = "`presence` needs boot.gadget, the USB gadget that the image keeps up";
            mistakes.add("require_cut", needs);
        }
        mistakes.end()
    }
}

/// A USB vendor and product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsbId {
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
}

/// Which board belongs on a slot's port, as far as its ASIC ID tells. Part of `[[slot]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExpectedBoard {
    /// Its chip: `omap4430` or `omap4460`.
    pub chip: Option<Chip>,
    /// Its public ID, on parts that have one.
    pub public_id: Option<PublicId>,
}

/// A chip's public ID: 40 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicId(pub [u8; 20]);

impl TryFrom<String> for PublicId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut bytes = [0; 20];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| "a public ID has 40 hexadecimal digits".to_owned())?;
        Ok(Self(bytes))
    }
}

impl From<PublicId> for String {
    fn from(id: PublicId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A setting in milliseconds as a duration.
pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_check() {
        assert_eq!(BootSettings::default().check(), Ok(()));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<BootSettings>("rom_windows_ms = 1").unwrap_err();
        assert!(
            error.to_string().contains("unknown field `rom_windows_ms`"),
            "{error}"
        );
    }

    #[test]
    fn settings_out_of_range_name_their_key() {
        for (text, key) in [
            ("rom_window_ms = 0", "rom_window_ms"),
            ("cut_hold_ms = 0", "cut_hold_ms"),
            ("cut_hold_ms = 3600001", "cut_hold_ms"),
            ("transfer_bytes = 1000", "transfer_bytes"),
            ("require_cut = \"presence\"", "require_cut"),
        ] {
            let settings: BootSettings = toml::from_str(text).unwrap();
            let problem = settings.check().unwrap_err().to_string();
            assert!(problem.starts_with(&format!("{key}: ")), "{problem}");
        }
    }
}
