//! What a boot ROM answered: an ID that is accepted is built again, byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::omap4::asic_id::AsicId;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(id) = AsicId::parse(bytes) {
        assert_eq!(id.encode(), bytes);
    }
});
