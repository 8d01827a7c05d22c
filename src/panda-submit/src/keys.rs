//! The OpenPGP keys of archives, as a build is given them: base64 of the binary key.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The most bytes of a key file.
const MAX_KEY: u64 = 4 << 20;

/// Reads key files, binary or armoured.
///
/// # Errors
/// One cannot be read, or holds no key.
pub(crate) fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    paths
        .iter()
        .map(|path| read_one(path).with_context(|| format!("--key {}", path.display())))
        .collect()
}

fn read_one(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_KEY + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_KEY {
        bail!("more than {MAX_KEY} bytes; this is no key");
    }
    let key = match std::str::from_utf8(&bytes) {
        Ok(text) if text.contains("-----BEGIN PGP") => dearmoured(text)?,
        _ => bytes,
    };
    // RFC 9580, 4.2: a packet's first byte has its top bit set.
    if key.first().is_none_or(|first| first & 0x80 == 0) {
        bail!("not an OpenPGP key, binary or armoured");
    }
    Ok(STANDARD.encode(key))
}

/// The keys of all armoured blocks (RFC 9580, 6.2), one after the other.
fn dearmoured(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut keys = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while lines
        .by_ref()
        .any(|line| line == "-----BEGIN PGP PUBLIC KEY BLOCK-----")
    {
        let mut data = String::new();
        let mut in_headers = true;
        loop {
            match lines.next() {
                None => bail!("the armour does not end; the file is cut short"),
                Some(line) if line.starts_with("-----END PGP") => break,
                Some("") => in_headers = false,
                Some(line) if in_headers && line.contains(": ") => {}
                // The checksum.
                Some(line) if line.starts_with('=') => {}
                Some(line) => data.push_str(line),
            }
        }
        keys.extend(
            STANDARD
                .decode(data)
                .context("the armour's text is broken")?,
        );
    }
    if keys.is_empty() {
        bail!("no PGP PUBLIC KEY BLOCK in it");
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn armour_comes_off_and_binary_stays() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let binary = write("a.gpg", b"\x99\x01\x02\x03");
        let armoured = write(
            "a.asc",
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\nmQEC\nAw==\n=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n",
        );
        assert_eq!(read(&[binary, armoured]).unwrap(), ["mQECAw==", "mQECAw=="]);
        for (name, bytes) in [
            ("cut.asc", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQEC\n".as_slice()),
            ("private.asc", b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nmQEC\n-----END PGP PRIVATE KEY BLOCK-----\n"),
            ("text", b"hello"),
            ("empty", b""),
        ] {
            let error = read(&[write(name, bytes)]).unwrap_err();
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
    }
}
