//! Image manifest, version 1: what a known-good image is made of. An image is a directory that holds
//! `manifest.toml` and the files it names, each with its SHA-256; the image's id is the SHA-256 of
//! `manifest.toml`'s bytes.
//!
//! The daemon parses it before it touches a file of the image; the tools that make images write it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checks::{is_label, is_line, line_of};
use crate::digest::Sha256;
use crate::family::{FamilyName, PayloadProblem};
use crate::launchpad::FileName;
use crate::worker::{ForeignWorker, WorkerProblem};

/// The name of the file in an image's directory.
pub const NAME: &str = "manifest.toml";
/// The version that this code writes and reads.
pub const VERSION: u32 = 1;
/// The most bytes of a manifest.
pub const MAX_BYTES: usize = 64 * 1024;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// A name for people.
    pub name: String,
    /// Debian architecture of the builds it runs, `armhf`.
    pub arch: String,
    /// What it runs on.
    pub machine: Machine,
    /// The family of boards that it is for; it says what the other keys may be.
    #[serde(default, skip_serializing_if = "is_default")]
    pub family: FamilyName,
    /// Kernel command line.
    #[serde(default)]
    pub cmdline: String,
    /// Page size of the boot image, where the family's boards take one image of pages.
    #[serde(default = "default_page_size")]
    pub page_size: u32,
    /// The second stage: what the boot ROM is given first.
    pub second_stage: Part,
    /// The kernel (for the process machine: the agent's program).
    pub kernel: Part,
    /// The ramdisk, a cpio archive, to which each boot's `boot.toml` is appended.
    pub ramdisk: Part,
    /// The root file system that the depot serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Part>,
    /// What else the family's boards are handed, by the family's names: `[parts.NAME]`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Part>,
    /// Another worker than the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<ForeignWorker>,
}

fn default_page_size() -> u32 {
    2048
}

fn is_default(family: &FamilyName) -> bool {
    *family == FamilyName::default()
}

/// What an image runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// A real board of the family.
    #[serde(alias = "board")]
    Panda,
    /// A virtual board whose machine is a process on the host.
    Process,
    /// A virtual board whose machine is QEMU.
    Qemu,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Its name in the image's directory.
    pub file: FileName,
    /// Its digest.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The id of the image that this manifest describes.
#[must_use]
pub fn id(manifest: &[u8]) -> Sha256 {
    Sha256::of(manifest)
}

/// Reads and checks a manifest.
///
/// # Errors
/// When it is too long, no TOML of this shape, of another version, or its values cannot be: see
/// [`ManifestError`].
pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
    if bytes.len() > MAX_BYTES {
        return Err(ManifestError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ManifestError::NotText)?;
    let manifest: Manifest = toml::from_str(text).map_err(|error| shape(text, &error))?;
    manifest.check()?;
    Ok(manifest)
}

/// Writes a manifest that [`parse`] will take.
///
/// # Errors
/// When its values cannot be.
pub fn encode(manifest: &Manifest) -> Result<String, ManifestError> {
    manifest.check()?;
    toml::to_string(manifest).map_err(|_| ManifestError::Unwritable)
}

impl Manifest {
    /// Its parts and the keys they stand under.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &Part)> {
        let common = [
            ("second_stage", Some(&self.second_stage)),
            ("kernel", Some(&self.kernel)),
            ("ramdisk", Some(&self.ramdisk)),
            ("rootfs", self.rootfs.as_ref()),
        ];
        let more = self.parts.iter().map(|(key, part)| (key.as_str(), part));
        let common = common.into_iter();
        common
            .filter_map(|(key, part)| part.map(|part| (key, part)))
            .chain(more)
    }

    /// The part of this name: `kernel`, `second_stage`, or one of the family's.
    #[must_use]
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts()
            .find_map(|(key, part)| (key == name).then_some(part))
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.version != VERSION {
            return Err(ManifestError::Version(self.version));
        }
        if !is_line(&self.name, 128) {
            return Err(ManifestError::Value {
                key: "name",
                expected: "a line of 1 to 128 bytes",
            });
        }
        if !is_label(&self.arch) {
            return Err(ManifestError::Value {
                key: "arch",
                expected: "an architecture, as armhf",
            });
        }
        if let Some(Err(WorkerProblem { key, expected })) =
            self.worker.as_ref().map(ForeignWorker::check)
        {
            return Err(ManifestError::Value { key, expected });
        }
        if let Some(name) = self.parts.keys().find(|name| !is_line(name, 40)) {
            let key = name.chars().filter(|c| !c.is_control()).take(40).collect();
            return Err(ManifestError::PartName { key });
        }
        for (key, part) in self.parts() {
            let owned = || key.to_owned();
            if part.bytes == 0 {
                return Err(ManifestError::Empty { key: owned() });
            }
            if part.file.as_str() == NAME {
                return Err(ManifestError::Itself { key: owned() });
            }
            let mut earlier = self.parts().take_while(|(other, _)| *other != key);
            if let Some((other, _)) = earlier.find(|(_, other)| other.file == part.file) {
                return Err(ManifestError::Shared {
                    key: owned(),
                    other: other.to_owned(),
                });
            }
        }
        match self.family.facts() {
            Some(facts) => Ok((facts.check)(self)?),
            None => Err(ManifestError::Value {
                key: "family",
                expected: "a family that this program knows",
            }),
        }
    }
}

/// What the parser said, with the line and the key on it.
fn shape(text: &str, error: &toml::de::Error) -> ManifestError {
    let line = line_of(text, error.span().map_or(0, |span| span.start));
    let key = text
        .lines()
        .nth(line - 1)
        .and_then(|line| line.split_once('='))
        .map(|(key, _)| key.trim())
        .filter(|key| is_line(key, 64))
        .map(|key| format!(", `{key}`"))
        .unwrap_or_default();
    let message = error
        .message()
        .chars()
        .filter(|c| !c.is_control())
        .take(300)
        .collect();
    ManifestError::Shape { line, key, message }
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Over the bound.
    #[error("{NAME} has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("{NAME} is not UTF-8 text")]
    NotText,
    /// Not TOML, a key that does not exist, a missing key or a wrong type.
    #[error("{NAME}, line {line}{key}: {message}")]
    Shape {
        /// Where, from 1.
        line: usize,
        /// `, ` and the key on that line, where it has one.
        key: String,
        /// What is wrong and what was expected.
        message: String,
    },
    /// A later or earlier format.
    #[error("{NAME}: `version` is {0}; this program knows version {VERSION}")]
    Version(u32),
    /// A value that cannot be.
    #[error("{NAME}: `{key}` must be {expected}")]
    Value {
        /// Its key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// What its family's boards could not take.
    #[error("{NAME}: {0}")]
    Payload(#[from] PayloadProblem),
    /// A part whose name is none.
    #[error("{NAME}: `parts.{key}`: a part's name has 1 to 40 characters")]
    PartName {
        /// As far as it can be shown.
        key: String,
    },
    /// A part without content.
    #[error("{NAME}: `{key}.bytes` must be at least 1")]
    Empty {
        /// The part.
        key: String,
    },
    /// A part that is the manifest.
    #[error("{NAME}: `{key}.file` names the manifest itself")]
    Itself {
        /// The part.
        key: String,
    },
    /// Two parts in one file.
    #[error("{NAME}: `{key}.file` and `{other}.file` name the same file")]
    Shared {
        /// The later part.
        key: String,
        /// The earlier part.
        other: String,
    },
    /// It cannot be written as TOML.
    #[error("{NAME} cannot be written")]
    Unwritable,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"version = 1
name = "Debian 12 for the Panda"
arch = "armhf"
machine = "panda"
cmdline = "console=ttyO2,115200n8"

[second_stage]
file = "aboot.bin"
sha256 = "0000000000000000000000000000000000000000000000000000000000000001"
bytes = 15000

[kernel]
file = "zImage-dtb"
sha256 = "0000000000000000000000000000000000000000000000000000000000000002"
bytes = 5000000

[ramdisk]
file = "ramdisk.cpio"
sha256 = "0000000000000000000000000000000000000000000000000000000000000003"
bytes = 9000000
"#;

    fn error(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from));
        parse(GOOD.replacen(from, to, 1).as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_manifest_is_read() {
        let manifest = parse(GOOD.as_bytes()).unwrap();
        assert_eq!(manifest.machine, Machine::Panda);
        assert_eq!(manifest.family, FamilyName::default());
        assert_eq!(manifest.page_size, 2048);
        assert_eq!(manifest.kernel.file.as_str(), "zImage-dtb");
        assert_eq!(manifest.second_stage.sha256.as_bytes()[31], 1);
        assert_eq!((&manifest.rootfs, &manifest.worker), (&None, &None));
        assert_eq!(
            manifest
                .parts()
                .map(|(key, part)| (key, part.bytes))
                .collect::<Vec<_>>(),
            [
                ("second_stage", 15_000),
                ("kernel", 5_000_000),
                ("ramdisk", 9_000_000)
            ]
        );
    }

    #[test]
    fn a_manifest_may_name_another_worker() {
        let table = "[worker]\ncommand = [\"/usr/bin/worker\", \"-n\"]\naddress = \"127.0.0.1:8221\"\n\
                     build_types = [\"snap\"]\n";
        let manifest = parse(format!("{GOOD}{table}").as_bytes()).unwrap();
        let worker = manifest.worker.as_ref().unwrap();
        assert_eq!(worker.command, ["/usr/bin/worker", "-n"]);
        assert_eq!(worker.build_types, ["snap"]);
        assert_eq!(parse(encode(&manifest).unwrap().as_bytes()), Ok(manifest));
        let table = table.replace("127.0.0.1", "10.0.0.1");
        let error = parse(format!("{GOOD}{table}").as_bytes()).unwrap_err();
        assert!(error.to_string().contains("`worker.address`"), "{error}");
    }

    #[test]
    fn a_family_says_which_parts_an_image_of_it_has() {
        let family = FamilyName::default();
        let named = GOOD.replacen("machine", &format!("family = \"{family}\"\nmachine"), 1);
        assert_eq!(parse(named.as_bytes()), parse(GOOD.as_bytes()));
        let unknown = GOOD.replacen("machine", "family = \"z80\"\nmachine", 1);
        let error = parse(unknown.as_bytes()).unwrap_err().to_string();
        assert!(
            error.contains("line 4, `family`: expected a family"),
            "{error}"
        );
        let part = "[parts.spl]\nfile = \"spl\"\nsha256 = \"00\"\nbytes = 5\n"
            .replace("00", &"00".repeat(32));
        let error = parse(format!("{GOOD}{part}").as_bytes()).unwrap_err();
        assert!(error.to_string().contains("has no part \"spl\""), "{error}");
    }

    #[test]
    fn the_id_is_the_digest_of_the_bytes() {
        assert_eq!(
            id(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn shape_errors_name_line_and_key() {
        let cases = [
            (
                "arch = ",
                "arhc = \"x\"\narch = ",
                "line 3, `arhc`: unknown field `arhc`",
            ),
            (
                "bytes = 15000",
                "bytes = \"many\"",
                "line 10, `bytes`: invalid type",
            ),
            ("0000000003", "000000000Z", "line 19, `sha256`: expected 64"),
            (
                "aboot.bin",
                "../aboot.bin",
                "line 8, `file`: a file name must be",
            ),
            (
                "\"panda\"",
                "\"beagle\"",
                "line 4, `machine`: unknown variant `beagle`",
            ),
            ("[ramdisk]", "[ramdisc]", "line 17"),
        ];
        for (from, to, expected) in cases {
            let found = error(from, to);
            assert!(
                found.starts_with(&format!("manifest.toml, {expected}")),
                "{found}"
            );
        }
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_key() {
        let cases = [
            ("version = 1", "version = 2", "`version` is 2"),
            ("Debian 12", "Debian\\n12", "`name` must be"),
            ("\"armhf\"", "\"arm hf\"", "`arch` must be"),
            ("console=", "console\\u0000=", "`cmdline`: "),
            (
                "arch = ",
                "page_size = 512\narch = ",
                "`page_size`: page size 512",
            ),
            ("bytes = 15000", "bytes = 49153", "`second_stage.bytes`: "),
            (
                "bytes = 9000000",
                "bytes = 0",
                "`ramdisk.bytes` must be at least 1",
            ),
            (
                "bytes = 5000000",
                "bytes = 40000000",
                "`kernel, ramdisk`: the kernel has",
            ),
            (
                "bytes = 9000000",
                "bytes = 1100000000",
                "`kernel, ramdisk`: the boot image has",
            ),
            (
                "zImage-dtb",
                "manifest.toml",
                "`kernel.file` names the manifest",
            ),
            (
                "zImage-dtb",
                "aboot.bin",
                "`kernel.file` and `second_stage.file`",
            ),
        ];
        for (from, to, expected) in cases {
            let found = error(from, to);
            assert!(found.contains(expected), "{to}: {found}");
        }
        assert_eq!(
            parse(&vec![b'#'; MAX_BYTES + 1]),
            Err(ManifestError::TooLong)
        );
        assert_eq!(parse(b"a = 1\n\xff"), Err(ManifestError::NotText));
    }

    #[test]
    fn deep_nesting_does_not_overflow() {
        let deep = format!("a = {}", "[".repeat(60_000));
        assert!(matches!(
            parse(deep.as_bytes()),
            Err(ManifestError::Shape { .. })
        ));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            name in "[ -~]{1,128}", arch in "[a-z][a-z0-9]{0,9}", cmdline in "[ -~]{0,511}",
            page_size in prop::sample::select(vec![1024_u32, 2048, 4096]),
            files in prop::collection::hash_set("[a-z0-9-]{3,20}", 4),
            bytes in 1..49_152u64, digest: [u8; 32], with_rootfs: bool,
        ) {
            let part = |file: &String| Part {
                file: FileName::try_from(file.clone()).unwrap(),
                sha256: Sha256::from_bytes(digest),
                bytes,
            };
            let parts: Vec<Part> = files.iter().map(part).collect();
            let manifest = Manifest {
                version: VERSION, name, arch, machine: Machine::Process, cmdline, page_size,
                second_stage: parts[0].clone(),
                kernel: parts[1].clone(),
                ramdisk: parts[2].clone(),
                rootfs: with_rootfs.then(|| parts[3].clone()),
                family: FamilyName::default(),
                parts: BTreeMap::new(),
                worker: None,
            };
            prop_assert_eq!(parse(encode(&manifest).unwrap().as_bytes()), Ok(manifest));
        }
    }
}
