//! Mounts of a build, all in its own mount namespace: they vanish with it.
//!
//! ```text
//! chroot/proc      proc of the build's own PID namespace
//! chroot/sys       sysfs, read-only
//! chroot/dev       tmpfs with the host's null, zero, full, random, urandom, tty (nodes of the tarball are not used)
//! chroot/dev/pts   devpts of its own
//! chroot/dev/shm   tmpfs
//! ```

use std::fs::File;
use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::command::log_step;
use super::root::{Root, fd_path};

const NONE: Option<&str> = None;
const NODES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: &[(&str, &str)] = &[
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
    ("dev/ptmx", "pts/ptmx"),
];

/// A mount that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {what}: {source}")]
pub(crate) struct MountError {
    what: String,
    source: io::Error,
}

/// Gives this process a `/proc` of its PID namespace. Where that is not allowed (some containers),
/// the old one stays: it shows too much, and nothing here depends on it.
pub(crate) fn own_proc() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if let Err(error) = mount(Some("proc"), "/proc", Some("proc"), flags, NONE) {
        tracing::debug!(%error, "no /proc of our own");
    }
}

/// Mounts what a chroot needs.
pub(crate) fn mount_all(root: &Root) -> Result<(), MountError> {
    log_step(&format!(
        "mount proc, sys, dev in {}",
        root.path().display()
    ));
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    filesystem(root, "proc", "proc", quiet, NONE)?;
    filesystem(root, "sys", "sysfs", quiet | MsFlags::MS_RDONLY, NONE)?;
    let tmpfs = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    filesystem(root, "dev", "tmpfs", tmpfs, Some("mode=0755,size=1m"))?;
    for node in NODES {
        let path = format!("dev/{node}");
        let failed = |source| MountError {
            what: path.clone(),
            source,
        };
        root.write(&path, b"", 0o666).map_err(failed)?;
        let target = root.path().join(&path);
        bind(&Path::new("/dev").join(node), &target)?;
    }
    for (path, target) in LINKS {
        root.link(path, target).map_err(|source| MountError {
            what: (*path).to_owned(),
            source,
        })?;
    }
    let pts = Some("newinstance,ptmxmode=0666,mode=0620,gid=5");
    filesystem(
        root,
        "dev/pts",
        "devpts",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        pts,
    )?;
    filesystem(
        root,
        "dev/shm",
        "tmpfs",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=1777"),
    )
}

/// Puts `from` over `to`.
pub(crate) fn bind(from: &Path, to: &Path) -> Result<(), MountError> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND, NONE).map_err(|error| MountError {
        what: format!("{} over {}", from.display(), to.display()),
        source: error.into(),
    })
}

/// Puts the file or directory `from` over `to`, which must be there.
pub(crate) fn cover(from: &Path, to: &Path) -> Result<(), MountError> {
    File::open(to).map_err(|source| MountError {
        what: to.display().to_string(),
        source,
    })?;
    bind(from, to)
}

fn filesystem(
    root: &Root,
    path: &str,
    kind: &str,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), MountError> {
    let failed = |source| MountError {
        what: format!("{kind} on {path}"),
        source,
    };
    let directory = root.directory(path).map_err(failed)?;
    mount(Some(kind), &fd_path(&directory), Some(kind), flags, options)
        .map_err(|error| failed(error.into()))
}
