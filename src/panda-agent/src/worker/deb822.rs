//! Debian's control format, as far as `.dsc` and `.changes` use it: one paragraph of
//! `Field: value`, with continuation lines that begin with a blank. Its form is read strictly, because what is
//! read here was written on a board by whatever was built there; what the values hold is bytes: a changelog may be in
//! Latin-1, and have form feeds and other control characters. Bytes that are no UTF-8 show as U+FFFD, which no name, size
//! or sum that is used may have.
//!
//! ```text
//! Source: hello
//! Files:
//!  0123… 1064 misc optional hello_1.0_armhf.deb
//! ```
//! An OpenPGP clear signature around the paragraph is taken off, not verified (sources come through
//! Launchpad, which did).

/// The most bytes of a control file that is read.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// A paragraph: fields in their order, names as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paragraph(Vec<(String, String)>);

/// A file that is not one paragraph of control fields. It quotes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct ControlError {
    /// Counted from 1.
    line: usize,
    problem: &'static str,
}

impl Paragraph {
    /// Reads the first paragraph; anything but blank lines behind it is refused.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let text = String::from_utf8_lossy(bytes);
        let mut fields: Vec<(String, String)> = Vec::new();
        let mut ended = false;
        for (number, line) in body(&text) {
            let fail = |problem| ControlError {
                line: number,
                problem,
            };
            if blank(line).is_empty() {
                ended = !fields.is_empty();
                continue;
            }
            if ended {
                return Err(fail("there is more than one paragraph"));
            }
            if line.starts_with([' ', '\t']) {
                let Some((_, value)) = fields.last_mut() else {
                    return Err(fail("a continuation line has no field to continue"));
                };
                value.push('\n');
                value.push_str(blank(line));
                continue;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(fail("expected Field: value"));
            };
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(fail("a field name has characters that it may not have"));
            }
            if fields
                .iter()
                .any(|(known, _)| known.eq_ignore_ascii_case(name))
            {
                return Err(fail("a field comes twice"));
            }
            fields.push((name.to_owned(), blank(value).to_owned()));
        }
        if fields.is_empty() {
            return Err(ControlError {
                line: 1,
                problem: "there is no field",
            });
        }
        Ok(Self(fields))
    }

    /// A field's value: its first line, and each continuation line after a newline.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Without blanks around it: spaces and tabs, and no other white space, of which Unicode and Latin-1 have more.
fn blank(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// The numbered lines, without a clear signature around them.
fn body(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let signed = text
        .trim_start()
        .starts_with("-----BEGIN PGP SIGNED MESSAGE-----");
    let mut armour_header = signed;
    let mut signature = false;
    text.split('\n')
        .enumerate()
        .filter_map(move |(index, line)| {
            let line = line.strip_suffix('\r').unwrap_or(line);
            if signed && line.starts_with("-----BEGIN PGP SIGNATURE-----") {
                signature = true;
            }
            if signature {
                return None;
            }
            if armour_header {
                armour_header = !(index > 0 && line.trim().is_empty());
                return None;
            }
            let line = if signed {
                line.strip_prefix("- ").unwrap_or(line)
            } else {
                line
            };
            Some((index + 1, line))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_continuation_lines_are_read() {
        let read = Paragraph::parse(b"Source: hello\nFiles:\n a b\n\tc d\n\n").unwrap();
        assert_eq!(read.get("source"), Some("hello"));
        assert_eq!(read.get("Files"), Some("\na b\nc d"));
        assert_eq!(read.get("Version"), None);
    }

    #[test]
    fn a_clear_signature_is_taken_off() {
        let signed = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nSource: hello\n\n\
            -----BEGIN PGP SIGNATURE-----\n\nabc=\n-----END PGP SIGNATURE-----\n";
        let read = Paragraph::parse(signed).unwrap();
        assert_eq!(read, Paragraph(vec![("Source".into(), "hello".into())]));
    }

    #[test]
    fn values_are_bytes() {
        let changes = b"Source: x\nChanges:\n Jos\xe9\n \x0c\n \xc2\x85\n \xc2\xa0\n a\x00\x0bb\x9b\nFiles:\n 1 2 3\n";
        let read = Paragraph::parse(changes).unwrap();
        assert_eq!(read.get("Files"), Some("\n1 2 3"));
        assert_eq!(read.get("Changes").unwrap().lines().count(), 6);
    }

    #[test]
    fn anything_else_is_refused_with_its_line() {
        for (bytes, line) in [
            (&b""[..], 1),
            (b" x", 1),
            (b"Source", 1),
            (b"A: 1\nA: 2", 2),
            (b"A: 1\n\nB: 2", 3),
            (b"A: 1\nB\x01: 2", 2),
            (b"A\xff: 1", 1),
            (b": x", 1),
        ] {
            assert_eq!(Paragraph::parse(bytes).unwrap_err().line, line, "{bytes:?}");
        }
    }
}
