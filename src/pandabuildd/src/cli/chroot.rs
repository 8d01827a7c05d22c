//! `pandabuildd chroot build`: makes a chroot tarball for builders.

use std::path::PathBuf;

use panda_image::chroot::{self, Recipe};
use panda_image::steps::Interrupted;

use super::Exit;

/// Make and look at chroots.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a chroot tarball with mmdebstrap
    Build(Build),
}

/// Make a chroot tarball with mmdebstrap. Its only top folder is chroot-autobuild/, as builders want it.
#[derive(Debug, clap::Args)]
struct Build {
    /// The suite: bookworm, trixie, noble, …
    #[arg(long)]
    suite: String,
    /// The Debian architecture: armhf, amd64, …
    #[arg(long)]
    arch: String,
    /// Where to write it; the suffix chooses the compression: .tar.zst, .tar.gz, .tar.xz, .tar
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// An archive's URL, or a whole `deb …` line; without it, this machine's own apt sources are used
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Components to take from --mirror
    #[arg(long, value_name = "LIST", default_value = "main", requires = "mirror")]
    components: String,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let interrupted = super::interrupted();
    let Action::Build(build) = args.command;
    let mut recipe = Recipe::new(&build.suite, &build.arch, &build.output);
    recipe.mirror = build.mirror;
    recipe.components = build.components;
    match chroot::make(&recipe, interrupted).await {
        Ok(()) => {
            eprintln!("pandabuildd: {} is ready", build.output.display());
            Ok(Exit::Done)
        }
        Err(error) if error.is::<Interrupted>() => Ok(Exit::Interrupted),
        Err(error) => Err(error),
    }
}
