//! Makes lines of a console's bytes that anybody may look at: with a time at the beginning, without what is known
//! to be secret, and without anything that a terminal acts on. The bytes are a hostile board's.
//!
//! ```text
//! "\x1b[2JLinux\r\nlogin: "  ─▶  2026-11-22T15:00:00.000Z \x1b[2JLinux⏎
//!                                2026-11-22T15:00:00.120Z login: …        (after a quiet moment)
//! ```
//!
//! A secret is looked for in whole lines. Where a line is shown before its end (a prompt, or one that is too long),
//! whatever may be the beginning of a secret is held back.

use std::fmt;
use std::sync::Arc;

use panda_protocol::launchpad::log::LogSanitizer;

/// A longer line is shown in pieces.
pub(super) const LONGEST: usize = 4096;
/// A key has fewer lines; what comes after so many is no part of it.
const KEY_LINES: u32 = 64;
/// What is written in a secret's place.
const REMOVED: &[u8] = b"[removed]";

/// What must not be shown. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secrets(Arc<[Vec<u8>]>);

impl Secrets {
    /// These, less those so short that they would match anything.
    pub(crate) fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let kept = secrets.into_iter().filter(|secret| secret.len() >= 6);
        let mut kept: Vec<_> = kept.map(String::into_bytes).collect();
        // A secret in another must not keep the longer one from being found.
        kept.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        kept.dedup();
        Self(kept.into())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("count", &self.0.len())
            .finish()
    }
}

/// Takes bytes as they come, and gives text.
#[derive(Default)]
pub(super) struct Cleaner {
    /// The beginning of a line that is not yet shown.
    pending: Vec<u8>,
    /// The line has been begun in the text.
    begun: bool,
    /// Lines of a private key that may still come.
    key: u32,
}

impl Cleaner {
    /// Takes `bytes`, which came at the time that `stamp` tells.
    pub(super) fn push(&mut self, bytes: &[u8], secrets: &Secrets, stamp: &str, out: &mut String) {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line(secrets, stamp, out);
                continue;
            }
            self.pending.push(*byte);
            if self.pending.len() >= LONGEST {
                self.show_some(secrets, stamp, out);
                if self.pending.len() >= LONGEST / 2 {
                    let left_out = format!("[{} bytes left out]", self.pending.len());
                    self.pending.clear();
                    self.show(left_out.as_bytes(), stamp, out);
                }
            }
        }
    }

    /// Something is held that a quiet moment may show.
    pub(super) fn holds(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Nothing has come for a while: shows the beginning of a line, such as a prompt.
    pub(super) fn quiet(&mut self, secrets: &Secrets, stamp: &str, out: &mut String) {
        self.show_some(secrets, stamp, out);
    }

    /// No more of this line will come.
    pub(super) fn finish(&mut self, secrets: &Secrets, stamp: &str, out: &mut String) {
        if self.begun || !self.pending.is_empty() {
            self.end_line(secrets, stamp, out);
        }
        self.key = 0;
    }

    fn end_line(&mut self, secrets: &Secrets, stamp: &str, out: &mut String) {
        let mut line = std::mem::take(&mut self.pending);
        while line.last() == Some(&b'\r') {
            line.pop();
        }
        if self.key > 0 {
            let ends = find(&line, b"-----END").is_some();
            self.key = if ends { 0 } else { self.key - 1 };
            return;
        }
        if let Some(at) = find(&line, b"-----BEGIN")
            && find(&line[at..], b"PRIVATE KEY-----").is_some()
        {
            let ends = find(&line[at..], b"-----END").is_some();
            self.key = if ends { 0 } else { KEY_LINES };
            line.truncate(at);
            line.extend_from_slice(REMOVED);
        }
        redact(&mut line, secrets);
        self.show(&line, stamp, out);
        out.push('\n');
        self.begun = false;
    }

    /// Shows all that cannot be the beginning of a secret.
    fn show_some(&mut self, secrets: &Secrets, stamp: &str, out: &mut String) {
        if self.key > 0 {
            return;
        }
        let mut shown = self.pending.len() - held(&self.pending, secrets);
        // A secret that reaches into what is held is held whole.
        while let Some(begin) = straddled(&self.pending, shown, secrets) {
            shown = begin;
        }
        let mut line: Vec<u8> = self.pending.drain(..shown).collect();
        if !line.is_empty() {
            redact(&mut line, secrets);
            self.show(&line, stamp, out);
        }
    }

    fn show(&mut self, line: &[u8], stamp: &str, out: &mut String) {
        if !std::mem::replace(&mut self.begun, true) {
            out.push_str(stamp);
            out.push(' ');
        }
        let mut sanitizer = LogSanitizer::default();
        let mut clean = Vec::with_capacity(line.len());
        sanitizer.push(line, &mut clean);
        sanitizer.finish(&mut clean);
        escape(&clean, out);
    }
}

/// How many bytes at the end may be the beginning of a secret: of a known one, of a URL with a password, of a key.
fn held(line: &[u8], secrets: &Secrets) -> usize {
    let begins = |secret: &[u8]| {
        let most = secret.len().saturating_sub(1).min(line.len());
        (1..=most)
            .rev()
            .find(|count| line.ends_with(&secret[..*count]))
    };
    let known = secrets.0.iter().filter_map(|secret| begins(secret)).max();
    let word = line
        .iter()
        .rposition(u8::is_ascii_whitespace)
        .map_or(line, |blank| &line[blank + 1..]);
    let marked = [&b"://"[..], b",proxyauth="].iter().any(|marker| {
        find(word, marker).is_some()
            || (1..marker.len()).any(|count| word.ends_with(&marker[..count]))
    });
    // The key's header has blanks of its own.
    let header = find(line, b"-----BEGIN").map(|at| line.len() - at);
    let begun = begins(b"-----BEGIN");
    let word = if marked { word.len() } else { 0 };
    [known, header, begun, Some(word)]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or(0)
}

/// Where a secret begins that is partly before and partly after `at`.
fn straddled(line: &[u8], at: usize, secrets: &Secrets) -> Option<usize> {
    secrets.0.iter().find_map(|secret| {
        let first = (at + 1).saturating_sub(secret.len());
        (first..at).find(|begin| line[*begin..].starts_with(secret))
    })
}

fn redact(line: &mut Vec<u8>, secrets: &Secrets) {
    for secret in secrets.0.iter() {
        while let Some(at) = find(line, secret) {
            line.splice(at..at + secret.len(), REMOVED.iter().copied());
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Text as it is; everything that a terminal might act on as `\x1b`.
fn escape(bytes: &[u8], out: &mut String) {
    use fmt::Write as _;
    let escaped = |out: &mut String, byte: u8| {
        // A String takes everything.
        if write!(out, "\\x{byte:02x}").is_err() {
            out.push('?');
        }
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if harmless(character) {
                out.push(character);
            } else {
                let mut buffer = [0; 4];
                for byte in character.encode_utf8(&mut buffer).bytes() {
                    escaped(out, byte);
                }
            }
        }
        for byte in chunk.invalid() {
            escaped(out, *byte);
        }
    }
}

/// Whether a character may be written to a terminal: no control, and nothing that hides or reorders text.
#[must_use]
pub(crate) fn harmless(character: char) -> bool {
    character == '\t'
        || !(character.is_control()
            || matches!(character,
                '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clean(pieces: &[&[u8]], secrets: &Secrets) -> String {
        let mut cleaner = Cleaner::default();
        let mut out = String::new();
        for piece in pieces {
            cleaner.push(piece, secrets, "T", &mut out);
            cleaner.quiet(secrets, "T", &mut out);
        }
        cleaner.finish(secrets, "T", &mut out);
        out
    }

    #[test]
    fn every_line_has_its_time_and_nothing_reaches_a_terminal_raw() {
        let none = Secrets::default();
        assert_eq!(
            clean(&[b"\x1b[2JLinux \xffversion\r\n\nlogin: "], &none),
            "T \\x1b[2JLinux \\xffversion\nT \nT login: \n"
        );
        assert_eq!(
            clean(&["\u{9b}31m\u{202e}gnp ä\t".as_bytes()], &none),
            "T \\xc2\\x9b31m\\xe2\\x80\\xaegnp ä\t\n"
        );
    }

    #[test]
    fn a_prompt_is_shown_before_its_line_ends_and_the_line_has_one_time() {
        let none = Secrets::default();
        let mut cleaner = Cleaner::default();
        let mut out = String::new();
        cleaner.push(b"login: ", &none, "T1", &mut out);
        assert_eq!(out, "");
        cleaner.quiet(&none, "T2", &mut out);
        assert_eq!(out, "T2 login: ");
        cleaner.push(b"root\n#", &none, "T3", &mut out);
        assert_eq!(out, "T2 login: root\n");
    }

    #[test]
    fn known_secrets_and_passwords_in_urls_are_left_out_wherever_the_bytes_are_cut() {
        let secrets = Secrets::new(["sesame-open".to_owned(), "sesame".to_owned(), "a".into()]);
        let text = b"a key sesame-open; sesame http://u:pass@ppa/x\n";
        let whole = "T a key [removed]; [removed] http://ppa/x\n";
        for cut in 0..text.len() {
            let (one, two) = text.split_at(cut);
            assert_eq!(clean(&[one, two], &secrets), whole, "{cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(clean(&bytes, &secrets), whole);
    }

    #[test]
    fn a_secret_that_another_one_may_follow_is_held_whole() {
        let secrets = Secrets::new(["abcdef".to_owned(), "efghij".to_owned()]);
        assert_eq!(clean(&[b"x abcdef", b"\n"], &secrets), "T x [removed]\n");
        assert_eq!(clean(&[b"x abcdef", b" y"], &secrets), "T x [removed] y\n");
    }

    #[test]
    fn a_private_key_is_left_out_whole() {
        let none = Secrets::default();
        let key = b"x -----BEGIN EC PRIVATE KEY-----\r\nMIG2\nAgEA\n-----END EC PRIVATE KEY-----\nafter\n";
        let whole = "T x [removed]\nT after\n";
        for cut in 0..key.len() {
            let (one, two) = key.split_at(cut);
            assert_eq!(clean(&[one, two], &none), whole, "{cut}");
        }
        // One that never ends hides no more than a key's lines.
        let endless = ["-----BEGIN PRIVATE KEY-----\n", &"x\n".repeat(80)].concat();
        assert!(clean(&[endless.as_bytes()], &none).ends_with("T x\n"));
    }

    #[test]
    fn a_line_without_end_is_shown_in_pieces_and_never_held_whole() {
        let none = Secrets::default();
        let text = clean(&[&[b'x'; 3 * LONGEST]], &none);
        assert_eq!(text.matches('x').count(), 3 * LONGEST);
        let url = [b"http://".as_slice(), &[b'y'; 3 * LONGEST]].concat();
        let mut cleaner = Cleaner::default();
        let mut out = String::new();
        cleaner.push(&url, &none, "T", &mut out);
        assert!(
            cleaner.pending.len() < LONGEST && out.contains("bytes left out]"),
            "{out}"
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_only_harmless_lines_leave(pieces: Vec<Vec<u8>>) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let text = clean(&pieces, &Secrets::new(["secret".to_owned()]));
            prop_assert!(text.chars().all(|c| c == '\n' || harmless(c)));
            prop_assert!(text.is_empty() || text.ends_with('\n'));
            prop_assert!(text.lines().all(|line| line.starts_with("T ")));
        }
    }
}
