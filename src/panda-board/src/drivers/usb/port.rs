//! A slot's USB port: what is on it, and opening the boot ROM that a boot awaits there. A ROM is opened only as the
//! very arrival that was seen, by its descriptors, with no driver of the kernel on any part of it.
//!
//! ```text
//! open(arrival) ─▶ still that device? ─▶ all its descriptors a ROM's? ─▶ authorised ─▶ no driver took it?
//!               ─▶ opened and claimed (libusb) ─▶ still that device? ─▶ pipe
//! ```

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;

use super::guard::Guard;
use super::libusb::Opener;
use super::pipe::{Session, UsbPipe};
use super::sysfs::{Identity, Seen, Sysfs};
use super::watch::Watcher;
use crate::port_path::PortPath;
use crate::{Pipe, PipeError, Port, Presence};

/// After it was authorised, a device must have been configured and opened within this.
const OPEN: Duration = Duration::from_secs(3);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// A port by its path.
pub struct UsbPort {
    pub(super) path: PortPath,
    pub(super) presence: watch::Receiver<Presence>,
    pub(super) parts: Parts,
}

/// What all ports share.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) sysfs: Sysfs,
    pub(super) watcher: Arc<Watcher>,
    pub(super) guard: Arc<Guard>,
    pub(super) opener: Arc<dyn Opener>,
}

impl std::fmt::Debug for UsbPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsbPort")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Port for UsbPort {
    fn watch(&self) -> watch::Receiver<Presence> {
        self.presence.clone()
    }

    async fn open(&self, arrival: u64) -> Result<Box<dyn Pipe>, PipeError> {
        let Some(identity) = self.parts.watcher.identity(&self.path, arrival) else {
            return Err(PipeError::Gone);
        };
        let (parts, path) = (self.parts.clone(), self.path.clone());
        let opened = tokio::task::spawn_blocking(move || open(&parts, &path, identity)).await;
        let session = opened.map_err(|error| self.failed(io::Error::other(error)))?;
        match session {
            Ok(session) => {
                let presence = self.presence.clone();
                Ok(Box::new(UsbPipe::new(session, presence, arrival)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(PipeError::Gone),
            Err(error) => Err(self.failed(error)),
        }
    }
}

impl UsbPort {
    fn failed(&self, source: io::Error) -> PipeError {
        PipeError::Io {
            what: format!("opening the device on port {}", self.path),
            source,
        }
    }
}

/// Opens the device; one that has left is not found.
fn open(parts: &Parts, path: &PortPath, identity: Identity) -> io::Result<Session> {
    let refused = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let facts = match parts.sysfs.look(path)? {
        Seen::Device(now, facts) if now == identity => facts,
        Seen::Device(..) | Seen::Empty | Seen::NoPort => {
            return Err(io::ErrorKind::NotFound.into());
        }
    };
    let rom = facts
        .descriptors
        .and_then(|descriptors| descriptors.as_rom().map_err(|error| error.to_string()))
        .map_err(|why| refused(format!("no boot ROM: {why}")))?;
    let lifted = parts.guard.authorize(path, identity).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "; run as root, with sysfs writable"
            }
            // It has left, or does not answer the kernel.
            _ => "",
        };
        io::Error::new(
            error.kind(),
            format!("it cannot be authorised: {error}{hint}"),
        )
    })?;
    // From here on, whatever fails takes the authorisation back.
    let mut session = Session::new(parts.guard.clone(), path.clone(), identity, rom, lifted);
    let until = Instant::now() + OPEN;
    loop {
        if let Some((interface, driver)) = parts.sysfs.driven(&path.to_string())?
            && driver != "usbfs"
        {
            return Err(refused(format!(
                "the kernel's driver {driver} has taken its interface {interface}; no boot ROM has one"
            )));
        }
        match parts.opener.open(path.bus(), identity) {
            Ok(opened) => {
                session.transfers = Some(opened);
                break;
            }
            // The kernel may still be about to configure it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < until => {
                if !is_there(parts, path, identity) {
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
            }
            Err(error) if is_there(parts, path, identity) => {
                // What is there has not left: it is no absence.
                return Err(match error.kind() {
                    io::ErrorKind::NotFound => io::Error::new(io::ErrorKind::TimedOut, error),
                    _ => error,
                });
            }
            Err(_) => return Err(io::ErrorKind::NotFound.into()),
        }
    }
    // It was opened by its number, which is this device's only as long as it is there.
    if is_there(parts, path, identity) {
        Ok(session)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn is_there(parts: &Parts, path: &PortPath, identity: Identity) -> bool {
    matches!(parts.sysfs.look(path), Ok(Seen::Device(now, _)) if now == identity)
}
