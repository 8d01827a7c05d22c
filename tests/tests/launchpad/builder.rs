//! One slot, as a manager has it: calls, files, and waiting for what a status says.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dxr::Value;
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::public_client_config;
use panda_http::{BuilderClient, ClientError, ClientLimits, Endpoint};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{
    BuildCall, BuildId, BuildStatus, EnsurePresent, FileName, Outcome, Status, StatusReport, Sum,
};
use panda_tests::rack::Slot;
use tokio::time::{Instant, sleep};

/// Nothing that a slot is waited for takes longer, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// The most bytes of a file.
const MAX_FILE: u64 = 64 << 20;
/// What every build of these tests is given, as chroot and as `.dsc`.
pub(crate) const INPUT: &[u8] = b"an input";

/// A slot's builder.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    pub(crate) client: BuilderClient,
    pub(crate) endpoint: Endpoint,
    pub(crate) name: String,
}

impl Builder {
    pub(crate) fn new(slot: &Slot) -> Result<Self> {
        let tls = public_client_config()?;
        let settings = EndpointSettings {
            read_limit: LIMIT,
            ..EndpointSettings::default()
        };
        let endpoint = Endpoint::new(&slot.url, tls, settings)?;
        let limits = ClientLimits {
            call_limit: LIMIT,
            ..ClientLimits::default()
        };
        Ok(Self {
            client: BuilderClient::new(endpoint.clone(), limits),
            endpoint,
            name: slot.name.clone(),
        })
    }

    /// Has the usual input fetched from `url`.
    pub(crate) async fn fetch(&self, url: &str) -> Result<()> {
        let ensure = EnsurePresent {
            sum: Sha1::of(INPUT).into(),
            url: Some(url.to_owned()),
            username: String::new(),
            password: String::new(),
        };
        let answer = self.client.ensure_present(ensure).await?;
        ensure!(answer.present, "no input: {}", answer.info);
        Ok(())
    }

    /// Waits for IDLE, has the input fetched from `url`, and starts a build.
    pub(crate) async fn dispatch(
        &self,
        url: &str,
        build_type: &str,
        args: BTreeMap<String, Value>,
    ) -> Result<()> {
        self.idle().await?;
        self.fetch(url).await?;
        let answer = self.client.build(call(build_type, args)?).await?;
        ensure!(answer.is_building(), "{answer:?}");
        Ok(())
    }

    /// Looks until `wanted` of a status is there; a fault is no status.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        mut wanted: impl FnMut(&StatusReport) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.client.status().await;
            if let Some(found) = status.as_ref().ok().and_then(&mut wanted) {
                return Ok(found);
            }
            ensure!(
                Instant::now() < deadline,
                "{}: never {what}: {status:?}",
                self.name
            );
            sleep(LOOK).await;
        }
    }

    /// Waits until the worker's word about its proxy is there: it is asked after the log.
    pub(crate) async fn proxied(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while self.client.proxy_info().await?.is_none() {
            ensure!(Instant::now() < deadline, "{}: never a proxy", self.name);
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits for IDLE.
    pub(crate) async fn idle(&self) -> Result<()> {
        self.until("idle", |report| {
            (report.status == Status::Idle).then_some(())
        })
        .await
    }

    /// Waits until the log of the running build ends with `text`.
    pub(crate) async fn logged(&self, text: &str) -> Result<()> {
        self.until(&format!("logged {text:?}"), |report| match &report.status {
            Status::Building { logtail, .. } => logtail.ends_with(text.as_bytes()).then_some(()),
            _ => None,
        })
        .await
    }

    /// Waits for the end of a build, whose id must be the right one.
    pub(crate) async fn ended(&self) -> Result<(Outcome, StatusReport)> {
        let (id, outcome, report) = self
            .until("ended", |report| match &report.status {
                Status::Waiting { build_id, outcome } => {
                    Some((build_id.clone(), outcome.clone(), report.clone()))
                }
                Status::Aborted { build_id } => {
                    let outcome = Outcome::bare(BuildStatus::Aborted);
                    Some((build_id.clone(), outcome, report.clone()))
                }
                _ => None,
            })
            .await?;
        ensure!(id == build_id()?, "the cookie is {id}");
        Ok((outcome, report))
    }

    /// Cleans, and waits for IDLE.
    pub(crate) async fn clean(&self) -> Result<()> {
        self.client.clean().await?;
        self.idle().await
    }

    /// A file of the builder's, whole.
    pub(crate) async fn file(&self, name: &str) -> Result<Vec<u8>, ClientError> {
        let mut pieces = self.client.file(name, MAX_FILE).await?;
        let mut whole = Vec::new();
        while let Some(piece) = pieces.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    pub(crate) async fn log(&self) -> Result<String> {
        let log = self.file("buildlog").await.context("the build log")?;
        Ok(String::from_utf8(log)?)
    }

    /// The fault that a call is answered with.
    pub(crate) fn fault<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Result<String> {
        match answer {
            Err(ClientError::Fault { code: 8002, text }) => Ok(text.as_str().to_owned()),
            other => bail!("no fault: {other:?}"),
        }
    }
}

/// The cookie of every build, on every retry.
pub(crate) fn build_id() -> Result<BuildId> {
    Ok(BuildId::try_from("PACKAGEBUILD-1".to_owned())?)
}

/// A build of the usual input.
pub(crate) fn call(build_type: &str, args: BTreeMap<String, Value>) -> Result<BuildCall> {
    let sum = Sum::from(Sha1::of(INPUT));
    Ok(BuildCall {
        build_id: build_id()?,
        build_type: build_type.to_owned(),
        chroot: sum.clone(),
        filemap: [(FileName::try_from("x_1.dsc".to_owned())?, sum)].into(),
        args,
    })
}

/// The arguments of a `binarypackage` build, as Launchpad's manager sends them.
pub(crate) fn package_args() -> BTreeMap<String, Value> {
    let text = |text: &str| Value::String(text.to_owned());
    let (none, no) = (Value::Array(Vec::new()), Value::Boolean(false));
    let args = [
        ("suite", text("bookworm")),
        ("series", text("bookworm")),
        ("archives", none.clone()),
        ("trusted_keys", none.clone()),
        ("builder_constraints", none),
        ("archive_purpose", text("PPA")),
        ("ogrecomponent", text("main")),
        ("image_type", text("chroot")),
        ("archive_private", no.clone()),
        ("build_debug_symbols", no.clone()),
        ("arch_indep", no.clone()),
        ("fast_cleanup", no),
    ];
    args.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Serves [`INPUT`] to whoever asks, at the address that is returned.
pub(crate) fn serve_input() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/input", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Who has hung up is not served.
            give(stream, "200 OK", INPUT).ok();
        }
    });
    Ok(url)
}

/// Reads a request's head and answers it.
pub(crate) fn give(mut stream: TcpStream, status: &str, body: &[u8]) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)
}
