//! What a process inherits beside its environment, put at what a machine's first process would hand down:
//! whoever has started the worker, by a script, from a terminal or with a lock in its hand, must not show in a build.
//!
//! Signals that the starter ignores are set to their defaults by `env --default-signal`, which the worker puts before this
//! program: see `worker::runner`.

use std::fs;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, close, setgroups, setsid};

/// Soft and hard limits, as the kernel gives them to its first process and systemd to its services.
const LIMITS: &[(Resource, rlim_t, rlim_t)] = &[
    (Resource::RLIMIT_AS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_CORE, 0, RLIM_INFINITY),
    (Resource::RLIMIT_CPU, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_DATA, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_FSIZE, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_LOCKS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
    (Resource::RLIMIT_MSGQUEUE, 819_200, 819_200),
    (Resource::RLIMIT_NICE, 0, 0),
    (Resource::RLIMIT_NOFILE, 1 << 10, 1 << 20),
    (Resource::RLIMIT_NPROC, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_RSS, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_RTPRIO, 0, 0),
    (Resource::RLIMIT_RTTIME, RLIM_INFINITY, RLIM_INFINITY),
    (Resource::RLIMIT_STACK, 8 << 20, RLIM_INFINITY),
];

/// Puts this process's attributes, and so those of all that it starts, at their standard. What it may not change
/// stays as it is: that is so only where the worker is not root.
pub(crate) fn standard() {
    close_others();
    umask(Mode::from_bits_truncate(0o022));
    for (resource, soft, hard) in LIMITS {
        limit(*resource, *soft, *hard);
    }
    let groups = setgroups(&[Gid::from_raw(0)]);
    // Without a terminal; it fails only for one that leads a group already.
    let session = setsid().map(drop);
    let place = std::env::set_current_dir("/").map_err(|_| nix::errno::Errno::EACCES);
    for error in [groups, session, place].into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "an attribute stays as it was inherited");
    }
}

/// Closes every descriptor but the standard ones; this program has opened none yet.
fn close_others() {
    let Ok(open) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > 2)
        .collect();
    for descriptor in open {
        if let Err(error) = close(descriptor) {
            // The one that read the directory is gone already.
            tracing::trace!(descriptor, %error, "not open");
        }
    }
}

fn limit(resource: Resource, soft: rlim_t, hard: rlim_t) {
    if setrlimit(resource, soft, hard).is_ok() {
        return;
    }
    let lowered = getrlimit(resource)
        .and_then(|(_, highest)| setrlimit(resource, soft.min(highest), hard.min(highest)));
    if let Err(error) = lowered {
        tracing::debug!(?resource, %error, "a limit stays as it was inherited");
    }
}
