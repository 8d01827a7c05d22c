//! The process machine: the boot image's kernel is a program, run on this host as a board's own first process.
//!
//! ```text
//! setpriv --pdeathsig KILL        dies with the thread that started it, so with the twin
//!   unshare --fork --kill-child   PID, mount, IPC and UTS namespaces; (not root: user namespace too)
//!     RAM/kernel init --machine process --root RAM/root --scratch BOARD/scratch
//! ```
//!
//! A thread of its own prepares the RAM directory, starts the program and waits for it; it lives as long as the
//! machine, because the death signal belongs to the *thread* that is the parent.
//!
//! **Ending it.** Killing `unshare` would let its namespace die some time later. So it is stopped (then it can
//! start nothing), its child, the namespace's first process, is killed, and it goes on: the kernel ends a first
//! process only when everything else in its PID namespace is dead and reaped, whatever it had forked, and
//! `unshare` ends after that. When the thread has reaped `unshare`, the machine is gone.
//!
//! It is **no security boundary**: run by root, the machine is root on this host, with its files and network.
//! It is there to run the whole chain without hardware, on sources that one would build on this host.

use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use panda_protocol::manifest::Machine as ManifestMachine;
use panda_protocol::omap4::bootimg;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::keeper::{self, End, Keeper, SharedStage, Stage, lock, pid, send};
use super::{MachineError, Place, missing, unpack};
use crate::console::Console;

const PACKAGE: &str = "util-linux";
const PROGRAMS: [&str; 2] = ["setpriv", "unshare"];
/// What a board's first process finds in its environment; nothing of the host's.
const ENVIRONMENT: [(&str, &str); 4] = [
    (
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ),
    ("HOME", "/root"),
    ("LANG", "C.UTF-8"),
    ("TERM", "linux"),
];

/// Kernels are written under the read lock, programs started under the write lock. Otherwise the child that is
/// forked for one board would, until it executes its program, hold the file that is being written for another
/// open, and *that* board's kernel could not be executed: "Text file busy".
static KERNELS: RwLock<()> = RwLock::new(());

/// A machine that was started.
#[derive(Debug)]
pub struct ProcessMachine {
    place: Place,
    keeper: Keeper,
}

pub(super) fn check_host() -> Result<(), MachineError> {
    missing(&PROGRAMS.map(|program| (program, PACKAGE)))
}

impl ProcessMachine {
    pub(super) fn start(
        image: Vec<u8>,
        place: Place,
        console: Console,
    ) -> Result<Self, MachineError> {
        let failed = |source| MachineError::io("start a machine in", &place.ram)(source);
        let (reader, writer) = io::pipe().map_err(failed)?;
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(failed)?;
        tokio::spawn(super::listen(output, console.clone()));

        let keeper = {
            let place = place.clone();
            // A stopped `unshare` can start nothing; the thread goes on from there.
            Keeper::start(console, Signal::SIGSTOP, move |stage| {
                live(image, &place, writer, stage)
            })
        };
        Ok(Self {
            keeper: keeper.map_err(failed)?,
            place,
        })
    }

    pub(super) async fn end(&mut self, limit: Duration) -> Result<(), MachineError> {
        self.keeper.end(limit).await?;
        self.place.clear_ram().await
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<End>> {
        self.keeper.watch()
    }
}

/// The whole life of a machine, on its thread.
fn live(
    image: Vec<u8>,
    place: &Place,
    console: PipeWriter,
    stage: &SharedStage,
) -> Result<End, MachineError> {
    prepare(&image, place)?;
    drop(image);
    let Some(mut child) = keeper::started(stage, || spawn(place, console))? else {
        return Ok(End::Ordered);
    };
    let ended = wait(&child, stage);
    let status = child
        .wait()
        .map_err(MachineError::io("wait for", &place.ram))?;
    Ok(if ended? {
        End::Ordered
    } else {
        End::Halted(status.to_string())
    })
}

/// Lays out the board's RAM: the kernel, and the ramdisk unpacked.
fn prepare(image: &[u8], place: &Place) -> Result<(), MachineError> {
    let image = bootimg::parse(image, ManifestMachine::Process)?;
    super::remove(&place.ram)?;
    let private = |path: &Path| {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(MachineError::io("create", path))
    };
    private(&place.ram)?;
    private(&place.scratch)?;
    let kernel = place.ram.join("kernel");
    {
        let _written = KERNELS.read().unwrap_or_else(PoisonError::into_inner);
        unpack::file(&kernel, 0o700, image.kernel).map_err(MachineError::io("write", &kernel))?;
    }
    unpack::unpack(image.ramdisk, &place.ram.join("root"))
}

fn spawn(place: &Place, console: PipeWriter) -> Result<Child, MachineError> {
    let [setpriv, unshare] = PROGRAMS;
    let kernel = place.ram.join("kernel");
    let failed = MachineError::io("start", &kernel);
    let user: &[&str] = if nix::unistd::geteuid().is_root() {
        &[]
    } else {
        &["--user", "--map-root-user"]
    };
    let stderr = match console.try_clone() {
        Ok(stderr) => stderr,
        Err(error) => return Err(failed(error)),
    };
    let mut command = Command::new(setpriv);
    command
        .args([
            "--pdeathsig",
            "KILL",
            unshare,
            "--fork",
            "--kill-child=SIGKILL",
        ])
        .args(["--pid", "--mount-proc", "--mount", "--ipc", "--uts"])
        .args(user)
        .arg("--")
        .arg(&kernel)
        .args(["init", "--machine", "process", "--root"])
        .arg(place.ram.join("root"))
        .arg("--scratch")
        .arg(&place.scratch)
        .env_clear()
        .envs(ENVIRONMENT)
        .current_dir(&place.ram)
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(stderr)
        .process_group(0);
    let _started = KERNELS.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().map_err(failed)
}

/// Waits until `unshare` has ended, without reaping it, and ends its child when that is ordered. Says whether
/// it was ordered.
fn wait(child: &Child, stage: &SharedStage) -> Result<bool, MachineError> {
    let unshare = pid(child);
    let failed = |errno: nix::Error| {
        MachineError::io("wait for", Path::new("unshare"))(io::Error::from(errno))
    };
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(unshare), flags) {
            Ok(WaitStatus::Stopped(..)) => {
                let seen = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG;
                waitid(Id::Pid(unshare), seen).map_err(failed)?;
                if *lock(stage) == Stage::Ending {
                    end_stopped(unshare);
                }
                send(unshare, Signal::SIGCONT);
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                return Ok(keeper::was_ordered(stage));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}

/// Ends the machine of a stopped `unshare`: its child, or itself where it has none (yet, or any more).
fn end_stopped(unshare: Pid) {
    let children = children(unshare);
    for &child in &children {
        send(child, Signal::SIGKILL);
    }
    if children.is_empty() {
        send(unshare, Signal::SIGKILL);
    }
}

/// The processes whose parent is `parent`, which is stopped, so that they do not change.
fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(|&pid| parent_of(pid) == Some(parent))
        .collect()
}

/// A process's parent, from `/proc/PID/stat`: `PID (NAME) STATE PARENT ...`, where NAME may hold anything.
fn parent_of(pid: Pid) -> Option<Pid> {
    let mut stat = Vec::new();
    File::open(format!("/proc/{pid}/stat"))
        .ok()?
        .take(4096)
        .read_to_end(&mut stat)
        .ok()?;
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_whitespace()
        .nth(1)?
        .parse()
        .ok()
        .map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use panda_protocol::cpio::Writer;
    use panda_protocol::omap4::bootimg::{PageSize, Spec, compose};

    use super::*;

    /// How often each of the boards is started; all at once.
    const STARTS: usize = 6;

    #[test]
    fn boards_that_start_at_once_do_not_keep_each_others_kernels_busy() {
        let directory = tempfile::tempdir().unwrap();
        // Large, so that it takes a while to write.
        let mut kernel = b"#!/bin/sh\nexit 0\n#".to_vec();
        kernel.resize(4 << 20, b'x');
        let spec = Spec {
            machine: ManifestMachine::Process,
            page_size: PageSize::try_from(2048).unwrap(),
            cmdline: "",
        };
        let image = compose(&spec, &kernel, &[&Writer::new().finish()]).unwrap();
        let statuses: Vec<String> = std::thread::scope(|scope| {
            let boards: Vec<_> = (0..8)
                .map(|number| {
                    let place = Place::of(&directory.path().join(number.to_string()));
                    let image = &image;
                    scope.spawn(move || {
                        (0..STARTS)
                            .map(|_| {
                                let (mut said, console) = io::pipe().unwrap();
                                let stage = SharedStage::new(Mutex::new(Stage::Preparing));
                                let end = live(image.clone(), &place, console, &stage);
                                let mut words = String::new();
                                said.read_to_string(&mut words).unwrap();
                                format!("{:?} {words}", end.unwrap())
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            boards
                .into_iter()
                .flat_map(|board| board.join().unwrap())
                .collect()
        });
        assert_eq!(statuses, vec!["Halted(\"exit status: 0\") "; 8 * STARTS]);
    }
}
