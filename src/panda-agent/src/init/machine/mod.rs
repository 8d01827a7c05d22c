//! The first seconds of a machine with a kernel of its own: QEMU's, or a Panda. This program is `/init` of the ramdisk,
//! the kernel's first process, and there is nothing else: no shell, no udev, no tools.
//!
//! ```text
//! /init of the ramdisk                                               one step each, timed, said on the console
//!   mounts ▶ files ▶ modules ▶ random ▶ clock ▶ network ▶ master ▶ disk ▶ rootfs ▶ scratch ▶ root
//!      │       boot.toml, agent.toml; the key's file is gone │ time    │      │        └ keys, ext4, swap
//!      └ any failure ─▶ console, and POST /failure ─▶ power off        └ to RAM, hashed, then used
//!                                                                      ▼
//! /usr/bin/panda-agent of the root file system, become through a pipe (handover), still the first process
//!   supervise ─▶ panda-agent --supervised: switch ▶ link ▶ worker ▶ report
//! ```
//! What is done where devices differ is told by what is there, so QEMU and a Panda take the same way.

mod areas;
mod clock;
mod disk;
mod end;
mod handover;
mod modules;
mod mounts;
mod network;
mod root;
pub(crate) mod rootfs;
mod scratch;
mod steps;
mod tools;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use panda_http::ClientError;
use panda_protocol::agent_toml::AgentToml;
use panda_protocol::boot_toml::BootToml;

use super::files;
use crate::link::DepotClient;
use scratch::Keys;
use tools::Tools;

pub(crate) use end::{failure, tell};
pub use end::{power_off, protect};
pub(crate) use handover::Handover;
pub use handover::HandoverError;
pub use steps::Failed;
pub(crate) use steps::{Steps, since_kernel};
pub use tools::{COMMAND as IN_ROOT, become_in_root};

/// How long the master may be silent before the boot is given up.
const MASTER_LIMIT: Duration = Duration::from_secs(60);
const MASTER_PAUSE: Duration = Duration::from_millis(250);

/// Whether this is a ramdisk's first process, as its arguments tell: the kernel starts `/init`, with what it did not
/// understand of its command line.
#[must_use]
pub fn is_ramdisk_init(arguments: &[OsString]) -> bool {
    let Some(own) = arguments.first() else {
        return false;
    };
    let called_init = Path::new(own).file_name() == Some(OsStr::new("init"));
    std::process::id() == 1 && called_init
}

/// Boots a ramdisk's machine. Returns only when that has failed, after all has been told that can be.
///
/// # Errors
/// Always: on success this process has become another program.
pub async fn boot_ramdisk() -> Failed {
    let mut boot = Boot {
        steps: Steps::after_kernel(),
        boot: None,
        network: Network::Down,
    };
    let failed = match boot.go().await {
        Ok(ready) => {
            let error = ready.become_program();
            Failed {
                step: "switch",
                reason: error.to_string(),
            }
        }
        Err(failed) => failed,
    };
    boot.tell(&failed).await;
    failed
}

/// A boot under way.
#[derive(Debug)]
struct Boot {
    steps: Steps,
    boot: Option<BootToml>,
    network: Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    Down,
    Tried,
    Up,
}

impl Boot {
    async fn go(&mut self) -> Result<Handover, Failed> {
        let steps = &mut self.steps;
        let mounted = async {
            mounts::first().map_err(|error| error.to_string())?;
            mounts::in_a_ramdisk().map_err(|error| error.to_string())?;
            Ok::<_, String>(((), String::new()))
        };
        steps.run("mounts", mounted).await?;
        let (boot, agent) = steps.run("files", async { read_files() }).await?;
        let boot: &BootToml = self.boot.insert(boot);
        if agent.insecure_fixed_disk_key {
            tracing::error!(
                "INSECURE: this image has a fixed disk key, and keeps what builds leave behind"
            );
        }
        let loaded = async { modules::load_all(Path::new("/")).map(with(modules::Loaded::detail)) };
        let loaded = steps.run("modules", loaded).await?;
        let random = async { scratch::random_is_ready().map(|()| ((), String::new())) };
        steps.run("random", random).await?;
        let clock = async {
            clock::set(boot.time_unix_ms, since_kernel())
                .map(|()| ((), "from boot.toml".to_owned()))
        };
        steps.run("clock", clock).await?;
        self.network = Network::Tried;
        let up = async { network::up(&boot.network).await.map(|detail| ((), detail)) };
        steps.run("network", up).await?;
        self.network = Network::Up;
        let depot = steps.run("master", greet(boot)).await?;
        let saying = depot.clone();
        // It ends with this program; the next one goes on with it.
        drop(tokio::spawn(async move { saying.say_alive().await }));
        let found = async {
            disk::find()
                .await
                .map(with(|disk: &disk::Disk| disk.path.display().to_string()))
        };
        let disk = steps.run("disk", found).await?;
        let brought = async {
            let (rootfs, at) =
                rootfs::bring(&depot, boot.rootfs.as_ref(), loaded.ram_disk.as_deref()).await?;
            let detail = format!("{} MiB, verified", rootfs.bytes >> 20);
            Ok::<_, rootfs::RootFsError>(((rootfs, at), detail))
        };
        let (rootfs, early) = steps.run("rootfs", brought).await?;
        let keys = if agent.insecure_fixed_disk_key {
            Keys::Fixed
        } else {
            Keys::Throwaway
        };
        let tools = Tools::in_root(&early);
        let areas = steps
            .run("scratch", scratch::open(&disk, rootfs.bytes, keys, &tools))
            .await?;
        let made = async {
            root::make(&areas, rootfs.bytes, &early, &boot.network).map(|detail| ((), detail))
        };
        steps.run("root", made).await?;
        let switched = async { root::switch().map(|()| ((), String::new())) };
        steps.run("switch", switched).await?;
        Ok(Handover {
            boot: boot.clone(),
            agent,
            rootfs: rootfs.sha256,
            steps: steps.done().to_vec(),
            at: since_kernel(),
        })
    }

    /// Tells the master, as far as it can be reached. Modules may have failed that the network does not need.
    async fn tell(&mut self, failed: &Failed) {
        let Some(boot) = &self.boot else {
            return;
        };
        if self.network == Network::Down {
            match network::up(&boot.network).await {
                Ok(_) => self.network = Network::Up,
                Err(error) => tracing::error!("boot: the master cannot be told: {error}"),
            }
        }
        if self.network == Network::Up {
            tell(boot, &failure(boot, failed, &self.steps)).await;
        }
    }
}

fn read_files() -> Result<((BootToml, AgentToml), String), files::FilesError> {
    let root = Path::new("/");
    let boot = files::boot(root)?;
    let agent = files::agent(root)?;
    let detail = format!("slot {} boot {}", boot.slot, boot.boot);
    Ok(((boot, agent), detail))
}

/// Waits for the master, and takes its time.
async fn greet(boot: &BootToml) -> Result<(DepotClient, String), String> {
    let depot = DepotClient::new(&boot.link).map_err(|error| error.to_string())?;
    let begun = since_kernel();
    loop {
        let asked = since_kernel();
        let problem = match depot.time().await {
            Ok(time) => {
                // It was that time in the middle of the answer's way, as far as anybody knows.
                let since = since_kernel().saturating_sub(asked) / 2;
                clock::set(time, since).map_err(|error| error.to_string())?;
                return Ok((depot, format!("{}, and its time", boot.link.depot)));
            }
            // A master that does not tell its time has told it in boot.toml.
            Err(ClientError::Status(404 | 405)) => return Ok((depot, boot.link.depot.clone())),
            Err(problem) => problem,
        };
        if since_kernel().saturating_sub(begun) >= MASTER_LIMIT {
            let (at, seconds) = (&boot.link.depot, MASTER_LIMIT.as_secs());
            return Err(format!(
                "the master at {at} does not answer within {seconds} s: {problem}"
            ));
        }
        tokio::time::sleep(MASTER_PAUSE).await;
    }
}

/// A value with what is to be said of it.
fn with<T>(say: impl FnOnce(&T) -> String) -> impl FnOnce(T) -> (T, String) {
    move |value| {
        let said = say(&value);
        (value, said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_first_process_is_a_ramdisks_init() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        // This process is not the first one.
        assert!(!is_ramdisk_init(&arguments(&["/init"])));
        assert!(!is_ramdisk_init(&arguments(&[])));
    }
}
