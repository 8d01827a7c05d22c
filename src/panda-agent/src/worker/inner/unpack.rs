//! Unpacking a chroot tarball, as `tar -xf` does: plain or compressed in any way that tar knows, by its first bytes, with
//! the top folder `chroot-autobuild/` or `./chroot-autobuild/`. Device nodes in it are left out: [`super::mounts`] makes
//! `/dev`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::process::Command;

use super::command::{CommandError, run};
use super::root::Root;
use super::sbuild::PATH;
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

/// What undoes a compression: a program that reads standard input when it is given `-d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Compression {
    program: &'static str,
    package: &'static str,
}

/// Unpacks `tarball` below `into` and opens the chroot.
pub(crate) fn unpack(tarball: &Path, into: &Path) -> Result<Root, UnpackError> {
    let mut head = Vec::new();
    File::open(tarball)?.take(13).read_to_end(&mut head)?;
    fs::create_dir(into)?;
    let mut tar = Command::new("tar");
    tar.env_clear().env("PATH", PATH).env("LANG", "C");
    if let Some(compression) = compression(&head) {
        if needs::find(compression.program).is_none() {
            return Err(UnpackError::Program(
                compression.program,
                compression.package,
            ));
        }
        tar.arg(format!("--use-compress-program={}", compression.program));
    }
    tar.args([
        "--extract",
        "--numeric-owner",
        "--preserve-permissions",
        "--same-owner",
    ])
    // At any of its slashes a name may begin to match: `./chroot-autobuild/` is the same folder.
    .args([
        "--no-anchored",
        "--wildcards",
        "--exclude=chroot-autobuild/dev/*",
    ])
    .arg("--directory")
    .arg(into)
    .arg("--file")
    .arg(tarball);
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
    let known = |program, package| Some(Compression { program, package });
    match head {
        // Of gzip, and of the older compress and pack, which it undoes as well.
        [0x1f, 0x8b | 0x9d | 0x1e, ..] => known("gzip", "gzip"),
        [b'B', b'Z', b'h', ..] => known("bzip2", "bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => known("xz", "xz-utils"),
        // lzma has no magic number: its properties, a dictionary of a whole number of KiB, and a size that is not known or
        // below 2^40.
        [
            0x5d,
            0,
            0,
            _,
            _,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            ..,
        ]
        | [0x5d, 0, 0, _, _, _, _, _, _, _, 0, 0, 0, ..] => known("xz", "xz-utils"),
        // xz knows it since 5.4; lzip itself is seldom installed.
        [b'L', b'Z', b'I', b'P', ..] => match needs::find("lzip") {
            Some(_) => known("lzip", "lzip"),
            None => known("xz", "xz-utils"),
        },
        [0x28, 0xb5, 0x2f, 0xfd, ..] => known("zstd", "zstd"),
        [0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', ..] => known("lzop", "lzop"),
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
        assert_eq!(program(&hex!("1f9d90")), Some("gzip"));
        assert_eq!(program(&hex!("5d00008000ffffffffffffffff")), Some("xz"));
        assert_eq!(program(&hex!("5d00008000 0012340000000000")), Some("xz"));
        assert!(matches!(program(b"LZIP\x01\x17"), Some("xz" | "lzip")));
        assert_eq!(program(b"\x89LZO\0\r\n\x1a\n"), Some("lzop"));
        assert_eq!(program(b"]chroot-autob"), None);
        assert_eq!(program(b"chroot"), None);
        assert_eq!(program(b""), None);
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
            })
        })
    }

    /// `tar` through a shell's filter.
    fn filtered(tar: &[u8], filter: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tar");
        fs::write(&path, tar).unwrap();
        let output = Command::new("sh")
            .args(["-c", filter])
            .stdin(File::open(path).unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{filter}: {output:?}");
        output.stdout
    }

    #[test]
    fn a_tarball_in_every_form_that_tar_takes_is_unpacked_without_its_devices() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("chroot-autobuild");
        for path in ["bin", "dev", "usr/dev"] {
            fs::create_dir_all(tree.join(path)).unwrap();
        }
        for path in ["bin/sh", "dev/sda", "usr/dev/kept"] {
            fs::write(tree.join(path), "x").unwrap();
        }
        let tar = |top: &str| {
            let tar = Command::new("tar")
                .args(["-P", "-c", top])
                .current_dir(directory.path())
                .output()
                .unwrap();
            assert!(tar.status.success());
            tar.stdout
        };
        let plain = tar("chroot-autobuild");
        let mut lzip = b"LZIP\x01\x10".to_vec();
        lzip.extend(filtered(
            &plain,
            "xz --format=raw --lzma1=dict=64KiB,lc=3,lp=0,pb=2 -c",
        ));
        lzip.extend(crc32(&plain).to_le_bytes());
        lzip.extend((plain.len() as u64).to_le_bytes());
        lzip.extend((lzip.len() as u64 + 8).to_le_bytes());
        let forms = [
            ("plain", plain.clone()),
            ("./", tar("./chroot-autobuild")),
            (".", tar(".")),
            ("gzip", filtered(&plain, "gzip -c")),
            ("bzip2", filtered(&plain, "bzip2 -c")),
            ("xz", filtered(&plain, "xz -c")),
            ("zstd", filtered(&plain, "zstd -q -c")),
            (
                "./ and lzma",
                filtered(&tar("./chroot-autobuild"), "xz --format=lzma -c"),
            ),
            ("lzip", lzip),
        ];
        for (number, (form, bytes)) in forms.into_iter().enumerate() {
            let tarball = directory.path().join(format!("{number}.tar"));
            fs::write(&tarball, bytes).unwrap();
            let root = unpack(&tarball, &directory.path().join(format!("{number}"))).unwrap();
            assert!(
                root.exists("bin/sh") && root.exists("usr/dev/kept"),
                "{form}"
            );
            assert!(!root.exists("dev/sda"), "{form}");
        }
    }
}
