//! Who is who on the rack's wires: key pairs with self-signed certificates, one for the master (made
//! once, kept in the state directory) and one for every boot. Peers know each other's certificate byte
//! for byte, so names and dates in it mean nothing. Called when the daemon starts and by every reset.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::failpoint::{self, Point};

/// File name of the master's key in the state directory.
pub(crate) const MASTER_KEY: &str = "master.key";
/// File name of the master's certificate in the state directory.
pub(crate) const MASTER_CERTIFICATE: &str = "master.crt";
/// Random bytes in a boot's id; its text is twice as long.
const BOOT_ID_BYTES: usize = 16;
/// The most bytes of the master's files; one of ours has a few hundred.
const MAX_PEM: u64 = 64 * 1024;

/// Why an identity could not be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// A file in the state directory.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{path}: is not the master's {what}; move it away (every running board is then reset)")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// The key pair or certificate could not be made.
    #[error("making a key pair: {0}")]
    Make(#[from] rcgen::Error),
    /// The system has no randomness.
    #[error("the system gives no random bytes")]
    Random,
}

/// A key pair with its certificate, both PEM. `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyAndCertificate {
    /// The private key.
    pub(crate) key_pem: String,
    /// The certificate.
    pub(crate) certificate_pem: String,
}

impl fmt::Debug for KeyAndCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyAndCertificate").finish_non_exhaustive()
    }
}

impl KeyAndCertificate {
    /// A new one.
    ///
    /// # Errors
    /// No randomness.
    pub(crate) fn make() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = CertificateParams::new(vec!["panda".to_owned()])?.self_signed(&key)?;
        Ok(Self {
            key_pem: key.serialize_pem(),
            certificate_pem: certificate.pem(),
        })
    }

    /// The master's, from the state directory; made there the first time. Boards that are up know the
    /// master by it, so it is kept across restarts.
    ///
    /// # Errors
    /// Files that cannot be read or written, or that hold something else.
    pub(crate) fn master(state: &Path) -> Result<Self, IdentityError> {
        let key_path = state.join(MASTER_KEY);
        let certificate_path = state.join(MASTER_CERTIFICATE);
        match (read_pem(&key_path)?, read_pem(&certificate_path)?) {
            (Some(key_pem), Some(certificate_pem)) => {
                if KeyPair::from_pem(&key_pem).is_err() {
                    return Err(IdentityError::NotOurs {
                        path: key_path,
                        what: "private key",
                    });
                }
                if !certificate_pem.contains("BEGIN CERTIFICATE") {
                    let path = certificate_path;
                    return Err(IdentityError::NotOurs {
                        path,
                        what: "certificate",
                    });
                }
                Ok(Self {
                    key_pem,
                    certificate_pem,
                })
            }
            // The first start, or one that was killed between the two files.
            _ => {
                let made = Self::make()?;
                write_private(&key_path, &made.key_pem)?;
                write_private(&certificate_path, &made.certificate_pem)?;
                Ok(made)
            }
        }
    }
}

/// A new boot's id: 32 hexadecimal digits of randomness.
///
/// # Errors
/// No randomness.
pub(crate) fn new_boot_id() -> Result<String, IdentityError> {
    let mut bytes = [0; BOOT_ID_BYTES];
    fill_random(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// Fills `bytes` with randomness fit for secrets.
///
/// # Errors
/// The system gives none.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), IdentityError> {
    let provider = rustls::crypto::ring::default_provider();
    provider
        .secure_random
        .fill(bytes)
        .map_err(|_| IdentityError::Random)
}

fn read_pem(path: &Path) -> Result<Option<String>, IdentityError> {
    let error = |source| IdentityError::File {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(found) if found.len() > MAX_PEM => Err(error(io::Error::new(
            io::ErrorKind::InvalidData,
            "is too long for a PEM file",
        ))),
        Ok(_) => fs::read_to_string(path).map(Some).map_err(error),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(error(source)),
    }
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, text: &str) -> Result<(), IdentityError> {
    let error = |source| IdentityError::File {
        path: path.to_owned(),
        source,
    };
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Ok(()) => {}
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(error(source)),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(error)?;
    file.write_all(text.as_bytes()).map_err(error)?;
    file.sync_all().map_err(error)?;
    failpoint::around(Point::MasterKey, String::new, || fs::rename(&beside, path))
        .map_err(error)?;
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_master_keeps_its_identity_and_only_its_owner_may_read_it() {
        let state = tempfile::tempdir().unwrap();
        let first = KeyAndCertificate::master(state.path()).unwrap();
        let second = KeyAndCertificate::master(state.path()).unwrap();
        assert_eq!(first, second);
        for name in [MASTER_KEY, MASTER_CERTIFICATE] {
            let mode = fs::metadata(state.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_start_that_was_killed_between_the_two_files_makes_a_matching_pair() {
        let state = tempfile::tempdir().unwrap();
        let first = KeyAndCertificate::master(state.path()).unwrap();
        fs::remove_file(state.path().join(MASTER_CERTIFICATE)).unwrap();
        let second = KeyAndCertificate::master(state.path()).unwrap();
        assert_ne!(first.key_pem, second.key_pem);
        assert_eq!(second, KeyAndCertificate::master(state.path()).unwrap());
    }

    #[test]
    fn a_foreign_file_is_refused_by_name() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(MASTER_KEY), "hello").unwrap();
        fs::write(state.path().join(MASTER_CERTIFICATE), "hello").unwrap();
        let error = KeyAndCertificate::master(state.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("master.key: is not the master's private key"),
            "{error}"
        );
    }

    #[test]
    fn boot_ids_are_32_hexadecimal_digits_and_never_the_same() {
        let first = new_boot_id().unwrap();
        assert_eq!(first.len(), 32);
        assert!(first.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(first, new_boot_id().unwrap());
    }

    #[test]
    fn debug_output_holds_no_key() {
        let made = KeyAndCertificate::make().unwrap();
        assert!(!format!("{made:?}").contains("PRIVATE"));
    }
}
