//! Real builds: the real worker, Debian's sbuild, a real chroot. Ignored unless asked for, since they
//! need root, sbuild, schroot and a chroot tarball of this machine's architecture:
//!
//! ```text
//! PANDA_TEST_CHROOT=bookworm-amd64.tar.zst cargo nextest run -p panda-agent --run-ignored only
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{TestWorker, bare, id, mounts_below, name, processes_with, text};
use dxr::Value;
use panda_protocol::digest::{Sha1, Sha256};
use panda_protocol::launchpad::{BuildCall, BuildStatus, Outcome, Sum};
use tokio_util::sync::CancellationToken;

const FIXTURE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../fixtures/sources/panda-hello"
);

fn tarball() -> Vec<u8> {
    let path = std::env::var_os("PANDA_TEST_CHROOT").map_or_else(
        || PathBuf::from("/tmp/panda-chroot-amd64.tar.zst"),
        PathBuf::from,
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A source package: the fixture, with `from` replaced by `to` in `file`.
struct Source {
    directory: tempfile::TempDir,
}

impl Source {
    fn new(edit: Option<(&str, &str, &str)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("panda-hello-1.0");
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        run(Command::new("cp").arg("-r").arg(FIXTURE).arg(&tree));
        if let Some((file, from, to)) = edit {
            let path = tree.join(file);
            let before = std::fs::read_to_string(&path).unwrap();
            assert!(before.contains(from), "{file} has no {from}");
            std::fs::write(&path, before.replace(from, to)).unwrap();
        }
        run(Command::new("dpkg-source")
            .arg("-b")
            .arg(&tree)
            .current_dir(directory.path()));
        Self { directory }
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        ["panda-hello_1.0.dsc", "panda-hello_1.0.tar.xz"]
            .iter()
            .map(|name| {
                (
                    (*name).to_owned(),
                    std::fs::read(self.directory.path().join(name)).unwrap(),
                )
            })
            .collect()
    }
}

/// A worker with everything for one build, and that build.
fn worker(source: &Source, chroot: &[u8], archives: &[&str]) -> (TestWorker, BuildCall) {
    let files = source.files();
    let mut inputs: Vec<&[u8]> = files.values().map(Vec::as_slice).collect();
    inputs.push(chroot);
    let worker = TestWorker::start(&inputs, &[]);
    let arch = panda_agent::init::native_arch().unwrap();
    let archives = archives.iter().map(|line| text(line)).collect();
    let call = BuildCall {
        build_id: id("PACKAGEBUILD-7"),
        build_type: "binarypackage".to_owned(),
        chroot: Sum::from(Sha1::of(chroot)),
        filemap: files
            .iter()
            .map(|(file, bytes)| (name(file), Sum::from(Sha1::of(bytes))))
            .collect(),
        args: BTreeMap::from([
            ("suite".to_owned(), text("bookworm")),
            ("series".to_owned(), text("bookworm")),
            ("arch_tag".to_owned(), text(&arch)),
            ("arch_indep".to_owned(), Value::Boolean(false)),
            ("archive_purpose".to_owned(), text("PRIMARY")),
            ("ogrecomponent".to_owned(), text("main")),
            ("archives".to_owned(), Value::Array(archives)),
        ]),
    };
    (worker, call)
}

async fn built(edit: Option<(&str, &str, &str)>, chroot: &[u8]) -> (Outcome, String) {
    let (worker, call) = worker(&Source::new(edit), chroot, &[]);
    let outcome = worker.build(call).await;
    (outcome, worker.log().await)
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn a_package_is_built_by_sbuild_and_nothing_of_it_stays_on_the_host() {
    let chroots = || std::fs::read_dir("/etc/schroot/chroot.d").unwrap().count();
    let sessions = || {
        std::fs::read_dir("/var/lib/schroot/session")
            .unwrap()
            .count()
    };
    let before = (chroots(), sessions(), std::fs::read("/etc/passwd").unwrap());
    let (worker, call) = worker(&Source::new(None), &tarball(), &[]);
    let outcome = worker.build(call).await;
    let log = worker.log().await;
    assert_eq!(outcome.build_status, BuildStatus::Ok, "{log}");
    let arch = panda_agent::init::native_arch().unwrap();
    let deb = &outcome.filemap[&name(&format!("panda-hello_1.0_{arch}.deb"))];
    assert!(
        outcome
            .filemap
            .contains_key(&name(&format!("panda-hello_1.0_{arch}.changes")))
    );
    let (_, bytes) = worker.file(&deb.to_string()).await;
    let path = worker.directory.path().join("built.deb");
    std::fs::write(&path, bytes).unwrap();
    let info = Command::new("dpkg-deb")
        .arg("--info")
        .arg(&path)
        .output()
        .unwrap();
    let info = String::from_utf8_lossy(&info.stdout).into_owned();
    assert!(info.contains("Package: panda-hello"), "{info}");

    for step in [
        "RUN: tar --",
        "RUN: sbuild -c chroot:panda-build",
        "Status: successful",
    ] {
        assert!(log.contains(step), "{step} is missing in {log}");
    }
    assert!(
        log.contains("dpkg-buildpackage --sanitize-env -us -uc -B"),
        "{log}"
    );
    assert!(
        log.contains("DEB_BUILD_OPTIONS=parallel=") && log.contains("noautodbgsym"),
        "{log}"
    );
    assert!(log.contains("USER=sbuild\n"), "{log}");
    assert!(log.contains("No archives were given"), "{log}");
    assert!(
        !log.contains("RUN: chroot"),
        "nothing to update from: {log}"
    );
    assert_eq!(
        before,
        (chroots(), sessions(), std::fs::read("/etc/passwd").unwrap())
    );
    assert_eq!(mounts_below(worker.directory.path()), 0);
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn the_chroot_is_set_up_as_builders_set_it_up() {
    let look = "\t@cat /CurrentlyBuilding /etc/apt/preferences.d/*; apt-config dump; id -un; \
        cat /etc/resolv.conf; grep -E ' (/proc|/sys|/dev/pts|/dev/shm) ' /proc/mounts; \
        test -c /dev/null && echo a null device; ls /proc | grep -c '^[0-9]'; $(CC)";
    let source = Source::new(Some(("debian/rules", "\t$(CC)", look)));
    let (worker, mut call) = worker(&source, &tarball(), &[]);
    call.args
        .insert("arch_indep".to_owned(), Value::Boolean(true));
    call.args
        .insert("build_debug_symbols".to_owned(), Value::Boolean(true));
    let outcome = worker.build(call).await;
    let log = worker.log().await;
    assert_eq!(outcome.build_status, BuildStatus::Ok, "{log}");
    for line in [
        "Package: panda-hello\nComponent: main\nSuite: bookworm\nPurpose: PRIMARY\nBuild-Debug-Symbols: yes\n",
        "Pin: release a=*-proposed\nPin-Priority: 500\n",
        "Pin: release a=*-backports\nPin-Priority: 500\n",
        "Acquire::Retries \"3\";\n",
        "\nsbuild\n",
        " /proc proc ",
        " /sys sysfs ro",
        " /dev/pts devpts ",
        " /dev/shm tmpfs ",
        "\na null device\n",
        " -A panda-hello_1.0.dsc\n",
        "dpkg-buildpackage --sanitize-env -us -uc -b ",
    ] {
        assert!(log.contains(line), "{line:?} is missing in {log}");
    }
    assert!(!log.contains("noautodbgsym"), "{log}");
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    assert!(log.contains(resolv.trim()), "{log}");
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn two_builds_at_once_on_one_host_do_not_meet() {
    let tarball = tarball();
    let (first, second) = (Source::new(None), Source::new(None));
    let (first, first_call) = worker(&first, &tarball, &[]);
    let (second, second_call) = worker(&second, &tarball, &[]);
    let (one, two) = tokio::join!(first.build(first_call), second.build(second_call));
    assert_eq!(
        (one.build_status, two.build_status),
        (BuildStatus::Ok, BuildStatus::Ok)
    );
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn an_unsatisfiable_dependency_is_a_depfail_on_it() {
    let edit = (
        "debian/control",
        "Section: misc\n",
        "Section: misc\nBuild-Depends: no-such-package (>= 1.2)\n",
    );
    let (outcome, log) = built(Some(edit), &tarball()).await;
    assert_eq!(outcome.build_status, BuildStatus::DepFail, "{log}");
    assert_eq!(outcome.dependencies, "no-such-package (>= 1.2)");
}

/// A signed flat archive on loopback with the packages panda-a, and panda-b that conflicts with it.
struct Archive {
    _directory: tempfile::TempDir,
    line: String,
    /// The key that it is signed with, as `trusted_keys` has it.
    key: Value,
}

async fn archive() -> Archive {
    let directory = tempfile::tempdir().unwrap();
    let run = |command: &mut Command| {
        let output = command.current_dir(directory.path()).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    for (package, more) in [("panda-a", ""), ("panda-b", "Conflicts: panda-a\n")] {
        let debian = directory.path().join(package).join("DEBIAN");
        std::fs::create_dir_all(&debian).unwrap();
        let control = format!(
            "Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\n\
             {more}Description: x\n"
        );
        std::fs::write(debian.join("control"), control).unwrap();
        run(Command::new("dpkg-deb").args(["--root-owner-group", "-b", package, "."]));
    }
    let packages = run(Command::new("dpkg-scanpackages").arg("."));
    let date = run(Command::new("date").arg("-Ru"));
    let release = format!(
        "Date: {}SHA256:\n {} {} Packages\n",
        String::from_utf8(date).unwrap(),
        Sha256::of(&packages),
        packages.len()
    );
    std::fs::write(directory.path().join("Packages"), packages).unwrap();
    std::fs::write(directory.path().join("Release"), release).unwrap();
    let home = directory.path().join("gnupg");
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&home)
        .unwrap();
    let gpg = |words: &[&str]| {
        run(Command::new("gpg")
            .arg("--homedir")
            .arg(&home)
            .args(["--batch", "-q"])
            .args(words))
    };
    gpg(&[
        "--passphrase",
        "",
        "--quick-gen-key",
        "x@example.org",
        "default",
        "default",
        "never",
    ]);
    gpg(&["--clearsign", "-o", "InRelease", "Release"]);
    let key = text(&STANDARD.encode(gpg(&["--armor", "--export"])));
    run(Command::new("gpgconf")
        .arg("--homedir")
        .arg(&home)
        .args(["--kill", "all"]));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let line = format!("deb http://{}/ ./", listener.local_addr().unwrap());
    let served = directory.path().to_owned();
    let handler = move |request: http::Request<_>, _| {
        let path = served.join(request.uri().path().trim_start_matches("/./"));
        async move {
            let request: http::Request<hyper::body::Incoming> = request;
            match panda_http::ServedFile::open(&path).await {
                Ok(Some(file)) => {
                    panda_http::ranges::file_response(request.method(), request.headers(), file)
                        .await
                }
                _ => panda_http::body::text_response(http::StatusCode::NOT_FOUND, "none"),
            }
        }
    };
    let settings = panda_http::ServerSettings::default();
    tokio::spawn(panda_http::serve(
        listener,
        None,
        settings,
        CancellationToken::new(),
        handler,
    ));
    Archive {
        _directory: directory,
        line,
        key,
    }
}

fn depending(on: &str) -> Source {
    let fields = format!("Section: misc\nBuild-Depends: {on}\n");
    Source::new(Some(("debian/control", "Section: misc\n", &fields)))
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn dependencies_come_from_the_builds_archives_in_either_style() {
    let archive = archive().await;
    for series in ["bookworm", "noble"] {
        let (worker, mut call) = worker(&depending("panda-a"), &tarball(), &[&archive.line]);
        call.args.insert("series".to_owned(), text(series));
        call.args.insert(
            "trusted_keys".to_owned(),
            Value::Array(vec![archive.key.clone()]),
        );
        let outcome = worker.build(call).await;
        let log = worker.log().await;
        assert_eq!(outcome.build_status, BuildStatus::Ok, "{log}");
        assert!(
            log.contains("dist-upgrade") && log.contains("Setting up panda-a"),
            "{log}"
        );
    }
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn an_archive_whose_key_is_not_trusted_is_a_chrootfail() {
    let archive = archive().await;
    let (worker, call) = worker(&depending("panda-a"), &tarball(), &[&archive.line]);
    let outcome = worker.build(call).await;
    let log = worker.log().await;
    assert_eq!(outcome, bare(BuildStatus::ChrootFail), "{log}");
    assert!(log.contains("E: the chroot cannot be updated"), "{log}");
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn dependencies_that_exist_but_conflict_are_the_packages_failure() {
    let archive = archive().await;
    let (worker, mut call) = worker(&depending("panda-a, panda-b"), &tarball(), &[&archive.line]);
    call.args.insert(
        "trusted_keys".to_owned(),
        Value::Array(vec![archive.key.clone()]),
    );
    let outcome = worker.build(call).await;
    let log = worker.log().await;
    assert_eq!(outcome, bare(BuildStatus::PackageFail), "{log}");
    assert!(log.contains("unmet dependencies"), "{log}");
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn a_package_that_does_not_build_is_a_packagefail() {
    let (outcome, log) = built(
        Some(("debian/rules", "\t$(CC)", "\tfalse; exit 1; $(CC)")),
        &tarball(),
    )
    .await;
    assert_eq!(outcome, bare(BuildStatus::PackageFail), "{log}");
    assert!(log.contains("dpkg-buildpackage died"), "{log}");
}

/// It must not be able to pass for a broken builder, or to reach anything but itself.
#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn a_package_that_kills_all_that_it_can_is_a_packagefail() {
    let killing = "\tkill -9 -1; $(CC)";
    let (outcome, log) = built(Some(("debian/rules", "\t$(CC)", killing)), &tarball()).await;
    assert_eq!(outcome, bare(BuildStatus::PackageFail), "{log}");
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn a_broken_chroot_is_a_chrootfail() {
    let whole = tarball();
    let other = std::process::Command::new("tar")
        .args(["-C", "/etc", "-c", "hostname"])
        .output()
        .unwrap()
        .stdout;
    for broken in [&whole[..whole.len() / 3], b"no tarball at all", &other[..]] {
        let (outcome, log) = built(None, broken).await;
        assert_eq!(outcome, bare(BuildStatus::ChrootFail), "{log}");
        assert!(
            log.contains("E: the chroot tarball cannot be unpacked"),
            "{log}"
        );
    }
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn passwords_of_archives_that_cannot_be_reached_stay_hidden() {
    let archive = "deb http://user:s3cret@127.0.0.1:1/debian bookworm main";
    let (worker, call) = worker(&Source::new(None), &tarball(), &[archive]);
    let outcome = worker.build(call).await;
    let log = worker.log().await;
    assert_eq!(outcome, bare(BuildStatus::ChrootFail), "{log}");
    assert!(log.contains("apt-get -uy update"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn an_endless_sbuild_build_is_aborted_with_all_it_started() {
    let mark = format!("6{:06}.75", std::process::id());
    let endless =
        format!("\t(trap '' TERM; setsid sleep {mark} &) ; echo endless; sleep {mark}; $(CC)");
    let source = Source::new(Some(("debian/rules", "\t$(CC)", &endless)));
    let (worker, call) = worker(&source, &tarball(), &[]);
    assert!(worker.client.build(call).await.unwrap().is_building());
    worker.log_with("\nendless\n").await;
    worker.client.abort().await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(10), worker.ended())
        .await
        .unwrap();
    assert_eq!(outcome, bare(BuildStatus::Aborted));
    assert_eq!(processes_with(&mark), Vec::<PathBuf>::new());
    assert_eq!(mounts_below(Path::new(worker.directory.path())), 0);
}
