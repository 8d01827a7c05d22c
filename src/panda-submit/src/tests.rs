//! The whole of `submit` over loopback against a scripted builder, hostile ones included.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use dxr::Value;
use panda_http::service::fault;
use panda_http::{
    BuilderService, FileError, ServedFile, ServerSettings, ServiceLimits, respond, serve as listen,
};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::xml::Fault;
use panda_protocol::launchpad::{
    Abort, Answered, BuildCall, BuildId, BuildReply, BuildStatus, Clean, Cleaned, Dialect,
    EnsurePresent, FileName, GetInfo, GetStatus, Info, Presence, Status, StatusReply, StatusReport,
};
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use super::*;

const LOG: &str = "line one\nline two\n";
const DEB: &str = "a deb";
const SOURCE: &[u8] = b"the source\n";

/// A builder that does what the test says, and remembers what it was asked.
struct Builder {
    directory: tempfile::TempDir,
    /// What a build ends with.
    outcome: Outcome,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: Vec<&'static str>,
    /// What was fetched, by its sum.
    fetched: BTreeMap<String, Vec<u8>>,
    build: Option<BuildCall>,
    /// `status` calls since the build began.
    looks: u32,
    /// Somebody else's build, before ours.
    busy: Option<Status>,
    /// `status` faults so many times first.
    faults: u32,
    /// It builds for so many looks more than one.
    builds_on: u32,
    /// Before so many looks there is no log.
    log_from: u32,
    /// The log was read while it built.
    read_live: bool,
    cleaned: bool,
}

impl Builder {
    fn new(outcome: Outcome) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("buildlog"), LOG).unwrap();
        std::fs::write(
            directory.path().join(Sha1::of(DEB.as_bytes()).to_string()),
            DEB,
        )
        .unwrap();
        Self {
            directory,
            outcome,
            seen: Mutex::default(),
        }
    }

    fn look(&self) -> Result<Status, Fault> {
        let mut seen = self.seen.lock().unwrap();
        if seen.faults > 0 {
            seen.faults -= 1;
            return Err(fault("between boots"));
        }
        if let Some(busy) = &seen.busy {
            return Ok(busy.clone());
        }
        let Some(build_id) = seen.build.as_ref().map(|build| build.build_id.clone()) else {
            return Ok(Status::Idle);
        };
        if seen.cleaned {
            return Ok(Status::Idle);
        }
        seen.looks += 1;
        Ok(match seen.looks {
            looks if looks <= 1 + seen.builds_on => Status::Building {
                build_id,
                logtail: b"line one\n".to_vec(),
            },
            _ => Status::Waiting {
                build_id,
                outcome: self.outcome.clone(),
            },
        })
    }
}

impl BuilderService for Builder {
    async fn admit(&self, method: &'static str) -> Result<(), Fault> {
        self.seen.lock().unwrap().calls.push(method);
        Ok(())
    }

    async fn info(&self) -> Answered<GetInfo> {
        Ok(Info::new("armhf", vec!["binarypackage".to_owned()]))
    }

    async fn status(&self) -> Answered<GetStatus> {
        Ok(StatusReply {
            dialect: Dialect::Current,
            report: StatusReport::bare(self.look()?),
        })
    }

    async fn ensure_present(&self, request: EnsurePresent) -> Answered<EnsurePresent> {
        let body = reqwest_get(&request.url.unwrap()).await;
        let mut seen = self.seen.lock().unwrap();
        seen.fetched.insert(request.sum.0, body);
        Ok(Presence::yes(Presence::DOWNLOAD))
    }

    async fn build(&self, request: BuildCall) -> Answered<BuildCall> {
        let build_id = request.build_id.clone();
        self.seen.lock().unwrap().build = Some(request);
        Ok(BuildReply::Building { build_id })
    }

    async fn abort(&self) -> Answered<Abort> {
        Err(fault("error"))
    }

    async fn clean(&self) -> Answered<Clean> {
        self.seen.lock().unwrap().cleaned = true;
        Ok(Cleaned)
    }

    async fn file(&self, name: &FileName) -> Result<Option<ServedFile>, FileError> {
        if name.as_str() == "buildlog" {
            let mut seen = self.seen.lock().unwrap();
            if seen.looks < seen.log_from {
                return Ok(None);
            }
            seen.read_live |= seen.looks <= 1 + seen.builds_on;
        }
        Ok(ServedFile::open(&self.directory.path().join(name.as_str())).await?)
    }
}

/// What the file server of `submit` has at `url`.
async fn reqwest_get(url: &str) -> Vec<u8> {
    let url = url::Url::parse(url).unwrap();
    let base = format!("http://{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let tls = pinned::public_client_config().unwrap();
    let endpoint = Endpoint::new(&base, tls, EndpointSettings::default()).unwrap();
    let (status, body) = endpoint
        .get(url.path(), 1 << 20, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(status, 200);
    body.to_vec()
}

/// A request as a test begins with.
pub(crate) fn request() -> Request {
    Request {
        dsc: "hello.dsc".into(),
        builder: "http://b".to_owned(),
        chroot: "c".into(),
        suite: "unstable".to_owned(),
        series: None,
        arch: None,
        archives: Vec::new(),
        keys: Vec::new(),
        purpose: "PPA".to_owned(),
        arch_indep: true,
        debug_symbols: false,
        output: ".".into(),
        serve: None,
        wait: Duration::from_secs(300),
        leave: false,
    }
}

/// What was shown.
#[derive(Default)]
struct Shown {
    lines: Vec<String>,
    log: Vec<u8>,
}

impl Show for Shown {
    fn title(&mut self, title: &str) {
        self.lines.push(title.to_owned());
    }

    fn progress(&mut self, text: &str) {
        self.lines.push(text.to_owned());
    }

    fn note(&mut self, text: &str) {
        self.lines.push(text.to_owned());
    }

    fn log(&mut self, piece: &[u8]) {
        self.log.extend_from_slice(piece);
    }
}

struct Bench {
    builder: Arc<Builder>,
    url: String,
    files: tempfile::TempDir,
    _stop: DropGuard,
}

async fn bench(outcome: Outcome) -> Bench {
    let builder = Arc::new(Builder::new(outcome));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let service = builder.clone();
    let handler = move |request, _| {
        let service = service.clone();
        async move { respond(&*service, &ServiceLimits::default(), request).await }
    };
    tokio::spawn(listen(
        listener,
        None,
        ServerSettings::default(),
        stop.clone(),
        handler,
    ));
    let files = tempfile::tempdir().unwrap();
    let sum = Sha1::of(SOURCE);
    std::fs::write(files.path().join("hello_1.0.tar.xz"), SOURCE).unwrap();
    std::fs::write(files.path().join("chroot.tar"), "a chroot").unwrap();
    let dsc = format!("Source: hello\nVersion: 1.0\nChecksums-Sha1:\n {sum} 11 hello_1.0.tar.xz\n");
    std::fs::write(files.path().join("hello_1.0.dsc"), dsc).unwrap();
    Bench {
        builder,
        url,
        files,
        _stop: stop.drop_guard(),
    }
}

impl Bench {
    /// The request for its package, on its builder.
    fn request(&self) -> Request {
        Request {
            dsc: self.files.path().join("hello_1.0.dsc"),
            builder: self.url.clone(),
            chroot: self.files.path().join("chroot.tar"),
            output: self.files.path().join("out"),
            ..request()
        }
    }

    /// The build's end; an error in fetching its results or in cleaning is one of the whole.
    async fn submit(&self, request: &Request) -> anyhow::Result<Ended> {
        let stop = CancellationToken::new();
        let submitted = submit(request, &mut Shown::default(), stop).await?;
        submitted.fetched?;
        submitted.cleaned?;
        Ok(submitted.ended)
    }

    fn results(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.files.path().join("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn ok(filemap: &[(&str, Sha1)]) -> Outcome {
    let name = |text: &str| FileName::try_from(text.to_owned()).unwrap();
    let filemap = filemap
        .iter()
        .map(|(text, sha1)| (name(text), *sha1))
        .collect();
    Outcome {
        filemap,
        ..Outcome::bare(BuildStatus::Ok)
    }
}

#[tokio::test]
async fn a_log_that_comes_late_is_shown_while_it_grows() {
    let bench = bench(Outcome::bare(BuildStatus::PackageFail)).await;
    {
        let mut seen = bench.builder.seen.lock().unwrap();
        (seen.builds_on, seen.log_from) = (1, 2);
    }
    bench.submit(&bench.request()).await.unwrap();
    assert!(bench.builder.seen.lock().unwrap().read_live);
}

#[tokio::test]
async fn words_that_no_builder_takes_are_refused_before_it_is_asked() {
    let bench = bench(ok(&[])).await;
    for (option, word) in [
        ("--suite", "../x"),
        ("--suite", ""),
        ("--series", "a b"),
        ("--arch", ""),
        ("--purpose", "PPA\n"),
    ] {
        let mut request = bench.request();
        match option {
            "--suite" => request.suite = word.to_owned(),
            "--series" => request.series = Some(word.to_owned()),
            "--arch" => request.arch = Some(word.to_owned()),
            _ => request.purpose = word.to_owned(),
        }
        let error = bench.submit(&request).await.unwrap_err().to_string();
        assert!(error.starts_with(option), "{error}");
    }
    assert!(bench.builder.seen.lock().unwrap().calls.is_empty());
}

#[tokio::test]
async fn what_is_missing_is_told_with_what_to_do() {
    let bench = bench(ok(&[])).await;
    let no_chroot = Request {
        chroot: bench.files.path().join("none"),
        ..bench.request()
    };
    let error = format!("{:#}", bench.submit(&no_chroot).await.unwrap_err());
    assert!(
        error.contains("--chroot") && error.ends_with("`pandabuildd chroot build` makes one"),
        "{error}"
    );
    let no_directory = Request {
        output: bench.files.path().join("chroot.tar"),
        ..bench.request()
    };
    let error = format!("{:#}", bench.submit(&no_directory).await.unwrap_err());
    assert!(
        error.ends_with("chroot.tar: Not a directory (os error 20)"),
        "{error}"
    );
}

#[tokio::test]
async fn a_good_build_is_dispatched_as_launchpad_does_fetched_and_cleaned() {
    let bench = bench(ok(&[("hello_1.0_armhf.deb", Sha1::of(DEB.as_bytes()))])).await;
    let request = Request {
        suite: "noble-proposed".to_owned(),
        archives: vec!["deb http://a.example/ noble main".to_owned()],
        ..bench.request()
    };
    let ended = bench.submit(&request).await.unwrap();
    assert!(matches!(ended, Ended::Waiting(outcome) if outcome.build_status == BuildStatus::Ok));
    assert_eq!(bench.results(), ["hello_1.0_armhf.deb"]);
    assert_eq!(
        std::fs::read(bench.files.path().join("out/hello_1.0_armhf.deb")).unwrap(),
        DEB.as_bytes()
    );
    let seen = bench.builder.seen.lock().unwrap();
    assert!(seen.cleaned);
    let build = seen.build.as_ref().unwrap();
    assert_eq!(build.build_type, "binarypackage");
    assert_eq!(
        build.args.get("suite"),
        Some(&Value::String("noble-proposed".into()))
    );
    assert_eq!(
        build.args.get("series"),
        Some(&Value::String("noble".into()))
    );
    assert_eq!(
        build.args.get("arch_tag"),
        Some(&Value::String("armhf".into()))
    );
    // Each file of the build was given, whole, before `build`.
    let sums = build.filemap.values().chain([&build.chroot]);
    for sum in sums.clone() {
        assert_eq!(Sha1::of(&seen.fetched[&sum.0]).to_string(), sum.0);
    }
    assert_eq!(sums.count(), seen.fetched.len());
    assert_eq!(seen.calls.first(), Some(&"status"));
    let position = |name| seen.calls.iter().position(|call| *call == name).unwrap();
    assert!(position("ensurepresent") < position("build") && position("build") < position("clean"));
}

#[tokio::test]
async fn a_build_that_did_not_go_well_has_no_results_and_leaves_its_builder_clean() {
    for build_status in [
        BuildStatus::PackageFail,
        BuildStatus::DepFail,
        BuildStatus::ChrootFail,
        BuildStatus::BuilderFail,
        BuildStatus::GivenBack,
        BuildStatus::Aborted,
    ] {
        let outcome = Outcome::bare(build_status);
        let bench = bench(outcome.clone()).await;
        let ended = bench.submit(&bench.request()).await.unwrap();
        assert_eq!(ended, Ended::Waiting(outcome));
        assert!(bench.results().is_empty());
        assert!(bench.builder.seen.lock().unwrap().cleaned);
    }
}

#[tokio::test]
async fn a_builder_is_left_with_its_results_only_where_that_is_asked_for() {
    let bench = bench(ok(&[("hello_1.0_armhf.deb", Sha1::of(DEB.as_bytes()))])).await;
    let request = Request {
        leave: true,
        ..bench.request()
    };
    bench.submit(&request).await.unwrap();
    assert_eq!(bench.results(), ["hello_1.0_armhf.deb"]);
    assert!(!bench.builder.seen.lock().unwrap().cleaned);
}

#[tokio::test]
async fn results_that_lie_are_refused_whole_and_the_builder_is_left_clean() {
    let deb = ("hello_1.0_armhf.deb", Sha1::of(DEB.as_bytes()));
    for (outcome, word) in [
        (ok(&[deb, ("other.deb", Sha1::of(b"not there"))]), "404"),
        (ok(&[deb, (".profile", deb.1)]), "hidden"),
        (ok(&[deb, ("log.deb", Sha1::of(b"lie"))]), "SHA-1"),
    ] {
        let bench = bench(outcome).await;
        // What is served under the sum has another one.
        std::fs::write(
            bench
                .builder
                .directory
                .path()
                .join(Sha1::of(b"lie").to_string()),
            "truth",
        )
        .unwrap();
        let error = format!("{:#}", bench.submit(&bench.request()).await.unwrap_err());
        assert!(error.contains(word), "{error}");
        assert!(bench.results().is_empty(), "{:?}", bench.results());
        assert!(bench.builder.seen.lock().unwrap().cleaned);
    }
}

#[tokio::test]
async fn a_builder_between_boots_is_waited_for_and_a_busy_one_is_left_alone() {
    let waited = bench(Outcome::bare(BuildStatus::PackageFail)).await;
    waited.builder.seen.lock().unwrap().faults = 1;
    waited.submit(&waited.request()).await.unwrap();

    let busy = bench(ok(&[])).await;
    let build_id = BuildId::try_from("SOMEBODY-1".to_owned()).unwrap();
    busy.builder.seen.lock().unwrap().busy = Some(Status::Waiting {
        build_id,
        outcome: Outcome::bare(BuildStatus::Ok),
    });
    let error = busy.submit(&busy.request()).await.unwrap_err().to_string();
    assert!(
        error.contains("busy") && error.contains("SOMEBODY-1"),
        "{error}"
    );
    assert_eq!(busy.builder.seen.lock().unwrap().calls, ["status"]);

    let impatient = bench(ok(&[])).await;
    impatient.builder.seen.lock().unwrap().faults = 100;
    let request = Request {
        wait: Duration::ZERO,
        ..impatient.request()
    };
    let error = format!("{:#}", impatient.submit(&request).await.unwrap_err());
    assert!(
        error.contains("not ready within 0 s") && error.contains("between boots"),
        "{error}"
    );
}

/// Tells its `stop` what was said.
struct StopsWhenTold<'a> {
    word: &'a str,
    stop: CancellationToken,
    notes: Vec<String>,
}

impl Show for StopsWhenTold<'_> {
    fn title(&mut self, _: &str) {}

    fn progress(&mut self, _: &str) {}

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
        if text.contains(self.word) {
            self.stop.cancel();
        }
    }

    fn log(&mut self, _: &[u8]) {}
}

#[tokio::test]
async fn a_wait_says_what_for_and_ends_at_once_when_it_is_told_to() {
    // A slot between boots, and then one that does not answer at all: it accepts, and says nothing.
    let between = bench(ok(&[])).await;
    between.builder.seen.lock().unwrap().faults = 100;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = format!("http://{}", silent.local_addr().unwrap());
    for (builder, word) in [
        (&between.url, "between boots"),
        (&nowhere, "it has not answered yet"),
    ] {
        let request = Request {
            builder: builder.clone(),
            ..between.request()
        };
        let stop = CancellationToken::new();
        let mut show = StopsWhenTold {
            word,
            stop: stop.clone(),
            notes: Vec::new(),
        };
        let limit = Duration::from_secs(10);
        let submitted = tokio::time::timeout(limit, submit(&request, &mut show, stop));
        let submitted = submitted.await.expect(word).unwrap();
        assert_eq!(submitted.ended, Ended::NotBegun);
        assert!(
            show.notes[0].starts_with("waiting up to 300 s for the builder: "),
            "{:?}",
            show.notes
        );
    }
    assert!(between.builder.seen.lock().unwrap().build.is_none());
}

#[tokio::test]
async fn a_builder_that_never_answers_is_waited_for_no_longer_than_was_asked() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bench = bench(ok(&[])).await;
    let request = Request {
        builder: format!("http://{}", silent.local_addr().unwrap()),
        wait: Duration::from_secs(1),
        ..bench.request()
    };
    let limit = Duration::from_secs(10);
    let submitted = tokio::time::timeout(limit, bench.submit(&request)).await;
    let error = format!("{:#}", submitted.expect("in time").unwrap_err());
    assert!(
        error.contains("not ready within 1 s") && error.contains("does not answer"),
        "{error}"
    );
}

#[tokio::test]
async fn a_broken_source_is_refused_before_the_builder_hears_of_it() {
    let bench = bench(ok(&[])).await;
    std::fs::write(bench.files.path().join("hello_1.0.tar.xz"), "THE SOURCE\n").unwrap();
    let error = bench
        .submit(&bench.request())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("the .dsc says sha1"), "{error}");
    assert!(bench.builder.seen.lock().unwrap().calls.is_empty());
}

#[test]
fn an_archive_line_that_is_none_is_refused_without_being_quoted() {
    for line in [
        "http://user:secret@host/ sid main",
        "deb http://user:secret@host/",
        "deb http://u:secret@h/ sid\nmain",
    ] {
        let error = check_archive(line).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
    check_archive("deb [trusted=yes] http://user:secret@host/ sid main").unwrap();
}
