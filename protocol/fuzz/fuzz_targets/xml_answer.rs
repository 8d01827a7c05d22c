//! An answer from outside: whatever is accepted can be written again and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::launchpad::xml::{Limits, decode_answer, encode_answer};

fuzz_target!(|document: &[u8]| {
    let limits = Limits::default();
    // Text without a type is written as a string: one element more.
    let roomy = Limits { bytes: usize::MAX, depth: limits.depth + 1, items: usize::MAX };
    let Ok(answer) = decode_answer(document, &limits) else { return };
    let written = encode_answer(&answer).expect("what was read can be written");
    let again = decode_answer(written.as_bytes(), &roomy).expect("what was written can be read");
    assert_eq!(format!("{again:?}"), format!("{answer:?}"));
});
