//! `pandabuildd image build`: makes a known-good image for virtual Pandas in QEMU.

use std::path::PathBuf;

use panda_image::build::{self, Freshness, Request};
use panda_image::programs;
use panda_image::steps::Interrupted;
use panda_protocol::manifest::Part;
use panda_protocol::word::check_word;

use super::{Exit, say, steps_until_interrupted};

/// Make known-good images.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make an image for virtual boards in QEMU from Debian packages
    Build(Build),
}

/// Make an image for virtual boards in QEMU (`twin --machine qemu`) from Debian packages: the kernel out of its package,
/// a ramdisk with the agent and the modules that the machine needs, and a root file system with sbuild. What was fetched is
/// kept for a week. SOURCE_DATE_EPOCH is respected.
#[derive(Debug, clap::Args)]
struct Build {
    /// Where the image goes, a directory; without it, images/qemu-ARCH in the cache
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The Debian architecture; without it, this machine's
    #[arg(long)]
    arch: Option<String>,
    /// The Debian suite; without it, this machine's own
    #[arg(long)]
    suite: Option<String>,
    /// An archive's URL, or a whole `deb …` line; without it, this machine's own apt sources are used
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// The agent, a static program of that architecture; without it, the panda-agent beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// Fetch all packages anew, however new those are that were kept
    #[arg(long)]
    no_cache: bool,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let Action::Build(build) = args.command;
    let arch = build
        .arch
        .unwrap_or_else(|| programs::host_arch().to_owned());
    let suite = build.suite.unwrap_or_else(build::host_suite);
    // Before it becomes part of a path.
    check_word("--arch", &arch)?;
    let request = Request {
        output: match build.output {
            Some(output) => output,
            None => build::default_directory(&arch)?,
        },
        arch,
        suite,
        mirror: build.mirror,
        agent: build.agent,
        freshness: if build.no_cache {
            Freshness::New
        } else {
            Freshness::Week
        },
    };
    let steps = steps_until_interrupted();
    let made = build::make(&request, &steps).await;
    steps.end();
    match made {
        Ok(image) => {
            let manifest = image.manifest();
            let kib = |part: &Part| part.bytes >> 10;
            eprintln!(
                "pandabuildd: {} is ready: {}; kernel {} KiB, ramdisk {} KiB, root file system {} KiB",
                request.output.display(),
                manifest.name,
                kib(&manifest.kernel),
                kib(&manifest.ramdisk),
                manifest.rootfs.as_ref().map(kib).unwrap_or_default()
            );
            say(&request.output.display().to_string())?;
            Ok(Exit::Done)
        }
        Err(error) if error.is::<Interrupted>() => Ok(Exit::Interrupted),
        Err(error) => Err(error),
    }
}
