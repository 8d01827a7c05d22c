//! Small checks that several formats share. Private to the crate.

/// The most bytes of a host name: what Linux takes.
const MAX_HOST_NAME: usize = 64;

/// One label of a host name: 1 to 63 of `a-z`, `0-9` and `-`, neither first nor last a `-`.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A host name: labels joined by dots.
pub(crate) fn is_host_name(text: &str) -> bool {
    text.len() <= MAX_HOST_NAME && text.split('.').all(is_label)
}

/// A boot's id: 32 lower-case hexadecimal digits.
pub(crate) fn is_boot_id(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A line for people: 1 to `max` bytes, no control characters.
pub(crate) fn is_line(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The number of the line, from 1, that byte `at` of `text` lies on.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count()
}
