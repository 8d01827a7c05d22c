//! Whether this machine can run programs of another architecture, which making a chroot needs: its
//! packages' own scripts run inside it.

use std::path::Path;

use crate::programs;

/// Programs of `arch` cannot be run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this machine ({host}) cannot run {arch} programs, and making a chroot needs that: \
     apt-get install qemu-user-static binfmt-support, and see that the kernel has binfmt_misc mounted on \
     /proc/sys/fs/binfmt_misc with {handler} in it; or make the chroot on an {arch} machine"
)]
pub(crate) struct CannotRun {
    host: &'static str,
    arch: String,
    handler: String,
}

/// Checks that programs of Debian architecture `arch` run here.
///
/// # Errors
/// [`CannotRun`], with what to do.
pub(crate) fn check(arch: &str) -> Result<(), CannotRun> {
    check_in(
        programs::host_arch(),
        arch,
        Path::new("/proc/sys/fs/binfmt_misc"),
    )
}

fn check_in(host: &'static str, arch: &str, binfmt: &Path) -> Result<(), CannotRun> {
    let native = host == arch || matches!((host, arch), ("amd64", "i386") | ("armhf", "armel"));
    let handler = format!("qemu-{}", qemu_name(arch));
    let registered = || {
        std::fs::read_to_string(binfmt.join(&handler))
            .is_ok_and(|text| text.lines().next() == Some("enabled"))
    };
    if native || registered() {
        Ok(())
    } else {
        Err(CannotRun {
            host,
            arch: arch.to_owned(),
            handler,
        })
    }
}

/// The processor's name in QEMU's words.
fn qemu_name(arch: &str) -> &str {
    match arch {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "armhf" | "armel" => "arm",
        "ppc64el" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_architecture_needs_nothing() {
        check_in("amd64", "amd64", Path::new("/nowhere")).unwrap();
    }

    #[test]
    fn another_needs_an_enabled_handler_and_the_error_says_how_to_get_one() {
        let binfmt = tempfile::tempdir().unwrap();
        let error = check_in("amd64", "armhf", binfmt.path())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("qemu-user-static") && error.contains("qemu-arm"),
            "{error}"
        );
        std::fs::write(binfmt.path().join("qemu-arm"), "disabled\n").unwrap();
        check_in("amd64", "armhf", binfmt.path()).unwrap_err();
        std::fs::write(binfmt.path().join("qemu-arm"), "enabled\ninterpreter /x\n").unwrap();
        check_in("amd64", "armhf", binfmt.path()).unwrap();
    }
}
