//! cpio archives of the "newc" form, as a ramdisk is made of: [`Writer`] makes one, [`read`] takes apart
//! any number of them laid end to end (the kernel unpacks them in order, so a later file of the same name
//! wins). The daemon appends each boot's `boot.toml` this way; the process machine unpacks its ramdisk.
//!
//! ```text
//! "070701"  13 numbers of 8 hexadecimal digits:
//!           inode mode links uid gid mtime size dev-major dev-minor rdev-major rdev-minor name-size check
//! name, NUL, NULs to a multiple of 4     data, NULs to a multiple of 4
//! ...                                    the last entry is named TRAILER!!!
//! ```
//!
//! Only directories and regular files are known here, only with safe relative paths; a ramdisk for a real
//! kernel may hold more (and be compressed), and is never taken apart by this code.

use std::collections::BTreeSet;
use std::fmt;

use crate::launchpad::FileName;

/// The most entries that [`read`] takes.
pub const MAX_ENTRIES: usize = 10_000;
/// The most bytes of a path.
pub const MAX_PATH: usize = 1024;
/// Archives in a ramdisk begin on a multiple of this many bytes.
pub const ALIGNMENT: usize = 4;

const MAGIC: &[u8; 6] = b"070701";
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";
const TYPE_MASK: u32 = 0o170_000;
const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;

/// A relative path of plain components: what an archive may name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArchivePath(String);

impl ArchivePath {
    /// The path, components joined by `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directories above it, outermost first.
    fn parents(&self) -> impl Iterator<Item = Self> {
        self.0
            .match_indices('/')
            .map(|(at, _)| Self(self.0[..at].to_owned()))
    }
}

impl TryFrom<&str> for ArchivePath {
    type Error = BadPath;

    fn try_from(text: &str) -> Result<Self, BadPath> {
        let plain = text.len() <= MAX_PATH
            && text != TRAILER
            && text
                .split('/')
                .all(|part| FileName::try_from(part.to_owned()).is_ok());
        if plain {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadPath)
        }
    }
}

impl From<FileName> for ArchivePath {
    fn from(name: FileName) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for ArchivePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path that is absolute, empty, too long, leaves its directory or holds control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path in an archive must be relative, of plain components and at most {MAX_PATH} bytes")]
pub struct BadPath;

/// Writes one archive. The same entries always make the same bytes: times, owners and device are 0.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    directories: BTreeSet<ArchivePath>,
    entries: u32,
}

impl Writer {
    /// An archive without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; directories above it come first, with mode 0755, where they are missing.
    pub fn directory(&mut self, path: &ArchivePath, permissions: u32) {
        self.parents_of(path);
        if self.directories.insert(path.clone()) {
            self.entry(
                path.as_str(),
                TYPE_DIRECTORY | (permissions & 0o7777),
                2,
                &[],
            );
        }
    }

    /// Adds a file; directories above it come first, with mode 0755, where they are missing.
    ///
    /// # Errors
    /// When it has 4 GiB or more, which the form cannot say.
    pub fn file(
        &mut self,
        path: &ArchivePath,
        permissions: u32,
        bytes: &[u8],
    ) -> Result<(), FileTooLarge> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(FileTooLarge);
        }
        self.parents_of(path);
        self.entry(path.as_str(), TYPE_FILE | (permissions & 0o7777), 1, bytes);
        Ok(())
    }

    /// Ends the archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.raw_entry(0, TRAILER, 0, 1, &[]);
        self.bytes
    }

    fn parents_of(&mut self, path: &ArchivePath) {
        for parent in path.parents() {
            if self.directories.insert(parent.clone()) {
                self.entry(parent.as_str(), TYPE_DIRECTORY | 0o755, 2, &[]);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, links: u32, data: &[u8]) {
        self.entries += 1;
        self.raw_entry(self.entries, name, mode, links, data);
    }

    fn raw_entry(&mut self, inode: u32, name: &str, mode: u32, links: u32, data: &[u8]) {
        let size = data.len();
        let name_size = name.len() + 1;
        self.bytes.extend_from_slice(MAGIC);
        let numbers = format!(
            "{inode:08x}{mode:08x}{links:08x}{zero}{size:08x}{zero}{zero4}{name_size:08x}{zero4}",
            zero = "00000000".repeat(3),
            zero4 = "00000000",
        );
        self.bytes.extend_from_slice(numbers.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// A file that the form cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a file in a cpio archive must be smaller than 4 GiB")]
pub struct FileTooLarge;

/// One entry, borrowing the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where it belongs.
    pub path: ArchivePath,
    /// Permission bits, `0o7777` at most.
    pub permissions: u32,
    /// What it is.
    pub node: Node<'a>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node<'a> {
    /// A directory.
    Directory,
    /// A regular file and its bytes.
    File(&'a [u8]),
}

/// Reads all archives in `bytes`, in order. Between and after them NULs may stand, as padding.
///
/// # Errors
/// When a header is broken, anything reaches over the end, an archive has no trailer, a path is unsafe, or
/// an entry is neither directory nor regular file.
pub fn read(bytes: &[u8]) -> Result<Vec<Entry<'_>>, CpioError> {
    let mut entries = Vec::new();
    let mut at = 0;
    let mut inside = false;
    loop {
        if !inside {
            at += bytes[at..].iter().take_while(|&&byte| byte == 0).count();
            if at == bytes.len() {
                return Ok(entries);
            }
            if !at.is_multiple_of(ALIGNMENT) {
                return Err(CpioError::Alignment { at });
            }
        }
        let raw = RawEntry::read(bytes, at)?;
        inside = raw.name != TRAILER.as_bytes();
        if inside && let Some(entry) = raw.entry(at)? {
            if entries.len() == MAX_ENTRIES {
                return Err(CpioError::TooMany);
            }
            entries.push(entry);
        }
        at = raw.next;
    }
}

/// An entry as it stands there: cut out, but not yet believed.
struct RawEntry<'a> {
    mode: u32,
    links: u32,
    name: &'a [u8],
    data: &'a [u8],
    next: usize,
}

impl<'a> RawEntry<'a> {
    fn read(bytes: &'a [u8], at: usize) -> Result<Self, CpioError> {
        let cut = CpioError::Cut { at };
        let header: &[u8; HEADER] = bytes[at..].first_chunk().ok_or(cut)?;
        if header[..6] != MAGIC[..] {
            return Err(CpioError::Magic { at });
        }
        let number = |index: usize| {
            let digits = &header[6 + 8 * index..14 + 8 * index];
            digits.iter().try_fold(0_u32, |value, &digit| {
                let digit = char::from(digit)
                    .to_digit(16)
                    .ok_or(CpioError::Number { at })?;
                Ok(value << 4 | digit)
            })
        };
        let (mode, links, size, name_size) = (number(1)?, number(2)?, number(6)?, number(11)?);
        let name_at = at + HEADER;
        let name_end = name_at.checked_add(name_size as usize).ok_or(cut)?;
        let name = bytes.get(name_at..name_end).ok_or(cut)?;
        let Some((0, name)) = name.split_last() else {
            return Err(CpioError::Path { at });
        };
        let data_at = name_end.next_multiple_of(ALIGNMENT);
        let data_end = data_at.checked_add(size as usize).ok_or(cut)?;
        let data = bytes.get(data_at..data_end).ok_or(cut)?;
        let next = data_end.next_multiple_of(ALIGNMENT).min(bytes.len());
        Ok(Self {
            mode,
            links,
            name,
            data,
            next,
        })
    }

    /// The entry; `None` for the root directory itself.
    fn entry(&self, at: usize) -> Result<Option<Entry<'a>>, CpioError> {
        let name = std::str::from_utf8(self.name).map_err(|_| CpioError::Path { at })?;
        let node = match self.mode & TYPE_MASK {
            TYPE_DIRECTORY if self.data.is_empty() => Node::Directory,
            TYPE_FILE if self.links <= 1 => Node::File(self.data),
            _ => return Err(CpioError::Kind { at }),
        };
        if name == "." && node == Node::Directory {
            return Ok(None);
        }
        let name = name.strip_prefix("./").unwrap_or(name);
        let path = ArchivePath::try_from(name).map_err(|_| CpioError::Path { at })?;
        Ok(Some(Entry {
            path,
            permissions: self.mode & 0o7777,
            node,
        }))
    }
}

/// Why bytes are no archives that this code takes. Names are not quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// No header where one must be.
    #[error("cpio: no entry of the newc form at byte {at}; is the archive compressed?")]
    Magic {
        /// Where.
        at: usize,
    },
    /// A number of a header is none.
    #[error("cpio: the entry at byte {at} has a number that is not hexadecimal")]
    Number {
        /// Where.
        at: usize,
    },
    /// The end comes too early.
    #[error("cpio: the archive ends within the entry at byte {at}, or before its trailer")]
    Cut {
        /// Where.
        at: usize,
    },
    /// An archive begins where the kernel would not look for it.
    #[error("cpio: the archive at byte {at} does not begin on a multiple of {ALIGNMENT} bytes")]
    Alignment {
        /// Where.
        at: usize,
    },
    /// A path that could leave its directory.
    #[error("cpio: the entry at byte {at} has a path that is not relative and plain")]
    Path {
        /// Where.
        at: usize,
    },
    /// A link, a device, a directory with content.
    #[error("cpio: the entry at byte {at} is neither a directory nor a regular file without links")]
    Kind {
        /// Where.
        at: usize,
    },
    /// Too many entries.
    #[error("cpio: more than {MAX_ENTRIES} entries")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> ArchivePath {
        ArchivePath::try_from(text).unwrap()
    }

    fn one_file() -> Vec<u8> {
        let mut writer = Writer::new();
        writer.file(&path("a/b"), 0o640, b"hello").unwrap();
        writer.finish()
    }

    #[test]
    fn an_archive_is_these_bytes() {
        let expected: Vec<u8> = [
            &b"07070100000001000041ed00000002000000000000000000000000000000000000000000000000"[..],
            b"000000000000000000000002",
            b"00000000a\0",
            b"07070100000002000081a000000001000000000000000000000000000000050000000000000000",
            b"000000000000000000000004",
            b"00000000a/b\0\0\0hello\0\0\0",
            b"07070100000000000000000000000100000000000000000000000000000000",
            b"00000000000000000000000000000000",
            b"0000000b00000000TRAILER!!!\0\0\0\0",
        ]
        .concat();
        assert_eq!(
            one_file().escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    #[test]
    fn archives_laid_end_to_end_are_read_in_order() {
        let mut bytes = one_file();
        bytes.extend([0; 508]);
        bytes.extend(one_file());
        bytes.extend([0; 3]);
        let entries = read(&bytes).unwrap();
        let seen: Vec<_> = entries
            .iter()
            .map(|entry| (entry.path.as_str(), entry.node))
            .collect();
        assert_eq!(
            seen,
            [
                ("a", Node::Directory),
                ("a/b", Node::File(b"hello")),
                ("a", Node::Directory),
                ("a/b", Node::File(b"hello")),
            ]
        );
        assert_eq!(entries[1].permissions, 0o640);
        assert_eq!(read(&[]), Ok(vec![]));
    }

    #[test]
    fn unsafe_paths_do_not_exist() {
        for text in [
            "",
            "/etc",
            "a//b",
            "../a",
            "a/..",
            "a/./b",
            "a/",
            "a\0b",
            "TRAILER!!!",
        ] {
            assert_eq!(ArchivePath::try_from(text), Err(BadPath), "{text:?}");
        }
        assert!(ArchivePath::try_from("x".repeat(1025).as_str()).is_err());
    }

    #[test]
    fn an_unsafe_path_in_an_archive_is_refused() {
        for bad in [&b"../"[..], b"/ab", b"a//", b"a\0b"] {
            let mut bytes = one_file();
            let at = bytes
                .windows(4)
                .position(|window| window == b"a/b\0")
                .unwrap();
            bytes[at..at + 3].copy_from_slice(bad);
            assert_eq!(read(&bytes), Err(CpioError::Path { at: 112 }), "{bad:?}");
        }
    }

    #[test]
    fn links_devices_and_other_kinds_are_refused() {
        for mode in ["0000a1ff", "000021a4", "000061a4", "000011a4", "0000c1a4"] {
            let mut bytes = one_file();
            bytes[112 + 14..112 + 22].copy_from_slice(mode.as_bytes());
            assert_eq!(read(&bytes), Err(CpioError::Kind { at: 112 }), "{mode}");
        }
        let mut hard_link = one_file();
        hard_link[112 + 29] = b'2';
        assert_eq!(read(&hard_link), Err(CpioError::Kind { at: 112 }));
    }

    #[test]
    fn broken_archives_are_refused_where_they_break() {
        let good = one_file();
        assert_eq!(
            read(&good[..good.len() - 124]),
            Err(CpioError::Cut { at: 236 })
        );
        assert_eq!(read(&good[..50]), Err(CpioError::Cut { at: 0 }));
        assert_eq!(read(b"\x1f\x8b\x08\0gzip"), Err(CpioError::Cut { at: 0 }));
        assert_eq!(read(&[0x1f; 200]), Err(CpioError::Magic { at: 0 }));
        let mut shifted = vec![0; 2];
        shifted.extend(&good);
        assert_eq!(read(&shifted), Err(CpioError::Alignment { at: 2 }));
        let mut number = good.clone();
        number[112 + 54] = b'x';
        assert_eq!(read(&number), Err(CpioError::Number { at: 112 }));
        let mut huge = good;
        huge[112 + 54..112 + 62].copy_from_slice(b"ffffffff");
        assert_eq!(read(&huge), Err(CpioError::Cut { at: 112 }));
    }

    #[test]
    fn the_root_directory_and_a_dot_prefix_are_what_find_and_cpio_write() {
        let mut writer = Writer::new();
        writer.entry(".", TYPE_DIRECTORY | 0o755, 2, &[]);
        writer.entry("./etc", TYPE_DIRECTORY | 0o755, 2, &[]);
        let bytes = writer.finish();
        let entries = read(&bytes).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].path.as_str(), "etc");
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let mut writer = Writer::new();
        for number in 0..=MAX_ENTRIES {
            writer.file(&path(&number.to_string()), 0o644, b"").unwrap();
        }
        assert_eq!(read(&writer.finish()), Err(CpioError::TooMany));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            files in prop::collection::vec(
                ("[a-z]{1,9}(/[a-z.]{0,3}[a-z]){0,3}", 0..0o10000_u32,
                 prop::collection::vec(any::<u8>(), 0..50)), 0..8),
        ) {
            let mut writer = Writer::new();
            for (name, permissions, bytes) in &files {
                writer.file(&path(name), *permissions, bytes).unwrap();
            }
            let archive = writer.finish();
            let read: Vec<_> = read(&archive).unwrap().into_iter().filter_map(|entry| match entry.node {
                Node::Directory => None,
                Node::File(bytes) => {
                    Some((entry.path.as_str().to_owned(), entry.permissions, bytes.to_vec()))
                }
            }).collect();
            prop_assert_eq!(read, files);
        }

        #[test]
        fn no_bytes_make_read_panic(
            at in 0..300usize, junk in prop::collection::vec(any::<u8>(), 0..20), cut in 0..400usize,
        ) {
            let mut bytes = one_file();
            let end = bytes.len().min(at + junk.len());
            let at = at.min(end);
            bytes[at..end].copy_from_slice(&junk[..end - at]);
            bytes.truncate(cut);
            if let Ok(entries) = read(&bytes) {
                prop_assert!(entries.len() < 4);
            }
        }
    }
}
