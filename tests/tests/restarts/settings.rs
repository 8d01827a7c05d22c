//! Racks with other settings than `twin` writes, for a while: an image with a worker of another make and a root file
//! system, and evidence of a cut that boards have to be prepared for.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use panda_protocol::digest::Sha256;
use panda_tests::programs::{program, root, run};
use panda_tests::source::arch;

use crate::job::WORDS;
use crate::keeper::{Keeper, wait};

/// The slot that all of it happens to.
const SLOT: &str = "panda01";
/// More than a board asks for at once.
const ROOTFS_BYTES: usize = 5 << 20;
/// A daemon that dies just then does not see what was ordered.
const ORDER_AGAIN: Duration = Duration::from_secs(5);

/// From its next start on, the daemon boots an image with `tests/python/foreign_worker.py` and a root file system. The
/// rest is the rack's own image.
pub(crate) fn other_image(keeper: &mut Keeper) -> Result<()> {
    let state = keeper.rack.state();
    let (own, other) = (state.join("image"), state.join("other-image"));
    let words = keeper.rack.scratch("words")?;
    fs::write(words.join("arch"), arch()?)?;
    let (name, value) = WORDS;
    fs::write(
        words.join("extra.xml"),
        format!("<member><name>{name}</name><value><string>{value}</string></value></member>"),
    )?;
    fs::create_dir_all(&other)?;
    for entry in fs::read_dir(&own)? {
        let entry = entry?;
        fs::copy(entry.path(), other.join(entry.file_name()))?;
    }
    let rootfs = vec![b'r'; ROOTFS_BYTES];
    fs::write(other.join("rootfs"), &rootfs)?;
    let program = root()
        .join("tests/python/foreign_worker.py")
        .canonicalize()?;
    let manifest = fs::read_to_string(own.join("manifest.toml"))?;
    let more = format!(
        "\n[rootfs]\nfile = \"rootfs\"\nsha256 = \"{}\"\nbytes = {ROOTFS_BYTES}\n\
         \n[worker]\ncommand = [\"/usr/bin/python3\", {:?}, {:?}]\naddress = \"127.0.0.1:0\"\nbuild_types = [\"snap\"]\n",
        Sha256::of(&rootfs),
        program.display().to_string(),
        words.display().to_string(),
    );
    fs::write(other.join("manifest.toml"), manifest + &more)?;
    let text = fs::read_to_string(state.join("rack.toml"))?;
    let line = text.lines().find(|line| line.starts_with("image = "));
    let line = line.context("rack.toml names no image")?;
    let instead = format!("image = {:?}", other.display().to_string());
    keeper.reconfigure("other-image.toml", line, &instead)
}

/// From its next start on, the daemon demands that a gadget is seen to leave; the board has none before its next boot.
pub(crate) fn demands_presence(keeper: &mut Keeper) -> Result<()> {
    order(keeper, "gadget")?;
    let boot = "[boot]\n";
    let demands = "[boot]\nrequire_cut = \"presence\"\ngadget = { vendor = 0x1d6b, product = 0x0104 }\n\
                   cut_delay_max_ms = 100\ngadget_leaves_ms = 5000\n";
    keeper.reconfigure("presence.toml", boot, demands)
}

/// The board has no gadget any more.
pub(crate) fn without_gadget(keeper: &Keeper) -> Result<()> {
    order(keeper, "no-gadget").map(drop)
}

/// Has the board lost while it is Fresh, and waits until it is Fresh again, on what the daemon boots now.
pub(crate) fn renew(keeper: &mut Keeper) -> Result<()> {
    let mut before = None;
    let mut ordered: Option<Instant> = None;
    wait(|| {
        let told = keeper.told()?;
        let idle = !told.is_empty() && told.iter().all(|told| told == "BuilderStatus.IDLE");
        let Some(boot) = latest(keeper) else {
            return Ok(false);
        };
        let first = *before.get_or_insert(boot);
        if idle && boot > first {
            return Ok(true);
        }
        if idle && ordered.is_none_or(|ordered| ordered.elapsed() > ORDER_AGAIN) {
            // One that has no power just now is on its way.
            order(keeper, "rom")?;
            ordered = Some(Instant::now());
        }
        Ok(false)
    })
    .with_context(|| format!("the board is not renewed\n{}", keeper.end_of_log()))
}

/// The number of the board's latest boot; none where the daemon has just died.
fn latest(keeper: &Keeper) -> Option<u64> {
    keeper.rack.boots(SLOT).ok()?.first()?["boot"].as_u64()
}

/// Orders something of the virtual board: whether it does that.
fn order(keeper: &Keeper, what: &str) -> Result<bool> {
    let ordered = run(Command::new(program("panda-twin")?)
        .args(["fault", "--state"])
        .arg(keeper.rack.state())
        .args([SLOT, what]))?;
    Ok(ordered.status.success())
}
