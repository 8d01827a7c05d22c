//! What `pandabuildd boot` sends: read and checked whole before any board is waited for.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use panda_protocol::digest::Sha256;
use panda_protocol::manifest::Machine;
use panda_protocol::omap4::bootimg::{self, PageSize, Spec};
use panda_protocol::omap4::{aboot, rom};
use panda_protocol::zimage;
use sha2::Digest as _;

/// Files that make it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Files {
    /// The second stage: aboot, built without signature checking; at most 48 KiB
    #[arg(long, value_name = "FILE")]
    pub(super) second_stage: PathBuf,
    /// The kernel, an ARM zImage
    #[arg(long, value_name = "FILE", required_unless_present = "raw")]
    pub(super) kernel: Option<PathBuf>,
    /// A device tree, to be appended to the kernel: omap4-panda.dtb, omap4-panda-es.dtb
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub(super) dtb: Option<PathBuf>,
    /// A ramdisk
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub(super) ramdisk: Option<PathBuf>,
    /// The kernel's command line, at most 511 bytes
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub(super) cmdline: Option<String>,
    /// In their place: any file, sent as it is; a boot image is booted, anything else is jumped to
    #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
    pub(super) raw: Option<PathBuf>,
}

/// Ready to be sent.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) second_stage: Vec<u8>,
    pub(super) image: Vec<u8>,
    pub(super) digest: Sha256,
}

impl Files {
    /// Reads and checks all of it.
    pub(super) fn load(&self) -> anyhow::Result<Payload> {
        let second_stage = read(&self.second_stage, rom::MAX_SECOND_STAGE)?;
        rom::second_stage_size(second_stage.len())
            .with_context(|| self.second_stage.display().to_string())?;
        let image = match (&self.kernel, &self.raw) {
            (Some(kernel), _) => self.compose(kernel)?,
            (None, Some(raw)) => {
                let image = read(raw, aboot::MAX_IMAGE as usize)?;
                aboot::size_word(image.len()).with_context(|| raw.display().to_string())?;
                image
            }
            (None, None) => bail!("give --kernel or --raw"),
        };
        Ok(Payload {
            digest: Sha256::from_bytes(sha2::Sha256::digest(&image).into()),
            second_stage,
            image,
        })
    }

    fn compose(&self, kernel_file: &Path) -> anyhow::Result<Vec<u8>> {
        let cmdline = self.cmdline.as_deref().unwrap_or_default();
        bootimg::check_cmdline(cmdline).context("--cmdline")?;
        let kernel = read(kernel_file, aboot::MAX_KERNEL as usize)?;
        let dtb = self.dtb.as_deref();
        let dtb = dtb.map(|file| read(file, zimage::MAX_DTB)).transpose()?;
        let kernel = zimage::with_dtb(kernel, dtb.as_deref()).with_context(|| {
            let tree = self.dtb.as_ref();
            let tree = tree.map_or(String::new(), |tree| format!(" with {}", tree.display()));
            format!("{}{tree}", kernel_file.display())
        })?;
        let ramdisk = self.ramdisk.as_deref();
        let ramdisk = ramdisk.map(|file| read(file, aboot::MAX_IMAGE as usize));
        let ramdisk = ramdisk.transpose()?.unwrap_or_default();
        let spec = Spec {
            machine: Machine::Panda,
            page_size: PageSize::try_from(2048)?,
            cmdline,
        };
        Ok(bootimg::compose(&spec, &kernel, &[&ramdisk])?)
    }
}

/// A file of at most `most` bytes.
fn read(path: &Path, most: usize) -> anyhow::Result<Vec<u8>> {
    let name = || path.display().to_string();
    let metadata = std::fs::metadata(path).with_context(name)?;
    ensure!(metadata.is_file(), "{}: expected a file", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(name)?;
    file.take(most as u64 + 1)
        .read_to_end(&mut bytes)
        .with_context(name)?;
    ensure!(
        bytes.len() <= most,
        "{}: has {} bytes; at most {most} can be taken",
        path.display(),
        metadata.len()
    );
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench(tempfile::TempDir);

    impl Bench {
        fn new() -> Self {
            let bench = Self(tempfile::tempdir().unwrap());
            bench.file("aboot", &[1; 14_000]);
            let mut kernel = vec![0; 400];
            for (at, word) in [(0x24, 0x016f_2818_u32), (0x2c, 400), (0x30, 0x0403_0201)] {
                kernel[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            bench.file("kernel", &kernel);
            bench.file(
                "dtb",
                &[&[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 12][..], &[9; 4]].concat(),
            );
            bench.file("ramdisk", b"ramdisk");
            bench
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        }

        fn files(&self) -> Files {
            let path = |name| self.0.path().join(name);
            Files {
                second_stage: path("aboot"),
                kernel: Some(path("kernel")),
                dtb: Some(path("dtb")),
                ramdisk: Some(path("ramdisk")),
                cmdline: Some("console=ttyS2,115200".to_owned()),
                raw: None,
            }
        }
    }

    #[test]
    fn kernel_tree_ramdisk_and_command_line_become_one_boot_image() {
        let bench = Bench::new();
        let payload = bench.files().load().unwrap();
        assert_eq!(payload.second_stage, [1; 14_000]);
        let image = bootimg::parse(&payload.image, Machine::Panda).unwrap();
        assert_eq!(image.kernel.len(), 412);
        assert!(
            image
                .kernel
                .ends_with(&[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 12, 9, 9, 9, 9])
        );
        assert_eq!(image.ramdisk, b"ramdisk");
        assert_eq!(image.cmdline, "console=ttyS2,115200");
        let raw = Files {
            kernel: None,
            dtb: None,
            ramdisk: None,
            cmdline: None,
            raw: Some(bench.file("raw", b"code")),
            ..bench.files()
        };
        assert_eq!(raw.load().unwrap().image, b"code");
    }

    #[test]
    fn what_no_board_could_take_is_refused_with_its_file() {
        let bench = Bench::new();
        let path = |name: &str, bytes: &[u8]| bench.file(name, bytes);
        let sparse = |name: &str, bytes: u64| {
            let path = bench.0.path().join(name);
            std::fs::File::create(&path)
                .unwrap()
                .set_len(bytes)
                .unwrap();
            path
        };
        let raw = |file| Files {
            kernel: None,
            raw: Some(file),
            ..bench.files()
        };
        let cases = [
            (
                Files {
                    second_stage: path("big-stage", &[0; 49_153]),
                    ..bench.files()
                },
                "big-stage: has 49153 bytes; at most 49152",
            ),
            (
                Files {
                    second_stage: path("no-stage", &[]),
                    ..bench.files()
                },
                "no-stage",
            ),
            (
                Files {
                    kernel: Some(path("vmlinux", b"\x7fELF")),
                    ..bench.files()
                },
                "no ARM zImage: it is an ELF file",
            ),
            (
                Files {
                    kernel: Some(sparse("big-kernel", u64::from(aboot::MAX_KERNEL) + 1)),
                    ..bench.files()
                },
                "big-kernel: has",
            ),
            (
                Files {
                    dtb: Some(path("dts", b"/dts-v1/;")),
                    ..bench.files()
                },
                "the device tree is none",
            ),
            (
                Files {
                    cmdline: Some("x".repeat(512)),
                    ..bench.files()
                },
                "512 bytes; aboot takes at most 511",
            ),
            (
                Files {
                    kernel: Some(bench.0.path().to_owned()),
                    ..bench.files()
                },
                "expected a file",
            ),
            (raw(path("empty", &[])), "1 to"),
            (
                raw(sparse("huge", u64::from(aboot::MAX_IMAGE) + 1)),
                "huge: has",
            ),
            (raw(bench.0.path().join("missing")), "missing"),
        ];
        for (files, says) in cases {
            let error = format!("{:#}", files.load().unwrap_err());
            assert!(error.contains(says), "{says}: {error}");
        }
    }
}
