//! `.changes`: which files a build says it has made. [`super::gather`] reads it; it was written on a
//! board, so every name is a [`FileName`], every size a number, and nothing else is believed.
//!
//! Each line under `Files:` is ` <md5> <size> <section> <priority> <name>`, and under
//! `Checksums-Sha1:` ` <sha1> <size> <name>` (Debian Policy, 5.5).

use std::collections::BTreeMap;

use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::FileName;

use super::deb822::{ControlError, Paragraph};

/// The most files that one build may have: with the `.changes` itself, what `status` can say.
pub(crate) const MAX_FILES: usize = panda_protocol::launchpad::status::MAX_FILES - 1;

/// One file of a `.changes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its SHA-1, where the file says it.
    pub(crate) sha1: Option<Sha1>,
}

/// A `.changes` that cannot be used. It quotes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangesError {
    /// Not a control file.
    #[error("the .changes file is malformed: {0}")]
    Control(#[from] ControlError),
    /// No `Files` field.
    #[error("the .changes file has no Files field")]
    NoFiles,
    /// A line that is none.
    #[error("the .changes file has a malformed line in {0}")]
    Line(&'static str),
    /// A name that would leave its directory.
    #[error("the .changes file names a file that is not one plain name")]
    Name,
    /// The same name twice.
    #[error("the .changes file names a file twice")]
    Twice,
    /// More than [`MAX_FILES`].
    #[error("the .changes file names more than {MAX_FILES} files")]
    TooMany,
}

/// The files that a `.changes` names.
pub(crate) fn parse(bytes: &[u8]) -> Result<BTreeMap<FileName, Expected>, ChangesError> {
    let paragraph = Paragraph::parse(bytes)?;
    let listed = paragraph.get("Files").ok_or(ChangesError::NoFiles)?;
    let mut files = BTreeMap::new();
    for line in lines(listed) {
        let [_md5, size, _section, _priority, name] =
            words(line).ok_or(ChangesError::Line("Files"))?;
        let size = number(size).ok_or(ChangesError::Line("Files"))?;
        let name = named(name)?;
        if files.insert(name, Expected { size, sha1: None }).is_some() {
            return Err(ChangesError::Twice);
        }
        if files.len() > MAX_FILES {
            return Err(ChangesError::TooMany);
        }
    }
    for line in lines(paragraph.get("Checksums-Sha1").unwrap_or_default()) {
        let bad = ChangesError::Line("Checksums-Sha1");
        let [sha1, size, name] = words(line).ok_or(bad.clone())?;
        let sha1 = sha1.parse().map_err(|_| bad.clone())?;
        let name = named(name)?;
        match files.get_mut(&name) {
            Some(file) if number(size) == Some(file.size) => file.sha1 = Some(sha1),
            _ => return Err(bad),
        }
    }
    Ok(files)
}

/// One plain name, all of whose bytes are known: see [`super::deb822`].
fn named(name: &str) -> Result<FileName, ChangesError> {
    if name.contains(char::REPLACEMENT_CHARACTER) {
        return Err(ChangesError::Name);
    }
    FileName::try_from(name.to_owned()).map_err(|_| ChangesError::Name)
}

fn lines(value: &str) -> impl Iterator<Item = &str> {
    value.lines().filter(|line| !line.is_empty())
}

/// Exactly `N` words.
fn words<const N: usize>(line: &str) -> Option<[&str; N]> {
    line.split_ascii_whitespace()
        .collect::<Vec<_>>()
        .try_into()
        .ok()
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";
    const SHA1: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

    fn changes(files: &str) -> Result<BTreeMap<FileName, Expected>, ChangesError> {
        parse(format!("Format: 1.8\nSource: hello\n{files}").as_bytes())
    }

    #[test]
    fn names_sizes_and_sums_are_read() {
        let files = changes(&format!(
            "Checksums-Sha1:\n {SHA1} 12 a_1_armhf.deb\nFiles:\n {MD5} 12 misc optional a_1_armhf.deb\n \
             {MD5} 0 misc optional b.deb\n"
        ))
        .unwrap();
        let named = |name: &str| files[&FileName::try_from(name.to_owned()).unwrap()];
        assert_eq!(
            named("a_1_armhf.deb"),
            Expected {
                size: 12,
                sha1: SHA1.parse().ok()
            }
        );
        assert_eq!(
            named("b.deb"),
            Expected {
                size: 0,
                sha1: None
            }
        );
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["../evil.deb", "/etc/passwd", "..", "a/b.deb"] {
            let error = changes(&format!("Files:\n {MD5} 1 misc optional {name}\n")).unwrap_err();
            assert_eq!(error, ChangesError::Name, "{name}");
            assert!(!error.to_string().contains(name));
        }
    }

    #[test]
    fn a_changelog_in_any_encoding_is_taken_and_a_name_in_it_is_not() {
        for text in [&b"Jos\xe9"[..], b"\x0c", b"\xc2\x89", b"\x1b[1m", b"."] {
            let file = [
                b"Changes:\n x\n ",
                text,
                b"\nFiles:\n ",
                MD5.as_bytes(),
                b" 1 m o a.deb\n",
            ]
            .concat();
            assert_eq!(parse(&file).unwrap().len(), 1, "{text:?}");
        }
        let file = [b"Files:\n ", MD5.as_bytes(), b" 1 m o caf\xe9.deb\n"].concat();
        assert_eq!(parse(&file), Err(ChangesError::Name));
    }

    #[test]
    fn malformed_files_are_refused() {
        let line = |text: &str| changes(&format!("Files:\n {text}\n"));
        assert_eq!(changes(""), Err(ChangesError::NoFiles));
        assert_eq!(line("x 1 a.deb"), Err(ChangesError::Line("Files")));
        assert_eq!(
            line(&format!("{MD5} -1 m o a.deb")),
            Err(ChangesError::Line("Files"))
        );
        assert_eq!(
            line(&format!("{MD5} +1 m o a.deb")),
            Err(ChangesError::Line("Files"))
        );
        assert_eq!(
            line(&format!("{MD5} 99999999999999999999 m o a.deb")),
            Err(ChangesError::Line("Files"))
        );
        assert_eq!(
            line(&format!("{MD5} 1 m o a.deb\n {MD5} 1 m o a.deb")),
            Err(ChangesError::Twice)
        );
        assert_eq!(
            line(&format!(
                "{MD5} 1 m o a.deb\nChecksums-Sha1:\n {SHA1} 2 a.deb"
            )),
            Err(ChangesError::Line("Checksums-Sha1"))
        );
        assert_eq!(
            line(&format!(
                "{MD5} 1 m o a.deb\nChecksums-Sha1:\n {SHA1} 1 b.deb"
            )),
            Err(ChangesError::Line("Checksums-Sha1"))
        );
        assert!(matches!(parse(b"\xff\xfe"), Err(ChangesError::Control(_))));
    }
}
