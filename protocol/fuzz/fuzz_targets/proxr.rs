//! A relay board's line: bytes that are a command are written again, and no answer is taken for another's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::proxr::Command;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(command) = Command::decode(bytes) {
        assert_eq!(command.encode(), bytes);
        for byte in 0..=255 {
            if let Ok(answer) = command.answer(byte) {
                assert_eq!(answer.encode(), byte);
            }
        }
    }
});
