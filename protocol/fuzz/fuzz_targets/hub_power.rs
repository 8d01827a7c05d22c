//! A hub's answers: what is taken for a descriptor is a whole one, and says what its bytes say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::hub_power::{self, DESCRIPTOR_BYTES, Generation, STATUS_BYTES, Switching};

fuzz_target!(|answer: &[u8]| {
    for (generation, kind, power) in [(Generation::Usb2, 0x29, 0x01), (Generation::Super, 0x2a, 0x02)] {
        if let Ok(on) = hub_power::parse_status(answer, generation) {
            assert_eq!(answer.len(), STATUS_BYTES);
            assert_eq!(on, answer[1] & power != 0);
        }
        if let Ok(hub) = hub_power::parse_descriptor(answer, generation) {
            assert_eq!(answer[1], kind);
            assert!(answer.len() >= usize::from(answer[0]).min(DESCRIPTOR_BYTES));
            assert_eq!(hub.ports, answer[2]);
            assert_eq!(hub.switching == Switching::Individual, answer[3] & 3 == 1);
        }
    }
});
