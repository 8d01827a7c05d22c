//! The new root: the image's root file system below, the scratch disk above, and the way over.
//!
//! ```text
//! /dev/mapper/panda-root  squashfs ─┐
//! /dev/mapper/panda-scratch  upper ─┴─ overlay = the new /     (the scratch disk itself: /var/lib/panda)
//! ```
//! The root file system moves from RAM to the scratch disk, and its RAM is given back: a build needs it more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, delete_module};
use nix::mount::{MntFlags, MsFlags, umount2};
use panda_protocol::boot_toml::Network;

use super::areas::Areas;
use super::mounts::{self, MountError};
use super::rootfs::RAM_DISK;

/// Where the scratch disk is in the new root. The worker's state is below it.
pub(crate) const SCRATCH: &str = "/var/lib/panda";
const NEW: &str = "/newroot";
const LOWER: &str = "/lower";
const UPPER: &str = "/scratch";
const COPIED_AT_ONCE: usize = 1 << 20;
/// What the kernel keeps in RAM before it writes it to the scratch disk: per cent of the RAM that is free, and hundredths
/// of a second. No file there outlives the power, so what is removed again soon need never be encrypted and written.
const WRITES: [(&str, &str); 3] = [
    ("dirty_background_ratio", "30"),
    ("dirty_ratio", "50"),
    ("dirty_expire_centisecs", "30000"),
];

/// Why the new root is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Files.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootError {
    let path = path.to_owned();
    move |source| RootError::Io {
        doing,
        path,
        source,
    }
}

fn errno(doing: &'static str, path: &Path) -> impl FnOnce(Errno) -> RootError {
    let io = io(doing, path);
    move |error| io(error.into())
}

/// Moves the root file system of `bytes` bytes, mounted at `early`, to the scratch disk, and mounts the new root.
pub(crate) fn make(
    areas: &Areas,
    bytes: u64,
    early: &Path,
    network: &Network,
) -> Result<String, RootError> {
    let device = areas.root.device();
    copy(Path::new(RAM_DISK), &device, bytes)?;
    give_back(early)?;
    let quiet = MsFlags::MS_NOATIME;
    let lower = Path::new(LOWER);
    mounts::device(&device, "squashfs", lower, quiet | MsFlags::MS_RDONLY, None)?;
    for (name, value) in WRITES {
        let path = Path::new("/proc/sys/vm").join(name);
        fs::write(&path, value).map_err(io("cannot write", &path))?;
    }
    let upper = Path::new(UPPER);
    mounts::device(&areas.scratch.device(), "ext4", upper, quiet, None)?;
    for name in ["upper", "work"] {
        let path = upper.join(name);
        fs::create_dir_all(&path).map_err(io("cannot make", &path))?;
    }
    let new = Path::new(NEW);
    let options = format!("lowerdir={LOWER},upperdir={UPPER}/upper,workdir={UPPER}/work");
    mounts::filesystem("overlay", new, quiet, Some(&options))?;
    // The board's own files, for programs that look there.
    for (file, text) in names(network) {
        let path = new.join(file);
        replace(&path, &text).map_err(io("cannot write", &path))?;
    }
    mounts::shift(upper, &below(new, Path::new(SCRATCH)))?;
    Ok(format!(
        "overlay on {} MiB of ext4",
        areas.scratch.bytes >> 20
    ))
}

/// Makes the new root the root. What was of use before is removed: it is in RAM.
pub(crate) fn switch() -> Result<(), RootError> {
    let new = Path::new(NEW);
    for own in ["/dev", "/proc", "/sys", "/run"] {
        mounts::shift(Path::new(own), &below(new, Path::new(own)))?;
    }
    for file in ["/init", "/agent.toml"] {
        fs::remove_file(file).map_err(io("cannot remove", Path::new(file)))?;
    }
    panda_tree::remove(Path::new("/modules"))
        .map_err(|error| io("cannot remove", &error.first)(error.source))?;
    std::env::set_current_dir(new).map_err(io("cannot enter", new))?;
    mounts::shift(Path::new("."), Path::new("/"))?;
    nix::unistd::chroot(".").map_err(errno("cannot change the root to", new))?;
    std::env::set_current_dir("/").map_err(io("cannot enter", Path::new("/")))?;
    Ok(mounts::second()?)
}

/// `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.
fn names(network: &Network) -> [(&'static str, String); 3] {
    let host = &network.hostname;
    let label = host.split('.').next().unwrap_or_default();
    let both = if label == host {
        host.clone()
    } else {
        format!("{host} {label}")
    };
    let servers = network
        .nameservers
        .iter()
        .map(|server| format!("nameserver {server}\n"));
    [
        ("etc/hostname", format!("{host}\n")),
        (
            "etc/hosts",
            format!("127.0.0.1\tlocalhost\n127.0.1.1\t{both}\n::1\tlocalhost\n"),
        ),
        ("etc/resolv.conf", servers.collect()),
    ]
}

/// A new file in the place of whatever is there: a link leads elsewhere.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::write(path, text)
}

fn copy(from: &Path, to: &Path, bytes: u64) -> Result<(), RootError> {
    let mut reader = File::open(from)
        .map_err(io("cannot open", from))?
        .take(bytes);
    let mut writer = OpenOptions::new()
        .write(true)
        .open(to)
        .map_err(io("cannot open", to))?;
    let mut piece = vec![0; COPIED_AT_ONCE];
    loop {
        let count = reader.read(&mut piece).map_err(io("cannot read", from))?;
        if count == 0 {
            break;
        }
        writer
            .write_all(&piece[..count])
            .map_err(io("cannot write", to))?;
    }
    if reader.limit() > 0 {
        return Err(io("cannot read", from)(io::ErrorKind::UnexpectedEof.into()));
    }
    writer.sync_all().map_err(io("cannot write", to))
}

/// Unmounts the RAM disk and removes its module, and with it what it held.
fn give_back(early: &Path) -> Result<(), RootError> {
    // Swap is in use by a name below this /dev, which stays for it alone.
    let (kept, no) = (MntFlags::MNT_DETACH, MntFlags::empty());
    for (own, how) in [("dev", kept), ("proc", no), ("sys", no), ("", no)] {
        let path = early.join(own);
        umount2(&path, how).map_err(errno("cannot unmount", &path))?;
    }
    delete_module(c"brd", DeleteModuleFlags::O_NONBLOCK)
        .map_err(errno("cannot remove the module of", Path::new(RAM_DISK)))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_knows_its_name_and_its_name_servers() {
        let network = Network {
            address: None,
            gateway: None,
            nameservers: vec!["10.0.2.3".to_owned(), "fd00::3".to_owned()],
            hostname: "panda01.rack".to_owned(),
            mac: None,
        };
        let [host, hosts, resolv] = names(&network);
        assert_eq!(host, ("etc/hostname", "panda01.rack\n".to_owned()));
        assert!(
            hosts.1.contains("127.0.1.1\tpanda01.rack panda01\n"),
            "{}",
            hosts.1
        );
        assert_eq!(resolv.1, "nameserver 10.0.2.3\nnameserver fd00::3\n");
    }

    #[test]
    fn a_file_takes_the_place_of_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (
            directory.path().join("resolv.conf"),
            directory.path().join("target"),
        );
        fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        replace(&path, "ours").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ours");
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
    }

    #[test]
    fn a_copy_is_whole_or_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        fs::write(&from, &bytes).unwrap();
        fs::write(&to, "").unwrap();
        copy(&from, &to, 2_500_000).unwrap();
        assert!(fs::read(&to).unwrap() == bytes[..2_500_000]);
        let said = copy(&from, &to, 3_000_001).unwrap_err().to_string();
        assert!(
            said.contains("cannot read") && said.contains("from"),
            "{said}"
        );
    }

    #[test]
    fn paths_stay_below_the_new_root() {
        assert_eq!(
            below(Path::new("/newroot"), Path::new("/dev")),
            Path::new("/newroot/dev")
        );
    }
}
