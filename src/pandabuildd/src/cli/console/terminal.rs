//! The terminal of whoever types on a board's console: put into raw mode, and put back whatever happens; and what of
//! the keys is meant for us.
//!
//! ```text
//! at the beginning of a line   ~.  ends     ~~  types one ~     ~?  tells this     anything else is typed
//! ```

use std::io::{self, IsTerminal as _, Read as _};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// The most bytes of one key press, or of what is pasted, at once.
const MOST: usize = 1024;

/// A terminal in raw mode; dropping it puts the terminal back as it was.
#[derive(Debug)]
pub(super) struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Of standard input.
    pub(super) fn stdin() -> anyhow::Result<Self> {
        let stdin = io::stdin();
        anyhow::ensure!(
            stdin.is_terminal() && io::stdout().is_terminal(),
            "--interactive needs a terminal; `pandabuildd console SLOT --follow` shows the console without one"
        );
        Ok(Self::of(&stdin)?)
    }

    fn of(terminal: &impl AsFd) -> io::Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before) {
            eprintln!("the terminal cannot be put back: {error}; `reset` does");
        }
    }
}

/// What is typed, as it comes. The thread that reads ends with the process: nothing else ends a wait for a key.
pub(super) fn keys() -> io::Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            let mut bytes = [0; MOST];
            loop {
                match io::stdin().lock().read(&mut bytes) {
                    Ok(count) if count > 0 => {
                        if sender.blocking_send(bytes[..count].to_vec()).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Ok(_) | Err(_) => return,
                }
            }
        })?;
    Ok(receiver)
}

/// What keys mean.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// To be typed on the board.
    Type(Vec<u8>),
    /// That was `~.`: what came before it is still to be typed.
    End(Vec<u8>),
    /// That was `~?`.
    Help(Vec<u8>),
}

/// Looks for our own keys among those that are typed.
#[derive(Debug)]
pub(super) struct Escape {
    line_begins: bool,
    tilde: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Self {
            line_begins: true,
            tilde: false,
        }
    }
}

impl Escape {
    /// Takes keys. What follows an end or a help in the same bytes is not looked at.
    pub(super) fn take(&mut self, keys: &[u8]) -> Meant {
        let mut typed = Vec::with_capacity(keys.len());
        for key in keys {
            if std::mem::take(&mut self.tilde) {
                match key {
                    b'.' => return Meant::End(typed),
                    b'?' => return Meant::Help(typed),
                    b'~' => {}
                    _ => typed.push(b'~'),
                }
            } else if self.line_begins && *key == b'~' {
                self.tilde = true;
                continue;
            }
            typed.push(*key);
            self.line_begins = matches!(key, b'\r' | b'\n');
        }
        Meant::Type(typed)
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;
    use nix::sys::termios::LocalFlags;

    use super::*;

    fn echoes(terminal: &impl AsFd) -> bool {
        let flags = tcgetattr(terminal).unwrap().local_flags;
        flags.contains(LocalFlags::ECHO | LocalFlags::ICANON)
    }

    #[test]
    fn the_terminal_is_put_back_after_an_end_and_after_a_panic() {
        let pty = openpty(None, None).unwrap();
        assert!(echoes(&pty.slave));
        let raw = Raw::of(&pty.slave).unwrap();
        assert!(!echoes(&pty.slave));
        drop(raw);
        assert!(echoes(&pty.slave));
        let caught = std::panic::catch_unwind(|| {
            let _raw = Raw::of(&pty.slave).unwrap();
            assert!(echoes(&pty.slave), "in raw mode nothing is echoed");
        });
        assert!(caught.is_err() && echoes(&pty.slave));
    }

    #[test]
    fn only_at_the_beginning_of_a_line_is_a_tilde_ours() {
        let typed = |keys: &[&[u8]]| {
            let mut escape = Escape::default();
            let mut all = Vec::new();
            for keys in keys {
                match escape.take(keys) {
                    Meant::Type(typed) => all.extend(typed),
                    Meant::End(typed) => {
                        all.extend(typed);
                        all.extend(b"<end>");
                    }
                    Meant::Help(typed) => {
                        all.extend(typed);
                        all.extend(b"<help>");
                    }
                }
            }
            String::from_utf8(all).unwrap()
        };
        assert_eq!(typed(&[b"~."]), "<end>");
        assert_eq!(typed(&[b"ls\r", b"~", b"."]), "ls\r<end>");
        assert_eq!(typed(&[b"cd ~.\r"]), "cd ~.\r");
        assert_eq!(typed(&[b"~~.", b"\r~x~."]), "~.\r~x~.");
        assert_eq!(typed(&[b"~?", b"\x03~."]), "<help>\u{3}~.");
        assert_eq!(typed(&[b"~\r~."]), "~\r<end>");
    }
}
