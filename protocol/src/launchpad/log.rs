//! Taking secrets out of a build log, as it arrives.
//!
//! Called by whoever writes a log that others may read: the worker, and the master again, whatever
//! the worker did.
//!
//! ```text
//! deb http://user:password@ppa.example/ubuntu noble main   →  deb http://ppa.example/ubuntu noble main
//! https://token@git.example/x                              →  https://git.example/x
//! …,proxyport=3128,proxyauth=user:token                    →  …,proxyport=3128
//! ```
//!
//! What follows a *marker* (`://` or `,proxyauth=`), up to white space, a control character or the
//! next marker, is its *reach*; a secret never leaves the reach of its marker. In a URL, all up to
//! the last `@` before the host's end is removed; so is all up to the last `@` in reach if the host
//! has something after a colon that is no port: that is a password with characters that a URL should
//! have escaped.
//!
//! Bytes leave in whole lines. A line of more than [`LONGEST`] bytes is let go in pieces: cut after
//! a blank, or else before the last marker, whole or cut by the piece's end. Where to cut depends on
//! the log alone, never on how it arrived. (A secret longer than [`LONGEST`] is not looked for, nor
//! a password that begins like a port and goes on after a `/`: no client would take it for one.)

/// How long a line may be, in bytes, before it is let go in pieces; so much is held at most.
pub const LONGEST: usize = 64 << 10;

/// The most of a log that `status` tells, in bytes.
pub const MAX_LOG_TAIL: usize = 2048;

/// Before a URL's user, password and host.
const URL: &[u8] = b"://";

/// Before the user and token for an HTTP proxy, in socat's options.
const PROXYAUTH: &[u8] = b",proxyauth=";

const MARKERS: [&[u8]; 2] = [URL, PROXYAUTH];

/// Sanitises a log that arrives in pieces. Only whole lines leave it (an overlong line is let go in
/// bounded pieces), so that a secret cut by a piece's end is still found.
#[derive(Default)]
pub struct LogSanitizer {
    /// The beginning of a line, shorter than [`LONGEST`].
    pending: Vec<u8>,
}

/// Without what is held, which may be half a secret.
impl std::fmt::Debug for LogSanitizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogSanitizer")
            .field("pending", &self.pending.len())
            .finish()
    }
}

impl LogSanitizer {
    /// Takes a piece of the raw log and appends what is now safe to show to `out`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        // In steps, so that little is held however long the piece is.
        for step in piece.chunks(LONGEST) {
            let mut searched = self.pending.len();
            self.pending.extend_from_slice(step);
            let mut rest = self.pending.as_slice();
            while let Some(cut) = cut(rest, searched) {
                let (ready, later) = rest.split_at(cut);
                sanitize(ready, out);
                rest = later;
                searched = 0;
            }
            let done = self.pending.len() - rest.len();
            self.pending.drain(..done);
        }
    }

    /// The log has ended: appends what is left.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        sanitize(&std::mem::take(&mut self.pending), out);
    }
}

/// The log tail of a sanitised log's end: at most the last [`MAX_LOG_TAIL`] bytes, without a first
/// line that may have been cut. `whole` says that `end` is the whole log. Where there would be
/// nothing left, in the midst of a long line, the cut line is better than none.
#[must_use]
pub fn log_tail(end: &[u8], whole: bool) -> &[u8] {
    let start = end.len().saturating_sub(MAX_LOG_TAIL);
    let tail = &end[start..];
    if whole && start == 0 {
        return tail;
    }
    match tail.iter().position(|byte| *byte == b'\n') {
        Some(newline) if newline + 1 < tail.len() => &tail[newline + 1..],
        _ => tail,
    }
}

/// How much of `bytes` can be sanitised by itself: a line, or a piece of an overlong one. There is
/// no newline in the first `searched` bytes.
fn cut(bytes: &[u8], searched: usize) -> Option<usize> {
    let window = &bytes[..bytes.len().min(LONGEST)];
    if let Some(newline) = window[searched..].iter().position(|byte| *byte == b'\n') {
        return Some(searched + newline + 1);
    }
    if window.len() < LONGEST {
        return None;
    }
    if let Some(blank) = window.iter().rposition(|byte| is_blank(*byte)) {
        return Some(blank + 1);
    }
    // One word. A marker at its very beginning is one that a cut has been made before.
    let whole = (1..window.len())
        .rev()
        .find(|at| marker_at(&window[*at..]).is_some());
    let cut_by_the_end = || {
        let longest = MARKERS.iter().map(|marker| marker.len()).max().unwrap_or(0);
        let begins = |at: &usize| {
            MARKERS
                .iter()
                .any(|marker| marker.starts_with(&window[*at..]))
        };
        (window.len() - longest..window.len()).find(begins)
    };
    Some(whole.or_else(cut_by_the_end).unwrap_or(window.len()))
}

/// Appends `text` to `out`, without its secrets.
fn sanitize(mut text: &[u8], out: &mut Vec<u8>) {
    let next_marker =
        |text: &[u8]| (0..text.len()).find_map(|at| Some((at, marker_at(&text[at..])?)));
    while let Some((at, marker)) = next_marker(text) {
        out.extend_from_slice(&text[..at]);
        text = &text[at + marker.len()..];
        let reach = reach(text);
        let secret = if marker == URL {
            out.extend_from_slice(URL);
            credentials(reach)
        } else {
            let ends = |byte: &u8| matches!(byte, b',' | b'"' | b'\'');
            reach.iter().position(ends).unwrap_or(reach.len())
        };
        text = &text[secret..];
    }
    out.extend_from_slice(text);
}

/// The marker that `text` begins with.
fn marker_at(text: &[u8]) -> Option<&'static [u8]> {
    MARKERS.into_iter().find(|marker| text.starts_with(marker))
}

/// The reach of the marker before `text`.
fn reach(text: &[u8]) -> &[u8] {
    let ends = |at: &usize| is_blank(text[*at]) || marker_at(&text[*at..]).is_some();
    &text[..(0..text.len()).find(ends).unwrap_or(text.len())]
}

/// How many bytes at the beginning of `reach`, which follows a `://`, are credentials, `@` included.
fn credentials(reach: &[u8]) -> usize {
    let end = reach
        .iter()
        .position(|byte| !is_authority(*byte))
        .unwrap_or(reach.len());
    let authority = &reach[..end];
    let upto_at = |text: &[u8]| text.iter().rposition(|byte| *byte == b'@').map(|at| at + 1);
    let has_port = || match authority.iter().position(|byte| *byte == b':') {
        Some(colon) => {
            authority.starts_with(b"[") || authority[colon + 1..].iter().all(u8::is_ascii_digit)
        }
        None => true,
    };
    match upto_at(authority) {
        Some(length) => length,
        None if has_port() => 0,
        None => upto_at(reach).unwrap_or(0),
    }
}

/// Whether `byte` may stand in a URL between `://` and the path (RFC 3986, and raw UTF-8).
fn is_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"-._~%!$&'()*+,;=:@[]".contains(&byte)
}

/// Whether `byte` ends a marker's reach.
fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_control()
}

#[cfg(test)]
mod tests;
