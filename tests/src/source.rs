//! Source packages and chroots for builds whose chroot-and-sbuild steps an executor stands for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::programs::{root, run_ok};

/// What a build is given: a real source package, and a file in the place of a chroot tarball.
#[derive(Debug)]
pub struct Source {
    /// The `.dsc`; its files lie beside it.
    pub dsc: PathBuf,
    /// The file in the chroot's place.
    pub chroot: PathBuf,
}

/// Packs `fixtures/sources/panda-hello` into `directory`, beside a file in the chroot's place.
///
/// # Errors
/// `dpkg-source` (Debian's dpkg-dev) is missing or fails.
pub fn hello(directory: &Path) -> Result<Source> {
    let tree = directory.join("panda-hello-1.0");
    run_ok(
        Command::new("cp")
            .arg("-r")
            .arg(root().join("fixtures/sources/panda-hello"))
            .arg(&tree),
    )?;
    run_ok(
        Command::new("dpkg-source")
            .current_dir(directory)
            .args(["-b", "panda-hello-1.0"]),
    )?;
    let chroot = directory.join("chroot.tar");
    fs::write(&chroot, b"an executor needs no chroot").context("the chroot's stand-in")?;
    Ok(Source {
        dsc: directory.join("panda-hello_1.0.dsc"),
        chroot,
    })
}

/// The executor of that name in `tests/executors/`, as a shell command with `settings` (`NAME=VALUE`) set.
#[must_use]
pub fn executor(name: &str, settings: &[String]) -> String {
    let path = root().join("tests/executors").join(name);
    let path = fs::canonicalize(&path).unwrap_or(path);
    format!("env {} {}", settings.join(" "), path.display())
}

/// The machine's Debian architecture.
///
/// # Errors
/// `dpkg` is missing.
pub fn arch() -> Result<String> {
    Ok(run_ok(Command::new("dpkg").arg("--print-architecture"))?
        .trim()
        .to_owned())
}
