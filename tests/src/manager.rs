//! The managers of `tests/python/`: clients of other makes that do what Launchpad's does with one build.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::programs::{root, run_ok};
use crate::source::{Source, arch};

/// The Python that has Debian's python3-twisted; another on the `PATH` may not.
pub const PYTHON: &str = "/usr/bin/python3";

/// Which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Python's own `xmlrpc.client`: HTTP/1.1.
    Xmlrpc,
    /// Twisted's: HTTP/1.0, `Host` without a port.
    Twisted,
}

/// Whether a client can run here; the reason where it cannot.
///
/// # Errors
/// Never runs: the reason, for a line that says `skipped:`.
pub fn available(make: Make) -> Result<(), String> {
    let module = match make {
        Make::Xmlrpc => "xmlrpc.client",
        Make::Twisted => "twisted.web.xmlrpc",
    };
    run_ok(Command::new(PYTHON).args(["-c", &format!("import {module}")]))
        .map(drop)
        .map_err(|_| format!("{PYTHON} has no {module}: scripts/setup --tests installs it"))
}

/// Has `source` built by the builder at `url`; further options as `tests/python/` documents them. The answer is the
/// manager's own report: `build_status`, `build_id`, `files`, `dependencies`.
///
/// # Errors
/// The manager met something that Launchpad's would not accept; the error holds what it said.
pub fn build(
    make: Make,
    url: &str,
    source: &Source,
    output: &Path,
    options: &[&str],
) -> Result<Value> {
    let script = match make {
        Make::Xmlrpc => "manager_xmlrpc.py",
        Make::Twisted => "manager_twisted.py",
    };
    let written = run_ok(
        Command::new(PYTHON)
            .arg("-B")
            .arg(root().join("tests/python").join(script))
            .args(["--builder", url, "--arch", &arch()?, "--timeout", "150"])
            .arg("--dsc")
            .arg(&source.dsc)
            .arg("--chroot")
            .arg(&source.chroot)
            .arg("--output")
            .arg(output)
            .args(options),
    )?;
    let last = written.lines().last().context("the manager said nothing")?;
    serde_json::from_str(last).context("the manager's report")
}
