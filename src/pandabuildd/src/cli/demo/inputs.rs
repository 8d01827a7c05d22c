//! What the demonstration needs: the image and its variant, the chroot that builds get, and the package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use panda_image::build::{self, Freshness, Request};
use panda_image::steps::Steps;
use panda_image::{Image, chroot, programs, qemu};
use panda_protocol::agent_toml::AgentToml;
use panda_protocol::word::check_word;
use tokio::process::Command;

use super::super::say;
use super::{Args, Role};

/// The package's source, as it lies in `fixtures/sources/panda-marks`.
const SOURCE: [(&str, &str); 5] = [
    (
        "debian/changelog",
        include_str!("../../../../../fixtures/sources/panda-marks/debian/changelog"),
    ),
    (
        "debian/control",
        include_str!("../../../../../fixtures/sources/panda-marks/debian/control"),
    ),
    (
        "debian/rules",
        include_str!("../../../../../fixtures/sources/panda-marks/debian/rules"),
    ),
    (
        "debian/source/format",
        include_str!("../../../../../fixtures/sources/panda-marks/debian/source/format"),
    ),
    (
        "marks.c",
        include_str!("../../../../../fixtures/sources/panda-marks/marks.c"),
    ),
];
const NAME: &str = "panda-marks";
const VERSION: &str = "1.0";
/// The chroot has a program with which a build becomes root, as any build can by a dependency whose scripts run as root.
const AS_ROOT: &str =
    "install -D -o 0 -g 0 -m 4755 \"$1/usr/bin/setpriv\" \"$1/usr/lib/panda-marks/as-root\"";
/// What the chroot does without: of build-essential, all that is not C; and what no build here reads. Each build unpacks
/// it anew, on a processor that is emulated.
const LEFT_OUT: [&str; 34] = [
    "/usr/lib/gcc/*/cc1plus",
    "/usr/lib/gcc/*/lto1",
    "/usr/lib/gcc/*san*",
    "/usr/lib/gcc/*/libstdc++*",
    "/usr/bin/*lto-dump*",
    "/usr/bin/*-ld.gold",
    "/usr/bin/*-dwp",
    "/usr/bin/*gp-*",
    "/usr/include/c++/*",
    "/usr/include/*/c++/*",
    "/usr/include/tirpc/*",
    "/usr/lib/*/libasan.so*",
    "/usr/lib/*/liblsan.so*",
    "/usr/lib/*/libtsan.so*",
    "/usr/lib/*/libubsan.so*",
    "/usr/lib/*/libgprofng*",
    "/usr/lib/*/gprofng/*",
    "/usr/lib/*/libc.a",
    "/usr/lib/*/libm-*.a",
    "/usr/lib/*/libmvec.a",
    "/usr/lib/*/gconv/*.so",
    "/usr/lib/*/ldscripts/elf32*",
    "/usr/lib/*/ldscripts/elf_iamcu*",
    "/usr/lib/*/ldscripts/elf_k1om*",
    "/usr/lib/*/ldscripts/elf_l1om*",
    "/usr/lib/*/perl/*/CORE/*",
    "/usr/lib/*/perl/*/auto/Encode/??/*",
    "/usr/lib/*/perl/*/Unicode/Collate/*",
    "/usr/lib/*/perl-base/unicore/lib/*",
    "/usr/share/perl/*/Unicode/Collate/*",
    "/usr/share/perl/*/unicore/*",
    "/usr/share/bash-completion/*",
    "/usr/share/ca-certificates/*",
    "/usr/share/zoneinfo/*",
];
/// How long packing the source may take.
const PACK_LIMIT: Duration = Duration::from_secs(120);

/// All of it, ready.
#[derive(Debug)]
pub(crate) struct Inputs {
    real: Image,
    real_directory: PathBuf,
    control_directory: PathBuf,
    pub(crate) chroot: PathBuf,
    pub(crate) dsc: PathBuf,
    pub(crate) suite: String,
    pub(crate) arch: String,
}

impl Inputs {
    /// Makes what is not in the cache.
    ///
    /// # Errors
    /// Interrupted; whatever [`build::make`] and `chroot build` may find in the way.
    pub(crate) async fn prepare(args: &Args, work: &Path, steps: &Steps) -> anyhow::Result<Self> {
        let arch = programs::host_arch().to_owned();
        let suite = args.suite.clone().unwrap_or_else(build::host_suite);
        check_word("--suite", &suite)?;
        // panda-twin says so of QEMU too, but only when image and chroot have been made.
        let qemu = match &*arch {
            "amd64" => ("qemu-system-x86_64", "qemu-system-x86"),
            "arm64" => ("qemu-system-aarch64", "qemu-system-arm"),
            _ => ("qemu-system-arm", "qemu-system-arm"),
        };
        for (program, package) in [("dpkg-source", "dpkg-dev"), ("setpriv", "util-linux"), qemu] {
            programs::find(program, package)?;
        }
        // Packages of any age will do: nothing is built here that anybody uses.
        let request = Request {
            arch: arch.clone(),
            suite: suite.clone(),
            mirror: args.mirror.clone(),
            agent: args.agent.clone(),
            output: work.join("image"),
            freshness: Freshness::Any,
        };
        // Both fetch and unpack packages, each on one processor. Where one fails, the other's work is there the next time.
        let (real, chroot) = tokio::join!(
            build::make(&request, steps),
            chroot(args, &suite, &arch, steps)
        );
        let (real, chroot) = (real?, chroot?);
        steps.begin("packing the package and the image with the fixed key");
        let control_directory = work.join("control-image");
        let control = {
            let (image, directory) = (real.clone(), control_directory.clone());
            let settings = AgentToml {
                insecure_fixed_disk_key: true,
                ..build::settings(&arch)?
            };
            tokio::task::spawn_blocking(move || qemu::variant(&image, &settings, &directory))
        };
        control
            .await
            .context("making the image with the fixed key")??;
        let dsc = pack_source(work, steps).await?;
        Ok(Self {
            real,
            real_directory: request.output,
            control_directory,
            chroot,
            dsc,
            suite,
            arch,
        })
    }

    /// The image that a Panda boots.
    #[must_use]
    pub(crate) fn image(&self, role: Role) -> &Path {
        match role {
            Role::Real => &self.real_directory,
            Role::Control => &self.control_directory,
        }
    }

    /// Says what there is.
    pub(crate) fn tell(&self, took: Duration) -> anyhow::Result<()> {
        let manifest = self.real.manifest();
        let mib = |bytes: u64| bytes >> 20;
        say(&format!(
            "image    {}: kernel {} MiB, ramdisk {} MiB, root file system {} MiB",
            manifest.name,
            mib(manifest.kernel.bytes),
            mib(manifest.ramdisk.bytes),
            manifest.rootfs.as_ref().map_or(0, |part| mib(part.bytes))
        ))?;
        let bytes = fs::metadata(&self.chroot).map_or(0, |chroot| chroot.len());
        say(&format!(
            "chroot   {} ({} MiB)",
            self.chroot.display(),
            mib(bytes)
        ))?;
        say(&format!(
            "package  {NAME} {VERSION}, which needs no archive"
        ))?;
        say(&format!("ready after {:.0} s", took.as_secs_f64()))
    }
}

/// The chroot that builds get, made where there is none.
async fn chroot(args: &Args, suite: &str, arch: &str, steps: &Steps) -> anyhow::Result<PathBuf> {
    let cache = build::cache_directory()?;
    let path = cache.join(format!("marks-chroot-{suite}-{arch}.tar.zst"));
    if path.exists() {
        return Ok(path);
    }
    super::super::make_directory(&cache, 0o755).with_context(|| cache.display().to_string())?;
    steps.begin(&format!("making a chroot of {suite}"));
    let mut recipe = chroot::Recipe::new(suite, arch, &path);
    recipe.mirror.clone_from(&args.mirror);
    recipe.quiet = true;
    recipe.slim = true;
    recipe.left_out = &LEFT_OUT;
    recipe.hooks.push(AS_ROOT.to_owned());
    chroot::make(&recipe, steps.stop().cancelled()).await?;
    Ok(path)
}

/// The source package's `.dsc`, beside its other files.
async fn pack_source(work: &Path, steps: &Steps) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = work.join("source");
    let tree = directory.join(format!("{NAME}-{VERSION}"));
    for (name, text) in SOURCE {
        let path = tree.join(name);
        let what = || path.display().to_string();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(what)?;
        }
        fs::write(&path, text).with_context(what)?;
        if name == "debian/rules" {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(what)?;
        }
    }
    let mut pack = Command::new(programs::find("dpkg-source", "dpkg-dev")?);
    pack.current_dir(&directory)
        .args(["-b", &format!("{NAME}-{VERSION}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    steps.run("dpkg-source", &mut pack, PACK_LIMIT).await?;
    Ok(directory.join(format!("{NAME}_{VERSION}.dsc")))
}
