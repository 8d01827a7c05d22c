//! A Debian source control file (`.dsc`) and the files that it names, all checked before anything is
//! sent to a builder.
//!
//! The format is one paragraph of `Field: value` lines, long values going on in lines that begin with a
//! blank; it may be wrapped in an OpenPGP clear signature, which is taken off and **not** verified (what a
//! builder is given is the caller's own choice). Three fields list files, one a line:
//!
//! ```text
//! Checksums-Sha1:    <sha1>   <bytes> <name>
//! Checksums-Sha256:  <sha256> <bytes> <name>
//! Files:             <md5>    <bytes> <name>
//! ```
//!
//! What the other fields hold is bytes: a maintainer's name may be in Latin-1, a description may have a form feed.
//!
//! Every file must be beside the `.dsc`, be a regular file of that size, and have every sum that is given.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use md5::Md5;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::FileName;
use sha2::Digest as _;

/// The most bytes of a `.dsc`: real ones have some kilobytes.
const MAX_DSC: u64 = 1 << 20;
/// The most files that one may name.
const MAX_FILES: usize = 1000;

/// A checked source package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourcePackage {
    /// The source's name.
    pub(crate) source: String,
    /// Its version.
    pub(crate) version: String,
    /// The `.dsc` first, then every file that it names.
    pub(crate) files: Vec<SourceFile>,
}

/// One file of it, as it was when it was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceFile {
    /// Its name.
    pub(crate) name: FileName,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What the protocol calls it by.
    pub(crate) sha1: Sha1,
}

/// Why a source package is not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DscError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that it names is not there.
    #[error("{}: the .dsc names it, and it is not there; a .dsc needs all of its files beside it (dget or apt-get source fetches them)", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The `.dsc` is not one.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The `.dsc`.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file is not what the `.dsc` says.
    #[error("{}: the .dsc says {field} {expected}, the file has {found}: it is damaged or another version; fetch the source again", path.display())]
    Differs {
        /// The file.
        path: PathBuf,
        /// `size`, `sha256`, …
        field: &'static str,
        /// What the `.dsc` says.
        expected: String,
        /// What the file has.
        found: String,
    },
}

impl SourcePackage {
    /// Reads `path` and checks it and every file that it names.
    ///
    /// # Errors
    /// See [`DscError`]; the first thing found wrong.
    pub(crate) fn open(path: &Path) -> Result<Self, DscError> {
        let bytes = read_bytes(path)?;
        let text = String::from_utf8_lossy(&bytes);
        let malformed = |problem: String| DscError::Malformed {
            path: path.to_owned(),
            problem,
        };
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| FileName::try_from(name.to_owned()).ok())
            .ok_or_else(|| malformed("the file's name cannot be sent to a builder".to_owned()))?;
        if !name.as_str().ends_with(".dsc") {
            return Err(malformed(
                "its name does not end in .dsc; a builder looks for that".into(),
            ));
        }
        let control = Control::parse(&text).map_err(malformed)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let mut files = vec![SourceFile {
            sha1: Sha1::of(&bytes),
            name: name.clone(),
            path: path.to_owned(),
        }];
        for (listed, wanted) in control.files {
            if listed == name {
                return Err(malformed("it lists itself".to_owned()));
            }
            let path = directory.join(listed.as_str());
            let sha1 = wanted.check(&path)?;
            files.push(SourceFile {
                name: listed,
                path,
                sha1,
            });
        }
        Ok(Self {
            source: control.source,
            version: control.version,
            files,
        })
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, DscError> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(MAX_DSC + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| DscError::Read {
            path: path.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > MAX_DSC {
        return Err(DscError::Malformed {
            path: path.to_owned(),
            problem: format!("more than {MAX_DSC} bytes; this is no .dsc"),
        });
    }
    Ok(bytes)
}

/// Opens a regular file; a FIFO or device of that name would block for ever, so it is refused unopened.
fn open_regular(path: &Path) -> Result<File, DscError> {
    let failed = |source| DscError::Read {
        path: path.to_owned(),
        source,
    };
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )));
    }
    File::open(path).map_err(failed)
}

/// What the paragraph says.
#[derive(Debug)]
struct Control {
    source: String,
    version: String,
    files: BTreeMap<FileName, Wanted>,
}

/// What a file must be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    bytes: u64,
    md5: Option<String>,
    sha1: Option<String>,
    sha256: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum SumKind {
    Md5,
    Sha1,
    Sha256,
}

impl SumKind {
    const ALL: [Self; 3] = [Self::Md5, Self::Sha1, Self::Sha256];

    fn field(self) -> &'static str {
        match self {
            Self::Md5 => "Files",
            Self::Sha1 => "Checksums-Sha1",
            Self::Sha256 => "Checksums-Sha256",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha1 => 40,
            Self::Sha256 => 64,
        }
    }
}

impl Control {
    fn parse(text: &str) -> Result<Self, String> {
        let fields = paragraph(&unsigned(text)?)?;
        let field = |name: &str| {
            fields
                .get(&name.to_ascii_lowercase())
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("no field {name}; this is no .dsc"))
        };
        let mut files: BTreeMap<FileName, Wanted> = BTreeMap::new();
        for kind in SumKind::ALL {
            let Some(list) = fields.get(&kind.field().to_ascii_lowercase()) else {
                continue;
            };
            for line in list.lines().filter(|line| !line.trim().is_empty()) {
                let (name, bytes, sum) = listed(kind, line)?;
                let known = files.contains_key(&name);
                let wanted = files.entry(name.clone()).or_insert(Wanted {
                    bytes,
                    ..Wanted::default()
                });
                if known && wanted.bytes != bytes {
                    return Err(format!("two sizes for {name}"));
                }
                let place = match kind {
                    SumKind::Md5 => &mut wanted.md5,
                    SumKind::Sha1 => &mut wanted.sha1,
                    SumKind::Sha256 => &mut wanted.sha256,
                };
                if place.replace(sum).is_some() {
                    return Err(format!("{name} twice in {}", kind.field()));
                }
            }
        }
        if files.is_empty() {
            return Err("it names no files (Files, Checksums-Sha1, Checksums-Sha256)".to_owned());
        }
        if files.len() > MAX_FILES {
            return Err(format!("it names more than {MAX_FILES} files"));
        }
        Ok(Self {
            source: field("Source")?,
            version: field("Version")?,
            files,
        })
    }
}

/// One line of a list of files.
fn listed(kind: SumKind, line: &str) -> Result<(FileName, u64, String), String> {
    let wrong = || format!("{}: expected `sum bytes name` in each line", kind.field());
    let mut words = line.split_ascii_whitespace();
    let (Some(sum), Some(bytes), Some(name), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(wrong());
    };
    let sum = sum.to_ascii_lowercase();
    if sum.len() != kind.digits() || !sum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(format!(
            "{}: a sum is not {} hex digits",
            kind.field(),
            kind.digits()
        ));
    }
    let bytes = bytes.parse().map_err(|_| wrong())?;
    if name.contains(char::REPLACEMENT_CHARACTER) {
        return Err(format!("{}: a file's name is not UTF-8", kind.field()));
    }
    let name = FileName::try_from(name.to_owned()).map_err(|error| {
        format!(
            "{}: {error}; a name that leaves its directory is refused",
            kind.field()
        )
    })?;
    Ok((name, bytes, sum))
}

/// Takes an OpenPGP clear signature off (RFC 9580, 7), or returns the text as it is.
fn unsigned(text: &str) -> Result<String, String> {
    let mut lines = text.lines().skip_while(|line| line.trim().is_empty());
    if lines
        .clone()
        .next()
        .is_none_or(|line| line.trim_end() != "-----BEGIN PGP SIGNED MESSAGE-----")
    {
        return Ok(text.to_owned());
    }
    let mut body = String::new();
    let mut armoured = lines
        .by_ref()
        .skip(1)
        .skip_while(|line| !line.trim().is_empty())
        .skip(1);
    loop {
        match armoured.next() {
            None => {
                return Err("its OpenPGP signature does not end; the file is cut short".to_owned());
            }
            Some(line) if line.trim_end() == "-----BEGIN PGP SIGNATURE-----" => return Ok(body),
            Some(line) => {
                body.push_str(line.strip_prefix("- ").unwrap_or(line));
                body.push('\n');
            }
        }
    }
}

/// The fields of the one paragraph, by lower-case name.
fn paragraph(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut current: Option<String> = None;
    let mut ended = false;
    for (number, line) in text.lines().enumerate() {
        let at = number + 1;
        if blank(line).is_empty() {
            ended = !fields.is_empty();
        } else if line.starts_with('#') {
        } else if ended {
            return Err(format!("line {at}: a second paragraph; a .dsc has one"));
        } else if line.starts_with([' ', '\t']) {
            let value = current
                .as_ref()
                .and_then(|name| fields.get_mut(name))
                .ok_or_else(|| format!("line {at}: goes on, but nothing began"))?;
            value.push('\n');
            value.push_str(blank(line));
        } else {
            let (name, value) = line
                .split_once(':')
                .filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
                .ok_or_else(|| format!("line {at}: expected `Field: value`; this is no .dsc"))?;
            let name = name.to_ascii_lowercase();
            if fields
                .insert(name.clone(), value.trim().to_owned())
                .is_some()
            {
                return Err(format!("line {at}: a field for the second time"));
            }
            current = Some(name);
        }
    }
    Ok(fields)
}

/// Without the blanks around it, as Debian's control files have them; a form feed or another space of Unicode is text.
fn blank(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r'])
}

impl Wanted {
    /// Checks the file and returns the SHA-1 that it has.
    fn check(&self, path: &Path) -> Result<Sha1, DscError> {
        let differs = |field, expected: &str, found: String| DscError::Differs {
            path: path.to_owned(),
            field,
            expected: expected.to_owned(),
            found,
        };
        let failed = |source| DscError::Read {
            path: path.to_owned(),
            source,
        };
        let file = open_regular(path).map_err(|error| match error {
            DscError::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
                DscError::Missing { path }
            }
            error => error,
        })?;
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes != self.bytes {
            return Err(differs("size", &self.bytes.to_string(), bytes.to_string()));
        }
        let sums = Sums::of(file).map_err(failed)?;
        for (field, wanted, found) in [
            ("sha256", &self.sha256, &sums.sha256),
            ("sha1", &self.sha1, &sums.sha1.to_string()),
            ("md5", &self.md5, &sums.md5),
        ] {
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != found) {
                return Err(differs(field, wanted, found.clone()));
            }
        }
        Ok(sums.sha1)
    }
}

struct Sums {
    md5: String,
    sha1: Sha1,
    sha256: String,
}

impl Sums {
    fn of(mut file: impl io::Read) -> io::Result<Self> {
        let (mut md5, mut sha1, mut sha256) = (Md5::new(), sha1::Sha1::new(), sha2::Sha256::new());
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => {
                    let piece = buffer.get(..got).unwrap_or_default();
                    md5.update(piece);
                    sha1.update(piece);
                    sha256.update(piece);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            md5: hex::encode(md5.finalize()),
            sha1: Sha1::from_bytes(sha1.finalize().into()),
            sha256: hex::encode(sha256.finalize()),
        })
    }
}

/// The SHA-1 of a file of any size.
///
/// # Errors
/// [`DscError::Read`].
pub(crate) fn sha1_of(path: &Path) -> Result<Sha1, DscError> {
    let sums = open_regular(path).and_then(|file| {
        Sums::of(file).map_err(|source| DscError::Read {
            path: path.to_owned(),
            source,
        })
    })?;
    Ok(sums.sha1)
}

#[cfg(test)]
mod tests;
