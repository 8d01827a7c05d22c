//! A kernel and a device tree, cut where the first two bytes say: what is joined is a kernel of its own size with that
//! tree right behind it, and to no such kernel is another tree added.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::zimage::{HEAD_BYTES, KernelError, check, with_dtb};

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (kernel, tree) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
    let plain = check(kernel, kernel.len() as u64);
    assert_eq!(with_dtb(kernel.to_vec(), None).err(), plain.err());
    let Ok(joined) = with_dtb(kernel.to_vec(), Some(tree)) else { return };
    let size = usize::try_from(plain.expect("it was joined")).expect("it is in memory");
    assert!((HEAD_BYTES..=kernel.len()).contains(&size));
    assert_eq!(joined, [&kernel[..size], tree].concat());
    assert_eq!(with_dtb(joined, Some(tree)), Err(KernelError::TwoTrees));
});
