//! `pandabuildd image build`: what it refuses before it begins, and, where a mirror and minutes may be spent (the gate `image`
//! of scripts/test), that images are whole, the same twice, and never half made.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use panda_protocol::manifest::{self, Machine};
use panda_tests::programs::{program, run, run_ok};

/// A static program that every Debian has: it stands for an agent where none is run.
const STATIC: &str = "/sbin/ldconfig";
/// A mirror that is not asked, or does not answer.
const NOWHERE: &str = "http://127.0.0.1:9/debian";

/// `image build` with a cache of its own.
fn image_build(bin: &Path, cache: &Path) -> Command {
    subcommand(bin, cache, &["image", "build"])
}

/// A subcommand with a cache of its own.
fn subcommand(bin: &Path, cache: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(bin);
    command
        .args(words)
        .env("PANDABUILDD_CACHE", cache)
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs what must be refused; what it says.
fn refused(command: &mut Command) -> Result<String> {
    let output = run(command)?;
    ensure!(!output.status.success(), "it was not refused: {output:?}");
    Ok(said(&output))
}

#[test]
fn an_agent_that_no_ramdisk_can_start_is_refused_with_how_to_build_one() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let bin = program("pandabuildd")?;
    // Our own debug program needs its libraries.
    let error = refused(image_build(&bin, cache.path()).arg("--agent").arg(&bin))?;
    ensure!(
        error.contains("linked dynamically") && error.contains("scripts/static panda-agent"),
        "{error}"
    );
    let error = refused(image_build(&bin, cache.path()).args(["--agent", "/etc/passwd"]))?;
    ensure!(error.contains("no ELF program"), "{error}");
    let other = if cfg!(target_arch = "x86_64") {
        "arm64"
    } else {
        "amd64"
    };
    let error =
        refused(image_build(&bin, cache.path()).args(["--agent", STATIC, "--arch", other]))?;
    ensure!(
        error.contains(&format!("and the image is for {other}")),
        "{error}"
    );
    ensure!(
        fs::read_dir(cache.path())?.count() == 0,
        "nothing was begun"
    );
    Ok(())
}

#[test]
fn what_is_missing_is_named_with_its_package_before_anything_is_begun() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let bin = program("pandabuildd")?;
    let tools = tempfile::tempdir()?;
    let qemu = match std::env::consts::ARCH {
        "x86_64" => ("qemu-system-x86_64", "qemu-system-x86"),
        "aarch64" => ("qemu-system-aarch64", "qemu-system-arm"),
        _ => ("qemu-system-arm", "qemu-system-arm"),
    };
    let build: &[&str] = &["image", "build"];
    let demo: &[&str] = &["demo"];
    for (command, (missing, package)) in [
        (build, ("mksquashfs", "squashfs-tools")),
        (build, ("mmdebstrap", "mmdebstrap")),
        (build, ("dpkg-deb", "dpkg")),
        (demo, ("dpkg-source", "dpkg-dev")),
        (demo, qemu),
    ] {
        for tool in [
            "apt-cache",
            "mksquashfs",
            "mmdebstrap",
            "setpriv",
            "dpkg-deb",
            "dpkg-source",
            qemu.0,
        ] {
            let link = tools.path().join(tool);
            drop(fs::remove_file(&link));
            if tool != missing {
                symlink("/bin/true", &link)?;
            }
        }
        let error = refused(
            subcommand(&bin, cache.path(), command)
                .args(["--agent", STATIC, "--mirror", NOWHERE])
                .env("PATH", tools.path()),
        )?;
        ensure!(
            error.contains(&format!("the program {missing} is not in PATH"))
                && error.contains(&format!("apt-get install {package}")),
            "{missing}: {error}"
        );
    }
    ensure!(
        !cache.path().join("parts").exists() || left(&cache.path().join("parts"))?.is_empty(),
        "something was begun"
    );
    Ok(())
}

#[test]
fn nonsense_is_refused_by_its_name() -> Result<()> {
    let cache = tempfile::tempdir()?;
    let bin = program("pandabuildd")?;
    for (arguments, expected) in [
        (["--mirror", "nonsense"], "--mirror nonsense"),
        (["--suite", "a b"], "--suite \"a b\""),
        (["--arch", "a b"], "--arch \"a b\""),
    ] {
        let error = refused(
            image_build(&bin, cache.path())
                .args(["--agent", STATIC])
                .args(arguments),
        )?;
        ensure!(error.contains(expected), "{error}");
    }
    let error = refused(
        image_build(&bin, cache.path())
            .args(["--agent", STATIC, "--mirror", NOWHERE])
            .env("SOURCE_DATE_EPOCH", "yesterday"),
    )?;
    ensure!(error.contains("SOURCE_DATE_EPOCH=yesterday"), "{error}");
    Ok(())
}

/// The static `pandabuildd`, with the static agent beside it.
fn static_bin() -> Result<PathBuf> {
    let directory = std::env::var_os("PANDA_TEST_STATIC")
        .context("PANDA_TEST_STATIC must be the directory that scripts/static prints")?;
    Ok(PathBuf::from(directory).join("pandabuildd"))
}

#[test]
#[ignore = "takes minutes and a mirror: scripts/test image"]
fn images_of_the_same_packages_and_time_are_the_same_byte_by_byte() -> Result<()> {
    let bin = static_bin()?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let mut images = Vec::new();
    for name in ["one", "two"] {
        let cache = work.path().join(name);
        let image = work.path().join(format!("image-{name}"));
        run_ok(
            image_build(&bin, &cache)
                .arg("--output")
                .arg(&image)
                .env("SOURCE_DATE_EPOCH", "1700000000"),
        )?;
        images.push(image);
    }
    run_ok(Command::new("diff").arg("-r").args(&images))?;

    // What is there is left as it is; another agent makes another image of the same packages.
    let manifest_of = |image: &Path| -> Result<_> {
        let bytes = fs::read(image.join(manifest::NAME))?;
        Ok((manifest::parse(&bytes)?, manifest::id(&bytes)))
    };
    let (parsed, id) = manifest_of(&images[0])?;
    ensure!(parsed.machine == Machine::Qemu, "{parsed:?}");
    let rootfs = parsed.rootfs.context("no root file system")?;
    run_ok(
        Command::new("unsquashfs")
            .args(["-ls"])
            .arg(images[0].join(rootfs.file.as_str())),
    )
    .map(|listing| {
        for path in [
            "usr/bin/sbuild",
            "usr/bin/schroot",
            "usr/bin/panda-agent",
            "sbin/mkfs.ext4",
            "var/lib/panda",
        ] {
            assert!(
                listing.contains(&format!("squashfs-root/{path}"))
                    || listing.contains(&format!("squashfs-root/usr/{path}")),
                "{path}"
            );
        }
    })?;
    let again = |agent: &str| {
        let mut command = image_build(&bin, &work.path().join("one"));
        command
            .arg("--output")
            .arg(&images[0])
            .env("SOURCE_DATE_EPOCH", "1700000000")
            // No packages are fetched: there is nothing that could.
            .env("PATH", "/usr/bin");
        if !agent.is_empty() {
            command.args(["--agent", agent]);
        }
        run_ok(&mut command)
    };
    again("")?;
    ensure!(manifest_of(&images[0])?.1 == id);
    again(STATIC)?;
    ensure!(manifest_of(&images[0])?.1 != id);
    fs::write(images[0].join("rootfs"), "damaged")?;
    again("")?;
    ensure!(
        manifest_of(&images[0])?.1 == id,
        "a damaged image is made again"
    );
    Ok(())
}

#[test]
#[ignore = "takes minutes and a mirror: scripts/test image"]
fn a_build_that_is_interrupted_or_killed_leaves_nothing_and_can_be_run_again() -> Result<()> {
    let bin = static_bin()?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let parts = work.path().join("parts");
    let image = work.path().join("image");
    let build = || -> Result<Child> {
        let mut command = image_build(&bin, work.path());
        command.arg("--output").arg(&image);
        Ok(command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?)
    };

    let mut interrupted = build()?;
    let tree = under_way(&parts, &mut interrupted)?;
    let second = refused(image_build(&bin, work.path()).arg("--output").arg(&image))?;
    ensure!(
        second.contains("another `pandabuildd image build`"),
        "{second}"
    );
    kill(pid(&interrupted)?, Signal::SIGINT)?;
    ensure!(interrupted.wait()?.code() == Some(130));
    ensure!(
        !tree.exists() && left(&parts)?.is_empty(),
        "{:?}",
        left(&parts)?
    );
    ensure!(!image.exists());

    let mut killed = build()?;
    let tree = under_way(&parts, &mut killed)?;
    killed.kill()?;
    killed.wait()?;
    // mmdebstrap ends with us, and takes its directory with it as far as it can.
    wait_until(Duration::from_secs(60), || Ok(!runs_in(&tree)?))?;

    run_ok(image_build(&bin, work.path()).arg("--output").arg(&image))?;
    let left = left(&parts)?;
    ensure!(left.len() == 1 && !left[0].starts_with("work-"), "{left:?}");
    ensure!(image.join(manifest::NAME).exists());
    Ok(())
}

#[test]
#[ignore = "takes minutes and a mirror: scripts/test image"]
fn a_mirror_that_breaks_off_in_the_middle_is_said_and_costs_a_second_run_only() -> Result<()> {
    let bin = static_bin()?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let output = work.path().join("image");
    // Enough for the lists, and not for the packages.
    let front = MirrorFront::start(30 << 20)?;
    let build = || {
        let mut command = image_build(&bin, work.path());
        command.arg("--output").arg(&output);
        command.env("http_proxy", &front.url);
        command
    };
    let error = refused(&mut build())?;
    ensure!(front.is_broken(), "it failed before: {error}");
    ensure!(
        error.contains("run this again when the mirror answers"),
        "{error}"
    );
    ensure!(left(&work.path().join("parts"))?.is_empty() && !output.exists());
    front.mend();
    run_ok(&mut build())?;
    ensure!(output.join(manifest::NAME).exists());
    Ok(())
}

#[test]
#[ignore = "takes root and a while: scripts/test image"]
fn without_a_mirror_root_or_room_it_says_so_and_leaves_nothing() -> Result<()> {
    let bin = static_bin()?;
    let work = tempfile::tempdir_in("/var/tmp")?;
    let output = work.path().join("image");
    let error = refused(
        image_build(&bin, work.path())
            .args(["--mirror", NOWHERE])
            .arg("--output")
            .arg(&output),
    )?;
    ensure!(
        error.contains("run this again when the mirror answers") && error.contains("127.0.0.1"),
        "{error}"
    );
    ensure!(left(&work.path().join("parts"))?.is_empty() && !output.exists());

    let open = tempfile::tempdir_in("/var/tmp")?;
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777))?;
    let programs = open.path().join("bin");
    fs::create_dir(&programs)?;
    for name in ["pandabuildd", "panda-agent"] {
        fs::copy(bin.with_file_name(name), programs.join(name))?;
    }
    // A cache that anybody may write to, and root's own.
    for (cache, expected) in [
        (open.path(), "needs root"),
        (work.path(), "run this with sudo"),
    ] {
        let error = refused(
            Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
                .arg(programs.join("pandabuildd"))
                .args(["image", "build", "--mirror", NOWHERE])
                .env("PANDABUILDD_CACHE", cache),
        )?;
        ensure!(error.contains(expected), "{error}");
    }

    let small = work.path().join("small");
    fs::create_dir(&small)?;
    run_ok(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "none"])
            .arg(&small),
    )?;
    let error = refused(image_build(&bin, &small).args(["--mirror", NOWHERE]));
    run_ok(Command::new("umount").arg(&small))?;
    let error = error?;
    ensure!(
        error.contains("MiB are needed, and its disk has"),
        "{error}"
    );
    Ok(())
}

/// Stands before whatever mirrors are asked, and lets so many bytes through; then all its connections break, and no
/// others are taken.
struct MirrorFront {
    url: String,
    left: Arc<AtomicI64>,
}

impl MirrorFront {
    fn start(bytes: i64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let left = Arc::new(AtomicI64::new(bytes));
        let counted = left.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let left = counted.clone();
                // Dropped, and so closed, where nothing is let through any more.
                if left.load(Ordering::SeqCst) > 0 {
                    std::thread::spawn(move || drop(Self::serve(client, &left)));
                }
            }
        });
        Ok(Self { url, left })
    }

    fn is_broken(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    fn mend(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }

    /// One request, to the mirror that it names, as requests to a proxy do; mirrors understand that form too. What else was
    /// asked on this connection is asked again on another.
    fn serve(mut client: TcpStream, left: &AtomicI64) -> io::Result<()> {
        let mut asked = Vec::new();
        let mut piece = [0; 16 * 1024];
        let head = loop {
            let text = String::from_utf8_lossy(&asked);
            if let Some((head, _)) = text.split_once("\r\n\r\n") {
                break format!("{head}\r\nConnection: close\r\n\r\n");
            }
            match client.read(&mut piece)? {
                0 => return Ok(()),
                count => asked.extend_from_slice(&piece[..count]),
            }
        };
        let host = head
            .split_once("http://")
            .and_then(|(_, rest)| rest.split(['/', ' ']).next())
            .unwrap_or_default();
        let mut mirror = TcpStream::connect(if host.contains(':') {
            host.to_owned()
        } else {
            format!("{host}:80")
        })?;
        mirror.write_all(head.as_bytes())?;
        loop {
            let count = mirror.read(&mut piece)?;
            let bytes = i64::try_from(count).unwrap_or(i64::MAX);
            if count == 0 || left.fetch_sub(bytes, Ordering::SeqCst) <= bytes {
                return client.shutdown(Shutdown::Both);
            }
            client.write_all(&piece[..count])?;
        }
    }
}

/// Waits until packages are being unpacked; the tree they are unpacked into.
fn under_way(parts: &Path, child: &mut Child) -> Result<PathBuf> {
    let mut found = None;
    wait_until(Duration::from_secs(300), || {
        ensure!(child.try_wait()?.is_none(), "it ended before it had begun");
        for work in left(parts).unwrap_or_default() {
            let tmp = parts.join(work).join("tmp");
            for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
                if entry.path().join("var/lib/dpkg/status").exists() {
                    found = Some(entry.path());
                }
            }
        }
        Ok(found.is_some())
    })?;
    found.context("no tree")
}

/// What is in the cache of parts beside its lock.
fn left(parts: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(parts)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "lock" {
            names.push(name);
        }
    }
    Ok(names)
}

/// Whether any process names `tree` in its command line.
fn runs_in(tree: &Path) -> Result<bool> {
    let name = tree.to_string_lossy();
    for entry in fs::read_dir("/proc")? {
        let command = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&*name) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn wait_until(limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + limit;
    while !done()? {
        if Instant::now() > until {
            bail!("not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}
