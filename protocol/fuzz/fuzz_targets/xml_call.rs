//! A call from outside: whatever is accepted can be written again and reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::launchpad::Call;
use panda_protocol::launchpad::xml::{Limits, decode_call, encode_call};

fuzz_target!(|document: &[u8]| {
    let limits = Limits::default();
    // Text without a type is written as a string: one element more.
    let roomy = Limits { bytes: usize::MAX, depth: limits.depth + 1, items: usize::MAX };
    let Ok((method, params)) = decode_call(document, &limits) else { return };
    let written = encode_call(&method, &params).expect("what was read can be written");
    let again = decode_call(written.as_bytes(), &roomy).expect("what was written can be read");
    assert_eq!(format!("{again:?}"), format!("{:?}", (&method, &params)));
    if let Ok(call) = Call::decode(&method, params) {
        let (method, params) = call.encode();
        let again = Call::decode(method, params).expect("an encoded call decodes");
        assert_eq!(format!("{again:?}"), format!("{call:?}"));
    }
});
