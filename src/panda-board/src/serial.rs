//! Serial lines, 8N1 without flow control, for relay boards and consoles. An open line is locked (`flock`), so
//! that two programs which keep to it do not share one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use serial2_tokio::SerialPort;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::device::identify;
use crate::settings::Mistakes;

/// The speeds that serial lines of relay boards and consoles have.
const BAUDS: [u32; 10] = [
    1200, 2400, 4800, 9600, 19_200, 38_400, 57_600, 115_200, 230_400, 921_600,
];

/// Notes a speed that such lines do not have, of the key `baud`.
pub fn check_baud(baud: u32, mistakes: &mut Mistakes) {
    let expected = format!("expected one of {BAUDS:?}, got {baud}; 115200 is usual");
    mistakes.unless(BAUDS.contains(&baud), "baud", expected);
}

/// An open serial line, locked.
#[derive(Debug)]
pub struct SerialLine {
    port: SerialPort,
    _lock: Flock<File>,
}

impl SerialLine {
    /// Opens the line at `device`, and forgets what has come over it before.
    ///
    /// # Errors
    /// No such device, no right to it, or another program has locked it.
    pub fn open(device: &Path, baud: u32) -> io::Result<Self> {
        identify(device)?;
        // Opening must neither wait for a carrier nor make the line this process' terminal.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits())
            .open(device)?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(
                |(_, errno)| match errno {
                    Errno::EWOULDBLOCK => {
                        io::Error::new(io::ErrorKind::ResourceBusy, "another program has it open")
                    }
                    errno => errno.into(),
                },
            )?;
        let port = SerialPort::open(device, baud)?;
        port.discard_input_buffer()?;
        Ok(Self { port, _lock: lock })
    }
}

impl AsyncRead for SerialLine {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.port).poll_read(context, buffer)
    }
}

impl AsyncWrite for SerialLine {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.port).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.port).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.port).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;
    use nix::unistd::ttyname;

    use super::*;

    #[tokio::test]
    async fn a_line_has_one_owner_at_a_time() {
        let pty = openpty(None, None).unwrap();
        let device = ttyname(&pty.slave).unwrap();
        let held = SerialLine::open(&device, 115_200).unwrap();
        let refused = SerialLine::open(&device, 115_200).unwrap_err().to_string();
        assert_eq!(refused, "another program has it open");
        drop(held);
        SerialLine::open(&device, 115_200).unwrap();
    }

    #[test]
    fn a_speed_that_no_line_has_is_refused() {
        let told = |baud| {
            let mut mistakes = Mistakes::default();
            check_baud(baud, &mut mistakes);
            mistakes.end().map_err(|mistakes| mistakes.to_string())
        };
        assert_eq!(told(115_200), Ok(()));
        assert!(told(0).unwrap_err().starts_with("baud: expected"));
        assert!(told(115_201).is_err());
    }
}
