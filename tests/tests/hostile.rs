//! The daemon against boards that turn hostile with their first build (`tests/python/hostile_agent.py`): each
//! slot ends as it must and is clean again, its honest neighbour builds on, and nothing that a board says
//! reaches the daemon's log unfiltered.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::public_client_config;
use panda_http::{BuilderClient, ClientLimits, Endpoint};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{
    BuildCall, BuildId, BuildStatus, EnsurePresent, FileName, Outcome, Status, Sum,
};
use panda_tests::manager::PYTHON;
use panda_tests::programs::root;
use panda_tests::rack::{Rack, Slot};

/// What the boards do, and what their builds become.
const MODES: [(&str, BuildStatus); 11] = [
    ("honest", BuildStatus::Ok),
    ("another-build", BuildStatus::BuilderFail),
    ("forgets", BuildStatus::BuilderFail),
    ("nested", BuildStatus::BuilderFail),
    ("entities", BuildStatus::BuilderFail),
    ("names", BuildStatus::BuilderFail),
    ("giant", BuildStatus::BuilderFail),
    ("another-file", BuildStatus::BuilderFail),
    ("another-range", BuildStatus::BuilderFail),
    ("abort-taken", BuildStatus::Aborted),
    ("abort-unheard", BuildStatus::Aborted),
];
/// What the agent would like to have in the log.
const SECRET: &str = "hunter2";
/// The most memory that the daemon may ever have had, in KiB; one board alone sends a gigabyte.
const MOST_MEMORY: u64 = 256 << 10;
/// The longest that one build may take to its end, and to a clean slot. An abort is given ten seconds twice.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn hostile_boards_end_as_they_must_and_touch_nothing_else() -> Result<()> {
    let rack = Rack::start_with_agent(MODES.len(), &root().join("tests/python/hostile_agent.py"))
        .with_context(|| format!("the agent needs {PYTHON} 3.11"))?;
    let modes = rack.state().join("modes");
    fs::create_dir(&modes)?;
    for (slot, (mode, _)) in rack.slots().iter().zip(MODES) {
        fs::write(modes.join(&slot.name), mode)?;
    }
    rack.wait_fresh()?;
    let input = serve(b"an input")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let builds: Vec<_> = rack
        .slots()
        .iter()
        .zip(MODES)
        .map(|(slot, (mode, _))| {
            let builds = twice(slot.clone(), mode, input.clone());
            runtime.spawn(async { tokio::time::timeout(LIMIT, builds).await })
        })
        .collect();
    for (build, (mode, expected)) in builds.into_iter().zip(MODES) {
        let ended = runtime
            .block_on(build)?
            .with_context(|| format!("{mode}: not ended in time:\n{}", rack.log()))?;
        for outcome in ended.with_context(|| format!("{mode}:\n{}", rack.log()))? {
            assert_eq!(outcome.build_status, expected, "{mode}");
            ensure!(
                outcome.filemap.is_empty() || mode == "honest",
                "{mode}: {outcome:?}"
            );
        }
    }
    let log = rack.log();
    ensure!(
        !log.contains(SECRET),
        "a board's words are in the log:\n{log}"
    );
    ensure!(!log.contains("\x1b[2J"), "a board's escapes are in the log");
    let peak = rack.memory_peak()?;
    ensure!(peak < MOST_MEMORY, "the daemon has had {peak} KiB");
    rack.stop()
}

/// Two builds on one slot, each on a boot of its own, and how they ended.
async fn twice(slot: Slot, mode: &'static str, input: String) -> Result<[Outcome; 2]> {
    let tls = public_client_config()?;
    let endpoint = Endpoint::new(&slot.url, tls, EndpointSettings::default())?;
    let builder = BuilderClient::new(endpoint.clone(), ClientLimits::default());
    let first = build(&builder, &endpoint, mode, &input).await?;
    let second = build(&builder, &endpoint, mode, &input).await?;
    Ok([first, second])
}

/// One build, from IDLE to IDLE.
async fn build(
    builder: &BuilderClient,
    endpoint: &Endpoint,
    mode: &str,
    input: &str,
) -> Result<Outcome> {
    let sum = Sum::from(Sha1::of(b"an input"));
    let ensure = EnsurePresent {
        sum: sum.clone(),
        url: Some(input.to_owned()),
        username: String::new(),
        password: String::new(),
    };
    ensure!(builder.ensure_present(ensure).await?.present, "no input");
    let build_id = BuildId::try_from("PACKAGEBUILD-1".to_owned())?;
    builder
        .build(BuildCall {
            build_id,
            build_type: "binarypackage".to_owned(),
            chroot: sum.clone(),
            filemap: [(FileName::try_from("x_1.dsc".to_owned())?, sum)].into(),
            args: [].into(),
        })
        .await?;
    let mut abort = mode.starts_with("abort");
    let outcome = loop {
        match builder.status().await?.status {
            Status::Waiting { outcome, .. } => break outcome,
            Status::Building { logtail, .. } if abort && logtail.ends_with(b"last line\n") => {
                builder.abort().await?;
                abort = false;
            }
            Status::Building { .. } | Status::Aborting { .. } => {}
            other => bail!("the slot says {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (_, log) = endpoint.get("/filecache/buildlog", 1 << 20, LIMIT).await?;
    let log = String::from_utf8_lossy(&log);
    ensure!(!log.contains(SECRET), "the log shows a password: {log}");
    let whole = log == "deb http://private.example/ x main\nlast line\n";
    ensure!(whole || mode == "another-range", "another log: {log:?}");
    builder.clean().await?;
    ensure!(builder.status().await?.status == Status::Idle, "not clean");
    Ok(outcome)
}

/// Serves `content` at the address that is returned, to whoever asks.
fn serve(content: &'static [u8]) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/input", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = |mut stream: std::net::TcpStream| -> std::io::Result<()> {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte)?;
                    head.extend(byte);
                }
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                    content.len()
                )?;
                stream.write_all(content)
            };
            if let Err(error) = stream.and_then(answer) {
                eprintln!("the input was not served: {error}");
            }
        }
    });
    Ok(url)
}
