//! `boot.toml`: what one boot is told, in a cpio appended to its ramdisk. It holds the boot's private
//! key, so it never goes on the kernel command line (aboot and the kernel print that) nor into a log, and
//! no error here quotes it.
//!
//! The daemon writes it ([`cpio_with`]); the agent reads it ([`decode`]), and where nothing has unpacked
//! the ramdisk for it, finds it first ([`find`]). Both check the same things.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::checks::{is_boot_id, is_host_name, is_label, line_of};
use crate::cpio::{self, ArchivePath, CpioError, Node};
use crate::digest::Sha256;
use crate::launchpad::FileName;
use crate::worker::{ForeignWorker, WorkerProblem};

/// The name of the file in the appended cpio.
pub const NAME: &str = "boot.toml";
/// The version that this code writes and reads.
pub const VERSION: u32 = 1;
/// The most bytes that a `boot.toml` may have.
pub const MAX_BYTES: usize = 64 * 1024;

/// The whole file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootToml {
    /// [`VERSION`].
    pub version: u32,
    /// The boot's id: 32 hexadecimal digits, unique for ever, never reused.
    pub boot: String,
    /// The slot's name.
    pub slot: String,
    /// The image's id: the digest of its manifest.
    pub image: Sha256,
    /// Wall-clock time when this was written, in milliseconds since 1970 UTC; boards have no clock.
    pub time_unix_ms: i64,
    /// The board's network.
    pub network: Network,
    /// The authenticated channel.
    pub link: Link,
    /// The root file system to fetch from the depot, where the image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<RootFs>,
    /// The worker to start, where the image's manifest names another than the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<ForeignWorker>,
}

/// The board's network settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Address and prefix length, `10.77.0.11/24`; none where the machine already has its network
    /// (the process machine).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The default route's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default)]
    pub nameservers: Vec<String>,
    /// The host name to take.
    pub hostname: String,
    /// The MAC address to give the board's Ethernet, which has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// The authenticated channel: who listens where, with which certificates (all PEM).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Where the agent listens, `ADDRESS:PORT`.
    pub listen: String,
    /// Where the master's depot listens, `ADDRESS:PORT`.
    pub depot: String,
    /// The master's certificate: the only peer the agent accepts, in either direction.
    pub master_certificate: String,
    /// This boot's certificate.
    pub certificate: String,
    /// This boot's private key.
    pub key: String,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("listen", &self.listen)
            .field("depot", &self.depot)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BootToml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootToml")
            .field("boot", &self.boot)
            .field("slot", &self.slot)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// A root file system served by the depot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFs {
    /// Its digest, checked before use.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Reads a `boot.toml`.
///
/// # Errors
/// When it is too long, no TOML of this shape, of another version, or a value is not what it must be.
pub fn decode(bytes: &[u8]) -> Result<BootToml, BootTomlError> {
    if bytes.len() > MAX_BYTES {
        return Err(BootTomlError::TooLong);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| BootTomlError::NotText)?;
    // The parser's own message may quote a value, and one of them is the key.
    let boot: BootToml = toml::from_str(text).map_err(|error| BootTomlError::Shape {
        line: line_of(text, error.span().map_or(0, |span| span.start)),
    })?;
    boot.check()?;
    Ok(boot)
}

/// Writes a `boot.toml` that [`decode`] will take.
///
/// # Errors
/// When a value is not what it must be, or the whole is too long.
pub fn encode(boot: &BootToml) -> Result<String, BootTomlError> {
    boot.check()?;
    let text = toml::to_string(boot).map_err(|_| BootTomlError::Unwritable)?;
    if text.len() > MAX_BYTES {
        return Err(BootTomlError::TooLong);
    }
    Ok(text)
}

/// The archive to append to a ramdisk: `boot.toml`, mode 0400, and nothing else.
///
/// # Errors
/// As [`encode`].
pub fn cpio_with(boot: &BootToml) -> Result<Vec<u8>, BootTomlError> {
    let text = encode(boot)?;
    let mut archive = cpio::Writer::new();
    archive
        .file(&path()?, 0o400, text.as_bytes())
        .map_err(|cpio::FileTooLarge| BootTomlError::TooLong)?;
    Ok(archive.finish())
}

/// Finds and reads the **last** `boot.toml` of the archives that a ramdisk is: the one that was appended
/// for this boot, whatever the image had.
///
/// # Errors
/// When the ramdisk cannot be read, has none, or has a wrong one.
pub fn find(ramdisk: &[u8]) -> Result<BootToml, BootTomlError> {
    let path = path()?;
    let entries = cpio::read(ramdisk)?;
    match entries
        .iter()
        .rfind(|entry| entry.path == path)
        .map(|entry| entry.node)
    {
        Some(Node::File(bytes)) => decode(bytes),
        Some(Node::Directory) | None => Err(BootTomlError::Missing),
    }
}

fn path() -> Result<ArchivePath, BootTomlError> {
    FileName::try_from(NAME.to_owned())
        .map(ArchivePath::from)
        .map_err(|_| BootTomlError::Unwritable)
}

impl BootToml {
    fn check(&self) -> Result<(), BootTomlError> {
        if self.version != VERSION {
            return Err(BootTomlError::Version(self.version));
        }
        let Self {
            network,
            link,
            rootfs,
            ..
        } = self;
        let checks = [
            (
                is_boot_id(&self.boot),
                "boot",
                "32 lower-case hexadecimal digits",
            ),
            (is_label(&self.slot), "slot", "a host name's label"),
            (
                network.address.as_deref().is_none_or(is_interface_address),
                "network.address",
                "ADDRESS/PREFIX",
            ),
            (
                network.gateway.as_deref().is_none_or(is_address),
                "network.gateway",
                "an IP address",
            ),
            (
                network.nameservers.len() <= 3
                    && network.nameservers.iter().all(|text| is_address(text)),
                "network.nameservers",
                "at most three IP addresses",
            ),
            (
                is_host_name(&network.hostname),
                "network.hostname",
                "a host name",
            ),
            (
                network.mac.as_deref().is_none_or(is_mac),
                "network.mac",
                "as 02:00:00:00:00:01",
            ),
            (
                link.listen.parse::<SocketAddr>().is_ok(),
                "link.listen",
                "ADDRESS:PORT",
            ),
            (
                link.depot.parse::<SocketAddr>().is_ok(),
                "link.depot",
                "ADDRESS:PORT",
            ),
            (
                is_pem(&link.master_certificate, "CERTIFICATE"),
                "link.master_certificate",
                "a certificate in PEM",
            ),
            (
                is_pem(&link.certificate, "CERTIFICATE"),
                "link.certificate",
                "a certificate in PEM",
            ),
            (
                is_pem(&link.key, "PRIVATE KEY"),
                "link.key",
                "a PKCS #8 key in PEM",
            ),
            (
                rootfs.as_ref().is_none_or(|rootfs| rootfs.bytes > 0),
                "rootfs.bytes",
                "at least 1",
            ),
        ];
        if let Some((_, key, expected)) = checks.into_iter().find(|(good, ..)| !good) {
            return Err(BootTomlError::Value { key, expected });
        }
        let worker = self.worker.as_ref().map_or(Ok(()), ForeignWorker::check);
        worker.map_err(|WorkerProblem { key, expected }| BootTomlError::Value { key, expected })
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_interface_address(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else {
        return false;
    };
    let max = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    !prefix.starts_with('+') && prefix.parse::<u8>().is_ok_and(|prefix| prefix <= max)
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether a text has the frame of a PEM block; what is inside is checked by whoever uses it.
fn is_pem(text: &str, label: &str) -> bool {
    text.trim_start()
        .starts_with(&format!("-----BEGIN {label}-----"))
        && text.trim_end().ends_with(&format!("-----END {label}-----"))
}

/// What is wrong with a `boot.toml`. It names keys and lines, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootTomlError {
    /// Over the bound.
    #[error("{NAME} has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("{NAME} is not UTF-8 text")]
    NotText,
    /// Not TOML, a key that does not exist, a missing key or a wrong type.
    #[error(
        "{NAME}, line {line}: not what this version expects; were master and image built together?"
    )]
    Shape {
        /// Where, from 1.
        line: usize,
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
    /// The ramdisk is no archive.
    #[error("the ramdisk: {0}")]
    Ramdisk(#[from] CpioError),
    /// The ramdisk has none.
    #[error("the ramdisk holds no {NAME}; was this image started by its master?")]
    Missing,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----\n";

    fn boot() -> BootToml {
        BootToml {
            version: 1,
            boot: "0123456789abcdef0123456789abcdef".to_owned(),
            slot: "panda01".to_owned(),
            image: Sha256::of(b"manifest"),
            time_unix_ms: 1_700_000_000_123,
            network: Network {
                address: Some("10.77.0.11/24".to_owned()),
                gateway: Some("10.77.0.1".to_owned()),
                nameservers: vec!["10.77.0.1".to_owned()],
                hostname: "panda01".to_owned(),
                mac: Some("02:00:00:4d:00:0b".to_owned()),
            },
            link: Link {
                listen: "10.77.0.11:8222".to_owned(),
                depot: "10.77.0.1:8223".to_owned(),
                master_certificate: CERTIFICATE.to_owned(),
                certificate: CERTIFICATE.to_owned(),
                key: KEY.to_owned(),
            },
            rootfs: Some(RootFs {
                sha256: Sha256::of(b"rootfs"),
                bytes: 6,
            }),
            worker: Some(ForeignWorker {
                command: vec!["/usr/bin/worker".to_owned()],
                address: SocketAddr::from(([127, 0, 0, 1], 8221)),
                build_types: vec!["snap".to_owned()],
            }),
        }
    }

    #[test]
    fn the_file_reads_as_it_is_documented() {
        let text = format!(
            r#"version = 1
boot = "0123456789abcdef0123456789abcdef"
slot = "panda01"
image = "{image}"
time_unix_ms = 1700000000123
[network]
address = "10.77.0.11/24"
gateway = "10.77.0.1"
nameservers = ["10.77.0.1"]
hostname = "panda01"
mac = "02:00:00:4d:00:0b"
[link]
listen = "10.77.0.11:8222"
depot = "10.77.0.1:8223"
master_certificate = """
{CERTIFICATE}"""
certificate = """
{CERTIFICATE}"""
key = """
{KEY}"""
[rootfs]
sha256 = "{rootfs}"
bytes = 6
[worker]
command = ["/usr/bin/worker"]
address = "127.0.0.1:8221"
build_types = ["snap"]
"#,
            image = Sha256::of(b"manifest"),
            rootfs = Sha256::of(b"rootfs"),
        );
        assert!(decode(text.as_bytes()).unwrap() == boot());
    }

    #[test]
    fn the_last_boot_toml_of_a_ramdisk_is_the_one() {
        let mut old = boot();
        old.slot = "panda02".to_owned();
        let mut ramdisk = cpio_with(&old).unwrap();
        ramdisk.extend([0; 8]);
        ramdisk.extend(cpio_with(&boot()).unwrap());
        ramdisk.extend([0; 100]);
        assert_eq!(find(&ramdisk).unwrap().slot, "panda01");
    }

    #[test]
    fn a_ramdisk_without_one_is_refused() {
        let mut archive = cpio::Writer::new();
        archive
            .file(&ArchivePath::try_from("sub/boot.toml").unwrap(), 0o400, b"")
            .unwrap();
        assert_eq!(find(&archive.finish()), Err(BootTomlError::Missing));
        assert!(matches!(find(b"junk"), Err(BootTomlError::Ramdisk(_))));
    }

    #[test]
    fn every_value_is_checked() {
        type Change = fn(&mut BootToml);
        let cases: [(&str, Change); 13] = [
            ("boot", |boot| {
                boot.boot = "../x".to_owned();
            }),
            ("slot", |boot| {
                boot.slot = "panda/01".to_owned();
            }),
            ("network.address", |boot| {
                boot.network.address = Some("10.0.0.1/33".to_owned());
            }),
            ("network.address", |boot| {
                boot.network.address = Some("10.0.0.1".to_owned());
            }),
            ("network.gateway", |boot| {
                boot.network.gateway = Some("$(reboot)".to_owned());
            }),
            ("network.nameservers", |boot| {
                boot.network.nameservers = vec!["\n".to_owned()];
            }),
            ("network.hostname", |boot| {
                boot.network.hostname = "a b".to_owned();
            }),
            ("network.mac", |boot| {
                boot.network.mac = Some("02:00".to_owned());
            }),
            ("link.listen", |boot| {
                boot.link.listen = "localhost:1".to_owned();
            }),
            ("link.depot", |boot| {
                boot.link.depot = String::new();
            }),
            ("link.certificate", |boot| {
                boot.link.certificate = KEY.to_owned();
            }),
            ("link.key", |boot| {
                boot.link.key = CERTIFICATE.to_owned();
            }),
            ("rootfs.bytes", |boot| {
                boot.rootfs.as_mut().unwrap().bytes = 0;
            }),
        ];
        for (key, change) in cases {
            let mut boot = boot();
            change(&mut boot);
            let written = toml::to_string(&boot).unwrap();
            for error in [
                encode(&boot).unwrap_err(),
                decode(written.as_bytes()).unwrap_err(),
            ] {
                assert!(
                    matches!(&error, BootTomlError::Value { key: found, .. } if *found == key),
                    "{key}: {error}"
                );
            }
        }
    }

    #[test]
    fn errors_name_the_line_and_never_the_key() {
        let good = encode(&boot()).unwrap();
        for (from, to) in [
            ("version = 1", "version = \"U0VDUkVU\""),
            ("[network]", "U0VDUkVU = 1\n[network]"),
            ("key = ", "key = U0VDUkVU"),
        ] {
            let error = decode(good.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(
                matches!(error, BootTomlError::Shape { line } if line > 0),
                "{error:?}"
            );
            assert!(!format!("{error} {error:?}").contains("U0VDUkVU"));
        }
        assert_eq!(
            decode(b"version = 1\nboot = 7\n"),
            Err(BootTomlError::Shape { line: 2 })
        );
        assert!(!format!("{:?} {:?}", boot(), boot().link).contains("U0VDUkVU"));
    }

    #[test]
    fn another_version_and_too_many_bytes_are_refused() {
        let good = encode(&boot()).unwrap();
        assert_eq!(
            decode(good.replacen("version = 1", "version = 2", 1).as_bytes()),
            Err(BootTomlError::Version(2))
        );
        assert_eq!(
            decode(&vec![b'#'; MAX_BYTES + 1]),
            Err(BootTomlError::TooLong)
        );
        let mut long = boot();
        long.link.certificate = CERTIFICATE.replace("AAAA", &"A".repeat(MAX_BYTES));
        assert_eq!(encode(&long), Err(BootTomlError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            id in "[0-9a-f]{32}", slot in "[a-z][a-z0-9-]{0,20}[a-z0-9]", time: i64,
            v4: [u8; 4], prefix in 0..=32u8, port: u16, body in "[A-Za-z0-9+/=\n]{0,900}",
            bare: bool,
        ) {
            let mut boot = boot();
            boot.boot = id;
            boot.slot = slot;
            boot.time_unix_ms = time;
            let address = std::net::Ipv4Addr::from(v4);
            boot.network.address = Some(format!("{address}/{prefix}"));
            boot.link.listen = format!("{address}:{port}");
            boot.link.key =
                format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
            if bare {
                boot.network.address = None;
                boot.network.mac = None;
                boot.network.gateway = None;
                boot.rootfs = None;
            }
            let found = find(&cpio_with(&boot).unwrap()).unwrap();
            prop_assert!(found == boot);
        }
    }
}
