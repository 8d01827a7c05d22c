//! Gathering a finished build's results: the one `.changes`, and every file that it names, into a
//! directory where each has its SHA-1 as its name. Nothing of the build runs any more, but what it
//! left is hostile: only regular files of plain names are taken, and no link is followed.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{FileMap, FileName};
use sha1::Digest as _;

use super::changes::{self, ChangesError};
use super::deb822;

/// Why a good build's results cannot be had. It names files only where their names are plain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatherError {
    /// The directory cannot be read.
    #[error("the build's directory cannot be read: {0}")]
    Directory(#[source] io::Error),
    /// No `.changes`.
    #[error("the build made no .changes file")]
    NoChanges,
    /// Several, and none is the one for this architecture.
    #[error("the build made {0} .changes files; expected one")]
    ManyChanges(usize),
    /// The `.changes` is wrong.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// Something else than a regular file.
    #[error("{0} is not a regular file")]
    Kind(FileName),
    /// A file is missing or cannot be read.
    #[error("{name}: {source}")]
    File {
        /// The file.
        name: FileName,
        /// Why.
        source: io::Error,
    },
    /// A file is not as the `.changes` says.
    #[error("{0} has another size or SHA-1 than the .changes file says")]
    Mismatch(FileName),
    /// More than allowed.
    #[error("the results have more than {0} bytes")]
    TooMuch(u64),
}

/// Moves the results of a build from `files` to `results`, at most `max_bytes` of them. `inputs` are
/// the names that were there before.
pub(crate) fn gather(
    files: &Path,
    inputs: &BTreeSet<FileName>,
    arch: &str,
    results: &Path,
    max_bytes: u64,
) -> Result<FileMap, GatherError> {
    let name = find_changes(files, inputs, arch)?;
    let mut bytes = Vec::new();
    open(files, &name)?
        .take(deb822::MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| GatherError::File {
            name: name.clone(),
            source,
        })?;
    if bytes.len() as u64 > deb822::MAX_BYTES {
        return Err(GatherError::TooMuch(deb822::MAX_BYTES));
    }
    let expected = changes::parse(&bytes)?;
    let total = expected
        .values()
        .fold(0_u64, |sum, file| sum.saturating_add(file.size));
    if total > max_bytes {
        return Err(GatherError::TooMuch(max_bytes));
    }
    // Looked at as a whole before the first is moved.
    let mut sums = FileMap::new();
    for (name, file) in &expected {
        let (length, sha1) = hash(open(files, name)?, name, file.size)?;
        if length != file.size || file.sha1.is_some_and(|wanted| wanted != sha1) {
            return Err(GatherError::Mismatch(name.clone()));
        }
        sums.insert(name.clone(), sha1);
    }
    sums.insert(name, Sha1::of(&bytes));
    for (name, sha1) in &sums {
        fs::rename(path(files, name), results.join(sha1.to_string())).map_err(|source| {
            GatherError::File {
                name: name.clone(),
                source,
            }
        })?;
    }
    Ok(sums)
}

/// The `.changes` that the build made; of several, the one for its architecture.
fn find_changes(
    files: &Path,
    inputs: &BTreeSet<FileName>,
    arch: &str,
) -> Result<FileName, GatherError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(files).map_err(GatherError::Directory)? {
        let name = entry.map_err(GatherError::Directory)?.file_name();
        let Some(name) = name.to_str().map(str::to_owned) else {
            continue;
        };
        let Ok(name) = FileName::try_from(name) else {
            continue;
        };
        if name.as_str().ends_with(".changes") && !inputs.contains(&name) {
            found.push(name);
        }
    }
    let ours = format!("_{arch}.changes");
    let (mut own, mut other): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|name| name.as_str().ends_with(&ours));
    match (own.len(), other.len()) {
        (0, 0) => Err(GatherError::NoChanges),
        (1, _) => Ok(own.remove(0)),
        (0, 1) => Ok(other.remove(0)),
        (own, other) => Err(GatherError::ManyChanges(own + other)),
    }
}

fn path(files: &Path, name: &FileName) -> PathBuf {
    files.join(name.as_str())
}

/// Opens a regular file and nothing else: links are not followed, and a pipe does not block.
fn open(files: &Path, name: &FileName) -> Result<File, GatherError> {
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(code) if code == nix::errno::Errno::ELOOP as i32 => GatherError::Kind(name.clone()),
        _ => GatherError::File {
            name: name.clone(),
            source,
        },
    };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path(files, name))
        .map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(GatherError::Kind(name.clone()));
    }
    Ok(file)
}

/// Length and sum, reading one byte more than `expected` at most.
fn hash(file: File, name: &FileName, expected: u64) -> Result<(u64, Sha1), GatherError> {
    let failed = |source| GatherError::File {
        name: name.clone(),
        source,
    };
    let mut reader = file.take(expected.saturating_add(1));
    let mut sum = sha1::Sha1::new();
    let mut buffer = vec![0; 128 * 1024];
    let mut length = 0;
    loop {
        let count = reader.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            return Ok((length, Sha1::from_bytes(sum.finalize().into())));
        }
        sum.update(&buffer[..count]);
        length += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

    struct Build {
        files: tempfile::TempDir,
        results: tempfile::TempDir,
    }

    impl Build {
        fn new(listed: &[(&str, usize)]) -> Self {
            let build = Self {
                files: tempfile::tempdir().unwrap(),
                results: tempfile::tempdir().unwrap(),
            };
            let lines: String = listed
                .iter()
                .map(|(name, size)| format!(" {MD5} {size} misc optional {name}\n"))
                .collect();
            build.write(
                "hello_1.0_armhf.changes",
                &format!("Format: 1.8\nFiles:\n{lines}"),
            );
            build
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.files.path().join(name), text).unwrap();
        }

        fn gather(&self, inputs: &[&str]) -> Result<FileMap, GatherError> {
            let inputs = inputs.iter().map(|name| named(name)).collect();
            gather(
                self.files.path(),
                &inputs,
                "armhf",
                self.results.path(),
                1_000,
            )
        }

        fn taken(&self) -> usize {
            fs::read_dir(self.results.path()).unwrap().count()
        }
    }

    fn named(name: &str) -> FileName {
        FileName::try_from(name.to_owned()).unwrap()
    }

    #[test]
    fn the_changes_and_its_files_are_moved_to_their_sums() {
        let build = Build::new(&[("hello.deb", 3)]);
        build.write("hello.deb", "abc");
        build.write("unlisted", "x");
        let map = build.gather(&[]).unwrap();
        assert_eq!(map.len(), 2);
        assert_eq!(
            map[&named("hello.deb")].to_string(),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
        for sha1 in map.values() {
            let bytes = fs::read(build.results.path().join(sha1.to_string())).unwrap();
            assert_eq!(Sha1::of(&bytes), *sha1);
        }
        assert_eq!(build.taken(), 2);
    }

    #[test]
    fn links_pipes_and_directories_are_refused_and_nothing_is_moved() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        for kind in ["link", "pipe", "directory"] {
            let build = Build::new(&[("a.deb", 3), ("evil.deb", 0)]);
            build.write("a.deb", "abc");
            let path = build.files.path().join("evil.deb");
            match kind {
                "link" => std::os::unix::fs::symlink(secret.path(), &path).unwrap(),
                "pipe" => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                _ => fs::create_dir(&path).unwrap(),
            }
            let error = build.gather(&[]).unwrap_err();
            assert!(matches!(error, GatherError::Kind(_)), "{kind}: {error}");
            assert_eq!(build.taken(), 0, "{kind}");
        }
    }

    #[test]
    fn files_that_are_missing_or_not_as_listed_are_refused() {
        let build = Build::new(&[("a.deb", 3)]);
        assert!(matches!(build.gather(&[]), Err(GatherError::File { .. })));
        build.write("a.deb", "abcd");
        assert!(matches!(build.gather(&[]), Err(GatherError::Mismatch(_))));
        build.write("a.deb", "ab");
        assert!(matches!(build.gather(&[]), Err(GatherError::Mismatch(_))));
        assert_eq!(build.taken(), 0);
    }

    #[test]
    fn results_over_the_bound_are_refused_unread() {
        let build = Build::new(&[("a.deb", 600), ("b.deb", 600)]);
        assert!(matches!(
            build.gather(&[]),
            Err(GatherError::TooMuch(1_000))
        ));
        let build = Build::new(&[("a.deb", usize::MAX), ("b.deb", usize::MAX)]);
        assert!(matches!(
            build.gather(&[]),
            Err(GatherError::TooMuch(1_000))
        ));
    }

    #[test]
    fn an_endless_changes_is_refused_and_not_cut() {
        let build = Build::new(&[]);
        let path = build.files.path().join("hello_1.0_armhf.changes");
        let endless = format!("Format: 1.8\nFiles:\nChanges:\n{}", " x\n".repeat(3 << 20));
        fs::write(path, endless).unwrap();
        assert!(matches!(build.gather(&[]), Err(GatherError::TooMuch(_))));
    }

    #[test]
    fn exactly_one_changes_is_taken_and_inputs_are_none() {
        let build = Build::new(&[]);
        assert!(matches!(
            build.gather(&["hello_1.0_armhf.changes"]),
            Err(GatherError::NoChanges)
        ));
        build.write("hello_1.0_source.changes", "Format: 1.8\nFiles:\n");
        assert!(
            build.gather(&[]).is_ok(),
            "the architecture's own is preferred"
        );
        build.write("a_source.changes", "x");
        assert!(matches!(
            build.gather(&[]),
            Err(GatherError::ManyChanges(2))
        ));
    }
}
