//! The operators' socket as a file: made so that nobody else can open it at any moment, one daemon's alone, and gone with
//! the daemon.
//!
//! ```text
//! [operators] socket        there, or the start ends
//! left out                  /run/pandabuildd/control.sock where that can be had, with a warning where not;
//!                           and STATE/control.sock, where racks had it before: asked there, the log says once where to ask
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Gid, Group};
use tokio::net::UnixListener;

use super::settings::{DEFAULT, OperatorsSettings, SOCKET, long_hint};
use crate::failpoint::{self, Point};

/// Why operators cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// The socket cannot be made.
    #[error("operators' socket {}: {source}{}; [operators] socket in rack.toml names another", path.display(), long_hint(path))]
    Make {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error(
        "operators' socket {}: another pandabuildd listens there; give this one its own with [operators] socket in rack.toml",
        path.display()
    )]
    InUse {
        /// Where.
        path: PathBuf,
    },
    /// There is no such group.
    #[error(
        "[operators] group: this machine has no group {0:?}; make it (`groupadd --system {0}`), or leave the key out"
    )]
    NoGroup(String),
}

/// A socket that nobody answers at yet.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    /// Where to ask instead, where this is the former place.
    pub(super) moved: Option<PathBuf>,
    pub(super) _lock: Option<Flock<File>>,
}

/// Makes the sockets of the daemon whose state directory, which it has locked, is `state`.
///
/// # Errors
/// See [`SocketError`].
pub(crate) fn bind(settings: &OperatorsSettings, state: &Path) -> Result<Vec<Bound>, SocketError> {
    let group = settings.group.as_deref().map(group).transpose()?;
    let here = |path: &Path| bind_at(path, state, group);
    if let Some(path) = &settings.socket {
        return Ok(vec![here(path)?]);
    }
    let usual = Path::new(DEFAULT);
    let usual = make_directory(usual).and_then(|()| here(usual));
    let mut former = here(&state.join(SOCKET))?;
    let mut sockets = Vec::new();
    match usual {
        Ok(usual) => {
            former.moved = Some(usual.path.clone());
            sockets.push(usual);
        }
        Err(error) => tracing::warn!(
            "{error}; until then operators ask at {}, with --socket",
            former.path.display()
        ),
    }
    sockets.push(former);
    Ok(sockets)
}

fn group(name: &str) -> Result<Gid, SocketError> {
    let found = Group::from_name(name).ok().flatten();
    let found = found.ok_or_else(|| SocketError::NoGroup(name.to_owned()))?;
    Ok(found.gid)
}

/// The directory of the default socket, which the unit has made already. Everybody may look into it.
fn make_directory(path: &Path) -> Result<(), SocketError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(SocketError::Make {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// A socket that an earlier daemon has left is replaced.
fn bind_at(path: &Path, state: &Path, group: Option<Gid>) -> Result<Bound, SocketError> {
    let path = path.to_owned();
    let lock = if path.parent() == Some(state) {
        None
    } else {
        Some(lock(&path)?)
    };
    match bind_private(&path, group) {
        Ok(listener) => Ok(Bound {
            listener,
            path,
            moved: None,
            _lock: lock,
        }),
        Err(source) => Err(SocketError::Make { path, source }),
    }
}

/// Elsewhere than in the state directory, which is one daemon's alone, a file beside the socket says whose it is.
fn lock(path: &Path) -> Result<Flock<File>, SocketError> {
    let mut name = path.to_owned().into_os_string();
    name.push(".lock");
    let failed = |source| SocketError::Make {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(name)
        .map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
        Err((_, error)) => Err(failed(error.into())),
    }
}

/// Nobody else can open the socket at any moment: it is made in a directory of ours alone, and moved.
fn bind_private(path: &Path, group: Option<Gid>) -> io::Result<UnixListener> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let private = tempfile::Builder::new()
        .prefix(".c")
        .rand_bytes(4)
        .tempdir_in(directory)?;
    let made = private.path().join("s");
    let listener = UnixListener::bind(&made)?;
    let mode = match group {
        Some(group) => {
            std::os::unix::fs::chown(&made, None, Some(group.as_raw()))?;
            0o660
        }
        None => 0o600,
    };
    fs::set_permissions(&made, Permissions::from_mode(mode))?;
    failpoint::around(Point::ControlSocket, String::new, || {
        fs::rename(&made, path)
    })?;
    Ok(listener)
}
