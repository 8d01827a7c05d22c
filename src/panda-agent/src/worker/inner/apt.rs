//! A chroot's apt: sources, retries, proxy, pins and keys as the build's arguments want them, then
//! update and dist-upgrade. A build without archives has nothing to update from, and works offline.

use std::io;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::command::{CommandError, log, log_step, run};
use super::root::Root;
use super::sbuild::in_chroot;
use crate::worker::args::BuildArgs;
use crate::worker::sources::{self, Style};

const SOURCES_DIRECTORY: &str = "etc/apt/sources.list.d";
const KEYRING: &str = "etc/apt/trusted.gpg.d/lp-buildd.gpg";
const ARMOUR: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK-----";
/// Archives are sometimes being written when they are read.
const RETRY_AFTER: Duration = Duration::from_secs(15);

/// Why apt was not set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AptError {
    /// A file of the chroot.
    #[error("cannot write {file} in the chroot: {source}")]
    Write {
        /// The file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A trusted key that is none.
    #[error("trusted key {0} of the build is no OpenPGP public key")]
    Key(usize),
    /// Updating failed.
    #[error("the chroot cannot be updated: {0}")]
    Update(#[from] CommandError),
}

/// Writes apt's configuration.
pub(crate) fn configure(
    root: &Root,
    args: &BuildArgs,
    proxy: Option<&str>,
) -> Result<(), AptError> {
    let style = sources::style(&args.series);
    log_step(&format!(
        "override apt sources for {} with {} archives",
        args.series,
        args.archives.len()
    ));
    let write = |file: &'static str, text: &str| {
        root.write(file, text.as_bytes(), 0o644)
            .map_err(|source| AptError::Write { file, source })
    };
    root.clear(SOURCES_DIRECTORY)
        .map_err(|source| AptError::Write {
            file: SOURCES_DIRECTORY,
            source,
        })?;
    let text = sources::render(style, &args.archives);
    match style {
        Style::OneLine => write(sources::ONE_LINE_FILE, &text)?,
        Style::Deb822 => {
            write(sources::ONE_LINE_FILE, "")?;
            write(sources::DEB822_FILE, &text)?;
        }
    }
    write("etc/apt/apt.conf.d/99lp-buildd", &sources::apt_conf(proxy))?;
    write("etc/apt/preferences.d/lp-buildd.pref", sources::PINS)?;
    let keys = args.keys();
    if !keys.is_empty() {
        log_step(&format!("install {} trusted keys", keys.len()));
        let keyring = keyring(&keys)?;
        root.write(KEYRING, &keyring, 0o644)
            .map_err(|source| AptError::Write {
                file: KEYRING,
                source,
            })?;
    }
    Ok(())
}

/// Brings the chroot up to date with its archives.
pub(crate) fn update(root: &Root, args: &BuildArgs) -> Result<(), AptError> {
    if args.archives.is_empty() {
        log("No archives were given: the chroot is used as it is.");
        return Ok(());
    }
    let apt = |words: &[&str]| {
        let mut command = in_chroot(root, &args.arch_tag, &["apt-get"]);
        command.args(words);
        run(&mut command)
    };
    if let Err(error) = apt(&["-uy", "update"]) {
        log(&format!(
            "{error}; trying once more in {} seconds",
            RETRY_AFTER.as_secs()
        ));
        thread::sleep(RETRY_AFTER);
        apt(&["-uy", "update"])?;
    }
    Ok(apt(&[
        "-o",
        "DPkg::Options::=--force-confold",
        "-uy",
        "--purge",
        "dist-upgrade",
    ])?)
}

/// The keys one after the other, as apt reads them, armour taken off.
fn keyring(keys: &[Vec<u8>]) -> Result<Vec<u8>, AptError> {
    let mut keyring = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let bytes = if key.trim_ascii_start().starts_with(ARMOUR) {
            dearmour(key).ok_or(AptError::Key(index + 1))?
        } else {
            key.clone()
        };
        // The first packet of a public key, in the old or the new format (RFC 4880, 4.2).
        let first = bytes.first().copied().unwrap_or_default();
        if first & 0xfc != 0x98 && first != 0xc6 {
            return Err(AptError::Key(index + 1));
        }
        keyring.extend_from_slice(&bytes);
    }
    Ok(keyring)
}

/// Takes OpenPGP's armour off (RFC 4880, 6.2). The checksum line is left to apt's own reading.
fn dearmour(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, body) = text.split_once("-----BEGIN PGP PUBLIC KEY BLOCK-----")?;
    let (body, _) = body.split_once("-----END PGP PUBLIC KEY BLOCK-----")?;
    let data: String = body
        .lines()
        .skip(1)
        .map(str::trim)
        .skip_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with('='))
        .collect();
    STANDARD.decode(data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn armoured_and_binary_keys_become_one_keyring() {
        let armoured = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\nmQEN\nBAEC\n=abcd\n\
            -----END PGP PUBLIC KEY BLOCK-----\n";
        let binary = vec![0xc6, 1, 2];
        let keyring = keyring(&[armoured.to_vec(), binary]).unwrap();
        assert_eq!(keyring, [0x99, 0x01, 0x0d, 0x04, 0x01, 0x02, 0xc6, 1, 2]);
    }

    #[test]
    fn what_is_no_public_key_is_refused_by_its_place() {
        let error = keyring(&[vec![0x99], b"deb http://x/".to_vec()]).unwrap_err();
        assert!(error.to_string().contains("trusted key 2"), "{error}");
        assert!(keyring(&[Vec::new()]).is_err());
        assert!(keyring(&[b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n?".to_vec()]).is_err());
    }
}
