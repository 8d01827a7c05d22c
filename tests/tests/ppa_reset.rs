//! Launchpad's reset command on a rack of virtual Pandas: reset protocols 1.1 and 2.0.
//!
//! `scripts/transcripts` prints what is said to the web service, for docs/launchpad.md.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use panda_tests::manager::{self, Make};
use panda_tests::programs::{pandabuildd, run, run_ok};
use panda_tests::rack::{Rack, json_items};
use panda_tests::source::{executor, hello};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_reset_by_any_name_ends_with_a_builder_that_answers_whatever_it_had() -> Result<()> {
    let gate = tempfile::TempDir::with_prefix_in("gate-", "/tmp")?;
    let open = gate.path().join("open");
    let settings = [format!("PANDA_TEST_GATE={}", open.display())];
    let mut rack = Rack::start(2, &executor("slow.sh", &settings))?;
    reset(&rack, "panda01")?;
    assert_eq!(told(&rack)?, "BuilderStatus.IDLE");

    // A build that never ends, and a daemon that is killed while the command waits.
    let source = hello(&rack.scratch("source")?)?;
    let slot = rack.slots()[0].clone();
    let output = rack.scratch("results")?;
    let options = ["--stop-at", "slow build has begun"];
    manager::build(Make::Xmlrpc, &slot.url, &source, &output, &options)?;
    assert_eq!(told(&rack)?, "BuilderStatus.BUILDING");
    let before = rack.boots("panda01")?.len();
    let mut command = rack.control(&["ppa-reset", "PANDA01", "--timeout", "120"])?;
    let waiting = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    logged(&rack, "name=\"PANDA01\"")?;
    rack.kill()?;
    rack.twin()?;
    let output = waiting.wait_with_output()?;
    ensure!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}\n{}",
        rack.log()
    );
    assert_eq!(told(&rack)?, "BuilderStatus.IDLE");
    ensure!(rack.boots("panda01")?.len() > before, "no new boot");

    // It is ready: nothing is powered.
    let boots = rack.boots("panda01")?.len();
    reset(&rack, "panda01")?;
    assert_eq!(rack.boots("panda01")?.len(), boots);

    let unknown = run(&mut rack.control(&["ppa-reset", "panda99\nx"])?)?;
    one_line(
        &unknown,
        "no slot \"panda99\\nx\"; this rack has panda01, panda02",
    )?;
    rack.stop()
}

#[test]
fn a_reset_without_a_daemon_fails_in_one_line_within_its_time() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut command = pandabuildd()?;
    command
        .args(["ppa-reset", "panda01", "--timeout", "2", "--socket"])
        .arg(directory.path().join("control.sock"));
    one_line(&run(&mut command)?, "no daemon runs there")
}

#[test]
fn a_triggered_reset_is_told_to_the_web_service_by_the_daemon_of_that_moment() -> Result<()> {
    let mut rack = Rack::start(1, &executor("hello.sh", &[]))?;
    rack.wait_fresh()?;
    rack.kill()?;
    let service = WebService::start()?;
    let credentials = rack.state().join("launchpad");
    fs::write(
        &credentials,
        "[1]\nconsumer_key = rack\nconsumer_secret =\naccess_token = t\naccess_secret = hush-hush\n",
    )?;
    fs::set_permissions(&credentials, Permissions::from_mode(0o600))?;
    let mut config = OpenOptions::new()
        .append(true)
        .open(rack.state().join("rack.toml"))?;
    writeln!(
        config,
        "\n[webservice]\nurl = \"http://{}/devel\"\ncredentials = \"launchpad\"\n\
         first_pause_ms = 50\nmost_pause_ms = 200",
        service.address
    )?;
    rack.serve()?;
    let triggered = run_ok(&mut rack.control(&["ppa-reset", "panda01", "--no-wait"])?);
    triggered.with_context(|| rack.log())?;
    // The manager has not written CLEANING yet.
    service.wait_for("a second look", |state| state.looks >= 2)?;
    ensure!(
        service.state().changes.is_empty(),
        "Clean was written too early"
    );
    noted(&rack, &service, "not yet Cleaning")?;
    // Whatever it answers is shown, and asked for again.
    for (refusal, told) in [
        ("401 Unauthorized", "(401)"),
        ("403 Forbidden", "(403)"),
        ("404 Not Found", "(404)"),
        ("302 Found", "redirects (302)"),
    ] {
        service.change(|state| state.refusal = Some(refusal));
        noted(&rack, &service, told)?;
    }
    // It does so while the daemon is away.
    rack.kill()?;
    service.change(|state| {
        state.refusal = None;
        state.clean_status = "Cleaning";
        state.touched = true;
    });
    rack.serve()?;
    service.wait_for("Clean", |state| state.clean_status == "Clean")?;
    let state = service.state();
    assert_eq!(state.changes, ["{\"clean_status\":\"Clean\"}"]);
    ensure!(
        state.transcript.contains(" 412 "),
        "no change came too late:\n{}",
        state.transcript
    );
    for line in state.transcript.lines() {
        println!("transcript: {line}");
    }
    ensure!(
        !(rack.log() + &state.transcript).contains("hush"),
        "a secret is in the log"
    );
    // The boards belong to `twin`: it takes them down.
    rack.kill()?;
    rack.twin()?;
    rack.stop()
}

/// The manager's command.
fn reset(rack: &Rack, name: &str) -> Result<()> {
    let output = run(&mut rack.control(&["ppa-reset", name, "--timeout", "120"])?)?;
    ensure!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}\n{}",
        rack.log()
    );
    Ok(())
}

/// What Launchpad is told of the first slot.
fn told(rack: &Rack) -> Result<String> {
    let slots = json_items(&run_ok(&mut rack.control(&["slots", "--json"])?)?)?;
    let told = slots[0]["told"].as_str().context("told")?;
    Ok(told.to_owned())
}

fn logged(rack: &Rack, what: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !rack.log().contains(what) {
        ensure!(
            Instant::now() < deadline,
            "never logged: {what}\n{}",
            rack.log()
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until operators are told `what`, and has it in the transcript.
fn noted(rack: &Rack, service: &WebService, what: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let slots = run_ok(&mut rack.control(&["slots"])?)?;
        if let Some(line) = slots.lines().find(|line| line.contains(what)) {
            service.change(|state| state.say(&format!("\n$ pandabuildd slots\n{line}\n")));
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "never told: {what}\n{slots}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn one_line(output: &Output, what: &str) -> Result<()> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it succeeded");
    ensure!(
        error.lines().count() == 1 && error.contains(what),
        "{error}"
    );
    Ok(())
}

/// A web service with one builder.
struct WebService {
    address: SocketAddr,
    shared: Arc<(Mutex<Entry>, Condvar)>,
}

#[derive(Debug, Clone)]
struct Entry {
    clean_status: &'static str,
    version: u32,
    looks: usize,
    changes: Vec<String>,
    /// What everything is answered with.
    refusal: Option<&'static str>,
    /// Somebody changes the entry just before the next change.
    touched: bool,
    /// What was said, without secrets; what only repeats itself once.
    transcript: String,
}

impl Entry {
    fn say(&mut self, what: &str) {
        if !self.transcript.ends_with(what) {
            self.transcript += what;
        }
    }
}

impl WebService {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let entry = Entry {
            clean_status: "Dirty",
            version: 1,
            looks: 0,
            changes: Vec::new(),
            refusal: None,
            touched: false,
            transcript: String::new(),
        };
        let shared = Arc::new((Mutex::new(entry), Condvar::new()));
        let service = Self {
            address,
            shared: shared.clone(),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A daemon that is killed breaks its connection.
                answer(stream, &shared).ok();
            }
        });
        Ok(service)
    }

    fn state(&self) -> Entry {
        self.shared
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change(&self, change: impl Fn(&mut Entry)) {
        let mut entry = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut entry);
        entry.version += 1;
    }

    fn wait_for(&self, what: &str, wanted: impl Fn(&Entry) -> bool) -> Result<()> {
        let (entry, changed) = &*self.shared;
        let entry = entry.lock().unwrap_or_else(PoisonError::into_inner);
        let (entry, _) = changed
            .wait_timeout_while(entry, LIMIT, |entry| !wanted(entry))
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(wanted(&entry), "waited in vain for {what}: {entry:?}");
        Ok(())
    }
}

/// A request and its answer, as people read them: secrets, and what is another each time, are left out.
fn exchange(head: &str, body: &str, status: &str, text: &str) -> String {
    let mut said = String::from("\n");
    for line in head.lines().filter(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        let line = match name.to_ascii_lowercase().as_str() {
            "host" => "Host: api.launchpad.example".to_owned(),
            "authorization" => redacted(line),
            "user-agent" | "content-length" | "accept-encoding" => continue,
            _ => line.to_owned(),
        };
        said += &format!("> {line}\n");
    }
    if !body.is_empty() {
        said += &format!("> {body}\n");
    }
    said += &format!("< {status}\n");
    if !text.is_empty() {
        said += &format!("< {text}\n");
    }
    said
}

/// An `Authorization` without what is secret in it, or another each time.
fn redacted(line: &str) -> String {
    let parts = line.split(", ").map(|part| match part.split_once('=') {
        Some((
            name @ ("oauth_token" | "oauth_signature" | "oauth_nonce" | "oauth_timestamp"),
            _,
        )) => format!("{name}=\"...\""),
        Some((name, _)) if name.ends_with("realm") => format!("{name}=\"...\""),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// Answers one request of a connection, and closes it.
fn answer(stream: TcpStream, shared: &(Mutex<Entry>, Condvar)) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "closed");
    }
    let field = |name: &str| {
        let line = head
            .lines()
            .find(|line| line.to_ascii_lowercase().starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let length = field("content-length:").map_or(Ok(0), |length| length.parse())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut status = "200 OK";
    let text = {
        let mut entry = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if head.starts_with("PATCH ") && std::mem::take(&mut entry.touched) {
            entry.version += 1;
        }
        let etag = format!("\"e{}\"", entry.version);
        let asked = String::from_utf8_lossy(&body).into_owned();
        if let Some(refusal) = entry.refusal {
            status = refusal;
        } else if !head.contains(" /devel/builders/panda01 ") || !head.contains("hush-hush") {
            status = "404 Not Found";
        } else if head.starts_with("GET ") {
            entry.looks += 1;
        } else if field("if-match:") == Some(etag) {
            status = "209 Content Returned";
            entry.changes.push(String::from_utf8(body)?);
            entry.clean_status = "Clean";
            entry.version += 1;
        } else {
            status = "412 Precondition Failed";
        }
        let text = format!(
            "{{\"clean_status\": \"{}\", \"builderok\": true, \"http_etag\": \"\\\"e{}\\\"\"}}",
            entry.clean_status, entry.version
        );
        let shown = if status.starts_with('2') {
            text.as_str()
        } else {
            ""
        };
        let said = exchange(&head, &asked, status, shown);
        entry.say(&said);
        shared.1.notify_all();
        text
    };
    let length = text.len();
    write!(
        reader.into_inner(),
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )?;
    Ok(())
}
