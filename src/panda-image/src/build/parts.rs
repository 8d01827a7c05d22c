//! Makes the parts of an image that come from Debian packages, in one run of mmdebstrap: the root file system as a tar
//! archive, and the kernel's packages beside it. Those are unpacked, never installed: a kernel that is installed would
//! make its own ramdisk, and its boot loader.
//!
//! ```text
//! work-…/kernel-packages   the hook that fetches them        work-…/parts/kernel, modules/NAME.ko, root.tar, packages
//!       /debs              what it has fetched                      └──▶ kept as ARCH-KEY/
//!       /unpacked          them, unpacked
//!       /tmp               mmdebstrap's own
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use panda_protocol::digest::Sha256;
use tokio::process::Command;

use super::cache::{Cache, Description, Kept};
use super::{Request, room};
use crate::chroot::{self, Try};
use crate::modules::{Modules, Wanted};
use crate::steps::{Interrupted, Steps};
use crate::{kernel, programs};

/// Changes when the same packages are made into something else.
pub(crate) const FORMAT: u32 = 1;

/// What the root file system has: what the agent runs while it boots and for its builds.
const INCLUDE: &str = "sbuild,schroot,dpkg-dev,apt,ca-certificates,debian-archive-keyring,dmsetup,e2fsprogs,iproute2,mount,\
                       passwd,procps,util-linux,tar,bzip2,gzip,xz-utils,zstd";
/// What no build reads.
const LEFT_OUT: [&str; 6] = ["doc", "man", "info", "locale", "lintian", "bug"];
/// Files that come with what is included, and that nothing on a board uses: boards fetch all this at every boot.
const FILES_LEFT_OUT: [&str; 18] = [
    // Of binutils everything: builds have their chroot's own.
    "/usr/bin/*-linux-gnu*",
    "/usr/lib/*/libbfd*",
    "/usr/lib/*/libctf*",
    "/usr/lib/*/libopcodes*",
    "/usr/lib/*/libgprofng*",
    "/usr/lib/*/gprofng/*",
    "/usr/lib/*/ldscripts/*",
    "/usr/lib/*/libmvec*",
    "/usr/lib/*/gconv/*.so",
    "/usr/lib/*/perl/*/CORE/*",
    "/usr/lib/*/perl/*/auto/Encode/??/*",
    "/usr/lib/*/perl/*/Unicode/Collate/*",
    "/usr/lib/*/perl-base/unicore/lib/*",
    "/usr/share/perl/*/Unicode/Collate/*",
    "/usr/share/perl/*/unicore/*",
    "/usr/bin/gpgcompose",
    "/usr/share/bash-completion/*",
    "/usr/share/zoneinfo/*",
];
/// Where the agent mounts the scratch disk.
const SCRATCH: &str = "var/lib/panda";
const KERNEL_PACKAGES: &str = include_str!("kernel-packages.sh");
/// How long mmdebstrap may take: a slow line, and a processor that is emulated.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(2 * 3600);
/// How long unpacking may take.
const UNPACK_LIMIT: Duration = Duration::from_secs(900);
/// What making them needs on the disk: mmdebstrap's tree and archive, the kernel's packages and what is in them.
const ROOM: u64 = 3 << 29;

/// What parts are made from.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) arch: String,
    suite: String,
    kernel_package: &'static str,
    tries: Vec<Try>,
    /// `SOURCE_DATE_EPOCH`.
    pub(crate) epoch: Option<u64>,
}

impl Recipe {
    /// For what is asked for.
    ///
    /// # Errors
    /// An architecture without a kernel, a mirror that is none, an apt without sources, a `SOURCE_DATE_EPOCH` that is
    /// no number.
    pub(crate) fn new(request: &Request) -> anyhow::Result<Self> {
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => Some(text.parse().ok().with_context(|| {
                format!("SOURCE_DATE_EPOCH={text}: expected seconds since 1970, a number")
            })?),
            Err(_) => None,
        };
        Ok(Self {
            arch: request.arch.clone(),
            suite: request.suite.clone(),
            kernel_package: kernel_package(&request.arch)?,
            tries: chroot::tries(&request.suite, request.mirror.as_deref())?,
            epoch,
        })
    }

    #[cfg(test)]
    pub(crate) fn for_test(arch: &str, suite: &str) -> Self {
        let mirrors = vec!["http://mirror.example/debian".to_owned()];
        Self {
            arch: arch.to_owned(),
            suite: suite.to_owned(),
            kernel_package: kernel_package(arch).unwrap(),
            tries: vec![Try {
                mirrors,
                saying: String::new(),
            }],
            epoch: None,
        }
    }

    /// What tells parts of this recipe from those of any other.
    #[must_use]
    pub(crate) fn key(&self) -> String {
        let mirrors = self.tries.first().map(|attempt| &attempt.mirrors);
        let text = format!(
            "{FORMAT} {:?} {:?} {:?} {mirrors:?} {:?} {KERNEL_PACKAGES}",
            self.suite,
            self.arguments(),
            self.kernel_package,
            self.epoch
        );
        let mut key = Sha256::of(text.as_bytes()).to_string();
        key.truncate(16);
        key
    }

    /// mmdebstrap's arguments that do not depend on where it works.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--variant=essential".to_owned(),
            format!("--architectures={}", self.arch),
            "--components=main".to_owned(),
            format!("--include={INCLUDE}"),
            "--format=tar".to_owned(),
            "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
            "--aptopt=Acquire::Retries \"2\"".to_owned(),
            "--aptopt=Acquire::http::Timeout \"30\"".to_owned(),
            "--aptopt=Acquire::https::Timeout \"30\"".to_owned(),
        ];
        for name in LEFT_OUT {
            arguments.push(format!("--dpkgopt=path-exclude=/usr/share/{name}/*"));
        }
        arguments.push("--dpkgopt=path-include=/usr/share/doc/*/copyright".to_owned());
        for pattern in FILES_LEFT_OUT {
            arguments.push(format!("--dpkgopt=path-exclude={pattern}"));
        }
        arguments.push(format!("--customize-hook=mkdir -p \"$1/{SCRATCH}\""));
        // The machine that it is made on has no say in it; the agent writes both at each boot.
        arguments.push(
            "--customize-hook=echo panda >\"$1/etc/hostname\"; : >\"$1/etc/resolv.conf\""
                .to_owned(),
        );
        arguments
    }
}

/// The package that depends on the newest kernel for a virtual machine or a board.
fn kernel_package(arch: &str) -> anyhow::Result<&'static str> {
    match arch {
        "amd64" => Ok("linux-image-amd64"),
        "i386" => Ok("linux-image-686-pae"),
        "arm64" => Ok("linux-image-arm64"),
        "armhf" => Ok("linux-image-armmp"),
        other => {
            bail!("--arch {other}: images can be made for amd64, arm64, armhf and i386")
        }
    }
}

/// Makes the parts and keeps them in the cache.
///
/// # Errors
/// [`Interrupted`]; a program that is missing or fails, no root, no room, a processor that cannot be run here, a
/// kernel that is none.
pub(crate) async fn make(cache: &Cache, recipe: &Recipe, steps: &Steps) -> anyhow::Result<Kept> {
    let tools = Tools::find()?;
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "making an image from packages needs root, as it unpacks them with their owners; run this with sudo"
        );
    }
    chroot::binfmt::check(&recipe.arch)?;
    room::check(cache.path(), ROOM)?;
    let work = cache.work()?;
    let at = Places::make(work.path())?;
    bootstrap(&tools, recipe, &at, steps).await?;

    steps.begin("unpacking the kernel");
    for package in debs(&at.debs)? {
        let mut unpack = Command::new(&tools.dpkg_deb);
        unpack
            .arg("--extract")
            .arg(&package)
            .arg(&at.unpacked)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        steps.run("dpkg-deb", &mut unpack, UNPACK_LIMIT).await?;
    }
    let (kernel, version) = find_kernel(&at.unpacked, &recipe.arch)?;
    fs::rename(&kernel, at.parts.join("kernel")).with_context(|| kernel.display().to_string())?;
    let modules = take_modules(&tools, recipe, &at, &version, steps).await?;

    let description = Description {
        made_unix: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        kernel_version: version,
        modules,
    };
    cache.keep(recipe, &at.parts, &description)
}

/// The programs that are needed, all looked for before anything is begun.
struct Tools {
    mmdebstrap: PathBuf,
    setpriv: PathBuf,
    dpkg_deb: PathBuf,
    depmod: PathBuf,
}

impl Tools {
    fn find() -> Result<Self, programs::Missing> {
        // Called by mmdebstrap's hook, and for the root file system at the end.
        programs::find("apt-cache", "apt")?;
        programs::find("mksquashfs", "squashfs-tools")?;
        Ok(Self {
            mmdebstrap: programs::find("mmdebstrap", "mmdebstrap")?,
            setpriv: programs::find("setpriv", "util-linux")?,
            dpkg_deb: programs::find("dpkg-deb", "dpkg")?,
            depmod: programs::find("depmod", "kmod")?,
        })
    }
}

struct Places {
    hook: PathBuf,
    debs: PathBuf,
    unpacked: PathBuf,
    tmp: PathBuf,
    parts: PathBuf,
}

impl Places {
    fn make(work: &Path) -> anyhow::Result<Self> {
        let places = Self {
            hook: work.join("kernel-packages"),
            debs: work.join("debs"),
            unpacked: work.join("unpacked"),
            tmp: work.join("tmp"),
            parts: work.join("parts"),
        };
        let what = || work.display().to_string();
        for directory in [&places.debs, &places.unpacked, &places.tmp, &places.parts] {
            fs::create_dir(directory).with_context(what)?;
        }
        fs::create_dir(places.parts.join("modules")).with_context(what)?;
        // mmdebstrap's directory must be open to the users that it drops to.
        for directory in [work, &places.tmp] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).with_context(what)?;
        }
        fs::write(&places.hook, KERNEL_PACKAGES).with_context(what)?;
        fs::set_permissions(&places.hook, fs::Permissions::from_mode(0o755)).with_context(what)?;
        Ok(places)
    }
}

/// Runs mmdebstrap, with all sources and then with fewer.
async fn bootstrap(
    tools: &Tools,
    recipe: &Recipe,
    at: &Places,
    steps: &Steps,
) -> anyhow::Result<()> {
    steps.begin(&format!(
        "fetching and unpacking packages of {} for {}",
        recipe.suite, recipe.arch
    ));
    let mut failed = None;
    for attempt in &recipe.tries {
        if let Some(error) = failed.take() {
            steps.note(&format!("{error}"));
            steps.note(&attempt.saying);
        }
        let root = at.parts.join("root.tar");
        let archive = File::create(&root).with_context(|| root.display().to_string())?;
        let mut hook = OsString::from("--customize-hook=");
        hook.push(&at.hook);
        // It ends with us, even where we are killed; it takes its mounts with it.
        let mut command = Command::new(&tools.setpriv);
        command
            .args(["--pdeathsig", "TERM", "--"])
            .arg(&tools.mmdebstrap)
            .args(recipe.arguments())
            .arg(hook)
            .arg(&recipe.suite)
            .arg("-")
            .args(&attempt.mirrors)
            .env("TMPDIR", &at.tmp)
            .env("PANDA_KERNEL_DIR", &at.debs)
            .env("PANDA_KERNEL_PACKAGE", recipe.kernel_package)
            .stdin(Stdio::null())
            .stdout(archive);
        match steps.run("mmdebstrap", &mut command, BOOTSTRAP_LIMIT).await {
            Ok(()) => {
                let listed = at.debs.join("packages");
                return fs::rename(&listed, at.parts.join("packages"))
                    .with_context(|| listed.display().to_string());
            }
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => failed = Some(error),
        }
        for left in debs(&at.debs)? {
            fs::remove_file(&left).with_context(|| left.display().to_string())?;
        }
    }
    let error = failed.unwrap_or_else(|| anyhow::anyhow!("there is no source of packages"));
    Err(error.context(
        "the packages could not be fetched and unpacked; nothing is left of it, so simply run this again when the \
         mirror answers",
    ))
}

fn debs(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let what = || directory.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(what)? {
        let path = entry.with_context(what)?.path();
        if path.extension().is_some_and(|suffix| suffix == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The kernel in unpacked packages, and its version.
fn find_kernel(unpacked: &Path, arch: &str) -> anyhow::Result<(PathBuf, String)> {
    let boot = unpacked.join("boot");
    let mut found = Vec::new();
    for entry in fs::read_dir(&boot).with_context(|| {
        format!(
            "{}: the kernel's package has no kernel where it is expected",
            boot.display()
        )
    })? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(version) = name.and_then(|name| name.strip_prefix("vmlinuz-")) {
            found.push((path.clone(), version.to_owned()));
        }
    }
    let [(path, version)] = found.as_slice() else {
        bail!(
            "{}: expected one vmlinuz-VERSION, found {}",
            boot.display(),
            found.len()
        );
    };
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    kernel::check(arch, &bytes).map_err(|error| anyhow::anyhow!("{} {error}", path.display()))?;
    Ok((path.clone(), version.clone()))
}

/// Takes the modules that the machine needs out of the unpacked packages; their names, in order.
async fn take_modules(
    tools: &Tools,
    recipe: &Recipe,
    at: &Places,
    version: &str,
    steps: &Steps,
) -> anyhow::Result<Vec<String>> {
    // Newer packages have /usr/lib, and depmod looks in /lib.
    let lib = at.unpacked.join("lib");
    if !lib.exists() {
        std::os::unix::fs::symlink("usr/lib", &lib).with_context(|| lib.display().to_string())?;
    }
    let mut depmod = Command::new(&tools.depmod);
    depmod
        .arg("--basedir")
        .arg(&at.unpacked)
        .arg(version)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    steps.run("depmod", &mut depmod, UNPACK_LIMIT).await?;
    let directory = lib.join("modules").join(version);
    let order = Modules::read(&directory)?.in_order(&Wanted::virtual_machine(&recipe.arch))?;
    let mut names = Vec::new();
    for module in order {
        let name = plain_name(&module)?;
        let target = at.parts.join("modules").join(&name);
        let file = File::create(&target).with_context(|| target.display().to_string())?;
        let mut unpack = unpacker(&directory.join(&module))?;
        unpack.stdin(Stdio::null()).stdout(file);
        let what = format!("unpacking {}", module.display());
        steps.run(&what, &mut unpack, UNPACK_LIMIT).await?;
        names.push(name);
    }
    Ok(names)
}

/// `kernel/fs/ext4/ext4.ko.xz` as `ext4.ko`.
fn plain_name(module: &Path) -> anyhow::Result<String> {
    let name = module
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split_once(".ko"))
        .map(|(stem, _)| format!("{stem}.ko"));
    name.with_context(|| format!("{}: no module's name", module.display()))
}

/// The command that writes a module, uncompressed, to its standard output.
fn unpacker(module: &Path) -> anyhow::Result<Command> {
    let suffix = module.extension().and_then(|suffix| suffix.to_str());
    let (program, arguments): (_, &[&str]) = match suffix {
        Some("xz") => (programs::find("xz", "xz-utils")?, &["-dc"]),
        Some("zst") => (programs::find("zstd", "zstd")?, &["-dcq"]),
        Some("gz") => (programs::find("gzip", "gzip")?, &["-dc"]),
        _ => (programs::find("cat", "coreutils")?, &[]),
    };
    let mut command = Command::new(program);
    command.args(arguments).arg(module);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_architecture_suite_time_or_mirror_makes_other_parts() {
        let recipe = Recipe::for_test("amd64", "bookworm");
        let key = recipe.key();
        assert_eq!(key, Recipe::for_test("amd64", "bookworm").key());
        let mut others = vec![
            Recipe::for_test("armhf", "bookworm"),
            Recipe::for_test("amd64", "trixie"),
            Recipe {
                epoch: Some(1),
                ..recipe.clone()
            },
        ];
        let mut elsewhere = recipe;
        elsewhere.tries[0].mirrors = vec!["http://other.example/debian".into()];
        others.push(elsewhere);
        for other in others {
            assert_ne!(other.key(), key, "{other:?}");
        }
    }

    #[test]
    fn only_one_kernel_and_only_a_kernel_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let boot = directory.path().join("boot");
        assert!(find_kernel(directory.path(), "amd64").is_err());
        fs::create_dir(&boot).unwrap();
        fs::write(boot.join("config-6.1"), "").unwrap();
        let error = find_kernel(directory.path(), "amd64").unwrap_err();
        assert!(error.to_string().contains("found 0"), "{error}");
        fs::write(boot.join("vmlinuz-6.1"), kernel::example("amd64")).unwrap();
        let (_, version) = find_kernel(directory.path(), "amd64").unwrap();
        assert_eq!(version, "6.1");
        let error = find_kernel(directory.path(), "armhf").unwrap_err();
        assert!(
            error.to_string().contains("is no kernel for armhf"),
            "{error}"
        );
        fs::write(boot.join("vmlinuz-6.2"), "").unwrap();
        assert!(find_kernel(directory.path(), "amd64").is_err());
    }

    #[test]
    fn modules_are_kept_under_their_plain_names() {
        for file in ["kernel/fs/ext4/ext4.ko", "ext4.ko.xz", "a/ext4.ko.zst"] {
            assert_eq!(plain_name(Path::new(file)).unwrap(), "ext4.ko");
        }
        assert!(plain_name(Path::new("ext4")).is_err());
    }

    #[tokio::test]
    async fn compressed_modules_come_out_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        for (compressor, suffix) in [("xz", "xz"), ("zstd", "zst"), ("gzip", "gz")] {
            let plain = directory.path().join(format!("m-{suffix}.ko"));
            fs::write(&plain, "a module").unwrap();
            let done = std::process::Command::new(compressor)
                .args(["-q", "-k"])
                .arg(&plain)
                .status();
            assert!(done.unwrap().success());
            let packed = directory.path().join(format!("m-{suffix}.ko.{suffix}"));
            let out = unpacker(&packed).unwrap().output().await.unwrap();
            assert_eq!(out.stdout, b"a module", "{suffix}");
        }
    }

    #[test]
    fn an_architecture_without_a_kernel_is_refused() {
        let error = kernel_package("riscv64").unwrap_err().to_string();
        assert!(error.contains("--arch riscv64"), "{error}");
    }
}
