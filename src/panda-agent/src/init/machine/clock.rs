//! The board's clock. A board has none that runs without power: `boot.toml` says what time it was when it was
//! written, and the master, once it can be reached, what time it is.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

/// No master has a clock before this project began, or beyond what 32-bit boards can count to.
const SANE_MS: std::ops::Range<i64> = 1_700_000_000_000..2_147_000_000_000;

/// Why the clock was not set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClockError {
    /// A time that cannot be.
    #[error("the master's time is {0} ms since 1970; its own clock is wrong")]
    Absurd(i64),
    /// The kernel refused.
    #[error("the clock cannot be set: {0}")]
    Set(Errno),
}

/// Sets the clock to `unix_ms` and the time that has passed since.
pub(crate) fn set(unix_ms: i64, since: Duration) -> Result<(), ClockError> {
    let time = TimeSpec::from(now(unix_ms, since)?);
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(ClockError::Set)
}

fn now(unix_ms: i64, since: Duration) -> Result<Duration, ClockError> {
    if !SANE_MS.contains(&unix_ms) {
        return Err(ClockError::Absurd(unix_ms));
    }
    Ok(Duration::from_millis(unix_ms.unsigned_abs()) + since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_has_passed_counts() {
        let now = now(1_790_000_000_500, Duration::from_millis(7_700)).unwrap();
        assert_eq!(now, Duration::from_millis(1_790_000_008_200));
    }

    #[test]
    fn a_time_that_cannot_be_is_not_set() {
        for absurd in [
            -1,
            0,
            946_684_800_000,
            4_000_000_000_000,
            i64::MIN,
            i64::MAX,
        ] {
            assert_eq!(set(absurd, Duration::ZERO), Err(ClockError::Absurd(absurd)));
        }
    }
}
