//! Images out of kept parts, with stand-ins for Debian's files: what is made again, and what is not.

use std::fs;

use super::*;

/// A cache with parts in it.
fn settings_are(image: &Image) -> AgentToml {
    let bytes = fs::read(image.path(&image.manifest().ramdisk)).unwrap();
    let entries = panda_protocol::cpio::read(&bytes).unwrap();
    let found = entries
        .iter()
        .find(|entry| entry.path.as_str() == agent_toml::NAME);
    let panda_protocol::cpio::Node::File(text) = found.unwrap().node else {
        panic!("no file")
    };
    agent_toml::decode(text).unwrap()
}

#[test]
fn the_agent_is_told_its_architecture() {
    assert_eq!(settings("armhf").unwrap().arch, "armhf");
    assert!(settings("no arch").is_err());
}
