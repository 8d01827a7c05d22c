//! `agent.toml`: what an image's ramdisk tells the agent, the same on every boot of the image. Whoever makes
//! an image writes it; the agent reads it before it starts its worker. What belongs to one boot is in
//! [`crate::boot_toml`].

use serde::{Deserialize, Serialize};

use crate::checks::{is_label, is_line, line_of};

/// The name of the file in the ramdisk.
pub const NAME: &str = "agent.toml";
/// The version that this code writes and reads.
pub const VERSION: u32 = 1;
/// The most bytes of the file.
pub const MAX_BYTES: usize = 16 * 1024;
/// The most bytes of an executor's command line.
pub const MAX_EXECUTOR: usize = 4096;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentToml {
    /// [`VERSION`].
    pub version: u32,
    /// The worker's architecture tag, `armhf`.
    pub arch: String,
    /// A shell command that takes the place of chroot and sbuild.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<String>,
    /// For demonstrations only: the scratch disk's keys are known in advance, and its file systems are kept from
    /// boot to boot, so that one build finds what another left. The agent and the daemon say so loudly.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_fixed_disk_key: bool,
}

/// Reads an `agent.toml`.
///
/// # Errors
/// When it is too long, no TOML of this shape, of another version, or a value is not what it must be.
pub fn decode(bytes: &[u8]) -> Result<AgentToml, AgentTomlError> {
    if bytes.len() > MAX_BYTES {
        return Err(AgentTomlError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| AgentTomlError::NotText)?;
    let agent: AgentToml = toml::from_str(text).map_err(|error| AgentTomlError::Shape {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
        message: error
            .message()
            .chars()
            .filter(|c| !c.is_control())
            .take(300)
            .collect(),
    })?;
    agent.check()?;
    Ok(agent)
}

/// Writes an `agent.toml` that [`decode`] will take.
///
/// # Errors
/// When a value is not what it must be.
pub fn encode(agent: &AgentToml) -> Result<String, AgentTomlError> {
    agent.check()?;
    toml::to_string(agent).map_err(|_| AgentTomlError::Unwritable)
}

impl AgentToml {
    fn check(&self) -> Result<(), AgentTomlError> {
        if self.version != VERSION {
            return Err(AgentTomlError::Version(self.version));
        }
        if !is_label(&self.arch) {
            return Err(AgentTomlError::Value {
                key: "arch",
                expected: "an architecture, as armhf",
            });
        }
        if self
            .executor
            .as_deref()
            .is_some_and(|command| !is_line(command, MAX_EXECUTOR))
        {
            return Err(AgentTomlError::Value {
                key: "executor",
                expected: "a command of one line and at most 4096 bytes",
            });
        }
        Ok(())
    }
}

/// What is wrong with an `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentTomlError {
    /// Over the bound.
    #[error("{NAME} has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("{NAME} is not UTF-8 text")]
    NotText,
    /// Not TOML, a key that does not exist, a missing key or a wrong type.
    #[error("{NAME}, line {line}: {message}")]
    Shape {
        /// Where, from 1.
        line: usize,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A later or earlier format.
    #[error("{NAME} has version {0}; this program knows version {VERSION}")]
    Version(u32),
    /// A value that cannot be.
    #[error("{NAME}: `{key}` must be {expected}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// It cannot be written as TOML.
    #[error("{NAME} cannot be written")]
    Unwritable,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_file_reads_as_it_is_documented() {
        assert_eq!(
            decode(b"version = 1\narch = \"armhf\"\nexecutor = \"./build --fast\"\n"),
            Ok(AgentToml {
                version: 1,
                arch: "armhf".to_owned(),
                executor: Some("./build --fast".to_owned()),
                insecure_fixed_disk_key: false,
            })
        );
        let fixed = b"version = 1\narch = \"armhf\"\ninsecure_fixed_disk_key = true\n";
        assert!(decode(fixed).unwrap().insecure_fixed_disk_key);
    }

    #[test]
    fn errors_name_the_line_or_the_key() {
        let error = |text: &str| decode(text.as_bytes()).unwrap_err().to_string();
        assert!(
            error("version = 1\narhc = \"x\"\n").starts_with("agent.toml, line 2: unknown field")
        );
        assert!(error("version = 2\narch = \"x\"\n").contains("version 2"));
        assert!(error("version = 1\narch = \"a b\"\n").contains("`arch`"));
        assert!(error("version = 1\narch = \"a\"\nexecutor = \"\"\n").contains("`executor`"));
        assert!(
            error("version = 1\narch = \"a\"\nexecutor = \"a\\u0000b\"\n").contains("`executor`")
        );
        assert_eq!(
            decode(&vec![b'#'; MAX_BYTES + 1]),
            Err(AgentTomlError::TooLong)
        );
        assert_eq!(decode(b"\xff"), Err(AgentTomlError::NotText));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            arch in "[a-z0-9]{1,20}", executor in prop::option::of("[ -~é]{1,200}"),
            insecure_fixed_disk_key: bool,
        ) {
            let agent = AgentToml { version: VERSION, arch, executor, insecure_fixed_disk_key };
            prop_assert_eq!(decode(encode(&agent).unwrap().as_bytes()), Ok(agent));
        }
    }
}
