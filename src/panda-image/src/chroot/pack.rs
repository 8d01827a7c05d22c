//! Packs a chroot as builders want it: everything under one top folder, compressed by the file's suffix,
//! and under its own name only when it is whole.
//!
//! mmdebstrap writes a tar archive of `./…`; it streams through here entry by entry, so the chroot is
//! never on disk twice:
//!
//! ```text
//! mmdebstrap ── ./usr/bin/perl ──> rename ── chroot-autobuild/usr/bin/perl ──> zstd ──> FILE
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use crate::programs::{self, Missing};

/// The folder that a builder expects at the top.
const TOP: &[u8] = b"chroot-autobuild";
/// Length of the name and link fields of a tar header; longer ones go in an extended header.
const FIELD: usize = 100;

/// How a tarball is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// `.tar`
    None,
    /// `.tar.gz`, `.tgz`
    Gzip,
    /// `.tar.xz`
    Xz,
    /// `.tar.zst`
    Zstd,
}

impl Compression {
    /// By the suffix of `path`; none for a suffix that is not known.
    #[must_use]
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name().and_then(OsStr::to_str)?;
        [
            (".tar", Self::None),
            (".tar.gz", Self::Gzip),
            (".tgz", Self::Gzip),
            (".tar.xz", Self::Xz),
            (".tar.zst", Self::Zstd),
        ]
        .into_iter()
        .find(|(suffix, _)| name.ends_with(suffix))
        .map(|(_, compression)| compression)
    }

    fn command(self) -> Result<Option<Command>, Missing> {
        let (program, package, arguments): (_, _, &[&str]) = match self {
            Self::None => return Ok(None),
            Self::Gzip => ("gzip", "gzip", &["-nc"]),
            Self::Xz => ("xz", "xz-utils", &["-T0", "-c"]),
            Self::Zstd => ("zstd", "zstd", &["-T0", "-qc"]),
        };
        let mut command = Command::new(programs::find(program, package)?);
        command.args(arguments);
        Ok(Some(command))
    }
}

/// Why a tarball could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    /// The compressor is missing.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A file or pipe failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The compressor failed.
    #[error("the compressor ended with {0}")]
    Compressor(std::process::ExitStatus),
}

/// A tarball in the making. Dropped before [`Packer::publish`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct Packer {
    output: PathBuf,
    directory: PathBuf,
    /// Without a name until it is whole: even when we are killed, nothing of it is left.
    file: File,
    compression: Compression,
}

impl Packer {
    /// Begins `output`; it appears only with [`Packer::publish`].
    ///
    /// # Errors
    /// The directory does not exist or cannot be written; the compressor is missing.
    pub(crate) fn begin(output: &Path, compression: Compression) -> Result<Self, PackError> {
        compression.command()?;
        let directory = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = tempfile::tempfile_in(directory).map_err(|source| PackError::Io {
            what: format!("{}: cannot be written to", directory.display()),
            source,
        })?;
        Ok(Self {
            output: output.to_owned(),
            directory: directory.to_owned(),
            file,
            compression,
        })
    }

    /// Packs the tar archive that `archive` holds, in place of what was packed before. It is read to its end
    /// whatever happens: mmdebstrap takes a reader that leaves before as a failure.
    ///
    /// # Errors
    /// A broken archive, a full disk, a compressor that fails.
    pub(crate) fn pack(&mut self, mut archive: impl Read) -> Result<(), PackError> {
        let packed = self.pack_entries(&mut archive);
        let drained = io::copy(&mut archive, &mut io::sink()).map_err(unpacking);
        packed.and(drained.map(drop))
    }

    fn pack_entries(&mut self, archive: impl Read) -> Result<(), PackError> {
        let output = self.output.display().to_string();
        let failed = |source| PackError::Io {
            what: output.clone(),
            source,
        };
        let file = &mut self.file;
        file.set_len(0).map_err(failed)?;
        io::Seek::rewind(file).map_err(failed)?;
        let out = file.try_clone().map_err(failed)?;
        match self.compression.command()? {
            None => {
                let mut out = io::BufWriter::with_capacity(1 << 20, out);
                rename(archive, &mut out).map_err(unpacking)?;
                out.flush().map_err(failed)?;
            }
            Some(mut command) => {
                let mut child = Reaped(
                    command
                        .stdin(Stdio::piped())
                        .stdout(out)
                        .process_group(0)
                        .spawn()
                        .map_err(|source| PackError::Io {
                            what: "the compressor".into(),
                            source,
                        })?,
                );
                let copied = match child.0.stdin.take() {
                    Some(stdin) => {
                        let mut stdin = io::BufWriter::with_capacity(1 << 16, stdin);
                        rename(archive, &mut stdin).and_then(|()| stdin.flush())
                    }
                    None => Err(io::Error::other("no pipe to the compressor")),
                };
                let status = child.0.wait().map_err(failed)?;
                if !status.success() {
                    return Err(PackError::Compressor(status));
                }
                copied.map_err(unpacking)?;
            }
        }
        Ok(())
    }

    /// Gives the tarball its name. Readers see the old file or the whole new one.
    ///
    /// # Errors
    /// It cannot be written out or renamed.
    pub(crate) fn publish(self) -> Result<(), PackError> {
        use std::os::unix::fs::PermissionsExt as _;
        let failed = |source| PackError::Io {
            what: self.output.display().to_string(),
            source,
        };
        self.file
            .set_permissions(std::fs::Permissions::from_mode(0o644))
            .map_err(failed)?;
        self.file.sync_all().map_err(failed)?;
        let named = tempfile::Builder::new()
            .prefix(".chroot-")
            .suffix(".tmp")
            .make_in(&self.directory, |path| name(&self.file, path))
            .map_err(failed)?;
        named
            .persist(&self.output)
            .map_err(|error| failed(error.error))?;
        Ok(())
    }
}

/// Gives a file without a name this one.
fn name(mut file: &File, path: &Path) -> io::Result<()> {
    let ours = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(AT_FDCWD, &*ours, AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW) {
        // This file system has no files without a name: the file had one, and lost it.
        Err(Errno::ENOENT) => {
            let mut copy = File::create_new(path)?;
            io::Seek::rewind(&mut file)?;
            io::copy(&mut file, &mut copy)?;
            copy.set_permissions(file.metadata()?.permissions())?;
            copy.sync_all()
        }
        linked => Ok(linked?),
    }
}

fn unpacking(source: io::Error) -> PackError {
    PackError::Io {
        what: "the archive that mmdebstrap writes".into(),
        source,
    }
}

/// A child that never outlives us as a zombie or a writer.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Copies the tar archive `from`, with every entry under [`TOP`].
fn rename(from: impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut archive = tar::Archive::new(from);
    let mut builder = tar::Builder::new(to);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let mut header = entry.header().clone();
        let name = under_top(&entry.path_bytes());
        let hard = header.entry_type().is_hard_link();
        let link = entry
            .link_name_bytes()
            .map(|link| if hard { under_top(&link) } else { link.into() });
        let mut extensions: Vec<(String, Vec<u8>)> = Vec::new();
        if let Some(list) = entry.pax_extensions()? {
            for extension in list {
                let extension = extension?;
                let key = extension.key().map_err(io::Error::other)?;
                if !matches!(key, "path" | "linkpath") {
                    extensions.push((key.to_owned(), extension.value_bytes().to_owned()));
                }
            }
        }
        set_field(&mut header, 0, &name, "path", &mut extensions);
        set_field(
            &mut header,
            157,
            link.as_deref().unwrap_or_default(),
            "linkpath",
            &mut extensions,
        );
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.prefix = [0; 155];
        }
        header.set_cksum();
        if !extensions.is_empty() {
            builder.append_pax_extensions(
                extensions
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_slice())),
            )?;
        }
        builder.append(&header, &mut entry)?;
    }
    builder.finish()
}

/// `./usr/bin` as `chroot-autobuild/usr/bin`; `.` as the top folder itself.
fn under_top(name: &[u8]) -> Vec<u8> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = if name == b"." { b"" } else { name };
    [TOP, b"/", OsStr::from_bytes(name).as_bytes()].concat()
}

/// Writes a name into the header's 100-byte field at `at`, and all of a longer one into `extensions`.
fn set_field(
    header: &mut tar::Header,
    at: usize,
    value: &[u8],
    key: &str,
    extensions: &mut Vec<(String, Vec<u8>)>,
) {
    if let Some(field) = header.as_mut_bytes().get_mut(at..at + FIELD) {
        field.fill(0);
        for (place, byte) in field.iter_mut().zip(value) {
            *place = *byte;
        }
    }
    if value.len() > FIELD {
        extensions.push((key.to_owned(), value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An archive as mmdebstrap's `tar` writes it, with a long name, links and an extended attribute.
    fn archive() -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let long = "d".repeat(90) + "/" + &"f".repeat(60);
        std::fs::create_dir_all(directory.path().join("d".repeat(90))).unwrap();
        std::fs::write(directory.path().join(&long), "long").unwrap();
        std::fs::write(directory.path().join("file"), "data").unwrap();
        std::fs::hard_link(directory.path().join("file"), directory.path().join("hard")).unwrap();
        std::os::unix::fs::symlink("./../somewhere", directory.path().join("soft")).unwrap();
        let output = Command::new("tar")
            .args(["--format=pax", "--sort=name", "-cf", "-", "."])
            .current_dir(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn listing(tarball: &Path) -> String {
        let output = Command::new("tar")
            .arg("-tvf")
            .arg(tarball)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn every_entry_comes_under_the_top_folder_and_links_still_fit() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("chroot.tar");
        let mut packer = Packer::begin(&output, Compression::None).unwrap();
        packer.pack(archive().as_slice()).unwrap();
        packer.publish().unwrap();
        let listing = listing(&output);
        assert!(
            listing
                .lines()
                .all(|line| line.contains(" chroot-autobuild/")),
            "{listing}"
        );
        assert!(
            listing.contains("chroot-autobuild/hard link to chroot-autobuild/file"),
            "{listing}"
        );
        assert!(
            listing.contains("chroot-autobuild/soft -> ./../somewhere"),
            "{listing}"
        );
        assert!(
            listing.contains(&("d".repeat(90) + "/" + &"f".repeat(60))),
            "{listing}"
        );
    }

    #[test]
    fn each_suffix_gives_a_file_that_tar_reads_and_a_second_packing_replaces_the_first() {
        let directory = tempfile::tempdir().unwrap();
        for suffix in ["tar.zst", "tar.gz", "tar.xz", "tar"] {
            let output = directory.path().join(format!("chroot.{suffix}"));
            let mut packer = Packer::begin(&output, Compression::of(&output).unwrap()).unwrap();
            packer.pack(archive().as_slice()).unwrap();
            packer.pack(archive().as_slice()).unwrap();
            packer.publish().unwrap();
            assert_eq!(
                listing(&output).matches("chroot-autobuild/file").count(),
                2,
                "{suffix}"
            );
        }
        assert_eq!(Compression::of(Path::new("chroot.zip")), None);
    }

    #[test]
    fn a_broken_archive_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("chroot.tar.zst");
        let mut packer = Packer::begin(&output, Compression::Zstd).unwrap();
        let whole = archive();
        assert!(
            packer.pack(&whole[..whole.len() / 2]).is_err() || packer.pack(&whole[..700]).is_err()
        );
        drop(packer);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
