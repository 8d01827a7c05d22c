//! Files inside an unpacked chroot. Its links are the tarball's, so a path is resolved by the kernel
//! with the chroot as its root (`openat2`, `RESOLVE_IN_ROOT`): `etc` may be a link to `/etc`, and is
//! then still the chroot's.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

/// An unpacked chroot. Paths are relative to it.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    fd: OwnedFd,
}

impl Root {
    /// Opens the chroot at `path`, which must be a directory and no link.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self {
            path: path.to_owned(),
            fd,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file of at most `max` bytes; none where there is none.
    pub(crate) fn read(&self, path: &str, max: u64) -> io::Result<Option<Vec<u8>>> {
        let fd = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut bytes = Vec::new();
        File::from(fd).take(max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Writes a new regular file in the place of whatever is there; its directory is made if missing.
    pub(crate) fn write(&self, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let (directory, name) = self.parent(path)?;
        match unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        let fd = openat(&directory, name, flags, mode)?;
        nix::sys::stat::fchmod(&fd, mode)?;
        File::from(fd).write_all(bytes)
    }

    /// Makes a symbolic link; one that is there already stays.
    pub(crate) fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let (directory, name) = self.parent(path)?;
        match symlinkat(target, &directory, name) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a directory and those above it, and opens it.
    pub(crate) fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        let mut whole = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let above = self.resolve_directory(if whole.is_empty() { "." } else { &whole })?;
            match mkdirat(&above, part, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            whole = if whole.is_empty() {
                part.to_owned()
            } else {
                format!("{whole}/{part}")
            };
        }
        self.resolve_directory(if whole.is_empty() { "." } else { &whole })
    }

    /// Removes every file that is directly in a directory.
    pub(crate) fn clear(&self, path: &str) -> io::Result<()> {
        let directory = self.directory(path)?;
        for entry in std::fs::read_dir(fd_path(&directory))? {
            match unlinkat(
                &directory,
                entry?.file_name().as_os_str(),
                UnlinkatFlags::NoRemoveDir,
            ) {
                Ok(()) | Err(Errno::EISDIR | Errno::EPERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether something is at `path`.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.resolve(path, OFlag::O_PATH).is_ok()
    }

    fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
        Ok((self.directory(if above == "." { "" } else { above })?, name))
    }

    fn resolve_directory(&self, path: &str) -> io::Result<OwnedFd> {
        self.resolve(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    fn resolve(&self, path: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&self.fd, path, how)?)
    }
}

/// A path that leads to what is open, whatever its name: a mount's target.
pub(crate) fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn chroot() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("chroot");
        fs::create_dir(&path).unwrap();
        let root = Root::open(&path).unwrap();
        (directory, root)
    }

    #[test]
    fn links_that_lead_out_stay_inside() {
        let (directory, root) = chroot();
        let outside = directory.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("hosts"), "theirs").unwrap();
        symlink(&outside, root.path().join("etc")).unwrap();
        symlink("../outside", root.path().join("up")).unwrap();
        assert!(root.write("etc/hosts", b"ours", 0o644).is_err());
        assert!(root.write("up/hosts", b"ours", 0o644).is_err());
        assert_eq!(root.read("up/hosts", 10).unwrap(), None);
        assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "theirs");
    }

    #[test]
    fn a_file_takes_the_place_of_a_link() {
        let (directory, root) = chroot();
        let target = directory.path().join("resolv.conf");
        fs::write(&target, "theirs").unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        symlink(&target, root.path().join("etc/resolv.conf")).unwrap();
        root.write("etc/resolv.conf", b"ours", 0o644).unwrap();
        assert_eq!(root.read("etc/resolv.conf", 10).unwrap().unwrap(), b"ours");
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
    }

    #[test]
    fn directories_are_made_and_cleared_of_files() {
        let (_directory, root) = chroot();
        root.write("etc/apt/sources.list.d/a.list", b"x", 0o644)
            .unwrap();
        root.directory("etc/apt/sources.list.d/kept").unwrap();
        root.clear("etc/apt/sources.list.d").unwrap();
        assert!(!root.exists("etc/apt/sources.list.d/a.list"));
        assert!(root.exists("etc/apt/sources.list.d/kept"));
    }

    #[test]
    fn a_chroot_that_is_a_link_is_refused() {
        let (directory, root) = chroot();
        let link = directory.path().join("link");
        symlink(root.path(), &link).unwrap();
        assert!(Root::open(&link).is_err());
    }
}
