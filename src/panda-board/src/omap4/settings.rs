//! This family's settings: how long its hand-over steps may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::paced::Pacing;
use crate::settings::Mistakes;

/// `[boot.families.omap4]` of `rack.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The second stage must have been sent, and have announced itself, within this, in milliseconds.
    pub second_stage_ms: u64,
    /// The boot image must have been sent within this, in milliseconds; where it is left out, within what its size,
    /// the pauses and [`Settings::least_bytes_per_s`] allow, and two minutes at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_image_ms: Option<u64>,
    /// What a USB host is expected to move at least, in bytes a second.
    pub least_bytes_per_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            second_stage_ms: 10_000,
            boot_image_ms: None,
            least_bytes_per_s: 250_000,
        }
    }
}

/// The longest any step may be given: an hour.
const LONGEST_MS: u64 = 3_600_000;
/// The least that an image is given where nothing else is set.
const LEAST_IMAGE: Duration = Duration::from_secs(120);
/// What a pause takes besides itself.
const PAUSE_COSTS: Duration = Duration::from_millis(1);

impl Settings {
    /// What is wrong with them.
    ///
    /// # Errors
    /// All of it.
    pub fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let times = [
            ("second_stage_ms", Some(self.second_stage_ms)),
            ("boot_image_ms", self.boot_image_ms),
        ];
        for (key, value) in times {
            if let Some(value) = value {
                mistakes.milliseconds(key, value, 1..=LONGEST_MS);
            }
        }
        mistakes.unless(
            self.least_bytes_per_s > 0,
            "least_bytes_per_s",
            "expected at least 1, got 0",
        );
        mistakes.end()
    }

    /// How long an image of so many bytes may take.
    #[must_use]
    pub fn image_limit(&self, bytes: u64, pacing: Pacing) -> Duration {
        if let Some(given) = self.boot_image_ms {
            return Duration::from_millis(given);
        }
        let longest = Duration::from_millis(LONGEST_MS);
        let moving = Duration::from_secs(bytes.div_ceil(self.least_bytes_per_s.max(1)).min(3_600));
        let pieces = bytes.div_ceil(pacing.transfer_bytes.max(1) as u64);
        let pauses = u32::try_from(pieces).unwrap_or(u32::MAX);
        let pausing = (pacing.write_pause + PAUSE_COSTS).saturating_mul(pauses);
        moving.saturating_add(pausing).clamp(LEAST_IMAGE, longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_images_time_follows_its_size_and_the_pauses_unless_it_is_given() {
        let pacing = |transfer_bytes, ms| Pacing {
            write_pause: Duration::from_millis(ms),
            read_pause: Duration::ZERO,
            transfer_bytes,
        };
        let settings = Settings::default();
        let limit = |bytes, pacing| settings.image_limit(bytes, pacing).as_secs();
        assert_eq!(limit(9_000_000, pacing(64 * 1024, 1)), 120);
        // 400 s to move, and 1,526 pauses of 2 ms.
        assert_eq!(limit(100_000_000, pacing(64 * 1024, 1)), 403);
        // 36 s to move, and 17,579 pauses of 21 ms.
        assert_eq!(limit(9_000_000, pacing(512, 20)), 405);
        assert_eq!(limit(u64::MAX, pacing(512, 20)), 3_600);
        let given = Settings {
            boot_image_ms: Some(5_000),
            ..settings
        };
        assert_eq!(given.image_limit(u64::MAX, pacing(512, 20)).as_secs(), 5);
        let wrong = Settings {
            boot_image_ms: Some(0),
            ..given
        };
        let mistakes = wrong.check().unwrap_err().to_string();
        assert!(mistakes.starts_with("boot_image_ms: "), "{mistakes}");
    }
}
