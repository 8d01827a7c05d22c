//! What `pandabuildd image build` does: a known-good image for virtual Pandas in QEMU, made from Debian packages.
//!
//! ```text
//!            mmdebstrap ──▶ root.tar ───────────────┐
//! mirror ──┤                                        ├──▶ parts, kept in the cache for a week
//!            linux-image-….deb ──▶ kernel, modules ─┘        │
//!                                            panda-agent ────┴──▶ kernel + ramdisk + squashfs + manifest
//! ```
//! The first half takes minutes and a mirror, the second seconds and neither: an image with another agent is made of
//! the parts that are there, and one that would come out the same is left as it is.
//!
//! - `cache`: where parts are kept, for what, and for how long
//! - `parts`: makes them
//! - `squash`: the root file system
//! - `room`: is there any left on the disk

mod cache;
mod parts;
mod room;
mod squash;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::digest::Sha256;
use panda_protocol::word::check_word;

use self::cache::Cache;
pub use self::cache::{Freshness, cache_directory};
use self::parts::Recipe;
use crate::draft::Draft;
use crate::steps::Steps;
use crate::{Image, agent, programs, qemu};

/// What an image was made from, in its directory: an image that would be made from the same is left as it is.
const MADE_FROM: &str = "made-from";
/// The most bytes of an agent's program.
const MAX_AGENT: u64 = 256 << 20;

/// What is wanted of an image.
#[derive(Debug, Clone)]
pub struct Request {
    /// Debian architecture.
    pub arch: String,
    /// Debian suite.
    pub suite: String,
    /// As `--mirror`.
    pub mirror: Option<String>,
    /// As `--agent`.
    pub agent: Option<PathBuf>,
    /// Its directory.
    pub output: PathBuf,
    /// How old the packages may be.
    pub freshness: Freshness,
}

/// The directory that images are made in and looked for where nothing else is said.
///
/// # Errors
/// There is no place for a cache.
pub fn default_directory(arch: &str) -> anyhow::Result<PathBuf> {
    Ok(cache_directory()?
        .join("images")
        .join(format!("qemu-{arch}")))
}

/// Has the image that `request` asks for: the one that is there, or a new one.
///
/// # Errors
/// [`Interrupted`](crate::steps::Interrupted), and everything that can be in the way; each says what to do.
pub async fn make(request: &Request, steps: &Steps) -> anyhow::Result<Image> {
    check_word("--arch", &request.arch)?;
    check_word("--suite", &request.suite)?;
    let agent = agent_program(request)?;
    let recipe = Recipe::new(request)?;
    let cache = Cache::open()?;
    let parts = match cache.find(&recipe, request.freshness) {
        Some(parts) => parts,
        None => parts::make(&cache, &recipe, steps).await?,
    };
    let made_from = format!(
        "parts {}\npackages {}\nagent {}\nformat {}\ncmdline {}\n",
        recipe.key(),
        parts.packages,
        agent.digest,
        parts::FORMAT,
        qemu::cmdline(&request.arch)
    );
    if let Some(image) = there_already(&request.output, &made_from) {
        return Ok(image);
    }
    let mksquashfs = programs::find("mksquashfs", "squashfs-tools")?;
    let packed = std::fs::metadata(&parts.root)
        .with_context(|| parts.root.display().to_string())?
        .len();
    room::check(&request.output, packed)?;
    let draft = Draft::begin(&request.output)?;
    let unix = recipe.epoch.unwrap_or(parts.made_unix);
    squash::pack(&mksquashfs, &parts.root, &agent.path, unix, &draft, steps).await?;
    steps.begin("writing the image");
    draft.write(MADE_FROM, made_from.as_bytes())?;
    let settings = settings(&request.arch)?;
    let qemu_parts = qemu::Parts {
        kernel: parts.kernel,
        modules: parts.modules,
        agent: agent.path,
        name: format!(
            "Debian {} for QEMU, {}, Linux {}",
            request.suite, request.arch, parts.kernel_version
        ),
    };
    let finished =
        tokio::task::spawn_blocking(move || qemu::finish(draft, &qemu_parts, &settings)).await;
    Ok(finished.context("writing the image")??)
}

/// The image in `directory`, where it was made from the same and is whole.
fn there_already(directory: &Path, made_from: &str) -> Option<Image> {
    let found = std::fs::read_to_string(directory.join(MADE_FROM)).ok()?;
    if found != made_from {
        return None;
    }
    Image::load(directory).ok()
}

/// What the agent of such an image is told.
pub fn settings(arch: &str) -> anyhow::Result<AgentToml> {
    let text = format!("version = {}\narch = \"{arch}\"\n", agent_toml::VERSION);
    Ok(agent_toml::decode(text.as_bytes())?)
}

/// The agent's program, checked.
struct Agent {
    path: PathBuf,
    digest: Sha256,
}

fn agent_program(request: &Request) -> anyhow::Result<Agent> {
    let path = match &request.agent {
        Some(path) => path.clone(),
        None => match programs::beside_ours("panda-agent") {
            Some(path) => path,
            None => bail!(
                "the program panda-agent is neither beside this program nor in PATH; build it with \
                 `scripts/static panda-agent`, and name it with --agent"
            ),
        },
    };
    let what = || format!("the agent {}", path.display());
    let bytes = std::fs::metadata(&path).with_context(what)?.len();
    if bytes > MAX_AGENT {
        bail!("{} has {bytes} bytes; it cannot be a panda-agent", what());
    }
    let program = std::fs::read(&path).with_context(what)?;
    agent::check(&request.arch, &program).map_err(|error| anyhow::anyhow!("{} {error}", what()))?;
    Ok(Agent {
        digest: Sha256::of(&program),
        path,
    })
}

/// This machine's suite, by its code name.
pub fn host_suite() -> String {
    std::fs::read_to_string("/etc/os-release")
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unstable".to_owned())
}

#[cfg(test)]
mod tests;
