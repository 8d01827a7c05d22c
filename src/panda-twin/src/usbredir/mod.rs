//! The boards' ports for a guest: QEMU puts each behind a port of a hub that it makes, and a real kernel's USB core,
//! with libusb and all that is above it, finds the very ROM and aboot that are behind the pipe socket.
//!
//! ```text
//!   guest: daemon - rusb - usbfs - kernel - xHCI --+
//!                                                  |  QEMU: usb-hub, a port each
//!   STATE/boards/panda01/usbredir.sock <-- usb-redir (port 1.1)
//!   STATE/boards/panda02/usbredir.sock <-- usb-redir (port 1.2)
//!   the hub's trace ----------------------> the boards' power
//! ```
//!
//! # Layout
//! - [`wire`]: the protocol
//! - [`descriptors`]: what a kernel is told of the ROM
//! - `front`: a board on such a socket
//! - [`hub`]: the boards' power, as the guest switches it

pub mod descriptors;
mod front;
pub mod hub;
pub mod wire;

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::board::Message;
use crate::sockets::{SocketError, accept, bind, remove};

/// One board's usbredir socket. Dropping it stops serving and removes it.
#[derive(Debug)]
pub struct UsbSocket {
    path: PathBuf,
    _tasks: JoinSet<()>,
}

impl UsbSocket {
    /// Binds and serves `path` for a board; must be called within a tokio runtime.
    ///
    /// # Errors
    /// The path is too long, or cannot be bound.
    pub(crate) fn serve(path: PathBuf, board: &mpsc::Sender<Message>) -> Result<Self, SocketError> {
        let listener = bind(&path)?;
        let board = board.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, move |connection, stream| {
            front::serve(connection, stream, board.clone())
        }));
        Ok(Self {
            path,
            _tasks: tasks,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UsbSocket {
    fn drop(&mut self) {
        remove(&self.path);
    }
}
