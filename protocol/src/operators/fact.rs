//! What a step has seen, as values: beside the sentence that says the same to people. Each step writes the
//! fact of its kind; what reads them asks for the kind, never for the sentence.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::ids::Label;

/// What a step has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// Power off was ordered and acknowledged.
    PowerOff {
        /// How long the order was held back after the decision, in milliseconds: a random time, where a
        /// gadget was there to be seen leaving.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delay_ms: Option<u64>,
        /// The image's own gadget was on the port as power off was ordered.
        gadget: bool,
    },
    /// The board was without power. How good this evidence is, is the step's grade.
    Dark {
        /// How long after the order the port was empty, in milliseconds.
        emptied_ms: u64,
        /// How long the board was held without power, in milliseconds.
        hold_ms: u64,
        /// The image's gadget left the port within its window.
        gadget_left: bool,
        /// The power driver read back off; false where it cannot tell.
        readback: bool,
        /// An independent sense saw the rail dark; false where there is none.
        sensed: bool,
    },
    /// A boot ROM came to the port.
    Rom {
        /// The device.
        usb: UsbDevice,
        /// How long after power on it was open, in milliseconds.
        after_ms: u64,
    },
    /// The ROM told who it is.
    Identity(Identity),
    /// Something was handed over to the board whole.
    Sent(Sent),
    /// The agent reported with this boot's key.
    Handshake {
        /// The agent's version, in its own words.
        agent: String,
        /// The worker's architecture.
        arch: Label,
        /// Milliseconds since the board started, as it says.
        uptime_ms: u64,
        /// How far the board's clock is ahead of the master's, in milliseconds.
        clock_ahead_ms: i64,
        /// The root file system that the board has verified, where its image has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rootfs: Option<Sent>,
    },
    /// What makes the image unfit for anything but a demonstration.
    Insecure {
        /// Each of these.
        marks: Vec<Label>,
    },
}

/// A device on a USB port, by its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsbDevice {
    /// Vendor.
    pub vendor: u16,
    /// Product.
    pub product: u16,
    /// Class of its first interface.
    pub interface_class: u8,
}

/// Who a board is, as far as its boot ROM tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its family: what boots the same way.
    pub family: Label,
    /// Its chip, as settings name it: `omap4430`.
    pub chip: Label,
    /// Its ROM's version, where the ROM tells one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rom_version: Option<u32>,
    /// What tells this very board from others of its kind, where the part has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_id: Option<PublicId>,
}

/// Bytes that a board was given or has fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// How many.
    pub bytes: u64,
    /// Their digest.
    pub sha256: Sha256,
}

/// The most bytes of a chip's public ID.
pub const MAX_PUBLIC_ID: usize = 32;

/// A chip's public ID: 1 to [`MAX_PUBLIC_ID`] bytes, written as hexadecimal digits. How many bytes is the
/// chip's affair.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicId(Vec<u8>);

/// What is no public ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a public ID has 1 to {MAX_PUBLIC_ID} bytes, two hexadecimal digits each")]
pub struct BadPublicId;

impl PublicId {
    /// From its bytes.
    ///
    /// # Errors
    /// None at all, or too many.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadPublicId> {
        if (1..=MAX_PUBLIC_ID).contains(&bytes.len()) {
            Ok(Self(bytes.to_vec()))
        } else {
            Err(BadPublicId)
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for PublicId {
    type Err = BadPublicId;

    fn from_str(text: &str) -> Result<Self, BadPublicId> {
        if text.len() > 2 * MAX_PUBLIC_ID {
            return Err(BadPublicId);
        }
        Self::from_bytes(&hex::decode(text).map_err(|_| BadPublicId)?)
    }
}

impl TryFrom<String> for PublicId {
    type Error = BadPublicId;

    fn try_from(text: String) -> Result<Self, BadPublicId> {
        text.parse()
    }
}

impl From<PublicId> for String {
    fn from(id: PublicId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            family: "omap4".parse().unwrap(),
            chip: "omap4430".parse().unwrap(),
            rom_version: Some(4),
            public_id: Some(PublicId::from_bytes(&[7; 20]).unwrap()),
        }
    }

    #[test]
    fn facts_are_written_flat_with_their_kind_and_read_back() {
        let sent = Sent {
            bytes: 49,
            sha256: Sha256::of(b"x"),
        };
        for (fact, json) in [
            (
                Fact::PowerOff {
                    delay_ms: None,
                    gadget: false,
                },
                r#"{"kind":"power_off","gadget":false}"#.to_owned(),
            ),
            (
                Fact::Dark {
                    emptied_ms: 3,
                    hold_ms: 3000,
                    gadget_left: false,
                    readback: true,
                    sensed: false,
                },
                r#"{"kind":"dark","emptied_ms":3,"hold_ms":3000,"gadget_left":false,"readback":true,"sensed":false}"#
                    .to_owned(),
            ),
            (
                Fact::Rom {
                    usb: UsbDevice {
                        vendor: 0x451,
                        product: 0xd00f,
                        interface_class: 255,
                    },
                    after_ms: 12,
                },
                r#"{"kind":"rom","usb":{"vendor":1105,"product":53263,"interface_class":255},"after_ms":12}"#
                    .to_owned(),
            ),
            (
                Fact::Identity(identity()),
                format!(
                    r#"{{"kind":"identity","family":"omap4","chip":"omap4430","rom_version":4,"public_id":"{}"}}"#,
                    "07".repeat(20)
                ),
            ),
            (
                Fact::Sent(sent),
                format!(r#"{{"kind":"sent","bytes":49,"sha256":"{}"}}"#, sent.sha256),
            ),
            (
                Fact::Handshake {
                    agent: "panda-agent 1".to_owned(),
                    arch: "armhf".parse().unwrap(),
                    uptime_ms: 9,
                    clock_ahead_ms: -2,
                    rootfs: None,
                },
                r#"{"kind":"handshake","agent":"panda-agent 1","arch":"armhf","uptime_ms":9,"clock_ahead_ms":-2}"#
                    .to_owned(),
            ),
            (
                Fact::Insecure {
                    marks: vec!["fixed-disk-key".parse().unwrap()],
                },
                r#"{"kind":"insecure","marks":["fixed-disk-key"]}"#.to_owned(),
            ),
        ] {
            assert_eq!(serde_json::to_string(&fact).unwrap(), json);
            assert_eq!(serde_json::from_str::<Fact>(&json).unwrap(), fact);
        }
    }

    #[test]
    fn a_public_id_is_bounded_and_hexadecimal() {
        assert_eq!(
            "0a".parse::<PublicId>().unwrap(),
            PublicId::from_bytes(&[10]).unwrap()
        );
        for bad in ["", "0", "zz", &"00".repeat(33)] {
            assert_eq!(bad.parse::<PublicId>(), Err(BadPublicId), "{bad}");
        }
    }
}
