//! Wall-clock time, for people, certificates and boards that have no clock of their own. Everything that
//! waits uses monotonic time instead.

/// Now, in milliseconds since 1970 UTC.
#[must_use]
pub(crate) fn now_unix_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
