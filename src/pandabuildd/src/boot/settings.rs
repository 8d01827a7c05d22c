//! The boot's settings: how sure a cut must be, and how long each step may take. Part of `rack.toml`.

use std::time::Duration;

use panda_board::family::{Families, FamilySettings};
use panda_board::paced::Pacing;
use panda_board::settings::Mistakes;
use serde::{Deserialize, Serialize};

use crate::ledger::Grade;

/// `[boot]` of `rack.toml`. Every time is in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BootSettings {
    /// The least evidence of a power cut that this rack accepts.
    pub(crate) require_cut: Grade,
    /// The USB gadget that the image keeps up while a board runs; its leaving is evidence of a cut.
    pub(crate) gadget: Option<UsbId>,
    /// A cut of a board whose gadget is there waits a random time of up to this before the order, so
    /// that a hostile board cannot leave the port at the right moment by plan.
    pub(crate) cut_delay_max_ms: u64,
    /// The gadget must have left within this after the order.
    pub(crate) gadget_leaves_ms: u64,
    /// In a boot that only prepares the next cut, the gadget must be on the port within this of the proof.
    pub(crate) gadget_comes_ms: u64,
    /// The power driver must answer each order and question within this.
    pub(crate) power_ms: u64,
    /// After the order the port must be empty within this.
    pub(crate) port_clears_ms: u64,
    /// How long the board then stays without power, watched. Supplies have capacitors: seconds.
    pub(crate) cut_hold_ms: u64,
    /// After power on, the boot ROM must be on the port within this.
    pub(crate) rom_window_ms: u64,
    /// The ROM must have told who it is within this.
    pub(crate) identify_ms: u64,
    /// What each family of boards has to set for itself: `[boot.families.NAME]`.
    pub(crate) families: FamilySettings,
    /// The former name of `identify_ms`; read with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) asic_id_ms: Option<u64>,
    /// The former place of `families.omap4.second_stage_ms`; read with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) second_stage_ms: Option<u64>,
    /// The former place of `families.omap4.boot_image_ms`; read with a warning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) boot_image_ms: Option<u64>,
    /// After the last byte, the board must have left the port within this.
    pub(crate) port_released_ms: u64,
    /// From there, the agent must have reported, and its worker be idle, within this.
    pub(crate) handshake_ms: u64,
    /// Meanwhile, its first word must have come within this: its kernel starts, and finds the network.
    pub(crate) first_word_ms: u64,
    /// An agent that has said that it boots must go on saying so (it does every 3 s): after such a silence the board
    /// is taken for dead. The same holds for its link once it has reported.
    pub(crate) silent_ms: u64,
    /// A pause before each write to the ROM and second stage: host controllers that pack data more
    /// tightly make the ROM stall.
    pub(crate) write_pause_ms: u64,
    /// A pause before each read from the second stage, for the same reason.
    pub(crate) read_pause_ms: u64,
    /// The most bytes of one transfer to the ROM and the second stage.
    pub(crate) transfer_bytes: usize,
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
            identify_ms: 5_000,
            families: FamilySettings::default(),
            asic_id_ms: None,
            second_stage_ms: None,
            boot_image_ms: None,
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
    pub(crate) fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let must_be_given = [
            ("gadget_comes_ms", self.gadget_comes_ms),
            ("power_ms", self.power_ms),
            ("port_clears_ms", self.port_clears_ms),
            // No hold is no cut: nothing would be seen of it.
            ("cut_hold_ms", self.cut_hold_ms),
            ("rom_window_ms", self.rom_window_ms),
            ("identify_ms", self.identify_ms),
            ("port_released_ms", self.port_released_ms),
            ("handshake_ms", self.handshake_ms),
            ("first_word_ms", self.first_word_ms),
            ("silent_ms", self.silent_ms),
        ];
        for (key, value) in must_be_given {
            mistakes.milliseconds(key, value, 1..=LONGEST_MS);
        }
        if let Some(former) = self.asic_id_ms {
            mistakes.milliseconds("asic_id_ms", former, 1..=LONGEST_MS);
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
        for mistake in self.family_settings().check().err().into_iter().flatten() {
            let key = match mistake.key.as_str() {
                "omap4.second_stage_ms" if self.second_stage_ms.is_some() => {
                    "second_stage_ms".to_owned()
                }
                "omap4.boot_image_ms" if self.boot_image_ms.is_some() => "boot_image_ms".to_owned(),
                key => format!("families.{key}"),
            };
            mistakes.add(key, mistake.text);
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

impl BootSettings {
    /// The ROM must have told who it is within this, in milliseconds.
    #[must_use]
    pub(crate) fn identify_ms(&self) -> u64 {
        self.asic_id_ms.unwrap_or(self.identify_ms)
    }

    /// The families of boards, each with its own settings.
    #[must_use]
    pub(crate) fn families(&self) -> Families {
        Families::new(&self.family_settings(), self.pacing())
    }

    fn family_settings(&self) -> FamilySettings {
        let mut families = self.families.clone();
        if let Some(ms) = self.second_stage_ms {
            families.omap4.second_stage_ms = ms;
        }
        families.omap4.boot_image_ms = self.boot_image_ms.or(families.omap4.boot_image_ms);
        families
    }

    /// How transfers are paced.
    #[must_use]
    pub(crate) fn pacing(&self) -> Pacing {
        Pacing {
            write_pause: ms(self.write_pause_ms),
            read_pause: ms(self.read_pause_ms),
            transfer_bytes: self.transfer_bytes,
        }
    }

    /// What is written as it used to be, in words.
    #[must_use]
    pub(crate) fn former_keys(&self) -> Vec<String> {
        [
            ("asic_id_ms", self.asic_id_ms, "boot.identify_ms"),
            (
                "second_stage_ms",
                self.second_stage_ms,
                "boot.families.omap4.second_stage_ms",
            ),
            (
                "boot_image_ms",
                self.boot_image_ms,
                "boot.families.omap4.boot_image_ms",
            ),
        ]
        .into_iter()
        .filter(|(_, value, _)| value.is_some())
        .map(|(key, _, now)| format!("boot.{key} is now {now}; the former key is still read"))
        .collect()
    }
}

/// A USB vendor and product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsbId {
    /// Vendor.
    pub(crate) vendor: u16,
    /// Product.
    pub(crate) product: u16,
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
    fn former_keys_are_read_and_named_with_their_new_places() {
        let former: BootSettings =
            toml::from_str("asic_id_ms = 7\nsecond_stage_ms = 8\nboot_image_ms = 9").unwrap();
        assert_eq!(former.identify_ms(), 7);
        let families = former.family_settings();
        assert_eq!(families.omap4.second_stage_ms, 8);
        assert_eq!(families.omap4.boot_image_ms, Some(9));
        assert_eq!(former.former_keys().len(), 3);
        let now = "identify_ms = 7\nfamilies.omap4 = { second_stage_ms = 8, boot_image_ms = 9 }";
        let now: BootSettings = toml::from_str(now).unwrap();
        assert_eq!(now.family_settings(), families);
        assert!(now.former_keys().is_empty());
    }

    #[test]
    fn settings_out_of_range_name_their_key() {
        for (text, key) in [
            ("rom_window_ms = 0", "rom_window_ms"),
            ("cut_hold_ms = 0", "cut_hold_ms"),
            ("cut_hold_ms = 3600001", "cut_hold_ms"),
            ("transfer_bytes = 1000", "transfer_bytes"),
            ("require_cut = \"presence\"", "require_cut"),
            ("asic_id_ms = 0", "asic_id_ms"),
            ("boot_image_ms = 0", "boot_image_ms"),
            (
                "families.omap4.second_stage_ms = 0",
                "families.omap4.second_stage_ms",
            ),
        ] {
            let settings: BootSettings = toml::from_str(text).unwrap();
            let problem = settings.check().unwrap_err().to_string();
            assert!(problem.starts_with(&format!("{key}: ")), "{problem}");
        }
    }
}
