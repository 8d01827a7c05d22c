//! A boot of the process machine, with the real program and a master that this test plays: depot,
//! certificates, and the client of the link.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{DSC, LIMIT, TARBALL, call};
use http::StatusCode;
use panda_http::body::{read_body, text_response};
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::{certificate_from_pem, client_config, server_config};
use panda_http::{BuilderClient, ClientLimits, Endpoint, Identity, ServedFile, ServerSettings};
use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::boot_toml::{self, BootToml, Link, Network, RootFs};
use panda_protocol::digest::{Sha1, Sha256};
use panda_protocol::launchpad::{BuildStatus, EnsurePresent, Status, Sum};
use panda_protocol::link::{ALIVE_PATH, Failure, ROOTFS_PATH, Report};
use panda_protocol::worker::ForeignWorker;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A certificate and its key, as PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["panda".to_owned()]).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key).unwrap()
    }
}

/// The master's side of one boot.
struct Master {
    pair: Pair,
    boot: Pair,
    depot: SocketAddr,
    link: SocketAddr,
    reports: Arc<Mutex<Vec<Report>>>,
    failures: Arc<Mutex<Vec<Failure>>>,
    directory: tempfile::TempDir,
    /// The worker that the image names.
    worker: Option<ForeignWorker>,
    /// The root file system that it names.
    rootfs: Option<RootFs>,
}

impl Master {
    /// A depot that refuses the first report, and any before the boot has said that it is under way, and serves the inputs of a build.
    async fn new() -> Self {
        let (pair, boot) = (Pair::new(), Pair::new());
        let directory = tempfile::tempdir().unwrap();
        for bytes in [DSC, TARBALL] {
            std::fs::write(directory.path().join(Sha1::of(bytes).to_string()), bytes).unwrap();
        }
        let pinned = certificate_from_pem(&boot.certificate).unwrap();
        let tls = server_config(&pair.identity(), Arc::new(move |der| der == &pinned[..])).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let depot = listener.local_addr().unwrap();
        let reports = Arc::new(Mutex::new(Vec::new()));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let (taken, inputs) = (reports.clone(), directory.path().to_owned());
        let told = failures.clone();
        let (asked, alive) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let handler = move |request: http::Request<_>, _| {
            let (taken, inputs, asked) = (taken.clone(), inputs.clone(), asked.clone());
            let (told, alive) = (told.clone(), alive.clone());
            async move {
                let request: http::Request<hyper::body::Incoming> = request;
                let path = request.uri().path().to_owned();
                let rootfs = (path == ROOTFS_PATH).then_some("rootfs");
                if let Some(name) = path.strip_prefix("/input/").or(rootfs) {
                    let file = ServedFile::open(&inputs.join(name)).await.unwrap().unwrap();
                    let (method, headers) = (request.method().clone(), request.headers().clone());
                    return panda_http::ranges::file_response(&method, &headers, file).await;
                }
                let body = read_body(request, 16 * 1024, LIMIT).await.unwrap();
                if path == "/failure" {
                    told.lock().unwrap().push(Failure::decode(&body).unwrap());
                    return panda_http::body::empty_response(StatusCode::NO_CONTENT);
                }
                if path == ALIVE_PATH {
                    alive.store(true, Ordering::SeqCst);
                    return panda_http::body::empty_response(StatusCode::NO_CONTENT);
                }
                assert_eq!(path, "/report");
                if asked.fetch_add(1, Ordering::SeqCst) == 0 || !alive.load(Ordering::SeqCst) {
                    return text_response(StatusCode::FORBIDDEN, "not awaited");
                }
                taken
                    .lock()
                    .unwrap()
                    .push(serde_json::from_slice(&body).unwrap());
                panda_http::body::empty_response(StatusCode::NO_CONTENT)
            }
        };
        let settings = ServerSettings::default();
        tokio::spawn(panda_http::serve(
            listener,
            Some(tls),
            settings,
            CancellationToken::new(),
            handler,
        ));
        // A free port for the link: taken and given back.
        let link = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        Self {
            pair,
            boot,
            depot,
            link,
            reports,
            failures,
            directory,
            worker: None,
            rootfs: None,
        }
    }

    fn boot_toml(&self) -> BootToml {
        BootToml {
            version: boot_toml::VERSION,
            boot: "0123456789abcdef0123456789abcdef".to_owned(),
            slot: "panda01".to_owned(),
            image: Sha256::of(b"image"),
            time_unix_ms: 1_790_000_000_000,
            network: Network {
                address: None,
                gateway: None,
                nameservers: Vec::new(),
                hostname: "panda01".to_owned(),
                mac: None,
            },
            link: Link {
                listen: self.link.to_string(),
                depot: self.depot.to_string(),
                master_certificate: self.pair.certificate.clone(),
                certificate: self.boot.certificate.clone(),
                key: self.boot.key.clone(),
            },
            rootfs: self.rootfs.clone(),
            worker: self.worker.clone(),
        }
    }

    fn endpoint(&self, client: &Pair, server: &Pair) -> Endpoint {
        let server = certificate_from_pem(&server.certificate).unwrap();
        let tls = client_config(&client.identity(), server).unwrap();
        Endpoint::pinned(self.link, tls, EndpointSettings::default()).unwrap()
    }

    /// What a board finds at power-on, and the board.
    fn power_on(&self, executor: &str) -> Board {
        let (root, scratch) = (
            self.directory.path().join("root"),
            self.directory.path().join("scratch"),
        );
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(scratch.join("left/over")).unwrap();
        let boot = boot_toml::encode(&self.boot_toml()).unwrap();
        std::fs::write(root.join("boot.toml"), boot).unwrap();
        let agent = AgentToml {
            version: agent_toml::VERSION,
            arch: "armhf".to_owned(),
            executor: Some(executor.to_owned()),
            insecure_fixed_disk_key: false,
        };
        std::fs::write(root.join("agent.toml"), agent_toml::encode(&agent).unwrap()).unwrap();
        let console = self.directory.path().join("console");
        let output = std::fs::File::create(&console).unwrap();
        let child = machine()
            .arg(&root)
            .arg("--scratch")
            .arg(&scratch)
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Board { child, console }
    }

    async fn proven(&self) -> Report {
        let asked = async {
            loop {
                if let Some(report) = self.reports.lock().unwrap().first().cloned() {
                    return report;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, asked).await.expect("a report")
    }
}

struct Board {
    child: Child,
    console: std::path::PathBuf,
}

impl Board {
    fn console(&self) -> String {
        std::fs::read_to_string(&self.console).unwrap()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn a_board_reports_the_root_file_system_that_it_verified_and_comes_with_no_other() {
    let mut master = Master::new().await;
    // More than is asked for at once.
    let mut bytes = vec![b'r'; 5 << 20];
    let path = master.directory.path().join("rootfs");
    std::fs::write(&path, &bytes).unwrap();
    let sha256 = Sha256::of(&bytes);
    let wanted = RootFs {
        sha256,
        bytes: bytes.len() as u64,
    };
    master.rootfs = Some(wanted);
    let board = master.power_on("true");
    let report = master.proven().await;
    assert_eq!(report.rootfs, Some(sha256));
    let steps: Vec<_> = report.steps.iter().map(|step| &step.name[..]).collect();
    assert_eq!(steps, ["scratch", "rootfs", "link", "worker"]);
    drop(board);

    bytes[4 << 20] = b'R';
    std::fs::write(&path, &bytes).unwrap();
    let _board = master.power_on("true");
    let told = async {
        loop {
            if let Some(failure) = master.failures.lock().unwrap().first().cloned() {
                return failure;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let failure = tokio::time::timeout(LIMIT, told).await.unwrap();
    assert_eq!(failure.step, "rootfs");
    assert!(failure.reason.contains("it is not used"), "{failure:?}");
}

#[tokio::test]
async fn a_boot_proves_itself_and_works_for_the_master_alone() {
    let master = Master::new().await;
    let board = master.power_on("hostname; exit 1");

    // The first report is refused, and comes again.
    let report = master.proven().await;
    assert_eq!(report.boot, "0123456789abcdef0123456789abcdef");
    assert_eq!((report.image, report.rootfs), (Sha256::of(b"image"), None));
    assert_eq!(
        (report.arch.as_str(), report.build_types.as_slice()),
        ("armhf", &["binarypackage".to_owned()][..])
    );
    let steps: Vec<_> = report.steps.iter().map(|step| &step.name[..]).collect();
    assert_eq!(steps, ["scratch", "link", "worker"]);

    // The link: fresh reports, and the worker.
    let endpoint = master.endpoint(&master.pair, &master.boot);
    let ask = async || {
        let (status, body) = endpoint.get("/boot", 16 * 1024, LIMIT).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice::<Report>(&body).unwrap()
    };
    let (first, second) = (ask().await, ask().await);
    assert_eq!((&first.boot, &first.agent), (&report.boot, &report.agent));
    assert!(second.uptime_ms >= first.uptime_ms && first.uptime_ms >= report.uptime_ms);
    let client = BuilderClient::new(endpoint.clone(), ClientLimits::default());
    assert_eq!(client.status().await.unwrap().status, Status::Idle);

    // Nobody else: another client, or the boot's own key, is refused.
    for stranger in [&Pair::new(), &master.boot] {
        let stranger = master.endpoint(stranger, &master.boot);
        assert!(stranger.get("/boot", 16 * 1024, LIMIT).await.is_err());
    }
    // And a master that awaits another boot does not take this one for it.
    let other = master.endpoint(&master.pair, &Pair::new());
    assert!(other.get("/boot", 16 * 1024, LIMIT).await.is_err());

    // A build, its inputs from the depot over the pinned connection.
    for bytes in [DSC, TARBALL] {
        let sum = Sha1::of(bytes);
        let url = Some(format!("https://{}/input/{sum}", master.depot));
        let call = EnsurePresent {
            sum: Sum::from(sum),
            url,
            username: String::new(),
            password: String::new(),
        };
        let answer = client.ensure_present(call).await.unwrap();
        assert_eq!((answer.present, answer.info.as_str()), (true, "Download"));
    }
    client.build(call(DSC)).await.unwrap();
    let ended = async {
        loop {
            if let Status::Waiting { outcome, .. } = client.status().await.unwrap().status {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let outcome = tokio::time::timeout(LIMIT, ended).await.unwrap();
    assert_eq!(outcome.build_status, BuildStatus::PackageFail);
    let (_, log) = endpoint
        .get("/filecache/buildlog", 1 << 20, LIMIT)
        .await
        .unwrap();
    assert!(
        String::from_utf8_lossy(&log).contains("\npanda01\n"),
        "the machine has the slot's name"
    );

    // The boot's key is neither on the disk, where a build could find it, nor on the console.
    assert!(!master.directory.path().join("root/boot.toml").exists());
    let console = board.console();
    let secret = master.boot.key.lines().nth(1).unwrap();
    assert!(
        console.contains("booting") && !console.contains(secret),
        "{console}"
    );
    assert!(
        !master.directory.path().join("scratch/left").exists(),
        "the scratch disk is wiped"
    );
}

#[tokio::test]
async fn a_boot_that_fails_tells_the_master_at_which_step() {
    let master = Master::new().await;
    let taken = TcpListener::bind(master.link).await.unwrap();
    let mut board = master.power_on("true");
    tokio::time::timeout(LIMIT, async {
        while board.child.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the machine ends");
    let failures = master.failures.lock().unwrap().clone();
    let failure = failures.first().expect("a failure");
    assert_eq!(failure.step, "link");
    assert!(failure.reason.contains("cannot listen on"), "{failure:?}");
    assert_eq!(failure.steps[0].name, "scratch");
    assert_eq!(failure.boot, "0123456789abcdef0123456789abcdef");
    assert!(board.console().contains("boot: link FAILED"));
    assert_eq!(*master.reports.lock().unwrap(), []);
    drop(taken);
}

#[tokio::test]
async fn a_machine_without_power_has_nothing_left() {
    let master = Master::new().await;
    let mark = format!("5{:06}.5", std::process::id());
    let board = master.power_on(&format!(
        "setsid sleep {mark} & echo started; exec sleep {mark}"
    ));
    master.proven().await;
    let client = BuilderClient::new(
        master.endpoint(&master.pair, &master.boot),
        ClientLimits::default(),
    );
    for bytes in [DSC, TARBALL] {
        let sum = Sha1::of(bytes);
        let url = Some(format!("https://{}/input/{sum}", master.depot));
        let (username, password) = (String::new(), String::new());
        let call = EnsurePresent {
            sum: Sum::from(sum),
            url,
            username,
            password,
        };
        assert!(client.ensure_present(call).await.unwrap().present);
    }
    client.build(call(DSC)).await.unwrap();
    tokio::time::timeout(LIMIT, async {
        while common::processes_with(&format!("sleep\0{mark}")).len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the build's processes");
    drop(board);
    common::gone(&format!("sleep\0{mark}"), Duration::from_secs(10)).await;
}

#[test]
fn a_board_without_its_files_says_which_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let run = |root: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_panda-agent"))
            .args(["init", "--machine", "process", "--root"])
            .arg(root)
            .arg("--scratch")
            .arg(root)
            .output()
            .unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(run(directory.path()).contains("boot.toml: No such file"));
    std::fs::write(
        directory.path().join("boot.toml"),
        "version = 1\nkey = \"s3cret\"\n",
    )
    .unwrap();
    let said = run(directory.path());
    assert!(
        said.contains("boot.toml") && !said.contains("s3cret"),
        "{said}"
    );
    assert!(
        directory.path().join("boot.toml").exists(),
        "nothing is wiped before it is known what for"
    );
}

#[test]
fn a_machine_ends_with_its_agent() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = machine();
    let output = command
        .arg(directory.path())
        .arg("--scratch")
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("boot.toml: No such file") && said.contains("the agent ended: status 1"),
        "{said}"
    );
}

/// The agent as the first process of a machine; the root directory comes next.
fn machine() -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child=SIGKILL",
            "--mount",
            "--ipc",
            "--uts",
            "--",
        ])
        .arg(env!("CARGO_BIN_EXE_panda-agent"))
        .args(["init", "--machine", "process", "--root"])
        .stdin(Stdio::null());
    command
}

#[test]
fn the_program_says_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_panda-agent"))
        .arg("--version")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        panda_agent::VERSION
    );
}
