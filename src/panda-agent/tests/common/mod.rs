//! A worker as its users have it: the real program in a process of its own, spoken to over HTTP.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dxr::Value;
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::public_client_config;
use panda_http::{BuilderClient, ClientLimits, Endpoint};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{
    BuildCall, BuildId, BuildStatus, FileName, Outcome, Status, StatusReport, Sum,
};

/// A tarball that no executor looks into.
pub(crate) const TARBALL: &[u8] = b"a chroot";
/// How long a build of a test may take; far more than any takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// A running `panda-agent worker`.
pub(crate) struct TestWorker {
    child: Child,
    pub(crate) url: String,
    pub(crate) client: BuilderClient,
    pub(crate) endpoint: Endpoint,
    pub(crate) directory: tempfile::TempDir,
}

impl TestWorker {
    /// With an executor and further options; `inputs` are in its cache.
    pub(crate) fn with_executor(executor: &str, inputs: &[&[u8]], options: &[&str]) -> Self {
        let mut all = vec!["--executor", executor];
        all.extend_from_slice(options);
        Self::start(inputs, &all)
    }

    /// With `options`; `inputs` are in its cache.
    pub(crate) fn start(inputs: &[&[u8]], options: &[&str]) -> Self {
        Self::start_in(Self::filled(inputs), options)
    }

    /// A state directory with `inputs` in its cache.
    fn filled(inputs: &[&[u8]]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("filecache");
        std::fs::create_dir(&cache).unwrap();
        for input in inputs.iter().chain([&TARBALL]) {
            std::fs::write(cache.join(Sha1::of(input).to_string()), input).unwrap();
        }
        directory
    }

    /// With an executor, started by the shell script `starter`, which executes its arguments.
    pub(crate) fn started_by(starter: &str, executor: &str, inputs: &[&[u8]]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", starter, "sh", env!("CARGO_BIN_EXE_panda-agent")]);
        Self::spawn(shell, Self::filled(inputs), &["--executor", executor])
    }

    pub(crate) fn start_in(directory: tempfile::TempDir, options: &[&str]) -> Self {
        Self::spawn(
            Command::new(env!("CARGO_BIN_EXE_panda-agent")),
            directory,
            options,
        )
    }

    fn spawn(mut program: Command, directory: tempfile::TempDir, options: &[&str]) -> Self {
        let mut child = program
            .args(["worker", "--listen", "127.0.0.1:0", "--state"])
            .arg(directory.path())
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        if url.is_empty() {
            let mut said = String::new();
            stderr.read_to_string(&mut said).unwrap();
            panic!("the worker did not start: {said}");
        }
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("worker: {line}");
            }
        });
        let url = url.trim().to_owned();
        let tls = public_client_config().unwrap();
        let endpoint = Endpoint::new(&url, tls, EndpointSettings::default()).unwrap();
        let client = BuilderClient::new(endpoint.clone(), ClientLimits::default());
        Self {
            child,
            url,
            client,
            endpoint,
            directory,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: the worker has no chance to tidy up.
    pub(crate) fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap())
    }

    pub(crate) async fn status(&self) -> Status {
        self.report().await.status
    }

    pub(crate) async fn report(&self) -> StatusReport {
        self.client.status().await.unwrap()
    }

    /// Starts a build and waits until it has ended.
    pub(crate) async fn build(&self, call: BuildCall) -> Outcome {
        assert!(self.client.build(call).await.unwrap().is_building());
        self.ended().await
    }

    /// Waits until the build has ended.
    pub(crate) async fn ended(&self) -> Outcome {
        self.until(|status| matches!(status, Status::Waiting { .. }))
            .await;
        match self.status().await {
            Status::Waiting { outcome, .. } => outcome,
            status => panic!("{status:?}"),
        }
    }

    /// Asks for the status until it is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Status) -> bool) {
        let asked = async {
            while !wanted(&self.status().await) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, asked)
            .await
            .expect("the wanted status in time");
    }

    /// Waits until the log holds `text`.
    pub(crate) async fn log_with(&self, text: &str) -> String {
        let asked = async {
            loop {
                let log = self.log().await;
                if log.contains(text) {
                    return log;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, asked)
            .await
            .expect("the wanted log in time")
    }

    /// The build log as it is served.
    pub(crate) async fn log(&self) -> String {
        let (status, bytes) = self.file("buildlog").await;
        assert_eq!(status, 200);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A file as it is served.
    pub(crate) async fn file(&self, name: &str) -> (u16, Vec<u8>) {
        let path = format!("/filecache/{name}");
        let (status, bytes) = self.endpoint.get(&path, 1 << 30, LIMIT).await.unwrap();
        (status.as_u16(), bytes.to_vec())
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub(crate) fn name(name: &str) -> FileName {
    FileName::try_from(name.to_owned()).unwrap()
}

pub(crate) fn id(id: &str) -> BuildId {
    BuildId::try_from(id.to_owned()).unwrap()
}

/// A build of `hello_1.0.dsc`, whose bytes are `dsc`.
pub(crate) fn call(dsc: &[u8]) -> BuildCall {
    BuildCall {
        build_id: id("PACKAGEBUILD-1"),
        build_type: "binarypackage".to_owned(),
        chroot: Sum::from(Sha1::of(TARBALL)),
        filemap: BTreeMap::from([(name("hello_1.0.dsc"), Sum::from(Sha1::of(dsc)))]),
        args: BTreeMap::from([
            ("suite".to_owned(), text("noble")),
            ("series".to_owned(), text("noble")),
            ("arch_tag".to_owned(), text("armhf")),
            ("archives".to_owned(), Value::Array(Vec::new())),
            (
                "build_url".to_owned(),
                text("https://launchpad.test/+build/1"),
            ),
        ]),
    }
}

/// `call` with the bytes that tests use most.
pub(crate) const DSC: &[u8] = b"Source: hello\nVersion: 1.0\n";

pub(crate) fn bare(status: BuildStatus) -> Outcome {
    Outcome::bare(status)
}

/// Processes of this host, in whatever namespace, whose command line holds `mark`.
pub(crate) fn processes_with(mark: &str) -> Vec<PathBuf> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            std::fs::read(path.join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
        })
        .collect()
}

/// Waits until no process whose command line holds `mark` is left.
pub(crate) async fn gone(mark: &str, limit: Duration) {
    let gone = async {
        while !processes_with(mark).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(limit, gone).await;
    assert!(in_time.is_ok(), "still there: {:?}", processes_with(mark));
}

/// Mount points of this process's namespace below `path`.
pub(crate) fn mounts_below(path: &Path) -> usize {
    let path = path.to_string_lossy().into_owned();
    std::fs::read_to_string("/proc/self/mounts")
        .unwrap()
        .lines()
        .filter(|line| line.contains(&path))
        .count()
}
