//! What a device says of itself: whatever it is, it is bounded, and nothing passes for a boot ROM that brings an interface
//! for one of the kernel's drivers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::family;
use panda_protocol::usb_descriptors::{MAX_BYTES, MAX_INTERFACES, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(device) = parse(bytes) else { return };
    assert!(bytes.len() <= MAX_BYTES);
    assert!(device.interfaces.len() <= MAX_INTERFACES);
    // Each interface and endpoint is in the bytes.
    let endpoints: usize = device.interfaces.iter().map(|interface| interface.bulk.len()).sum();
    assert!(18 + 6 * device.interfaces.len() + 4 * endpoints <= bytes.len());
    if device.as_rom().is_ok() {
        assert!(!device.is_hub());
        let (_, rom) = family::rom_of(device.vendor, device.product).expect("it is one");
        assert_eq!(device.configurations, 1);
        assert!(device.interfaces.iter().all(|interface| interface.class == rom.interface_class));
        assert_eq!(device.first_class(), rom.interface_class);
    }
});
