//! Kernel modules: the ramdisk has those that its machine needs as `/modules/NNN-NAME.ko`, uncompressed and
//! numbered in the order in which they can be loaded. Whoever made the image has resolved what needs what.
//!
//! One that has nothing to drive here (`ENODEV`), or that the kernel has built in (`EEXIST`), is no failure. After a
//! real failure the others are loaded all the same: the network's may be among them, and the master wants to know.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// Where they are.
const DIRECTORY: &str = "modules";
/// A ramdisk has about thirty.
const MAX_MODULES: usize = 512;
/// How many failures are named.
const NAMED: usize = 5;
/// The one that [`super::rootfs`] loads itself, because its size depends on the boot.
const HELD_BACK: &str = "brd";

/// Why modules were not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModulesError {
    /// The directory cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file whose place in the order is not known.
    #[error("modules/{0} has no place in the order; each must be named NNN-NAME.ko")]
    Name(String),
    /// Too many.
    #[error("more than {MAX_MODULES} modules")]
    TooMany,
    /// The kernel takes some of them not.
    #[error("the kernel does not take {0}; were kernel and ramdisk made for each other?")]
    Refused(String),
}

/// What has been loaded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The RAM disk's module, not yet loaded.
    pub(crate) ram_disk: Option<PathBuf>,
    loaded: usize,
    idle: Vec<String>,
}

impl Loaded {
    /// In a few words.
    pub(crate) fn detail(&self) -> String {
        match self.idle.len() {
            0 => format!("{} loaded", self.loaded),
            count => format!("{} loaded, {count} not needed here", self.loaded),
        }
    }
}

/// Loads the modules of the ramdisk at `root`.
pub(crate) fn load_all(root: &Path) -> Result<Loaded, ModulesError> {
    load_with(&root.join(DIRECTORY), |path| load(path, c""))
}

/// Loads one module with parameters.
pub(crate) fn load(path: &Path, parameters: &CStr) -> io::Result<()> {
    let file = File::open(path)?;
    Ok(finit_module(&file, parameters, ModuleInitFlags::empty())?)
}

fn load_with(
    directory: &Path,
    mut load: impl FnMut(&Path) -> io::Result<()>,
) -> Result<Loaded, ModulesError> {
    let mut done = Loaded {
        ram_disk: None,
        loaded: 0,
        idle: Vec::new(),
    };
    let mut refused = Vec::new();
    for (file, name) in in_order(list(directory)?)? {
        let path = directory.join(file);
        if name == HELD_BACK {
            done.ram_disk = Some(path);
            continue;
        }
        match load(&path) {
            Ok(()) => done.loaded += 1,
            Err(error) if is(&error, Errno::EEXIST) => done.loaded += 1,
            Err(error) if is(&error, Errno::ENODEV) => done.idle.push(name),
            Err(error) => refused.push(format!("{name} ({error})")),
        }
    }
    if refused.is_empty() {
        return Ok(done);
    }
    let more = refused.len().saturating_sub(NAMED);
    refused.truncate(NAMED);
    let mut text = refused.join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    Err(ModulesError::Refused(text))
}

fn list(directory: &Path) -> Result<Vec<String>, ModulesError> {
    let failed = |source| ModulesError::Read {
        path: directory.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        if names.len() == MAX_MODULES {
            return Err(ModulesError::TooMany);
        }
        let name = entry.map_err(failed)?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Files and their modules' names, in the order of their numbers.
fn in_order(files: Vec<String>) -> Result<Vec<(String, String)>, ModulesError> {
    let mut modules = Vec::new();
    for file in files {
        match place(&file) {
            Some((number, name)) => modules.push((number, name.to_owned(), file)),
            None => return Err(ModulesError::Name(file)),
        }
    }
    modules.sort();
    Ok(modules
        .into_iter()
        .map(|(_, name, file)| (file, name))
        .collect())
}

/// `012-virtio_net.ko`: 12 and `virtio_net`.
fn place(file: &str) -> Option<(u32, &str)> {
    let (number, name) = file.strip_suffix(".ko")?.split_once('-')?;
    let digits = number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit());
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (digits && !name.is_empty() && name.chars().all(plain))
        .then(|| Some((number.parse().ok()?, name)))?
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(files: &[&str]) -> Result<Vec<String>, String> {
        let files = files.iter().map(|&file| file.to_owned()).collect();
        in_order(files)
            .map(|modules| modules.into_iter().map(|(_, name)| name).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn modules_are_loaded_by_number() {
        assert_eq!(
            order(&[
                "010-ext4.ko",
                "002-virtio-rng.ko",
                "1000-last.ko",
                "000-a_b.ko"
            ])
            .unwrap(),
            ["a_b", "virtio-rng", "ext4", "last"]
        );
        assert_eq!(order(&[]).unwrap(), [""; 0]);
    }

    #[test]
    fn a_file_without_a_place_is_named() {
        for file in [
            "ext4.ko",
            "01-ext4.ko",
            "001-ext4.ko.xz",
            "001-.ko",
            "00a-b.ko",
            "001-a b.ko",
            "-1-a.ko",
            "99999999999-a.ko",
        ] {
            assert!(order(&[file]).unwrap_err().contains(file), "{file}");
        }
    }

    #[test]
    fn what_is_built_in_or_has_no_device_is_no_failure_and_the_rest_is_loaded_after_one() {
        let directory = tempfile::tempdir().unwrap();
        for file in [
            "000-a.ko",
            "001-brd.ko",
            "002-bad.ko",
            "003-builtin.ko",
            "004-idle.ko",
            "005-last.ko",
        ] {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let load = |bad: Option<Errno>, tried: &mut Vec<String>| {
            load_with(directory.path(), |path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let outcome = match name.as_str() {
                    "002-bad.ko" => bad.map_or(Ok(()), |errno| Err(errno.into())),
                    "003-builtin.ko" => Err(Errno::EEXIST.into()),
                    "004-idle.ko" => Err(Errno::ENODEV.into()),
                    _ => Ok(()),
                };
                tried.push(name);
                outcome
            })
        };
        let mut tried = Vec::new();
        let loaded = load(None, &mut tried).unwrap();
        assert_eq!(loaded.detail(), "4 loaded, 1 not needed here");
        assert_eq!(loaded.ram_disk, Some(directory.path().join("001-brd.ko")));
        assert!(!tried.contains(&"001-brd.ko".to_owned()));
        let mut tried = Vec::new();
        let said = load(Some(Errno::ENOEXEC), &mut tried)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("bad (") && said.contains("Exec format error"),
            "{said}"
        );
        assert_eq!(tried.last().unwrap(), "005-last.ko");
    }

    #[test]
    fn a_ramdisk_without_modules_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let said = load_all(directory.path()).unwrap_err().to_string();
        assert!(said.contains("modules: No such file"), "{said}");
    }
}
