//! Finds the programs that subcommands start, and says which Debian package has a missing one.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A program that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the program {program} is not in PATH; it is in the Debian package {package}: apt-get install {package}"
)]
pub struct Missing {
    /// Its name.
    pub program: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// The first `program` in `PATH`.
///
/// # Errors
/// [`Missing`].
pub fn find(program: &'static str, package: &'static str) -> Result<PathBuf, Missing> {
    // sbin holds some of them, and an ordinary user's PATH does not have it.
    let path = std::env::var_os("PATH").unwrap_or_default();
    find_in(&path, program)
        .or_else(|| find_in(OsStr::new("/usr/sbin:/sbin"), program))
        .ok_or(Missing { program, package })
}

/// A program of ours: beside the running executable, else in `PATH`.
#[must_use]
pub fn beside_ours(program: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join(program)));
    beside
        .filter(|path| executable(path))
        .or_else(|| find_in(&std::env::var_os("PATH").unwrap_or_default(), program))
}

fn find_in(path: &OsStr, program: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|candidate| executable(candidate))
}

/// Whether `path` is a file that somebody may execute.
#[must_use]
pub fn executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// This machine's Debian architecture.
#[must_use]
pub fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let missing = find("no-such-program-here", "its-package").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "the program no-such-program-here is not in PATH; it is in the Debian package its-package: \
             apt-get install its-package"
        );
    }

    #[test]
    fn only_executable_files_are_programs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tool");
        std::fs::write(&path, "").unwrap();
        assert_eq!(find_in(directory.path().as_os_str(), "tool"), None);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_in(directory.path().as_os_str(), "tool"), Some(path));
    }
}
