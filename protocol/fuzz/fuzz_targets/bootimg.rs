//! A boot image: what parses lies within its bytes, and composes to an image that says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::omap4::bootimg::{Spec, compose, parse};
use panda_protocol::manifest::Machine;

fuzz_target!(|bytes: &[u8]| {
    for machine in [Machine::Panda, Machine::Process] {
        let Ok(image) = parse(bytes, machine) else { continue };
        assert!(image.kernel.len() + image.ramdisk.len() <= bytes.len());
        let spec = Spec { machine, page_size: image.page_size, cmdline: image.cmdline };
        let again = compose(&spec, image.kernel, &[image.ramdisk]).expect("it was accepted");
        assert_eq!(parse(&again, machine), Ok(image));
    }
});
