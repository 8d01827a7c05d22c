//! A TCP connection that can be looked at while it is read and written: whether the peer has gone shows on the
//! socket only, and an HTTP server does not read while it works on an answer. Used by [`crate::serve`] alone.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use nix::sys::socket;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How often the socket is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// One connection, for whoever reads and writes it. Only one task does.
#[derive(Debug)]
pub(crate) struct SharedStream(Arc<TcpStream>);

/// The same connection, for whoever watches it.
#[derive(Debug, Clone)]
pub(crate) struct Watched(Arc<TcpStream>);

impl SharedStream {
    pub(crate) fn new(stream: TcpStream) -> (Self, Watched) {
        let stream = Arc::new(stream);
        (Self(stream.clone()), Watched(stream))
    }
}

impl Watched {
    /// Waits until there is something to read, the peer's end included.
    pub(crate) async fn first_byte(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Waits until the peer has gone: at once where it reset the connection, and `patience` after it closed its sending
    /// side, since a peer that has gone and one that only has no more to say look the same.
    pub(crate) async fn gone(&self, patience: Duration) {
        let mut closed_at = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let both = Interest::READABLE | Interest::WRITABLE;
            let Some(Ok(seen)) = self.0.ready(both).now_or_never() else {
                continue;
            };
            if seen.is_write_closed() || seen.is_error() {
                return;
            }
            if seen.is_read_closed() {
                let since = *closed_at.get_or_insert_with(Instant::now);
                if since.elapsed() >= patience {
                    return;
                }
            }
        }
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = socket::shutdown(self.0.as_raw_fd(), socket::Shutdown::Write);
        Poll::Ready(ended.map_err(Into::into))
    }
}
