//! A log in pieces: the output does not depend on where the pieces end. The first byte says how
//! long the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::launchpad::log::{LogSanitizer, log_tail};

fuzz_target!(|input: &[u8]| {
    let Some((size, log)) = input.split_first() else { return };
    let mut whole = Vec::new();
    let mut sanitizer = LogSanitizer::default();
    sanitizer.push(log, &mut whole);
    sanitizer.finish(&mut whole);

    let mut pieces = Vec::new();
    let mut sanitizer = LogSanitizer::default();
    for piece in log.chunks(usize::from(*size).max(1)) {
        sanitizer.push(piece, &mut pieces);
    }
    sanitizer.finish(&mut pieces);
    assert_eq!(whole, pieces);
    assert!(whole.len() <= log.len());
    assert!(log_tail(&whole, true).len() <= 2048);
});
