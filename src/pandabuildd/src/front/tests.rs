//! The front over loopback: a real listener and the real cache, ledger and slot's task; only the slot's activities
//! are scripted.

use panda_slot::AttemptNo;
use std::collections::BTreeMap;
use std::path::Path;

use dxr::Value;
use panda_http::client::ClientLimits;
use panda_http::endpoint::{ClientError, EndpointSettings};
use panda_http::{BuilderClient, Endpoint, pinned};
use panda_protocol::launchpad::xml;
use panda_protocol::launchpad::{BuildId, BuildStatus, Call, Outcome, ProxyInfo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::routes::{Hosts, Routes};
use super::*;
use crate::filecache::FilecacheSettings;
use crate::ledger::Ledger;
use crate::slot;
use crate::testing::{Asked, ScriptedActivities};

const CHROOT: &str = "a chroot";
const DSC: &str = "a dsc";

struct Bench {
    state: tempfile::TempDir,
    activities: Arc<ScriptedActivities>,
    slot: SlotHandle,
    front: Arc<SlotFront>,
    client: BuilderClient,
    address: std::net::SocketAddr,
    _stop: DropGuard,
}

async fn bench(dialect: Dialect) -> Bench {
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&state.path().join("ledger.sqlite")).unwrap();
    let activities = Arc::new(ScriptedActivities::default());
    let settings = slot::Settings {
        dialect,
        ..slot::Settings::default()
    };
    let slot = slot::spawn(
        "panda01",
        None,
        ledger.clone(),
        activities.clone(),
        settings,
    );
    let cache = state.path().join("filecache");
    std::fs::create_dir(&cache).unwrap();
    for input in [CHROOT, DSC] {
        std::fs::write(cache.join(Sha1::of(input.as_bytes()).to_string()), input).unwrap();
    }
    let filecache = Filecache::open(&cache, &FilecacheSettings::default(), ledger.clone())
        .await
        .unwrap();
    let face = Face {
        dialect,
        virtualized: true,
        arch: "armhf".into(),
        build_types: vec!["binarypackage".into(), "livefs".into()],
        announced: Arc::new(|| None),
    };
    let results = Results::at(state.path(), "panda01", &[]).unwrap();
    let front = Arc::new(SlotFront::new(slot.clone(), face, results, filecache));
    let mut hosts = Hosts::default();
    hosts.insert("Panda01.Rack.example", front.clone());
    let (address, stop) = serve(Routes {
        hosts: Arc::new(hosts),
        own: None,
    })
    .await;
    // The client's own host name is not known here: it goes to a listener of the slot's own.
    let (own, own_stop) = serve(Routes {
        hosts: Arc::default(),
        own: Some(front.clone()),
    })
    .await;
    let client = client(own);
    let both = CancellationToken::new();
    let guard = both.clone().drop_guard();
    tokio::spawn(async move {
        both.cancelled().await;
        drop((stop, own_stop));
    });
    Bench {
        state,
        activities,
        slot,
        front,
        client,
        address,
        _stop: guard,
    }
}

async fn serve(routes: Routes) -> (std::net::SocketAddr, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let settings = FrontSettings::default();
    tokio::spawn(routes.serve(
        listener,
        settings.server(),
        settings.service(),
        stop.clone(),
    ));
    (address, stop.drop_guard())
}

fn client(address: std::net::SocketAddr) -> BuilderClient {
    let tls = pinned::public_client_config().unwrap();
    let endpoint = Endpoint::new(
        &format!("http://{address}"),
        tls,
        EndpointSettings::default(),
    )
    .unwrap();
    BuilderClient::new(endpoint, ClientLimits::default())
}

fn call(build_type: &str) -> BuildCall {
    let dsc = FileName::try_from("hello_1.0.dsc".to_owned()).unwrap();
    BuildCall {
        build_id: BuildId::try_from("PACKAGEBUILD-1".to_owned()).unwrap(),
        build_type: build_type.into(),
        chroot: Sha1::of(CHROOT.as_bytes()).into(),
        filemap: [(dsc, Sha1::of(DSC.as_bytes()).into())].into(),
        args: [("suite".to_owned(), Value::String("noble".into()))].into(),
    }
}

fn fault_of<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    match result {
        Err(ClientError::Fault { code: 8002, text }) => text.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn between_boots_status_echo_and_info_fault_with_one_reason_and_fresh_they_answer() {
    let bench = bench(Dialect::Current).await;
    bench
        .activities
        .until(|asked| matches!(asked, Asked::Cut(_)).then_some(()))
        .await;
    let reason = fault_of(bench.client.status().await);
    assert_eq!(fault_of(bench.client.echo(vec![]).await), reason);
    assert_eq!(fault_of(bench.client.info().await), reason);
    bench.activities.reset_well().await;
    let report = bench.client.status().await.unwrap();
    assert_eq!(report.status, Status::Idle);
    assert_eq!(report.version.as_deref(), Some(VERSION));
    bench
        .client
        .echo(vec![Value::String(" ping ".into()), Value::Nil])
        .await
        .unwrap();
    let info = bench.client.info().await.unwrap();
    assert_eq!(
        (info.version.as_str(), info.arch.as_str()),
        ("1.0", "armhf")
    );
    assert_eq!(info.build_types, ["binarypackage", "livefs"]);
}

#[tokio::test]
async fn a_build_is_answered_followed_kept_and_cleaned() {
    let bench = bench(Dialect::Current).await;
    bench.activities.reset_well().await;
    assert!(
        bench
            .client
            .build(call("binarypackage"))
            .await
            .unwrap()
            .is_building()
    );
    let build = bench.activities.acknowledge().await;
    let attempt = bench.front.results.attempt(build.1);
    std::fs::create_dir_all(&attempt).unwrap();
    std::fs::write(attempt.join(LOG_NAME), "line one\nline two\n").unwrap();
    let Status::Building { build_id, logtail } = bench.client.status().await.unwrap().status else {
        panic!("building")
    };
    assert_eq!(
        (build_id.as_str(), logtail.as_slice()),
        ("PACKAGEBUILD-1", &b"line one\nline two\n"[..])
    );
    assert_eq!(
        read(&bench.client, "buildlog").await.unwrap(),
        b"line one\nline two\n"
    );
    assert_eq!(
        fault_of(bench.client.build(call("binarypackage")).await),
        "the slot is not idle"
    );
    assert_eq!(
        fault_of(bench.client.clean().await),
        "nothing waits to be cleaned"
    );

    let deb = Sha1::of(b"a deb");
    std::fs::write(attempt.join(deb.to_string()), "a deb").unwrap();
    std::fs::write(
        attempt.join(Sha1::of(b"not announced").to_string()),
        "not announced",
    )
    .unwrap();
    let name = FileName::try_from("hello_1.0_armhf.deb".to_owned()).unwrap();
    let outcome = Outcome {
        filemap: [(name, deb)].into(),
        ..Outcome::bare(BuildStatus::Ok)
    };
    bench.activities.finish(build, outcome.clone()).await;
    bench
        .activities
        .until(|asked| matches!(asked, Asked::Cut(_)).then_some(()))
        .await;
    let Status::Waiting { outcome: told, .. } = bench.client.status().await.unwrap().status else {
        panic!("waiting")
    };
    assert_eq!(told, outcome);
    // While its board is without power already.
    assert_eq!(
        read(&bench.client, &deb.to_string()).await.unwrap(),
        b"a deb"
    );
    for name in [
        Sha1::of(b"not announced"),
        Sha1::of(CHROOT.as_bytes()),
        Sha1::of(b"nothing"),
    ] {
        assert_eq!(
            read(&bench.client, &name.to_string()).await.unwrap_err(),
            ClientError::Status(404)
        );
    }
    let cleaning = bench.client.clean();
    let (cleaned, ()) = tokio::join!(cleaning, bench.activities.reset_well());
    cleaned.unwrap();
    assert_eq!(bench.client.status().await.unwrap().status, Status::Idle);
    assert_eq!(
        read(&bench.client, "buildlog").await.unwrap_err(),
        ClientError::Status(404)
    );
}

async fn read(client: &BuilderClient, name: &str) -> Result<Vec<u8>, ClientError> {
    let mut pieces = client.file(name, 1 << 20).await?;
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

#[tokio::test]
async fn builds_that_cannot_be_are_refused_in_the_protocols_words_and_change_nothing() {
    let bench = bench(Dialect::Current).await;
    bench.activities.reset_well().await;
    assert_eq!(
        bench.client.build(call("nosuch")).await.unwrap(),
        BuildReply::UnknownBuilder("nosuch not in ['binarypackage', 'livefs']".into())
    );
    let missing = BuildCall {
        chroot: Sum("aa".into()),
        ..call("binarypackage")
    };
    assert_eq!(
        bench.client.build(missing).await.unwrap(),
        BuildReply::UnknownSum("CHROOTSUM -> aa".into())
    );
    let other = Sha1::of(b"other");
    let mut missing = call("binarypackage");
    for sum in missing.filemap.values_mut() {
        *sum = other.into();
    }
    assert_eq!(
        bench.client.build(missing).await.unwrap(),
        BuildReply::UnknownSum(format!("FILESUM -> {other}"))
    );
    // The sums come first, as in the reference.
    let neither = BuildCall {
        chroot: Sum("aa".into()),
        filemap: Default::default(),
        ..call("binarypackage")
    };
    assert_eq!(
        bench.client.build(neither).await.unwrap(),
        BuildReply::UnknownSum("CHROOTSUM -> aa".into())
    );
    let bare = BuildCall {
        filemap: Default::default(),
        ..call("binarypackage")
    };
    assert!(fault_of(bench.client.build(bare).await).contains(".dsc"));
    assert_eq!(fault_of(bench.client.abort().await), "nothing is building");
    assert_eq!(bench.client.status().await.unwrap().status, Status::Idle);
    assert_eq!(bench.slot.view().slot.attempt, AttemptNo::new(0));
}

/// What a worker said of its build, as the guest keeps it.
fn keep_extras(bench: &Bench, attempt: panda_slot::AttemptNo, extras: BTreeMap<String, Value>) {
    let directory = bench.front.results.attempt(attempt);
    std::fs::create_dir_all(&directory).unwrap();
    let text = xml::encode_answer(&Ok(Value::Struct(extras))).unwrap();
    std::fs::write(directory.join("words.xml"), text).unwrap();
}

#[tokio::test]
async fn what_the_worker_says_of_its_build_is_passed_on_as_it_is_and_overrides_nothing() {
    let bench = bench(Dialect::Current).await;
    bench.activities.reset_well().await;
    let info = async |front: &SlotFront| front.proxy_info().await;
    assert!(info(&bench.front).await.is_err());
    bench.client.build(call("livefs")).await.unwrap();
    let build = bench.activities.acknowledge().await;
    // Neither has said anything: a fault, and no field.
    assert!(info(&bench.front).await.is_err());
    assert!(bench.client.status().await.unwrap().extra.is_empty());

    let proxy = BTreeMap::from([
        ("use_fetch_service".to_owned(), Value::Boolean(true)),
        (
            "revocation_endpoint".to_owned(),
            Value::String("http://p.example/1".into()),
        ),
    ]);
    let mut fields = BTreeMap::from([
        ("revision_id".to_owned(), Value::Nil),
        (
            "nested".to_owned(),
            Value::Array(vec![Value::Struct(BTreeMap::from([
                ("double".to_owned(), Value::Double(0.5)),
                ("long".to_owned(), Value::Long(1 << 40)),
                ("bytes".to_owned(), Value::Base64(vec![0, 255])),
            ]))]),
        ),
    ]);
    let own = fields.clone();
    for name in [
        "builder_status",
        "builder_version",
        "build_id",
        "build_status",
        "logtail",
        "filemap",
        "dependencies",
    ] {
        fields.insert(name.to_owned(), Value::String("the worker's".into()));
    }
    let extras = BTreeMap::from([
        ("status".to_owned(), Value::Struct(fields)),
        ("proxy".to_owned(), Value::Struct(proxy.clone())),
    ]);
    keep_extras(&bench, build.1, extras);
    let report = bench.client.status().await.unwrap();
    assert_eq!(report.extra, own);
    assert_eq!(report.version.as_deref(), Some(VERSION));
    assert!(matches!(report.status, Status::Building { build_id, .. }
        if build_id.as_str() == "PACKAGEBUILD-1"));
    assert_eq!(info(&bench.front).await, Ok(ProxyInfo(proxy.clone())));

    // Launchpad asks when the build has ended and its board has no power.
    bench
        .activities
        .finish(build, Outcome::bare(BuildStatus::Ok))
        .await;
    bench
        .activities
        .until(|asked| matches!(asked, Asked::Cut(_)).then_some(()))
        .await;
    let report = bench.client.status().await.unwrap();
    assert!(
        matches!(report.status, Status::Waiting { .. }),
        "{report:?}"
    );
    assert_eq!(report.extra, own);
    assert_eq!(info(&bench.front).await, Ok(ProxyInfo(proxy)));
    // The next build's status has nothing of it.
    let cleaning = bench.client.clean();
    let (cleaned, ()) = tokio::join!(cleaning, bench.activities.reset_well());
    cleaned.unwrap();
    assert!(bench.client.status().await.unwrap().extra.is_empty());
    assert!(info(&bench.front).await.is_err());
}

#[tokio::test]
async fn without_room_for_inputs_no_dispatch_is_invited_until_there_is_again() {
    for (dialect, told) in [(Dialect::Current, "Fault"), (Dialect::Y2011, "ABORTING")] {
        let bench = bench(dialect).await;
        bench.activities.reset_well().await;
        let directory = bench.state.path().join("filecache");
        let aside = bench.state.path().join("aside");
        std::fs::rename(&directory, &aside).unwrap();
        let status = bench.front.call(Call::Status).await;
        let said = format!("{status:?}");
        assert!(said.contains(told) && !said.contains("IDLE"), "{said}");
        // Who has just reset the builder believes it clean, and counts nothing.
        assert!(bench.front.call(Call::Echo(vec![])).await.is_ok());
        std::fs::rename(&aside, &directory).unwrap();
        let status = format!("{:?}", bench.front.call(Call::Status).await);
        assert!(status.contains("IDLE"), "{status}");
    }
}

#[tokio::test]
async fn the_2011_dialect_never_faults_between_boots_and_status_dict_speaks_todays() {
    let bench = bench(Dialect::Y2011).await;
    let status = bench.front.call(Call::Status).await.unwrap();
    assert!(
        matches!(&status, Value::Array(fields)
        if fields.first() == Some(&Value::String("BuilderStatus.ABORTING".into()))),
        "{status:?}"
    );
    bench.activities.reset_well().await;
    assert_eq!(
        bench.front.call(Call::Status).await.unwrap(),
        Value::Array(vec![
            Value::String("BuilderStatus.IDLE".into()),
            Value::String(String::new())
        ])
    );
    assert!(matches!(
        bench.front.call(Call::StatusDict).await.unwrap(),
        Value::Struct(_)
    ));
}

#[tokio::test]
async fn ensurepresent_is_answered_in_any_state_without_secrets() {
    let bench = bench(Dialect::Current).await;
    let ask = |url: Option<&str>| EnsurePresent {
        sum: Sha1::of(b"absent").into(),
        url: url.map(str::to_owned),
        username: "user".into(),
        password: "hunter2".into(),
    };
    let answer = bench.client.ensure_present(ask(None)).await.unwrap();
    assert_eq!((answer.present, answer.info.as_str()), (false, "No URL"));
    let url = format!("http://me:hunter3@{}/nothing?token=hunter4", bench.address);
    let answer = bench.client.ensure_present(ask(Some(&url))).await.unwrap();
    assert!(
        !answer.present && answer.info.starts_with("Error accessing Librarian: "),
        "{}",
        answer.info
    );
    assert!(!answer.info.contains("hunter"), "{}", answer.info);
}

/// What Twisted's client sends: HTTP/1.0, `Host` without a port.
async fn raw(address: std::net::SocketAddr, host: Option<&str>) -> String {
    let body = "<?xml version=\"1.0\"?>\n<methodCall>\n<methodName>status</methodName>\n<params>\n</params>\n\n</methodCall>\n";
    let host = host
        .map(|host| format!("Host: {host}\r\n"))
        .unwrap_or_default();
    let request = format!(
        "POST /rpc HTTP/1.0\r\nUser-Agent: Twisted/XMLRPClib\r\n{host}Content-type: text/xml; charset=utf-8\r\n\
         Content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_shared_listener_chooses_by_host_name_and_never_guesses() {
    let bench = bench(Dialect::Current).await;
    bench.activities.reset_well().await;
    for host in [
        "panda01.rack.example",
        "PANDA01.rack.example:8221",
        "panda01.rack.example.",
    ] {
        let answer = raw(bench.address, Some(host)).await;
        assert!(
            answer.contains(" 200 ") && answer.contains("BuilderStatus.IDLE"),
            "{host}: {answer}"
        );
    }
    for host in [
        None,
        Some(""),
        Some("panda01"),
        Some("127.0.0.1"),
        Some("panda02.rack.example"),
    ] {
        let answer = raw(bench.address, host).await;
        assert!(
            answer.contains(" 404 ") && answer.contains("Host header"),
            "{host:?}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_listener_that_is_shared_and_a_slots_own_prefers_a_known_name() {
    let one = bench(Dialect::Current).await;
    let other = bench(Dialect::Current).await;
    other.activities.reset_well().await;
    let mut hosts = Hosts::default();
    hosts.insert("panda02", other.front.clone());
    let routes = Routes {
        hosts: Arc::new(hosts),
        own: Some(one.front.clone()),
    };
    let (address, _stop) = serve(routes).await;
    assert!(
        raw(address, Some("panda02"))
            .await
            .contains("BuilderStatus.IDLE")
    );
    assert!(raw(address, Some("127.0.0.1")).await.contains("<fault>"));
    assert!(Path::new(one.state.path()).exists());
}
