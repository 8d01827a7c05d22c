//! QEMU as the twin starts it: the twin's own processors, memory and board, and the image's kernel, ramdisk and command
//! line with this boot's archive appended. The disk, which outlives the machine, is the test's: some have none, or one
//! that cannot erase itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use panda_protocol::manifest;
use panda_twin::machine::qemu;
use panda_twin::machine::qemu::arch::Arch;

use super::master::Master;

const END_LIMIT: Duration = Duration::from_secs(180);

/// The image under test.
pub(crate) struct Image(PathBuf);

impl Image {
    pub(crate) fn get() -> Self {
        let path = std::env::var_os("PANDA_TEST_QEMU_IMAGE").expect(
            "PANDA_TEST_QEMU_IMAGE: the directory of an image; `scripts/test qemu` makes one",
        );
        Self(path.into())
    }

    fn command_line(&self) -> String {
        let manifest = fs::read(self.0.join("manifest.toml")).unwrap();
        manifest::parse(&manifest).unwrap().cmdline
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }
}

/// A board's scratch disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// None at all.
    None,
    /// One that erases itself when it is told to, of so many MiB.
    Erasing(u64),
    /// One that cannot, as an old USB disk.
    Plain(u64),
}

/// A machine that runs. It loses power when it is dropped.
pub(crate) struct Machine {
    child: Child,
    console: PathBuf,
}

impl Machine {
    /// Starts the image for the boot that `master` awaits. `extra` is appended to the ramdisk; the disk is
    /// `directory`'s and is kept there.
    pub(crate) fn start(
        image: &Image,
        master: &Master,
        disk: Disk,
        directory: &Path,
        extra: &[u8],
    ) -> Self {
        let ramdisk = directory.join("ramdisk");
        let mut bytes = fs::read(image.0.join("ramdisk")).unwrap();
        // The kernel wants each archive to begin on four bytes.
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(extra);
        fs::write(&ramdisk, bytes).unwrap();
        let console = directory.join("console");
        let mut command = qemu::bare(&qemu::Settings {
            arch: Arch::Amd64,
            ..qemu::Settings::default()
        });
        command
            .arg("-kernel")
            .arg(image.0.join("kernel"))
            .arg("-initrd")
            .arg(&ramdisk)
            .args(["-append", &image.command_line()])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-netdev")
            .arg(format!(
                "user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:{}-10.0.2.15:8222",
                master.link.port()
            ))
            .args([
                "-device",
                "virtio-net-pci,netdev=net,romfile=",
                "-device",
                "virtio-rng-pci",
            ]);
        if let Disk::Erasing(mib) | Disk::Plain(mib) = disk {
            let path = directory.join("scratch.img");
            if !path.exists() {
                File::create(&path).unwrap().set_len(mib << 20).unwrap();
            }
            let can = if matches!(disk, Disk::Erasing(_)) {
                "on"
            } else {
                "off"
            };
            command
                .arg("-drive")
                .arg(format!(
                    "file={},format=raw,if=none,id=scratch,discard=unmap",
                    path.display()
                ))
                .arg("-device")
                .arg(format!(
                    "virtio-blk-pci,drive=scratch,discard={can},write-zeroes={can}"
                ));
        }
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .expect("setpriv: install the Debian package util-linux");
        Self { child, console }
    }

    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// Waits until the machine has switched itself off.
    pub(crate) async fn off(&mut self) -> ExitStatus {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let ended = tokio::time::timeout(END_LIMIT, ended).await;
        ended.unwrap_or_else(|_| panic!("still on:\n{}", self.console()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the console:\n{}", self.console());
        }
        // It may have switched itself off.
        drop(self.child.kill());
        self.child.wait().unwrap();
    }
}
