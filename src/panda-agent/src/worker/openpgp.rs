//! The keys of a build's archives: items of `trusted_keys`, each of one key or several, in armour or not.
//! [`super::inner`] makes one keyring of them, as apt reads it.
//!
//! ```text
//! [text] -----BEGIN PGP PUBLIC KEY BLOCK-----  headers  (blank)  base64  =sum  -----END … [text] -----BEGIN …
//! packets (RFC 4880, 4.2): public key (6), then user ids (13, 17), subkeys (14), signatures (2); the next key
//! ```
//! Nothing is verified: what an archive's key may sign is apt's business.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use panda_protocol::digest::{Sha1, Sha256};

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

const SIGNATURE: u8 = 2;
const PUBLIC_KEY: u8 = 6;
const USER_ID: u8 = 13;
const PUBLIC_SUBKEY: u8 = 14;
const USER_ATTRIBUTE: u8 = 17;

/// The public keys of an item.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Their packets, as a keyring has them.
    pub(crate) packets: Vec<u8>,
    /// Fingerprint and first user id of each.
    pub(crate) names: Vec<String>,
}

/// Reads an item; none where there is no public key in it. What follows the last whole packet is left out.
pub(crate) fn read(item: &[u8]) -> Option<Keys> {
    let mut keys = Keys::default();
    let text = String::from_utf8_lossy(item);
    if text.contains(BEGIN) {
        for block in text.split(BEGIN).skip(1) {
            keys.take(&dearmour(block.split(END).next()?)?)?;
        }
    } else {
        keys.take(item)?;
    }
    (!keys.names.is_empty()).then_some(keys)
}

impl Keys {
    fn take(&mut self, mut bytes: &[u8]) -> Option<()> {
        let mut begun = false;
        let mut named = true;
        while let Some(packet) = Packet::read(bytes) {
            match packet.tag {
                PUBLIC_KEY => {
                    (begun, named) = (true, false);
                    self.names.push(fingerprint(packet.body));
                }
                _ if !begun => return None,
                USER_ID => {
                    if let (false, Some(name)) = (named, self.names.last_mut()) {
                        named = true;
                        name.push_str("  ");
                        name.push_str(&plain(packet.body));
                    }
                }
                SIGNATURE | PUBLIC_SUBKEY | USER_ATTRIBUTE => {}
                // Trust of a keyring, markers and padding are nobody else's.
                _ => {
                    bytes = &bytes[packet.length..];
                    continue;
                }
            }
            self.packets.extend_from_slice(&bytes[..packet.length]);
            bytes = &bytes[packet.length..];
        }
        begun.then_some(())
    }
}

struct Packet<'a> {
    tag: u8,
    body: &'a [u8],
    /// Of header and body.
    length: usize,
}

impl<'a> Packet<'a> {
    /// The first packet, in the old or the new format; lengths in parts are for other packets than those of keys.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&first, rest) = bytes.split_first()?;
        // Five bytes at the most, also where a `usize` has four.
        let number = |count: usize| {
            let digits = rest.get(..count)?;
            let sum = |sum: u64, digit: &u8| sum << 8 | u64::from(*digit);
            Some(digits.iter().fold(0, sum))
        };
        let (tag, digits, length) = match first {
            0xc0.. => {
                let second = number(1)?;
                let (digits, length) = match second {
                    0..=191 => (1, second),
                    192..=223 => (2, number(2)? - (192 << 8) + 192),
                    255 => (5, number(5)? - (255 << 32)),
                    _ => return None,
                };
                (first & 0x3f, digits, length)
            }
            0x80.. => {
                let digits = match first & 3 {
                    0 => 1,
                    1 => 2,
                    2 => 4,
                    _ => return None,
                };
                ((first >> 2) & 0xf, digits, number(digits)?)
            }
            _ => return None,
        };
        let length = usize::try_from(length).ok()?;
        Some(Self {
            tag,
            body: rest.get(digits..digits.checked_add(length)?)?,
            length: 1 + digits + length,
        })
    }
}

/// Takes OpenPGP's armour off (RFC 4880, 6.2); `block` begins behind its first line's words. The sum is left to apt's own
/// reading.
fn dearmour(block: &str) -> Option<Vec<u8>> {
    let data: String = block
        .lines()
        .map(str::trim)
        .skip_while(|line| line.is_empty() || line.contains(':'))
        .filter(|line| !line.starts_with('='))
        .collect();
    STANDARD.decode(data).ok()
}

/// Of a public key's body (RFC 4880, 12.2; RFC 9580, 5.5.4).
fn fingerprint(body: &[u8]) -> String {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let digest = match body.first() {
        Some(4) => Sha1::of(&[&[0x99], &length[2..], body].concat()).to_string(),
        Some(5) => Sha256::of(&[&[0x9a], &length[..], body].concat()).to_string(),
        Some(6) => Sha256::of(&[&[0x9b], &length[..], body].concat()).to_string(),
        _ => return "(a key of an old form)".to_owned(),
    };
    digest.to_uppercase()
}

/// A user id for a log.
fn plain(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key packet of version 4 and a user id.
    fn key(name: &str) -> Vec<u8> {
        let mut key = vec![0x99, 0, 6, 4, 1, 2, 3, 4, 1];
        key.extend([0xcd, u8::try_from(name.len()).unwrap()]);
        key.extend(name.bytes());
        key
    }

    fn armour(bytes: &[u8]) -> String {
        let data = STANDARD.encode(bytes);
        let (first, rest) = data.split_at(4);
        format!("{BEGIN}\nVersion: x\nComment: y: z\n\n{first}\n{rest}\n=abcd\n{END}\n")
    }

    #[test]
    fn one_item_may_have_several_keys_in_armour_or_not() {
        let both = [key("a"), key("b")].concat();
        let texts = [
            both.clone(),
            armour(&both).into_bytes(),
            format!("{}{}", armour(&key("a")), armour(&key("b"))).into_bytes(),
            format!(
                "the first:\r\n{} the second: {}end",
                armour(&key("a")),
                armour(&key("b"))
            )
            .replace('\n', "\r\n")
            .into_bytes(),
            [
                &b"caf\xe9\n"[..],
                armour(&key("a"))
                    .replace("\nVersion: x\nComment: y: z\n", "\n")
                    .as_bytes(),
                armour(&key("b")).as_bytes(),
            ]
            .concat(),
            [&both[..], b"\n"].concat(),
        ];
        for text in texts {
            let keys = read(&text).unwrap();
            assert_eq!(keys.packets, both);
            assert_eq!(keys.names.len(), 2);
            assert!(
                keys.names[0].ends_with("  a") && keys.names[1].ends_with("  b"),
                "{keys:?}"
            );
        }
    }

    #[test]
    fn a_fingerprint_is_that_of_the_standard() {
        let body = [4, 1, 2, 3, 4, 1];
        let wanted = Sha1::of(&[&[0x99, 0, 6][..], &body].concat())
            .to_string()
            .to_uppercase();
        assert_eq!(fingerprint(&body), wanted);
        assert_eq!(read(&key("a")).unwrap().names, [format!("{wanted}  a")]);
    }

    #[test]
    fn lengths_of_both_formats_are_read() {
        for (header, length) in [
            (vec![0xc6, 5], 5),
            (vec![0xc6, 192, 8], 200),
            (vec![0xc6, 255, 0, 0, 1, 0], 256),
            (vec![0x98, 5], 5),
            (vec![0x9a, 0, 0, 1, 0], 256),
        ] {
            let packet = [&header[..], &vec![4; length]].concat();
            let read = Packet::read(&packet).unwrap();
            assert_eq!(
                (read.tag, read.body.len(), read.length),
                (6, length, packet.len())
            );
            assert!(Packet::read(&packet[..packet.len() - 1]).is_none());
        }
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let secret = [0x95, 0, 1, 4];
        for item in [
            &b""[..],
            b"deb http://x/",
            b"\x99",
            &secret,
            b"\xcd\x01a",
            BEGIN.as_bytes(),
        ] {
            assert_eq!(read(item), None, "{item:?}");
        }
        let broken = format!("{}{BEGIN}\n\n?\n{END}\n", armour(&key("a")));
        assert_eq!(read(broken.as_bytes()), None);
    }
}
