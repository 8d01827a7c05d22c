//! What the daemon in the guest is given: an image of the process machine, and its `rack.toml`.
//!
//! ```text
//! guest 10.0.2.15                                host
//! depot 10.0.2.15:8300  ◀── forwarded ───────── 127.0.0.1:DEPOT   where a board's agent reports
//! link  10.0.2.2:LINK   ─── the guest's gateway ▶ 127.0.0.1:LINK  where a board's agent listens
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::cpio::{ArchivePath, Writer};
use panda_protocol::digest::Sha256;
use panda_protocol::family::FamilyName;
use panda_protocol::launchpad::FileName;
use panda_protocol::manifest::{self, Machine, Manifest, Part};
use panda_tests::programs::{root, run_ok};

/// Where the depot listens in the guest.
pub(crate) const DEPOT: u16 = 8300;

/// One slot of the guest's rack.
pub(crate) struct Slot {
    /// Its name.
    pub(crate) name: String,
    /// Its port, as Linux names it: `1-1.2`.
    pub(crate) port: String,
    /// `power` as it stands in rack.toml: an inline table.
    pub(crate) power: String,
    /// More lines for its table.
    pub(crate) more: String,
    /// The host's port that its board's agent listens on.
    pub(crate) link: u16,
}

/// The static programs, built once by `scripts/static`; where they are.
pub(crate) fn programs() -> Result<PathBuf> {
    if let Some(set) = std::env::var_os("PANDA_STATIC_BIN") {
        return Ok(PathBuf::from(set));
    }
    let written = run_ok(Command::new(root().join("scripts/static")).args([
        "pandabuildd",
        "panda-twin",
        "panda-agent",
    ]))?;
    let last = written
        .lines()
        .last()
        .context("scripts/static says nothing")?;
    Ok(PathBuf::from(last))
}

/// Makes an image in `directory` whose boards run `agent`.
pub(crate) fn image(directory: &Path, agent: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let kernel = directory.join("kernel");
    // Symbols are most of it, and no board needs them.
    run_ok(Command::new("strip").arg("-o").arg(&kernel).arg(agent))?;
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o755))?;
    let settings = AgentToml {
        version: agent_toml::VERSION,
        arch: "amd64".to_owned(),
        executor: Some("true".to_owned()),
        insecure_fixed_disk_key: false,
    };
    let mut ramdisk = Writer::new();
    let name = ArchivePath::try_from(agent_toml::NAME)?;
    ramdisk.file(&name, 0o600, agent_toml::encode(&settings)?.as_bytes())?;
    fs::write(directory.join("ramdisk"), ramdisk.finish())?;
    fs::write(directory.join("second-stage"), [0x5a; 16_000])?;
    let part = |name: &str| -> Result<Part> {
        let bytes = fs::read(directory.join(name))?;
        Ok(Part {
            file: FileName::try_from(name.to_owned())?,
            sha256: Sha256::of(&bytes),
            bytes: bytes.len() as u64,
        })
    };
    let manifest = Manifest {
        version: manifest::VERSION,
        name: "guest".to_owned(),
        arch: "amd64".to_owned(),
        machine: Machine::Process,
        cmdline: String::new(),
        page_size: 4096,
        second_stage: part("second-stage")?,
        kernel: part("kernel")?,
        ramdisk: part("ramdisk")?,
        rootfs: None,
        family: FamilyName::default(),
        parts: BTreeMap::new(),
        worker: None,
    };
    fs::write(directory.join(manifest::NAME), manifest::encode(&manifest)?)?;
    Ok(())
}

/// `rack.toml`: `depot` is the host's port that is forwarded to the guest's; `boot` are more lines for `[boot]`.
pub(crate) fn toml(slots: &[Slot], depot: u16, boot: &str) -> Result<String> {
    let mut text = format!(
        "[rack]\nname = \"guest\"\nstate_dir = \"/tmp/state\"\nimage = \"/job/image\"\n\n\
         [front]\nlisten = \"127.0.0.1:8221\"\n\n\
         [depot]\nlisten = \"10.0.2.15:{DEPOT}\"\nadvertise = \"127.0.0.1:{depot}\"\n\n\
         [boot]\ncut_hold_ms = 1500\n{boot}\n\n[slot_task]\nretry_first_seconds = 5\n"
    );
    for slot in slots {
        write!(
            text,
            "\n[[slot]]\nname = \"{}\"\nlink = \"10.0.2.2:{link}\"\nlink_listen = \"127.0.0.1:{link}\"\n\
             power = {}\npipe = {{ driver = \"usb\", port = \"{}\" }}\n{}\n",
            slot.name,
            slot.power,
            slot.port,
            slot.more,
            link = slot.link,
        )?;
    }
    Ok(text)
}

/// Ports of the host's loopback that nobody listens on.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let listeners = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect()
}
