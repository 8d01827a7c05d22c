//! A build's log on standard output, with a progress line below it where standard error is a terminal.
//! The log comes from a builder that may be anybody's: no control character of it reaches the terminal.

use std::io::{self, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use panda_submit::{Show, one_line};

/// A line longer than this is shown in pieces.
const MAX_LINE: usize = 64 * 1024;
/// The most characters of a progress line's message.
const MAX_MESSAGE: usize = 200;

/// The log and the progress line.
#[derive(Debug)]
pub(super) struct Terminal {
    bar: ProgressBar,
    partial: Vec<u8>,
    /// Standard output is gone (a closed pipe): the build goes on without it.
    deaf: bool,
}

impl Default for Terminal {
    fn default() -> Self {
        // Draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {prefix}  {elapsed_precise}  {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self {
            bar,
            partial: Vec::new(),
            deaf: false,
        }
    }
}

impl Show for Terminal {
    fn title(&mut self, title: &str) {
        self.bar.set_prefix(one_line(title));
    }

    fn progress(&mut self, text: &str) {
        self.bar
            .set_message(one_line(text).chars().take(MAX_MESSAGE).collect::<String>());
    }

    fn note(&mut self, text: &str) {
        self.bar
            .suspend(|| eprintln!("pandabuildd: {}", one_line(text)));
    }

    /// Whole lines are shown.
    fn log(&mut self, piece: &[u8]) {
        self.partial.extend_from_slice(piece);
        let whole = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.partial.len() > MAX_LINE => self.partial.len(),
            None => return,
        };
        let rest = self.partial.split_off(whole);
        let lines = std::mem::replace(&mut self.partial, rest);
        self.print(&printable(&lines));
    }
}

impl Terminal {
    /// Takes the progress line away and shows what is left of the log.
    pub(super) fn end(&mut self) {
        if !self.partial.is_empty() {
            let mut lines = std::mem::take(&mut self.partial);
            lines.push(b'\n');
            self.print(&printable(&lines));
        }
        self.bar.finish_and_clear();
    }

    fn print(&mut self, text: &str) {
        if self.deaf {
            return;
        }
        let written = self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        });
        self.deaf = written.is_err();
        if let Some(last) = text.lines().last() {
            self.progress(last);
        }
    }
}

/// Lines for a terminal: text, line ends and tabs only.
fn printable(lines: &[u8]) -> String {
    String::from_utf8_lossy(lines)
        .replace("\r\n", "\n")
        .chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            '\r' => '\n',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_of_a_log_reaches_the_terminal() {
        let hostile = b"a\x1b]0;title\x07b\r\nc\rd\x00\xff\tend\x7f \xc2\x9b2J\n";
        assert_eq!(
            printable(hostile),
            "a\u{fffd}]0;title\u{fffd}b\nc\nd\u{fffd}\u{fffd}\tend\u{fffd} \u{fffd}2J\n"
        );
    }
}
