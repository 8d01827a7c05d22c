//! Speaks to one builder as the manager does: calls over HTTP/1.0 with a `Host` that has no port, files over HTTP/1.1,
//! the reset by a command.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use dxr::Value;
use panda_http::endpoint::EndpointSettings;
use panda_http::{BuilderClient, ClientLimits, Endpoint, pinned};
use panda_protocol::launchpad::xml::{Limits, decode_answer, encode_call};
use panda_protocol::launchpad::{Call, EnsurePresent, StatusReport, Sum};
use panda_tests::manager_model::{Answer, Failure, Mode};
use panda_tests::programs::program;
use panda_tests::rack::{Rack, Slot};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The most bytes of an answer.
const MAX_ANSWER: u64 = 1 << 20;
/// The most bytes of a file.
const MAX_FILE: u64 = 1 << 20;

/// A failure, and what was seen of it.
pub(crate) type Failed = (Failure, String);

/// One builder.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    mode: Mode,
    name: String,
    address: String,
    files: BuilderClient,
    pandabuildd: PathBuf,
    socket: PathBuf,
}

impl Caller {
    pub(crate) fn new(rack: &Rack, slot: &Slot, mode: Mode) -> Result<Self> {
        let tls = pinned::public_client_config()?;
        let endpoint = Endpoint::new(&slot.url, tls, EndpointSettings::default())?;
        Ok(Self {
            mode,
            name: slot.name.clone(),
            address: slot
                .url
                .strip_prefix("http://")
                .context("the builder's URL")?
                .trim_end_matches('/')
                .to_owned(),
            files: BuilderClient::new(endpoint, ClientLimits::default()),
            pandabuildd: program("pandabuildd")?,
            socket: rack.state().join("control.sock"),
        })
    }

    /// Makes a call; a fault is a failure.
    pub(crate) async fn call(&self, call: &Call, limit: Duration) -> Result<Value, Failed> {
        let (method, params) = call.encode();
        let malformed = |what: String| (Failure::Malformed, format!("{method}: {what}"));
        let document =
            encode_call(method, &params).map_err(|error| malformed(error.to_string()))?;
        let exchange = timeout(limit, self.exchange(&document)).await;
        let answer = exchange
            .map_err(|_| {
                (
                    Failure::TimedOut,
                    format!("{method}: none within {limit:?}"),
                )
            })?
            .map_err(|error| (Failure::Refused, format!("{method}: {error}")))?;
        if answer.is_empty() {
            let seen = format!("{method}: closed without an answer");
            return Err((Failure::Refused, seen));
        }
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .ok_or_else(|| malformed(format!("no HTTP answer: {answer:?}")))?;
        let is_xml = head.lines().any(|line| {
            line.to_ascii_lowercase()
                .starts_with("content-type: text/xml")
        });
        let status = head.split(' ').nth(1);
        if !head.starts_with("HTTP/1.") || status != Some("200") || !is_xml {
            return Err(malformed(head.to_owned()));
        }
        decode_answer(body.as_bytes(), &Limits::default())
            .map_err(|error| malformed(error.to_string()))?
            .map_err(|fault| {
                (
                    Failure::Fault,
                    format!("{method}: fault {}: {}", fault.code, fault.text),
                )
            })
    }

    pub(crate) async fn status(&self, limit: Duration) -> Result<Answer, Failed> {
        let value = self.call(&Call::Status, limit).await?;
        // Neither manager can read the other's.
        let is_own = match value {
            Value::Struct(_) => !self.mode.is_2011(),
            Value::Array(_) => self.mode.is_2011(),
            _ => false,
        };
        if !is_own {
            let seen = "status: not of this manager's dialect".to_owned();
            return Err((Failure::Malformed, seen));
        }
        let report = StatusReport::from_value(&value)
            .map_err(|error| (Failure::Malformed, error.to_string()))?;
        Ok(Answer::Status(report.status))
    }

    /// A call that has exactly one good answer.
    pub(crate) async fn expect(
        &self,
        call: Call,
        wanted: Value,
        limit: Duration,
    ) -> Result<Answer, Failed> {
        let answer = self.call(&call, limit).await?;
        if answer == wanted {
            Ok(Answer::Done)
        } else {
            Err((Failure::Malformed, format!("{call:?}: {answer:?}")))
        }
    }

    /// `ensurepresent` for every file at once; the limit is for all of them.
    pub(crate) async fn ensure(
        &self,
        files: &[(String, String, &'static str)],
        limit: Duration,
    ) -> Result<Answer, Failed> {
        let mut calls = JoinSet::new();
        for (sum, url, password) in files {
            let call = Call::EnsurePresent(EnsurePresent {
                sum: Sum(sum.clone()),
                url: Some(url.clone()),
                username: String::new(),
                password: (*password).to_owned(),
            });
            let caller = self.clone();
            calls.spawn(async move { caller.call(&call, limit).await });
        }
        for answer in calls.join_all().await {
            match answer? {
                Value::Array(items) if items.first() == Some(&Value::Boolean(true)) => {}
                other => return Err((Failure::Absent, format!("ensurepresent: {other:?}"))),
            }
        }
        Ok(Answer::Done)
    }

    /// A file of `/filecache/`.
    pub(crate) async fn file(&self, name: &str, limit: Duration) -> Result<Vec<u8>, Failed> {
        let refused = |error: String| (Failure::Refused, format!("filecache/{name}: {error}"));
        let mut pieces = self
            .files
            .file(name, MAX_FILE)
            .await
            .map_err(|error| refused(error.to_string()))?;
        let mut bytes = Vec::new();
        loop {
            let piece = timeout(limit, pieces.next()).await;
            let piece = piece.map_err(|_| (Failure::TimedOut, format!("filecache/{name}")))?;
            match piece.map_err(|error| refused(error.to_string()))? {
                Some(piece) => bytes.extend_from_slice(&piece),
                None => return Ok(bytes),
            }
        }
    }

    /// The reset command, as an operator writes it into `vm_resume_command`; it is killed when its time is over.
    pub(crate) async fn reset(&self, limit: Duration) -> Result<Answer, Failed> {
        let mut command = Command::new(&self.pandabuildd);
        command.args(["ppa-reset", &self.name]);
        if self.mode == Mode::Trigger {
            command.arg("--no-wait");
        }
        command
            .arg("--socket")
            .arg(&self.socket)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(limit, command.output()).await;
        let output = output
            .map_err(|_| (Failure::TimedOut, "the reset command".to_owned()))?
            .map_err(|error| (Failure::Command, error.to_string()))?;
        if output.status.success() {
            Ok(Answer::Done)
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err((Failure::Command, said))
        }
    }

    /// One exchange as Twisted's client writes it; the other side closes the connection.
    async fn exchange(&self, document: &str) -> io::Result<String> {
        let host = self.address.split(':').next().unwrap_or_default();
        let request = format!(
            "POST /rpc HTTP/1.0\r\nUser-Agent: Twisted/XMLRPClib\r\nHost: {host}\r\n\
             Content-type: text/xml; charset=utf-8\r\nContent-length: {}\r\n\r\n{document}",
            document.len()
        );
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        Ok(answer)
    }
}
