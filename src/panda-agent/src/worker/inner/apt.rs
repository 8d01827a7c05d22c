//! A chroot's apt: sources, retries, proxy, pins and keys as the build's arguments want them, then
//! update and dist-upgrade. A build without archives has nothing to update from, and works offline.
//!
//! What cannot be fetched is tried once more, from the update on, and then the chroot has failed: see
//! [`fetching`](crate::worker::fetching).

use std::io;
use std::thread;
use std::time::Duration;

use super::command::{CommandError, log, log_step, run_scanned};
use super::root::Root;
use super::sbuild::in_chroot;
use crate::worker::args::BuildArgs;
use crate::worker::openpgp;
use crate::worker::sources::{self, Style};

const SOURCES_DIRECTORY: &str = "etc/apt/sources.list.d";
const KEYRING: &str = "etc/apt/trusted.gpg.d/lp-buildd.gpg";
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
    /// The network, a proxy or an archive.
    #[error("the chroot cannot be updated: its archives could not be fetched whole, in two tries")]
    Unfetched,
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
    refresh(root, args)?;
    match upgrade(root, args) {
        Err(AptError::Unfetched) => {
            wait();
            refresh(root, args)?;
            upgrade(root, args)
        }
        upgraded => upgraded,
    }
}

/// Reads the archives' indexes, in two tries.
pub(crate) fn refresh(root: &Root, args: &BuildArgs) -> Result<(), AptError> {
    // Before 2.1 apt does not know the option, and its words say the same.
    let words = ["-uy", "update", "-o", "APT::Update::Error-Mode=any"];
    apt_get(root, args, &words).or_else(|error| {
        log(&error.to_string());
        wait();
        apt_get(root, args, &words)
    })
}

fn upgrade(root: &Root, args: &BuildArgs) -> Result<(), AptError> {
    let words = [
        "-o",
        "DPkg::Options::=--force-confold",
        "-uy",
        "--purge",
        "dist-upgrade",
    ];
    apt_get(root, args, &words)
}

/// Until an archive that is being written is whole, or a network is back.
pub(crate) fn wait() {
    log(&format!(
        "Trying once more in {} seconds.",
        RETRY_AFTER.as_secs()
    ));
    thread::sleep(RETRY_AFTER);
}

fn apt_get(root: &Root, args: &BuildArgs, words: &[&str]) -> Result<(), AptError> {
    let mut command = in_chroot(root, args, &["apt-get"]);
    command.args(words);
    let (status, scan) = run_scanned(command)?;
    match status {
        _ if scan.is_unfetched() => Err(AptError::Unfetched),
        Some(0) => Ok(()),
        status => Err(AptError::Update(CommandError::Failed {
            program: "apt-get".to_owned(),
            status,
        })),
    }
}

/// The keys one after the other, as apt reads them.
fn keyring(items: &[Vec<u8>]) -> Result<Vec<u8>, AptError> {
    let mut keyring = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let keys = openpgp::read(item).ok_or(AptError::Key(index + 1))?;
        for name in &keys.names {
            log(&format!("Key fingerprint = {name}"));
        }
        keyring.extend_from_slice(&keys.packets);
    }
    Ok(keyring)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_public_key_is_refused_by_its_place() {
        let key = vec![0xc6, 6, 4, 0, 0, 0, 0, 1];
        assert_eq!(
            keyring(&[key.clone(), key.clone()]).unwrap(),
            [&key[..], &key].concat()
        );
        let error = keyring(&[key, b"deb http://x/".to_vec()]).unwrap_err();
        assert!(error.to_string().contains("trusted key 2"), "{error}");
    }
}
