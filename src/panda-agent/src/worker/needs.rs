//! The programs that builds need: missing ones are named with the Debian package that has them, when
//! the worker starts and not in the middle of a build.

use std::env;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Program and Debian package, for every kind of build.
const ALWAYS: &[(&str, &str)] = &[("unshare", "util-linux"), ("env", "coreutils")];

/// Program and Debian package, for builds by sbuild.
const SBUILD: &[(&str, &str)] = &[
    ("sbuild", "sbuild"),
    ("schroot", "schroot"),
    ("tar", "tar"),
    ("chroot", "coreutils"),
    ("dpkg", "dpkg"),
    ("setarch", "util-linux"),
];

/// What is missing for the builds that are wanted.
#[derive(Debug, thiserror::Error)]
pub enum NeedsError {
    /// Programs are missing.
    #[error("missing programs: {0}; install them with: apt-get install {1}")]
    Programs(String, String),
    /// sbuild needs root.
    #[error(
        "building with sbuild needs root, with all user ids (user is {0}); run as root, or give --executor"
    )]
    Root(String),
    /// No namespaces.
    #[error(
        "builds cannot be isolated: unshare says: {0}; run as root, or allow unprivileged user namespaces"
    )]
    Namespaces(String),
    /// A program that is there cannot be run.
    #[error("{program} cannot be run: {source}")]
    Run {
        /// The program.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Checks that the programs are there, and the rights for sbuild unless an `executor` replaces it.
pub(crate) fn check(executor: bool) -> Result<(), NeedsError> {
    let sbuild = if executor { &[][..] } else { SBUILD };
    let missing: Vec<_> = ALWAYS
        .iter()
        .chain(sbuild)
        .filter(|(program, _)| find(program).is_none())
        .collect();
    if !missing.is_empty() {
        let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
        let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
        packages.sort_unstable();
        packages.dedup();
        return Err(NeedsError::Programs(
            programs.join(", "),
            packages.join(" "),
        ));
    }
    if !executor && !is_whole_root() {
        return Err(NeedsError::Root(nix::unistd::geteuid().to_string()));
    }
    Ok(())
}

/// Where a program is, as a shell would find it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Root, and not merely of a user namespace that has one user: sbuild builds as another.
fn is_whole_root() -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else {
        return nix::unistd::geteuid().is_root();
    };
    let ids: u64 = map
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok())
        .sum();
    nix::unistd::geteuid().is_root() && ids > 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_on_the_path_and_only_programs() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
        assert!(find(".").is_none());
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = NeedsError::Programs("sbuild, schroot".into(), "sbuild schroot".into());
        assert!(error.to_string().contains("apt-get install sbuild schroot"));
    }
}
