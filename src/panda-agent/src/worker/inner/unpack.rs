//! Unpacking a chroot tarball: plain, gzip, bzip2, xz or zstd by its first bytes, with the one top
//! folder `chroot-autobuild/`. Device nodes in it are left out: [`super::mounts`] makes `/dev`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Command;

use super::command::{CommandError, run};
use super::root::Root;
use crate::worker::needs;

/// The top folder of a chroot tarball.
const TOP: &str = "chroot-autobuild";

/// Why a tarball was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// It cannot be read, or the directory cannot be made.
    #[error("the chroot tarball cannot be unpacked: {0}")]
    Io(#[from] io::Error),
    /// The program that undoes its compression is missing.
    #[error("the chroot tarball needs {0}; install the Debian package {1} on the builder")]
    Program(&'static str, &'static str),
    /// `tar` refused it.
    #[error("the chroot tarball cannot be unpacked: {0}")]
    Tar(#[from] CommandError),
    /// It is not a chroot.
    #[error("the chroot tarball has no folder {TOP}/ with a /bin/sh in it")]
    NoChroot,
}

/// How a tarball is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Compression {
    option: &'static str,
    program: &'static str,
    package: &'static str,
}

/// Unpacks `tarball` below `into` and opens the chroot.
pub(crate) fn unpack(tarball: &Path, into: &Path) -> Result<Root, UnpackError> {
    let mut head = Vec::new();
    File::open(tarball)?.take(6).read_to_end(&mut head)?;
    fs::create_dir(into)?;
    let mut tar = Command::new("tar");
    if let Some(compression) = compression(&head) {
        if needs::find(compression.program).is_none() {
            return Err(UnpackError::Program(
                compression.program,
                compression.package,
            ));
        }
        tar.arg(compression.option);
    }
    tar.args([
        "--extract",
        "--numeric-owner",
        "--preserve-permissions",
        "--same-owner",
    ])
    .args([
        "--anchored",
        "--wildcards",
        "--exclude=chroot-autobuild/dev/*",
    ])
    .arg("--directory")
    .arg(into)
    .arg("--file")
    .arg(tarball)
    .arg(TOP);
    run(&mut tar)?;
    let root = Root::open(&into.join(TOP)).map_err(|_| UnpackError::NoChroot)?;
    if root.exists("bin/sh") {
        Ok(root)
    } else {
        Err(UnpackError::NoChroot)
    }
}

/// By the first bytes: a cache names files by their sums, so there is no suffix to go by.
fn compression(head: &[u8]) -> Option<Compression> {
    let known = |option, program, package| {
        Some(Compression {
            option,
            program,
            package,
        })
    };
    match head {
        [0x1f, 0x8b, ..] => known("--gzip", "gzip", "gzip"),
        [b'B', b'Z', b'h', ..] => known("--bzip2", "bzip2", "bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => known("--xz", "xz", "xz-utils"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => known("--zstd", "zstd", "zstd"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;

    use super::*;

    #[test]
    fn a_compression_is_known_by_its_first_bytes() {
        let program = |head: &[u8]| compression(head).map(|found| found.program);
        assert_eq!(program(&hex!("1f8b08000000")), Some("gzip"));
        assert_eq!(program(b"BZh91A"), Some("bzip2"));
        assert_eq!(program(&hex!("fd377a585a00")), Some("xz"));
        assert_eq!(program(&hex!("28b52ffd0458")), Some("zstd"));
        assert_eq!(program(b"chroot"), None);
        assert_eq!(program(b""), None);
    }
}
