//! Running sbuild in an unpacked chroot, as a plain schroot. Its configuration and schroot's are this
//! build's alone: they are mounted over the host's in the build's own mount namespace, so builds on
//! one host never meet and nothing is left behind.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::command::{CommandError, log, read_lines, run_scanned};
use super::mounts::{MountError, cover};
use super::personality;
use super::root::Root;
use super::users::USER;
use crate::worker::args::BuildArgs;
use crate::worker::outcome::LogScan;
use crate::worker::plan::Plan;

/// The chroot's name for schroot. No other is configured where it is seen.
const NAME: &str = "panda-build";
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// sbuild as Launchpad's builder runs it: it builds, and does nothing else. Of the environment that it is given only the
/// build's options are let through; what it sets besides, an upload may count on.
const SBUILD_RC: &str = "\
$sbuild_mode = 'buildd';
$chroot_mode = 'schroot';
$build_arch_all = 0;
$build_source = 0;
$apt_update = 0;
$apt_upgrade = 0;
$apt_distupgrade = 0;
$apt_clean = 0;
$build_dep_resolver = 'apt';
$resolve_alternatives = 1;
$bd_uninstallable_explainer = 'none';
$check_space = 0;
$purge_build_deps = 'never';
$purge_build_directory = 'never';
$purge_session = 'always';
$stalled_pkg_timeout = 150;
$log_colour = 0;
$verbose = 1;
$run_lintian = 0;
$run_piuparts = 0;
$run_autopkgtest = 0;
$environment_filter = ['^DEB_BUILD_OPTIONS$'];
$build_environment = { 'LANG' => 'C.UTF-8', 'TERM' => 'unknown', 'V' => '1' };
";

/// Who may use schroot: root, and that is all there is to it. sbuild calls it a hundred times a build, and each time the
/// host's rules would load a dozen libraries, systemd's among them.
const PAM: &str = "\
auth sufficient pam_rootok.so
auth required pam_deny.so
account required pam_permit.so
session required pam_permit.so
";
/// PAM reads these too, whatever the service.
const PAM_OTHER: &str = "\
auth required pam_deny.so
account required pam_deny.so
session required pam_deny.so
";

/// Why sbuild was not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SbuildError {
    /// Its configuration cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its configuration cannot be put over the host's.
    #[error("sbuild's configuration: {0}")]
    Mount(#[from] MountError),
    /// It cannot be run.
    #[error(transparent)]
    Run(#[from] CommandError),
}

/// Builds; returns sbuild's exit status and what its log says. [`configure`] comes before, once.
pub(crate) fn build(plan: &Plan) -> Result<(Option<i32>, LogScan), SbuildError> {
    let private = plan.work.private();
    let args = &plan.args;
    log(&format!(
        "Initiating build {} with {} processor cores.",
        plan.build_id,
        cores()
    ));
    let mut uname = personality::under("uname", args);
    uname.arg("-srvm").env_clear().env("PATH", PATH);
    read_lines(&mut uname, &mut |line| {
        log(&format!("Kernel reported to sbuild: {line}"));
    })?;
    let mut command = personality::under("sbuild", args);
    command
        .args(["-c", &format!("chroot:{NAME}")])
        .arg(format!("--arch={}", args.arch_tag))
        .arg(format!("--dist={}", args.suite))
        .arg("--nolog");
    if args.arch_indep {
        command.arg("-A");
    }
    command
        .arg(plan.dsc.as_str())
        .current_dir(plan.work.files())
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .env("TERM", "unknown")
        .env("HOME", &private)
        .env("USER", "root")
        .env("LOGNAME", "root")
        .env("SHELL", "/bin/sh")
        .env("SBUILD_CONFIG", private.join("sbuildrc"))
        .env("DEB_BUILD_OPTIONS", build_options(args.debug_symbols));
    Ok(run_scanned(command)?)
}

/// A command inside the chroot, as root, with nothing of the host's environment.
pub(crate) fn in_chroot(root: &Root, args: &BuildArgs, words: &[&str]) -> Command {
    let mut command = personality::under("chroot", args);
    command
        .arg(root.path())
        .args(words)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .env("TERM", "unknown")
        .env("HOME", "/root")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn build_options(debug_symbols: bool) -> String {
    let cores = cores();
    let symbols = if debug_symbols { "" } else { " noautodbgsym" };
    format!("parallel={cores}{symbols}")
}

/// Whom a `.changes` names as the one who built.
fn maintainer() -> String {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let mut host = host.unwrap_or_default();
    host.retain(|c| c.is_ascii_alphanumeric() || ".-".contains(c));
    if host.is_empty() {
        host.push_str("localhost");
    }
    format!("Launchpad Build Daemon <buildd@{host}>")
}

/// Writes sbuild's and schroot's configuration, and puts it over the host's.
pub(crate) fn configure(root: &Root, private: &Path) -> Result<(), SbuildError> {
    let chroots = private.join("chroot.d");
    let sessions = private.join("session");
    let pam = private.join("pam.d");
    for path in [&chroots, &sessions, &pam] {
        fs::create_dir(path).map_err(|source| SbuildError::Write {
            path: path.clone(),
            source,
        })?;
    }
    let user = format!(
        "$build_user = '{USER}';\n$maintainer_name = '{}';\n1;\n",
        maintainer()
    );
    let schroot = format!(
        "[{NAME}]\ntype=plain\ndescription=this build\ndirectory={}\nusers=root\nroot-users=root\n",
        root.path().display()
    );
    for (path, text) in [
        (private.join("sbuildrc"), format!("{SBUILD_RC}{user}")),
        (chroots.join(NAME), schroot),
        (pam.join("schroot"), PAM.to_owned()),
        (pam.join("other"), PAM_OTHER.to_owned()),
    ] {
        fs::write(&path, text).map_err(|source| SbuildError::Write { path, source })?;
    }
    cover(&chroots, Path::new("/etc/schroot/chroot.d"))?;
    cover(&sessions, Path::new("/var/lib/schroot/session"))?;
    Ok(cover(&pam, Path::new("/etc/pam.d"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_symbols_are_left_out_unless_wanted() {
        assert!(build_options(false).ends_with(" noautodbgsym"));
        let wanted = build_options(true);
        assert!(
            wanted.starts_with("parallel=") && !wanted.contains("noautodbgsym"),
            "{wanted}"
        );
    }
}
