//! The texts that come with an image or from an agent: what is accepted is written again and says the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use panda_protocol::link::Report;
use panda_protocol::{agent_toml, manifest};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(accepted) = manifest::parse(bytes) {
        let text = manifest::encode(&accepted).expect("it was accepted");
        assert_eq!(manifest::parse(text.as_bytes()), Ok(accepted));
    }
    if let Ok(accepted) = agent_toml::decode(bytes) {
        let text = agent_toml::encode(&accepted).expect("it was accepted");
        assert_eq!(agent_toml::decode(text.as_bytes()), Ok(accepted));
    }
    if let Ok(accepted) = Report::decode(bytes) {
        assert_eq!(Report::decode(accepted.encode().as_bytes()), Ok(accepted));
    }
});
