//! `boot.toml`, alone and in a ramdisk: what is accepted is written again and found again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::boot_toml::{BootTomlError, cpio_with, decode, find};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(boot) = decode(bytes) {
        match cpio_with(&boot) {
            Ok(archive) => assert!(find(&archive) == Ok(boot)),
            Err(error) => assert_eq!(error, BootTomlError::TooLong),
        }
    }
    drop(find(bytes));
});
