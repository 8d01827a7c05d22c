//! Digests as values: [`Sha1`] names files in Launchpad's protocol, [`Sha256`] names images and
//! what we send to a board. Both are written as lower-case hexadecimal.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no digest of the wanted kind. It does not quote the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} lower-case hexadecimal digits")]
pub struct DigestError {
    expected: usize,
}

macro_rules! digest {
    ($name:ident, $bytes:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// From the raw bytes of the digest.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The raw bytes of the digest.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                let error = DigestError {
                    expected: 2 * $bytes,
                };
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(error);
                }
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| error)?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest!(
    Sha1,
    20,
    "A SHA-1 digest: the name of a file in Launchpad's protocol."
);
digest!(
    Sha256,
    32,
    "A SHA-256 digest: the name of an image, or of something sent to a board."
);

impl Sha256 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl Sha1 {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha1::Digest as _;
        Self(sha1::Sha1::digest(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_texts_have_their_known_digests() {
        assert_eq!(
            Sha1::of(b"abc").to_string(),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        assert_eq!(
            Sha256::of(b"abc").as_bytes(),
            &hex!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
    }

    #[test]
    fn only_lower_case_hexadecimal_of_the_right_length_is_a_digest() {
        let good = "a9993e364706816aba3e25717850c26c9cd0d89d";
        assert_eq!(good.parse(), Ok(Sha1::of(b"abc")));
        let upper = good.to_uppercase();
        let longer = format!("{good}0");
        let multibyte = format!("{}é", &good[2..]);
        for bad in [
            "",
            &good[1..],
            &good[2..],
            &longer,
            &upper,
            "../../etc/passwd",
            &multibyte,
        ] {
            assert_eq!(
                bad.parse::<Sha1>(),
                Err(DigestError { expected: 40 }),
                "{bad}"
            );
        }
        assert_eq!(good.parse::<Sha256>(), Err(DigestError { expected: 64 }));
    }

    #[test]
    fn a_digest_is_a_string_to_serde() {
        let json = "\"a9993e364706816aba3e25717850c26c9cd0d89d\"";
        assert_eq!(serde_json::to_string(&Sha1::of(b"abc")).unwrap(), json);
        assert_eq!(
            serde_json::from_str::<Sha1>(json).unwrap(),
            Sha1::of(b"abc")
        );
        assert!(serde_json::from_str::<Sha256>(json).is_err());
    }

    proptest! {
        #[test]
        fn any_digest_is_read_as_it_is_written(bytes: [u8; 32]) {
            let digest = Sha256::from_bytes(bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }
}
