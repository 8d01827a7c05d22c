//! Packages of `fixtures/cases`, each of which was judged wrongly once, and the verdict that is right. Real builds, as in
//! `sbuild.rs`, and ignored for the same reason; the gate `worker` runs them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{TestWorker, id, name, text};
use dxr::Value;
use nix::mount::{MsFlags, mount};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildCall, BuildStatus, Outcome, Sum};
use tokio_util::sync::CancellationToken;

const NONE: Option<&str> = None;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cases")
}

fn chroot() -> Vec<u8> {
    let path = std::env::var_os("PANDA_TEST_CHROOT").map_or_else(
        || PathBuf::from("/tmp/panda-chroot-amd64.tar.zst"),
        PathBuf::from,
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a case's source package.
fn source(case: &str, package: &str) -> BTreeMap<String, Vec<u8>> {
    [
        format!("{package}_1.0.dsc"),
        format!("{package}_1.0.tar.xz"),
    ]
    .into_iter()
    .map(|file| {
        let bytes = std::fs::read(cases().join(case).join(&file)).unwrap();
        (file, bytes)
    })
    .collect()
}

fn call(source: &BTreeMap<String, Vec<u8>>, chroot: &[u8], archives: &[&str]) -> BuildCall {
    let arch = panda_agent::init::native_arch().unwrap();
    let archives = archives.iter().map(|line| text(line)).collect();
    BuildCall {
        build_id: id("PACKAGEBUILD-8"),
        build_type: "binarypackage".to_owned(),
        chroot: Sum::from(Sha1::of(chroot)),
        filemap: source
            .iter()
            .map(|(file, bytes)| (name(file), Sum::from(Sha1::of(bytes))))
            .collect(),
        args: BTreeMap::from([
            ("suite".to_owned(), text("bookworm")),
            ("arch_tag".to_owned(), text(&arch)),
            ("archive_purpose".to_owned(), text("PRIMARY")),
            ("archives".to_owned(), Value::Array(archives)),
        ]),
    }
}

fn worker(source: &BTreeMap<String, Vec<u8>>, chroot: &[u8]) -> TestWorker {
    let mut inputs: Vec<&[u8]> = source.values().map(Vec::as_slice).collect();
    inputs.push(chroot);
    TestWorker::start(&inputs, &[])
}

/// Serves the archive on loopback; returns its address.
async fn archive() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let handler = move |request: http::Request<_>, _| async move {
        let request: http::Request<hyper::body::Incoming> = request;
        let path = cases().join("repo").join(
            request
                .uri()
                .path()
                .replace("/./", "/")
                .trim_start_matches('/'),
        );
        match panda_http::ServedFile::open(&path).await {
            Ok(Some(file)) => {
                panda_http::ranges::file_response(request.method(), request.headers(), file).await
            }
            _ => panda_http::body::text_response(http::StatusCode::NOT_FOUND, "none"),
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
    address
}

async fn built(case: &str, package: &str, archives: &[&str]) -> (Outcome, String) {
    let (source, chroot) = (source(case, package), chroot());
    let worker = worker(&source, &chroot);
    let outcome = worker.build(call(&source, &chroot, archives)).await;
    (outcome, worker.log().await)
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn every_package_has_its_verdict() {
    let archive = format!("deb [trusted=yes] {}/ ./", archive().await);
    for (case, package, status, dependencies) in [
        ("alternatives", "d1", BuildStatus::Ok, ""),
        ("changes-latin1", "g6", BuildStatus::Ok, ""),
        ("changes-formfeed", "g7", BuildStatus::Ok, ""),
        ("conflict-depfail", "d8", BuildStatus::PackageFail, ""),
        ("conflict-depfail", "d11", BuildStatus::PackageFail, ""),
        ("killer-postinst", "d20", BuildStatus::PackageFail, ""),
        (
            "latin1-dsc",
            "l1dsc",
            BuildStatus::DepFail,
            "libold-dev (>= 2)",
        ),
        (
            "virtual-versioned",
            "d4b",
            BuildStatus::DepFail,
            "virt-x (>= 1)",
        ),
    ] {
        let (outcome, log) = built(case, package, &[&archive]).await;
        assert_eq!(outcome.build_status, status, "{case} {package}: {log}");
        assert_eq!(outcome.dependencies, dependencies, "{case} {package}");
        if status == BuildStatus::Ok {
            for line in [
                "\nTERM=unknown\n",
                "\nV=1\n",
                "Initiating build PACKAGEBUILD-8 with ",
                "Kernel reported to sbuild: ",
            ] {
                assert!(log.contains(line), "{line:?} is missing in {log}");
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn an_archive_that_cannot_be_reached_is_tried_twice_and_then_the_chroots_failure() {
    let archive = "deb [trusted=yes] http://127.0.0.1:1 ./";
    let (outcome, log) = built("archive-unreachable", "netdown", &[archive]).await;
    assert_eq!(outcome.build_status, BuildStatus::ChrootFail, "{log}");
    assert_eq!(log.matches("apt-get -uy update").count(), 2, "{log}");
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn both_keys_of_one_item_are_trusted_and_named() {
    let archive = format!("deb {}/signed ./", archive().await);
    let key = std::fs::read(cases().join("two-keys-one-item/both.asc")).unwrap();
    let (source, chroot) = (source("changes-latin1", "g6"), chroot());
    let worker = worker(&source, &chroot);
    let mut call = call(&source, &chroot, &[&archive]);
    let keys = Value::Array(vec![text(&STANDARD.encode(key))]);
    call.args.insert("trusted_keys".to_owned(), keys);
    let outcome = worker.build(call).await;
    let log = worker.log().await;
    assert_eq!(outcome.build_status, BuildStatus::Ok, "{log}");
    assert_eq!(log.matches("Key fingerprint = ").count(), 2, "{log}");
}

/// Mounts of this thread's own, which the worker that it starts has too.
fn own_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn a_host_whose_people_have_names_in_latin_1_builds_as_ever() {
    own_mounts();
    let passwd = cases().join("host-nonutf8/passwd-l1");
    mount(Some(&passwd), "/etc/passwd", NONE, MsFlags::MS_BIND, NONE).unwrap();
    let (outcome, log) = built("changes-latin1", "g6", &[]).await;
    assert_eq!(outcome.build_status, BuildStatus::Ok, "{log}");
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn a_disk_too_full_for_the_chroot_is_not_the_packages_fault() {
    own_mounts();
    let chroot = chroot();
    let directory = tempfile::tempdir().unwrap();
    let size = format!("size={}", chroot.len() + (200 << 20));
    mount(
        Some("tmpfs"),
        directory.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some(size.as_str()),
    )
    .unwrap();
    let source = source("changes-latin1", "g6");
    let cache = directory.path().join("filecache");
    std::fs::create_dir(&cache).unwrap();
    for input in source.values().map(Vec::as_slice).chain([&chroot[..]]) {
        std::fs::write(cache.join(Sha1::of(input).to_string()), input).unwrap();
    }
    let worker = TestWorker::start_in(directory, &[]);
    let outcome = worker.build(call(&source, &chroot, &[])).await;
    assert_eq!(
        outcome.build_status,
        BuildStatus::ChrootFail,
        "{}",
        worker.log().await
    );
}

#[tokio::test]
#[ignore = "needs root, sbuild and a chroot"]
async fn nothing_that_a_build_leaves_stops_the_next_one_or_the_next_start() {
    let archive = format!("deb [trusted=yes] {}/ ./", archive().await);
    for (case, package) in [("deep-tree", "deep1100"), ("immutable", "b6imm")] {
        let (source, chroot) = (source(case, package), chroot());
        let worker = worker(&source, &chroot);
        let build = call(&source, &chroot, &[&archive]);
        let outcome = worker.build(build.clone()).await;
        assert_eq!(
            outcome.build_status,
            BuildStatus::Ok,
            "{}",
            worker.log().await
        );
        let directory = worker.kill();
        let (builds, stuck) = (
            directory.path().join("builds"),
            directory.path().join("stuck"),
        );
        let worker = TestWorker::start_in(directory, &[]);
        assert_eq!(std::fs::read_dir(builds).unwrap().count(), 0, "{case}");
        assert!(!stuck.exists(), "{case}");
        assert_eq!(worker.build(build).await.build_status, BuildStatus::Ok);
    }
}
