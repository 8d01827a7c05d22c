//! What Launchpad's manager really sent (`fixtures/exchanges`), sent as bytes to a slot that lives: the answers are
//! what its own worker answered, but for sums, logs and versions.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail, ensure};
use dxr::Value;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::xml::{Fault, Limits, decode_answer};
use panda_protocol::launchpad::{Dialect, Status};
use panda_tests::programs::root;
use panda_tests::rack::Slot;
use panda_tests::source::{arch, executor};
use tokio::runtime::Runtime;

use crate::builder::{Builder, INPUT, serve_input};
use crate::racks::{QUICK, Served};

/// Sums in the recording: a chroot's, and a `.dsc`'s.
const SUMS: [&str; 2] = [
    "91adca077767edea0fe9106d65d182e60c3ebf1c",
    "4e02b6d6e8f66e63059b1bab5deeb2bbec66d027",
];

/// One slot, the input's address, and what the recording knows by other names.
struct Replay {
    slot: Slot,
    input: String,
}

impl Replay {
    /// The recorded request as it goes over the wire now, and the recorded answer's document.
    fn recorded(&self, name: &str) -> Result<(String, String)> {
        let path = root().join("fixtures/exchanges").join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let (request, answer) = text.split_once("--- answer ---\n").context("no answer")?;
        let mut request = request.replace("armhf", &arch()?);
        for sum in SUMS {
            request = request.replace(sum, &Sha1::of(INPUT).to_string());
        }
        let (head, document) = request.split_once("\n\n").context("no head")?;
        let mut document = document.trim_end().to_owned();
        if let Some(from) = document.find("http://librarian.example/") {
            let length = document[from..].find('<').context("no end")?;
            document.replace_range(from..from + length, &self.input);
        }
        let mut wire = String::new();
        for line in head.lines() {
            let name = line.split(':').next().unwrap_or_default();
            if !name.eq_ignore_ascii_case("content-length")
                && !name.eq_ignore_ascii_case("connection")
            {
                wire += &format!("{line}\r\n");
            }
        }
        if !document.is_empty() {
            wire += &format!("Content-Length: {}\r\n", document.len());
        }
        // Python keeps its connection; here it is read to the end.
        wire += &format!("Connection: close\r\n\r\n{document}");
        let (_, answer) = answer.split_once("\n\n").context("no document")?;
        Ok((wire, answer.trim().to_owned()))
    }

    fn send(&self, wire: &str) -> Result<(String, Vec<u8>)> {
        let address = self.slot.url.strip_prefix("http://").context("no http")?;
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(wire.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .context("no head")?;
        let head = String::from_utf8(answer[..end].to_vec())?;
        Ok((head, answer[end + 4..].to_vec()))
    }

    /// The slot's answer to a recorded call, beside the recorded one.
    fn call(&self, name: &str) -> Result<(Result<Value, Fault>, Result<Value, Fault>)> {
        let (wire, document) = self.recorded(name)?;
        let (head, body) = self.send(&wire)?;
        ensure!(head.contains(" 200 "), "{name}: {head}");
        ensure!(
            head.to_lowercase().contains("content-type: text/xml"),
            "{name}: {head}"
        );
        let read = |bytes: &[u8]| decode_answer(bytes, &Limits::default());
        let answer = read(&body).with_context(|| name.to_owned())?;
        Ok((answer, read(document.as_bytes())?))
    }

    /// The answer is the recorded one.
    fn same(&self, name: &str) -> Result<()> {
        let (answer, recorded) = self.call(name)?;
        ensure!(answer == recorded, "{name}: {answer:?} is not {recorded:?}");
        Ok(())
    }

    /// The answer is a fault of the recorded code.
    fn fault(&self, name: &str) -> Result<()> {
        match self.call(name)? {
            (Err(fault), Err(recorded)) if fault.code == recorded.code => Ok(()),
            other => bail!("{name}: {other:?}"),
        }
    }

    /// The status has the recorded fields, of the recorded types, and says the recorded words.
    fn status(&self, name: &str) -> Result<()> {
        let (Ok(Value::Struct(answer)), Ok(Value::Struct(recorded))) = self.call(name)? else {
            bail!("{name}: no status");
        };
        // A worker that knows its version says so.
        let names = |fields: &std::collections::BTreeMap<String, Value>| -> Vec<String> {
            let other = |name: &&String| *name != "builder_version";
            fields.keys().filter(other).cloned().collect()
        };
        ensure!(names(&answer) == names(&recorded), "{name}: {answer:?}");
        for (field, value) in &recorded {
            let Some(own) = answer.get(field) else {
                continue;
            };
            let kind = |value: &Value| std::mem::discriminant(value);
            ensure!(kind(own) == kind(value), "{name}: {field}: {own:?}");
            if !["builder_version", "logtail", "filemap"].contains(&field.as_str()) {
                ensure!(own == value, "{name}: {field}: {own:?}");
            }
        }
        Ok(())
    }

    /// A recorded download, of this file here.
    fn get(&self, name: &str, known: &str, file: &str) -> Result<Vec<u8>> {
        let (wire, _) = self.recorded(name)?;
        let (head, body) = self.send(&wire.replace(known, file))?;
        ensure!(head.contains(" 200 "), "{name}: {head}");
        Ok(body)
    }
}

#[test]
fn the_recorded_manager_is_answered_as_its_own_worker_answered_it() -> Result<()> {
    let gate = tempfile::TempDir::with_prefix_in("gate-", "/tmp")?;
    let open = gate.path().join("open");
    let settings = [format!("PANDA_TEST_GATE={}", open.display())];
    let rack = Served::start(1, &executor("slow.sh", &settings), Dialect::Current, QUICK)?;
    let slot = rack.slots()[0].clone();
    let builder = Builder::new(&slot)?;
    let replay = Replay {
        input: serve_input()?,
        slot,
    };
    let runtime = Runtime::new()?;

    replay.status("001-status-idle.http")?;
    let (info, _) = replay.call("045-info.http")?;
    let Ok(Value::Array(info)) = info else {
        bail!("info: {info:?}")
    };
    ensure!(
        info.len() == 3 && info[0] == Value::String("1.0".to_owned()),
        "{info:?}"
    );
    for same in ["046-echo.http", "047-echo.http"] {
        replay.same(same)?;
    }
    for fault in ["049-abort.http", "050-nosuch.http", "051-proxy_info.http"] {
        replay.fault(fault)?;
    }
    let (unknown, _) = replay.call("052-build-unknownbuilder.http")?;
    let unknown = format!("{unknown:?}");
    ensure!(
        unknown.contains("BuilderStatus.UNKNOWNBUILDER")
            && unknown.contains("nosuch not in ['binarypackage']"),
        "{unknown}"
    );

    replay.same("003-ensurepresent.http")?;
    // The same content here, where the recording had two.
    let (present, _) = replay.call("004-ensurepresent.http")?;
    ensure!(
        format!("{present:?}").contains("Boolean(true)"),
        "{present:?}"
    );
    replay.same("005-build-building.http")?;
    runtime.block_on(builder.logged("slow build has begun\n"))?;
    for building in ["006-status-building.http", "007-status-building.http"] {
        replay.status(building)?;
    }
    fs::write(&open, "")?;
    let (outcome, _) = runtime
        .block_on(builder.ended())
        .with_context(|| rack.log())?;
    for waiting in ["009-status-waiting.http", "013-status-waiting.http"] {
        replay.status(waiting)?;
    }
    let log = replay.get("010-GET-buildlog.http", "buildlog", "buildlog")?;
    ensure!(
        String::from_utf8_lossy(&log).contains("slow build goes on"),
        "another log"
    );
    let sum = outcome
        .filemap
        .values()
        .next()
        .context("no results")?
        .to_string();
    let known = "8ac5eec6b0a0b5e6eb5289572d0b39449bc91c9d";
    let file = replay.get("011-GET-8ac5eec6b0a0.http", known, &sum)?;
    ensure!(Sha1::of(&file).to_string() == sum, "another file");
    replay.same("014-clean-idle.http")?;

    // A second build, which is aborted.
    fs::remove_file(&open)?;
    replay.status("002-status-idle.http")?;
    runtime.block_on(builder.fetch(&replay.input))?;
    replay.same("018-build-building.http")?;
    runtime.block_on(builder.logged("slow build has begun\n"))?;
    replay.same("022-abort-aborting.http")?;
    runtime.block_on(builder.until("aborted", |report| {
        matches!(&report.status, Status::Waiting { .. }).then_some(())
    }))?;
    replay.get("024-GET-buildlog.http", "buildlog", "buildlog")?;
    replay.same("026-clean-idle.http")?;
    rack.stop()
}
