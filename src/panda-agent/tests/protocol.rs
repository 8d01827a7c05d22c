//! The builder protocol of the real worker program, with executors in the place of sbuild.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{DSC, TARBALL, TestWorker, bare, call, gone, id, name, processes_with, text};
use dxr::Value;
use panda_http::ClientError;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildReply, BuildStatus, EnsurePresent, Status, Sum};

/// Makes a package of one file, and shows what it was told.
const MAKE: &str = r#"
echo "id=$PANDA_BUILD_ID arch=$PANDA_ARCH suite=$PANDA_SUITE"; echo "args=$PANDA_ARGS"
cat "$PANDA_CHROOT"; ls
printf abc > hello_1.0_armhf.deb
printf 'Format: 1.8\nFiles:\n 900150983cd24fb0d6963f7d28e17f72 3 misc optional hello_1.0_armhf.deb\n' \
    > hello_1.0_armhf.changes
"#;

fn is_fault(error: &ClientError) -> bool {
    matches!(error, ClientError::Fault { code: 8002, .. })
}

#[tokio::test]
async fn a_good_build_goes_from_idle_to_its_results_and_back() {
    let worker = TestWorker::with_executor(MAKE, &[DSC], &["--arch", "armhf"]);
    let info = worker.client.info().await.unwrap();
    assert_eq!(
        (info.version.as_str(), info.arch.as_str()),
        ("1.0", "armhf")
    );
    assert_eq!(info.build_types, ["binarypackage"]);
    assert_eq!(worker.status().await, Status::Idle);
    assert_eq!(worker.file("buildlog").await.0, 404);

    let outcome = worker.build(call(DSC)).await;
    assert_eq!(outcome.build_status, BuildStatus::Ok);
    assert_eq!(outcome.dependencies, "");
    let names: Vec<_> = outcome.filemap.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["hello_1.0_armhf.changes", "hello_1.0_armhf.deb"]);
    for sha1 in outcome.filemap.values() {
        let (status, bytes) = worker.file(&sha1.to_string()).await;
        assert_eq!((status, Sha1::of(&bytes)), (200, *sha1));
    }

    let log = worker.log().await;
    assert!(
        log.starts_with("https://launchpad.test/+build/1\n["),
        "{log}"
    );
    assert!(log.contains("]\nRUN: sh -c "), "{log}");
    assert!(
        log.contains("id=PACKAGEBUILD-1 arch=armhf suite=noble\n"),
        "{log}"
    );
    assert!(log.contains(r#""arch_tag":"armhf""#), "{log}");
    assert!(log.contains("a chroothello_1.0.dsc\n"), "{log}");

    // Inputs are not served, and neither is a sum that is no result.
    assert_eq!(worker.file(&Sha1::of(DSC).to_string()).await.0, 404);
    assert_eq!(worker.file(&Sha1::of(TARBALL).to_string()).await.0, 404);

    worker.client.clean().await.unwrap();
    assert_eq!(worker.status().await, Status::Idle);
    for gone in [
        "buildlog".to_owned(),
        outcome.filemap[&name("hello_1.0_armhf.deb")].to_string(),
    ] {
        assert_eq!(worker.file(&gone).await.0, 404, "{gone}");
    }
    // And again: nothing of the first build is in the way.
    assert_eq!(worker.build(call(DSC)).await.build_status, BuildStatus::Ok);
}

#[tokio::test]
async fn an_executors_exit_status_is_read_as_sbuilds() {
    for (script, outcome) in [
        ("exit 1", bare(BuildStatus::PackageFail)),
        ("exit 2", bare(BuildStatus::PackageFail)),
        ("exit 3", bare(BuildStatus::PackageFail)),
        ("exit 4", bare(BuildStatus::BuilderFail)),
        ("exit 100", bare(BuildStatus::BuilderFail)),
        // Killed by itself or by what it has started: nobody else is in its namespace.
        ("kill -9 $$", bare(BuildStatus::PackageFail)),
        ("kill -HUP $$", bare(BuildStatus::PackageFail)),
        (
            "sh -c 'kill -SEGV $$'; exit $?",
            bare(BuildStatus::PackageFail),
        ),
        (
            "echo 'Setting up killer (1) ...'; exit 255",
            bare(BuildStatus::PackageFail),
        ),
        (
            "echo 'E: Failed to fetch http://x.example/a.deb  Hash Sum mismatch'; echo 'Fail-Stage: install-deps'; exit 3",
            bare(BuildStatus::ChrootFail),
        ),
        ("true", bare(BuildStatus::PackageFail)), // no .changes
        (
            "echo 'E: There are problems and -y was used without --force-yes'; exit 3",
            bare(BuildStatus::GivenBack),
        ),
    ] {
        let worker = TestWorker::with_executor(script, &[DSC], &[]);
        assert_eq!(worker.build(call(DSC)).await, outcome, "{script}");
    }
}

/// From a script with all that scripts leave on: signals ignored, a lock held, a mask and limits of its own.
#[tokio::test]
async fn what_the_workers_starter_has_set_does_not_show_in_a_build() {
    let starter = "trap '' HUP INT QUIT USR1 PIPE TERM; umask 077; ulimit -S -n 100; ulimit -S -f 1000000; \
        exec 7</etc/passwd 9</etc/group; exec \"$@\"";
    let look = "grep -E '^Sig(Ign|Blk):' /proc/self/status; umask; ulimit -n; ulimit -f; pwd >&2; ls /proc/self/fd | wc -l; \
        cut -d' ' -f7 /proc/self/stat; exit 1";
    let worker = TestWorker::started_by(starter, look, &[DSC]);
    assert_eq!(
        worker.build(call(DSC)).await,
        bare(BuildStatus::PackageFail)
    );
    let log = worker.log().await;
    for line in [
        "SigBlk:\t0000000000000000\n",
        "\n0022\n1024\nunlimited\n",
        // The standard ones, and the directory that is being listed.
        "\n4\n0\n",
    ] {
        assert!(log.contains(line), "{line:?} is missing in {log}");
    }
    let ignored = log
        .split("SigIgn:\t")
        .nth(1)
        .unwrap()
        .lines()
        .next()
        .unwrap();
    // The C library's own, 32 and 33, are nobody's to set.
    let ignored = u64::from_str_radix(ignored, 16).unwrap() & 0x7fff_ffff;
    assert_eq!(ignored, 0, "{log}");
}

#[tokio::test]
async fn what_a_build_leaves_is_removed_and_the_next_worker_starts() {
    let deep = "perl -e 'for(1..1500){mkdir q(d),0700; chdir q(d) or die $$_}'; echo made; exit 1";
    let worker = TestWorker::with_executor(deep, &[DSC], &["--log-bytes", "100000"]);
    assert_eq!(
        worker.build(call(DSC)).await,
        bare(BuildStatus::PackageFail)
    );
    assert!(worker.log().await.contains("made"));
    // Stopped before it has cleaned up, as by a power cut.
    let directory = worker.kill();
    let builds = directory.path().join("builds");
    let worker = TestWorker::start_in(directory, &["--executor", "exit 2"]);
    assert_eq!(std::fs::read_dir(builds).unwrap().count(), 0);
    assert_eq!(
        worker.build(call(DSC)).await,
        bare(BuildStatus::PackageFail)
    );
}

#[tokio::test]
async fn a_missing_dependency_in_the_log_becomes_a_depfail() {
    let script = "echo 'The following packages have unmet dependencies:'
        echo ' sbuild-build-depends-main-dummy : Depends: libnone-dev (>= 2) but it is not installable'
        echo 'Fail-Stage: install-deps'; exit 3";
    let worker = TestWorker::with_executor(script, &[DSC], &[]);
    let outcome = worker.build(call(DSC)).await;
    assert_eq!(outcome.build_status, BuildStatus::DepFail);
    assert_eq!(outcome.dependencies, "libnone-dev (>= 2)");
}

#[tokio::test]
async fn refused_calls_change_nothing() {
    let worker = TestWorker::with_executor("echo running; exec sleep 1000", &[DSC], &[]);
    assert!(is_fault(&worker.client.abort().await.unwrap_err()));
    assert!(is_fault(&worker.client.clean().await.unwrap_err()));
    assert_eq!(worker.status().await, Status::Idle);

    // Answers that are no builds.
    let mut other = call(DSC);
    other.build_type = "nosuch".to_owned();
    assert_eq!(
        worker.client.build(other).await.unwrap(),
        BuildReply::UnknownBuilder("nosuch not in ['binarypackage']".to_owned())
    );
    let mut other = call(DSC);
    other.chroot = Sum("aa".to_owned());
    assert_eq!(
        worker.client.build(other).await.unwrap(),
        BuildReply::UnknownSum("CHROOTSUM -> aa".to_owned())
    );
    let mut other = call(DSC);
    other
        .filemap
        .insert(name("hello.tar"), Sum("bb".to_owned()));
    assert_eq!(
        worker.client.build(other).await.unwrap(),
        BuildReply::UnknownSum("FILESUM -> bb".to_owned())
    );
    // The sums come first, as in the reference, whatever else is wrong.
    let mut other = call(DSC);
    other.chroot = Sum("aa".to_owned());
    other.filemap.clear();
    other.args.clear();
    assert_eq!(
        worker.client.build(other).await.unwrap(),
        BuildReply::UnknownSum("CHROOTSUM -> aa".to_owned())
    );
    let mut other = call(DSC);
    other.filemap.clear();
    assert!(is_fault(&worker.client.build(other).await.unwrap_err()));
    let mut other = call(DSC);
    other.args.insert("suite".to_owned(), text("../../etc"));
    assert!(is_fault(&worker.client.build(other).await.unwrap_err()));
    assert_eq!(worker.status().await, Status::Idle);
    assert_eq!(worker.file("buildlog").await.0, 404);

    // A second build while one runs neither takes over nor empties the log.
    assert!(worker.client.build(call(DSC)).await.unwrap().is_building());
    worker.log_with("running\n").await;
    let mut second = call(DSC);
    second.build_id = id("PACKAGEBUILD-2");
    assert!(is_fault(&worker.client.build(second).await.unwrap_err()));
    assert!(is_fault(&worker.client.clean().await.unwrap_err()));
    let Status::Building { build_id, logtail } = worker.status().await else {
        panic!()
    };
    assert_eq!(build_id, id("PACKAGEBUILD-1"));
    assert!(String::from_utf8_lossy(&logtail).ends_with("running\n"));
}

#[tokio::test]
async fn an_abort_leaves_nothing_running_however_stubborn() {
    // A child in a session of its own, twice forked, that ignores what can be ignored.
    let mark = format!("7{:06}.25", std::process::id());
    let script = format!(
        "trap '' TERM INT HUP
        setsid sh -c \"trap '' TERM INT HUP; (trap '' TERM INT HUP; while :; do sleep {mark}; done) & \" &
        echo started; while :; do sleep {mark}; done"
    );
    let worker = TestWorker::with_executor(&script, &[DSC], &[]);
    assert!(worker.client.build(call(DSC)).await.unwrap().is_building());
    worker.log_with("started\n").await;
    tokio::time::timeout(common::LIMIT, async {
        while processes_with(&format!("sleep\0{mark}")).len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("both sleepers");

    worker.client.abort().await.unwrap();
    worker
        .until(|status| !matches!(status, Status::Building { .. }))
        .await;
    let outcome = tokio::time::timeout(Duration::from_secs(10), worker.ended())
        .await
        .unwrap();
    assert_eq!(outcome, bare(BuildStatus::Aborted));
    assert_eq!(
        processes_with(&mark)
            .iter()
            .filter(|p| !is_worker(p, &worker))
            .count(),
        0
    );
    assert!(worker.log().await.ends_with("E: the build was aborted\n"));
    assert!(is_fault(&worker.client.abort().await.unwrap_err()));
    worker.client.clean().await.unwrap();
    assert_eq!(worker.status().await, Status::Idle);
}

/// The worker has the executor's text on its own command line.
fn is_worker(process: &std::path::Path, worker: &TestWorker) -> bool {
    process.ends_with(worker.pid().to_string())
}

/// What a build that is root could do to the first process of its namespace.
const FREEZE: &str = r#"exec python3 -c '
import ctypes, os, time
libc = ctypes.CDLL(None)
for thread in os.listdir("/proc/1/task"):
    assert libc.ptrace(16, int(thread), 0, 0) == 0
while any("tracing stop" not in open("/proc/1/task/%s/status" % thread).read()
          for thread in os.listdir("/proc/1/task")):
    time.sleep(0.01)
open("frozen", "w").close()
time.sleep(1000)'"#;

#[tokio::test]
async fn an_abort_ends_a_build_that_has_stopped_its_first_process() {
    let worker = TestWorker::with_executor(FREEZE, &[DSC], &[]);
    assert!(worker.client.build(call(DSC)).await.unwrap().is_building());
    let frozen = worker.directory.path().join("builds/0/work/files/frozen");
    tokio::time::timeout(common::LIMIT, async {
        while !frozen.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the first process is stopped");
    worker.client.abort().await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(10), worker.ended())
        .await
        .unwrap();
    assert_eq!(outcome, bare(BuildStatus::Aborted));
    let mark = worker.directory.path().display().to_string();
    let left = processes_with("run-build");
    assert!(!left.iter().any(|p| in_directory(p, &mark)), "{left:?}");
}

/// Whether a process works below a directory.
fn in_directory(process: &std::path::Path, directory: &str) -> bool {
    std::fs::read_link(process.join("cwd"))
        .is_ok_and(|cwd| cwd.display().to_string().starts_with(directory))
}

/// A file system of a few MiB, as the scratch disk of a board.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "none"])
            .arg(disk.0.path())
            .status()
            .unwrap();
        assert!(mounted.success(), "this test needs root");
        disk
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(self.0.path())
            .status();
        assert!(unmounted.unwrap().success());
    }
}

#[tokio::test]
#[ignore = "needs root, to mount a small disk"]
async fn a_build_that_fills_the_disk_is_a_packagefail_with_a_log() {
    for script in [
        "echo filling; cat /dev/zero > fill; exit 2",
        "echo filling; cat /dev/zero 2>/dev/null > fill; while echo more; do :; done",
    ] {
        let disk = SmallDisk::new();
        let state = tempfile::tempdir_in(disk.0.path()).unwrap();
        let cache = state.path().join("filecache");
        std::fs::create_dir(&cache).unwrap();
        for input in [DSC, TARBALL] {
            std::fs::write(cache.join(Sha1::of(input).to_string()), input).unwrap();
        }
        let worker = TestWorker::start_in(state, &["--executor", script]);
        let outcome = worker.build(call(DSC)).await;
        assert_eq!(outcome, bare(BuildStatus::PackageFail), "{script}");
        let log = worker.log().await;
        assert!(log.contains("\nfilling\n"), "{log}");
        assert!(log.ends_with("E: the build has filled the disk\n"), "{log}");
        worker.client.clean().await.unwrap();
        assert_eq!(worker.status().await, Status::Idle);
    }
}

#[tokio::test]
async fn a_build_dies_with_its_worker() {
    let mark = format!("8{:06}.25", std::process::id());
    let script = format!("setsid sleep {mark} & echo started; exec sleep {mark}");
    let worker = TestWorker::with_executor(&script, &[DSC], &[]);
    assert!(worker.client.build(call(DSC)).await.unwrap().is_building());
    worker.log_with("started\n").await;
    let directory = worker.kill();
    gone(&mark, Duration::from_secs(10)).await;

    // The next worker on the same state is idle, has the inputs, and nothing of the build.
    let worker = TestWorker::start_in(directory, &["--executor", MAKE]);
    assert_eq!(worker.status().await, Status::Idle);
    assert_eq!(worker.build(call(DSC)).await.build_status, BuildStatus::Ok);
}

#[tokio::test]
async fn what_a_good_build_leaves_running_is_gone_before_it_is_told() {
    let mark = format!("9{:06}.25", std::process::id());
    let script = format!("{MAKE}\nsetsid sleep {mark} &\n");
    let worker = TestWorker::with_executor(&script, &[DSC], &[]);
    assert_eq!(worker.build(call(DSC)).await.build_status, BuildStatus::Ok);
    assert_eq!(processes_with(&format!("sleep\0{mark}")).len(), 0);
}

#[tokio::test]
async fn a_build_cannot_change_what_the_next_one_is_given() {
    let script = "cat hello_1.0.dsc; echo tampered > hello_1.0.dsc; exit 1";
    let worker = TestWorker::with_executor(script, &[DSC], &[]);
    for _ in 0..2 {
        worker.build(call(DSC)).await;
        let log = worker.log().await;
        assert!(log.ends_with("Source: hello\nVersion: 1.0\n"), "{log}");
        worker.client.clean().await.unwrap();
    }
}

#[tokio::test]
async fn inputs_of_a_running_build_are_not_evicted() {
    // The inputs' 35 bytes and the 89 of a .changes do not fit together.
    let worker = TestWorker::with_executor(
        "until [ -e go ]; do :; done; cat \"$PANDA_CHROOT\"; exit 1",
        &[DSC],
        &["--cache-bytes", "100"],
    );
    let server = TestWorker::with_executor(MAKE, &[DSC], &[]);
    let changes = server.build(call(DSC)).await.filemap[&name("hello_1.0_armhf.changes")];
    let fetch = async || {
        let call = EnsurePresent {
            sum: Sum::from(changes),
            url: Some(format!("{}/filecache/{changes}", server.url)),
            username: String::new(),
            password: String::new(),
        };
        worker.client.ensure_present(call).await.unwrap().present
    };
    assert!(worker.client.build(call(DSC)).await.unwrap().is_building());
    worker.log_with("RUN: sh").await;
    assert!(
        !fetch().await,
        "there is no room beside the running build's inputs"
    );
    std::fs::write(worker.directory.path().join("builds/0/work/files/go"), "").unwrap();
    worker.ended().await;
    assert!(worker.log().await.ends_with("a chroot"));
    assert!(fetch().await, "an ended build's inputs make room");
}

#[tokio::test]
async fn orphans_of_a_build_are_reaped_while_it_runs() {
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9; do (sh -c : &); done
        tries=0
        while grep -qs '^State:.Z' /proc/[0-9]*/status; do
            tries=$((tries + 1)); [ $tries -lt 1000 ] || exit 1
        done\n{MAKE}"
    );
    let worker = TestWorker::with_executor(&script, &[DSC], &[]);
    assert_eq!(worker.build(call(DSC)).await.build_status, BuildStatus::Ok);
}

#[tokio::test]
async fn a_huge_log_ends_the_build_and_says_so() {
    let script = "exec yes 'http://user:s3cret@ppa.example/ubuntu noble main'";
    let worker = TestWorker::with_executor(script, &[DSC], &["--log-bytes", "3000000"]);
    let outcome = worker.build(call(DSC)).await;
    assert_eq!(outcome, bare(BuildStatus::PackageFail));
    let log = worker.log().await;
    assert!(log.ends_with("E: the build printed more than 3000000 bytes and was killed\n"));
    assert!(
        log.len() > 2_000_000 && log.len() < 3_001_000,
        "{}",
        log.len()
    );
    assert!(!log.contains("s3cret") && log.contains("http://ppa.example/ubuntu"));
}

#[tokio::test]
async fn the_log_is_sanitised_and_served_by_range_while_it_grows() {
    let script =
        "echo one; printf 'http://u:s3cr'; printf 'et@h/ two'; echo; echo three; exec sleep 1000";
    let worker = TestWorker::with_executor(script, &[DSC], &[]);
    assert!(worker.client.build(call(DSC)).await.unwrap().is_building());
    let log = worker.log_with("three\n").await;
    assert!(log.contains("one\nhttp://h/ two\nthree\n"), "{log}");
    assert!(!log.contains("s3cr\n"), "{log}");
    let part = async |from: usize| match worker
        .client
        .file_part("buildlog", from as u64, 1 << 20)
        .await
        .unwrap()
    {
        Some(mut pieces) => {
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.next().await.unwrap() {
                bytes.extend_from_slice(&piece);
            }
            Some(String::from_utf8(bytes).unwrap())
        }
        None => None,
    };
    assert_eq!(part(log.len() - 6).await.as_deref(), Some("three\n"));
    assert_eq!(part(log.len()).await, None, "nothing new");
}

#[tokio::test]
async fn hostile_results_are_a_package_failure_with_a_reason() {
    let md5 = "900150983cd24fb0d6963f7d28e17f72";
    for (listed, prepare, reason) in [
        ("../../../../etc/passwd", "true", "not one plain name"),
        (
            "evil.deb",
            "ln -s /etc/hostname evil.deb",
            "not a regular file",
        ),
        ("evil.deb", "mkfifo evil.deb", "not a regular file"),
        ("evil.deb", "true", "evil.deb"),
        ("evil.deb", "printf abcd > evil.deb", "another size"),
    ] {
        let script = format!(
            "{prepare}; printf 'Files:\\n {md5} 3 misc optional {listed}\\n' > hello_1.0_armhf.changes"
        );
        let worker = TestWorker::with_executor(&script, &[DSC], &[]);
        assert_eq!(
            worker.build(call(DSC)).await,
            bare(BuildStatus::PackageFail),
            "{script}"
        );
        let log = worker.log().await;
        assert!(
            log.contains("E: the results cannot be gathered: ") && log.contains(reason),
            "{log}"
        );
    }
}

#[tokio::test]
async fn the_cache_answers_ensurepresent_as_builders_do() {
    let worker = TestWorker::with_executor("true", &[DSC], &[]);
    let ask = |sum: &str, url: Option<&str>| EnsurePresent {
        sum: Sum(sum.to_owned()),
        url: url.map(str::to_owned),
        username: String::new(),
        password: "s3cret".to_owned(),
    };
    let have = Sha1::of(DSC).to_string();
    let lack = Sha1::of(b"lacking").to_string();
    for (call, present, info) in [
        (ask(&have, None), true, "No URL"),
        (ask(&lack, None), false, "No URL"),
        (ask("nosum", None), false, "No URL"),
        (ask(&have, Some("http://127.0.0.1:1/x")), true, "Cache"),
        (
            ask("nosum", Some("http://127.0.0.1:1/x")),
            false,
            "Digests did not match, removing again!",
        ),
    ] {
        let answer = worker.client.ensure_present(call).await.unwrap();
        assert_eq!((answer.present, answer.info.as_str()), (present, info));
    }
    for url in ["http://127.0.0.1:1/x", "file:///etc/passwd", "not a url"] {
        let answer = worker
            .client
            .ensure_present(ask(&lack, Some(url)))
            .await
            .unwrap();
        assert!(
            !answer.present && answer.info.starts_with("Error accessing Librarian: "),
            "{url}"
        );
        assert!(!answer.info.contains("s3cret"), "{}", answer.info);
    }
    // What one worker serves, another can fetch: the log of a build is a file like any other.
    let other = TestWorker::with_executor(MAKE, &[DSC], &[]);
    let results = other.build(call(DSC)).await.filemap;
    let deb = results[&name("hello_1.0_armhf.deb")].to_string();
    let url = format!("{}/filecache/{deb}", other.url);
    let answer = worker
        .client
        .ensure_present(ask(&deb, Some(&url)))
        .await
        .unwrap();
    assert_eq!((answer.present, answer.info.as_str()), (true, "Download"));
    let wrong = worker
        .client
        .ensure_present(ask(&lack, Some(&url)))
        .await
        .unwrap();
    assert_eq!(wrong.info, "Digests did not match, removing again!");
}

#[tokio::test]
async fn a_state_directory_has_one_worker() {
    let worker = TestWorker::with_executor("true", &[], &[]);
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_panda-agent"))
        .args([
            "worker",
            "--listen",
            "127.0.0.1:0",
            "--executor",
            "true",
            "--state",
        ])
        .arg(worker.directory.path())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use by another worker"), "{said}");
}

#[tokio::test]
async fn echo_proxy_info_and_status_dict_answer_as_the_protocol_says() {
    let worker = TestWorker::with_executor("true", &[], &[]);
    worker
        .client
        .echo(vec![text(" a\r\n"), Value::Nil, Value::Base64(vec![0])])
        .await
        .unwrap();
    let ask = async |method: &str| {
        let body = panda_protocol::launchpad::xml::encode_call(method, &[]).unwrap();
        let answer = worker
            .endpoint
            .post("/rpc", "text/xml", body, 1 << 20, common::LIMIT)
            .await;
        let limits = panda_protocol::launchpad::xml::Limits::default();
        panda_protocol::launchpad::xml::decode_answer(&answer.unwrap().1, &limits).unwrap()
    };
    assert_eq!(ask("proxy_info").await.unwrap_err().code, 8002);
    assert_eq!(ask("nosuch").await.unwrap_err().code, 8001);
    let Value::Struct(status) = ask("status_dict").await.unwrap() else {
        panic!()
    };
    assert_eq!(status["builder_status"], text("BuilderStatus.IDLE"));
}
