//! A ramdisk: every path that is let through stays below its directory, and the files are written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::cpio::{MAX_ENTRIES, Node, Writer, read};

fuzz_target!(|bytes: &[u8]| {
    let Ok(entries) = read(bytes) else { return };
    assert!(entries.len() <= MAX_ENTRIES);
    let mut writer = Writer::new();
    let mut files = Vec::new();
    for entry in &entries {
        let path = entry.path.as_str();
        assert!(!path.starts_with('/') && !path.contains('\0'));
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")));
        if let Node::File(bytes) = entry.node {
            writer.file(&entry.path, entry.permissions, bytes).expect("it fitted before");
            files.push(entry);
        }
    }
    let archive = writer.finish();
    let again = read(&archive).expect("what is written is read");
    assert!(again.iter().filter(|entry| entry.node != Node::Directory).eq(files));
});
