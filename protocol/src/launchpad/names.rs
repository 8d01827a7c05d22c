//! Names that come from outside, as types that cannot be wrong.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::xml::is_xml_char;
use crate::digest::Sha1;

/// A build's id: the job's cookie. Opaque, never empty, **the same on every retry of a build**, so
/// it is never a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildId(String);

/// A build id is refused because it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the build id is empty")]
pub struct EmptyBuildId;

impl BuildId {
    /// The id as Launchpad wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for BuildId {
    type Error = EmptyBuildId;

    fn try_from(text: String) -> Result<Self, EmptyBuildId> {
        if text.is_empty() {
            Err(EmptyBuildId)
        } else {
            Ok(Self(text))
        }
    }
}

impl From<BuildId> for String {
    fn from(id: BuildId) -> Self {
        id.0
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The longest file name, in bytes: what Linux file systems allow for one component.
pub const MAX_FILE_NAME: usize = 255;

/// A file name that is one plain component: not empty, not `.` or `..`, without `/`, NUL or other
/// control characters and what XML cannot hold, and at most [`MAX_FILE_NAME`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

/// A file name that would leave its directory, or is none. It does not quote the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a file name must be one component of 1 to 255 bytes, not . or .., without / or control characters"
)]
pub struct BadFileName;

impl FileName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FileName {
    type Error = BadFileName;

    fn try_from(text: String) -> Result<Self, BadFileName> {
        let plain = !text.is_empty()
            && text.len() <= MAX_FILE_NAME
            && text != "."
            && text != ".."
            // Characters that XML cannot hold could not be told to anyone.
            && text.chars().all(|c| c != '/' && !c.is_control() && is_xml_char(c));
        if plain {
            Ok(Self(text))
        } else {
            Err(BadFileName)
        }
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The results of a build: each file's name and the SHA-1 it is fetched by.
pub type FileMap = BTreeMap<FileName, Sha1>;

/// What a caller gave as a sum. The protocol lets it be any text; only a SHA-1 can be in a cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sum(pub String);

impl Sum {
    /// The sum as a digest, where it is one.
    #[must_use]
    pub fn sha1(&self) -> Option<Sha1> {
        self.0.parse().ok()
    }
}

impl From<Sha1> for Sum {
    fn from(sha1: Sha1) -> Self {
        Self(sha1.to_string())
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_single_plain_components() {
        let name = |text: &str| FileName::try_from(text.to_owned());
        for good in [
            "a",
            "...",
            ".x",
            "hello_1.0-1+b1~x.dsc",
            "a b",
            "é",
            "a\\b",
            &"x".repeat(255),
        ] {
            assert_eq!(name(good).unwrap().as_str(), good);
        }
        let long = "é".repeat(128); // 256 bytes
        for bad in [
            "",
            ".",
            "..",
            "/",
            "a/",
            "/a",
            "../a",
            "a/../b",
            "a\0",
            "a\nb",
            "a\u{7f}",
            "a\u{85}",
            "a\u{ffff}",
            &long,
        ] {
            assert_eq!(name(bad), Err(BadFileName), "{bad:?}");
        }
        assert!(serde_json::from_str::<FileName>("\"../x\"").is_err());
    }

    #[test]
    fn build_ids_are_not_empty() {
        assert_eq!(BuildId::try_from(String::new()), Err(EmptyBuildId));
        assert_eq!(BuildId::try_from(" ".to_owned()).unwrap().as_str(), " ");
    }

    #[test]
    fn only_a_digest_is_a_sum_that_can_be_cached() {
        let digest = Sha1::of(b"abc");
        assert_eq!(Sum::from(digest).sha1(), Some(digest));
        for other in [
            "",
            "aa",
            "../../etc/passwd",
            &digest.to_string().to_uppercase(),
        ] {
            assert_eq!(Sum(other.to_owned()).sha1(), None);
        }
    }
}
