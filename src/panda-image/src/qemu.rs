//! Makes an image for QEMU out of parts that somebody has prepared (`pandabuildd image build` prepares them from Debian
//! packages), and variants of an image that differ in what the agent is told.
//!
//! ```text
//! kernel        as it was packaged
//! ramdisk       /init = the agent, /agent.toml, /modules/NNN-…                 (see `ramdisk`)
//! rootfs        squashfs: the prepared root file system and /usr/bin/panda-agent
//! second-stage  some bytes: the twin's second stage is software of its own
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use panda_protocol::agent_toml::AgentToml;
use panda_protocol::cpio;
use panda_protocol::family::FamilyName;
use panda_protocol::manifest::{self, Machine, Manifest};

use crate::draft::Draft;
use crate::ramdisk::Ramdisk;
use crate::{Image, ImageError};

const SECOND_STAGE: &[u8] = b"pandabuildd: second stage of the virtual machine\n";
const PAGE_SIZE: u32 = 4096;
/// What keeps programs of one machine from each other, and their memory, protects nothing there: all that runs is one build,
/// which may be root. It costs much where it is emulated; so does testing ciphers at each boot. Most of all, programs at
/// addresses of chance: QEMU translates the same code anew for each address, a third of all time.
const UNPROTECTED: &str =
    "mitigations=off init_on_alloc=0 apparmor=0 audit=0 cryptomgr.notests norandmaps";
/// Where the root file system has the agent.
const AGENT: &str = "usr/bin/panda-agent";
/// The parts' names in the image's directory.
pub(crate) const ROOTFS: &str = "rootfs";

/// Prepared parts.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// The kernel's file.
    pub(crate) kernel: PathBuf,
    /// The modules' files, in the order they are loaded, not compressed.
    pub(crate) modules: Vec<PathBuf>,
    /// The agent's program, static.
    pub(crate) agent: PathBuf,
    /// A name for people.
    pub(crate) name: String,
}

/// The kernel command line of a machine of `arch`: its console is the serial line, and a panic ends it, so that
/// it is seen. A PC's kernel does not count its timer's ticks against its own loops: on a busy host an emulated
/// processor fails that test, and the kernel panics. The last word says what the machine is.
pub(crate) fn cmdline(arch: &str) -> String {
    let machine = match arch {
        "amd64" | "i386" => "console=ttyS0 no_timer_check",
        _ => "console=ttyAMA0",
    };
    format!("{machine} {UNPROTECTED} panic=-1 quiet pandabuildd.machine=qemu")
}

/// Finishes the image whose root file system is at `draft`'s [`ROOTFS`] already.
///
/// # Errors
/// Files that cannot be read or written, or parts that no image can hold.
pub(crate) fn finish(
    draft: Draft,
    parts: &Parts,
    settings: &AgentToml,
) -> Result<Image, ImageError> {
    let mut ramdisk = Ramdisk::new();
    ramdisk.directories()?;
    ramdisk.settings(settings)?;
    ramdisk.init(&read(&parts.agent)?)?;
    for module in &parts.modules {
        let name = module
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        ramdisk.module(&name, &read(module)?)?;
    }
    let manifest = Manifest {
        version: manifest::VERSION,
        name: parts.name.clone(),
        arch: settings.arch.clone(),
        machine: Machine::Qemu,
        family: FamilyName::default(),
        cmdline: cmdline(&settings.arch),
        page_size: PAGE_SIZE,
        second_stage: draft.write("second-stage", SECOND_STAGE)?,
        kernel: draft.copy("kernel", &parts.kernel)?,
        ramdisk: draft.write("ramdisk", &ramdisk.finish())?,
        rootfs: Some(draft.part(ROOTFS)?),
        parts: BTreeMap::new(),
        worker: None,
    };
    draft.publish(&manifest)
}

/// Makes the image that differs from `image` only in what the agent is told: the new `agent.toml` is appended to
/// the ramdisk, where the kernel, which unpacks archives in order, finds it last.
///
/// # Errors
/// Files that cannot be read or written.
pub fn variant(image: &Image, settings: &AgentToml, directory: &Path) -> Result<Image, ImageError> {
    let draft = Draft::begin(directory)?;
    let earlier = image.manifest();
    let mut other = Ramdisk::new();
    other.settings(settings)?;
    let mut ramdisk = read(&image.path(&earlier.ramdisk))?;
    ramdisk.resize(ramdisk.len().next_multiple_of(cpio::ALIGNMENT), 0);
    ramdisk.extend(other.finish());
    let copied = |part: &manifest::Part| draft.copy(part.file.as_str(), &image.path(part));
    let manifest = Manifest {
        name: format!("{}, variant", earlier.name),
        second_stage: copied(&earlier.second_stage)?,
        kernel: copied(&earlier.kernel)?,
        ramdisk: draft.write(earlier.ramdisk.file.as_str(), &ramdisk)?,
        rootfs: earlier.rootfs.as_ref().map(copied).transpose()?,
        parts: earlier
            .parts
            .iter()
            .map(|(name, part)| Ok((name.clone(), copied(part)?)))
            .collect::<Result<_, ImageError>>()?,
        ..earlier.clone()
    };
    draft.publish(&manifest)
}

/// Copies the tar archive `root` to `to` with the agent's program in it, dated `unix_seconds`.
///
/// # Errors
/// A broken archive; what cannot be read or written.
pub(crate) fn with_agent(
    root: impl Read,
    agent: &Path,
    unix_seconds: u64,
    to: impl Write,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(root);
    let mut builder = tar::Builder::new(BufWriter::with_capacity(1 << 16, to));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let header = entry.header().clone();
        let mut extensions = Vec::new();
        if let Some(list) = entry.pax_extensions()? {
            for extension in list {
                let extension = extension?;
                let key = extension.key().map_err(io::Error::other)?;
                extensions.push((key.to_owned(), extension.value_bytes().to_owned()));
            }
        }
        if !extensions.is_empty() {
            builder.append_pax_extensions(
                extensions
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_slice())),
            )?;
        }
        builder.append(&header, &mut entry)?;
    }
    let program = fs::File::open(agent)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(program.metadata()?.len());
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(unix_seconds);
    header.set_entry_type(tar::EntryType::Regular);
    builder.append_data(&mut header, AGENT, program)?;
    builder.into_inner()?.flush()
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(|source| ImageError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use panda_protocol::agent_toml;

    use super::*;
    use crate::kernel;

    fn settings(executor: Option<&str>) -> AgentToml {
        AgentToml {
            executor: executor.map(str::to_owned),
            ..agent_toml::decode(b"version = 1\narch = \"amd64\"\n").unwrap()
        }
    }

    fn parts(directory: &Path) -> Parts {
        let file = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        Parts {
            kernel: file("vmlinuz", &kernel::example("amd64")),
            modules: vec![file("virtio.ko", b"one"), file("ext4.ko", b"two")],
            agent: file("panda-agent", b"agent"),
            name: "a test".into(),
        }
    }

    fn made(directory: &Path, name: &str) -> Image {
        let draft = Draft::begin(&directory.join(name)).unwrap();
        fs::write(draft.path(ROOTFS), b"a root file system").unwrap();
        finish(draft, &parts(directory), &settings(None)).unwrap()
    }

    fn ramdisk(image: &Image) -> Vec<(String, Vec<u8>)> {
        let bytes = fs::read(image.path(&image.manifest().ramdisk)).unwrap();
        let entries = cpio::read(&bytes).unwrap();
        let files = entries.into_iter().filter_map(|entry| match entry.node {
            cpio::Node::File(bytes) => Some((entry.path.to_string(), bytes.to_owned())),
            cpio::Node::Directory => None,
        });
        files.collect()
    }

    #[test]
    fn an_image_holds_its_parts_where_the_machine_looks_for_them() {
        let directory = tempfile::tempdir().unwrap();
        let image = made(directory.path(), "image");
        let names: Vec<_> = ramdisk(&image).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "agent.toml",
                "init",
                "modules/000-virtio.ko",
                "modules/001-ext4.ko"
            ]
        );
        let manifest = image.manifest();
        assert_eq!(manifest.machine, Machine::Qemu);
        assert!(
            manifest.cmdline.starts_with("console=ttyS0 ")
                && manifest
                    .cmdline
                    .ends_with(" panic=-1 quiet pandabuildd.machine=qemu")
        );
        let again = made(directory.path(), "again");
        assert_eq!(again.id(), image.id(), "the same parts make the same image");
    }

    #[test]
    fn a_variant_differs_in_what_the_agent_is_told_and_in_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let image = made(directory.path(), "image");
        let other = settings(Some("true"));
        let variant = variant(&image, &other, &directory.path().join("variant")).unwrap();
        let (before, after) = (image.manifest(), variant.manifest());
        assert_eq!(
            (&before.kernel, &before.rootfs, &before.cmdline),
            (&after.kernel, &after.rootfs, &after.cmdline)
        );
        let mut expected = ramdisk(&image);
        let text = agent_toml::encode(&other).unwrap();
        expected.push(("agent.toml".to_owned(), text.into_bytes()));
        assert_eq!(ramdisk(&variant), expected);
    }

    #[test]
    fn the_agent_comes_into_the_root_file_system_and_all_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(60));
        fs::create_dir_all(tree.join("usr/bin")).unwrap();
        fs::create_dir_all(tree.join("d".repeat(90))).unwrap();
        fs::write(tree.join(&long), "long").unwrap();
        std::os::unix::fs::symlink("usr/bin", tree.join("bin")).unwrap();
        let packed = Command::new("tar")
            .args(["--format=pax", "--sort=name", "-cf", "-", "."])
            .current_dir(&tree)
            .output()
            .unwrap()
            .stdout;
        let agent = directory.path().join("agent");
        fs::write(&agent, "the agent").unwrap();
        let out = directory.path().join("out.tar");
        with_agent(&*packed, &agent, 1_000, fs::File::create(&out).unwrap()).unwrap();
        let listing = Command::new("tar").arg("-tvf").arg(&out).output().unwrap();
        assert!(listing.status.success());
        let listing = String::from_utf8(listing.stdout).unwrap();
        assert!(listing.contains(&long), "{listing}");
        assert!(listing.contains("./bin -> usr/bin"), "{listing}");
        let last = listing.lines().last().unwrap();
        assert!(
            last.starts_with("-rwxr-xr-x 0/0") && last.ends_with(" usr/bin/panda-agent"),
            "{last}"
        );
        assert!(with_agent(&packed[..700], &agent, 0, io::sink()).is_err());
    }
}
