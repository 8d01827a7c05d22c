//! A worker that is not ours, behind the link: an image names it ([`ForeignWorker`]), the agent starts it on the
//! board's loopback and passes the builder protocol on to it, and nothing else. [`crate::init`] starts one in
//! the place of [`crate::worker`].
//!
//! ```text
//! master ══TLS══▶ link ──▶ relay ──▶ worker (loopback)     POST /rpc, GET /filecache/NAME
//!                                      │ urllib or what it has
//!                                      ▼
//! depot ◀══TLS══ inputs (loopback): GET /input/SHA1
//! ```
//!
//! - It knows no pinned certificates, so an `ensurepresent` from the depot is given the loopback's address of
//!   the same file instead (`inputs`); every other argument passes untouched.
//! - It is there before the boot is reported: idle, of the image's architecture, with the build types that the
//!   image names. What it announces beyond those is not announced.
//! - When its program ends, the boot is lost: every answer is 410 from then on, and nothing starts it again. A
//!   worker that was started twice in one boot would have run two builds on one board.
//!
//! What it says is not believed here either: the master bounds and checks all of it.

mod inputs;
mod program;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Response};
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::{PinnedError, public_client_config};
use panda_http::service::{BuilderService, FileError, fault};
use panda_http::{Body, BuilderClient, ClientError, ClientLimits, Endpoint, Relay, ServedFile};
use panda_protocol::launchpad::xml::Fault;
use panda_protocol::launchpad::{
    Abort, Answered, BuildCall, Clean, Echo, EnsurePresent, FileName, GetInfo, GetProxyInfo,
    GetStatus, Info, Status,
};
use panda_protocol::link::INPUT_PATH;
use panda_protocol::worker::ForeignWorker;
use tokio::time::{Instant, sleep};

use self::inputs::Inputs;
use self::program::Program;
use crate::worker::Depot;

/// How long the worker may take until it is idle. The master waits about as long for the whole boot.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Between two looks whether it is.
const START_PAUSE: Duration = Duration::from_millis(200);
/// What one call may take; the master has limits of its own, and does not wait as long.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// What an `ensurepresent` may take: a chroot over a slow network.
const INPUT_LIMIT: Duration = Duration::from_secs(1800);

/// Why a foreign worker is none. It is on the console, and the boot is never proven.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// A directory or a port of the board.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("{program} cannot be started: {source}; is it in the image?", program = program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No client can be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No client can be made.
    #[error(transparent)]
    Tls(#[from] PinnedError),
    /// Its program has ended before it was idle.
    #[error("it has ended ({0}); it must stay in the foreground")]
    Ended(String),
    /// It was not idle in time.
    #[error("it was not idle at {address} within {} s: {last}", START_LIMIT.as_secs())]
    NotIdle {
        /// Where it was to listen.
        address: SocketAddr,
        /// What it said, or why it said nothing.
        last: String,
    },
    /// It is for another architecture.
    #[error("it is for {found}, and the image for {expected}")]
    Arch {
        /// By the image.
        expected: String,
        /// By its `info`.
        found: String,
    },
    /// It does not know a build type that the image names.
    #[error("it does not know builds of type {missing}; it announces {known}")]
    BuildType {
        /// Named and not announced.
        missing: String,
        /// Announced.
        known: String,
    },
}

/// A foreign worker that runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Foreign(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    arch: String,
    build_types: Vec<String>,
    program: Program,
    relay: Relay,
    depot: Depot,
    inputs: Inputs,
}

impl Foreign {
    /// Starts the `worker` of an image for `arch` in `directory`, a directory of its own, and waits until it is
    /// idle. Its inputs come from `depot`.
    ///
    /// # Errors
    /// See [`ForeignError`].
    pub async fn start_up(
        worker: &ForeignWorker,
        arch: &str,
        directory: &Path,
        depot: Depot,
    ) -> Result<Self, ForeignError> {
        let address = own_port(worker.address).map_err(|source| ForeignError::Io {
            what: format!("a port of {}", worker.address.ip()),
            source,
        })?;
        let inputs = Inputs::listen(address.ip(), &depot)
            .await
            .map_err(|source| ForeignError::Io {
                what: "the loopback's inputs".to_owned(),
                source,
            })?;
        let program = Program::start(&worker.command, address, directory)?;
        let relay = Relay::new(client(address)?);
        let info = until_idle(&relay, &program, address).await?;
        fits(worker, arch, &info)?;
        tracing::info!(%address, program = worker.command[0], "the image's own worker is idle");
        Ok(Self(Arc::new(Shared {
            arch: arch.to_owned(),
            build_types: worker.build_types.clone(),
            program,
            relay,
            depot,
            inputs,
        })))
    }

    /// The architecture that it is for.
    #[must_use]
    pub fn arch(&self) -> &str {
        &self.0.arch
    }

    /// The build types that the image names.
    #[must_use]
    pub fn build_types(&self) -> &[String] {
        &self.0.build_types
    }

    /// How its program has ended, if it has: the boot is lost.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.0.program.ended()
    }

    /// The request as the worker is to hear it.
    fn translated(&self, mut request: EnsurePresent) -> EnsurePresent {
        let prefix = format!("{}{}", self.0.depot.url, INPUT_PATH.trim_start_matches('/'));
        if let Some(name) = request
            .url
            .as_deref()
            .and_then(|url| url.strip_prefix(&prefix))
        {
            request.url = Some(self.0.inputs.url(name));
        }
        request
    }
}

/// Each request goes on as it came. `status_dict` is our own addition, which no other worker knows: it is made
/// of what `status` says.
impl BuilderService for Foreign {
    async fn admit(&self, _method: &'static str) -> Result<(), Fault> {
        match self.ended() {
            Some(how) => Err(fault(format!("the worker has ended: {how}"))),
            None => Ok(()),
        }
    }

    async fn echo(&self, request: Echo) -> Answered<Echo> {
        self.0.relay.ask(request).await
    }

    async fn info(&self) -> Answered<GetInfo> {
        self.0.relay.ask(GetInfo).await
    }

    async fn status(&self) -> Answered<GetStatus> {
        self.0.relay.ask(GetStatus).await
    }

    async fn ensure_present(&self, request: EnsurePresent) -> Answered<EnsurePresent> {
        self.0.relay.ask(self.translated(request)).await
    }

    async fn build(&self, request: BuildCall) -> Answered<BuildCall> {
        self.0.relay.ask(request).await
    }

    async fn abort(&self) -> Answered<Abort> {
        self.0.relay.ask(Abort).await
    }

    async fn clean(&self) -> Answered<Clean> {
        self.0.relay.ask(Clean).await
    }

    async fn proxy_info(&self) -> Answered<GetProxyInfo> {
        self.0.relay.ask(GetProxyInfo).await
    }

    /// Its files are its own: see [`BuilderService::answer_file`].
    async fn file(&self, _name: &FileName) -> Result<Option<ServedFile>, FileError> {
        Ok(None)
    }

    async fn answer_file(
        &self,
        method: &Method,
        name: &FileName,
        headers: &HeaderMap,
    ) -> Response<Body> {
        self.0.relay.file(method, name, headers).await
    }
}

/// The address to listen at; where it has no port yet, with one that is free now.
fn own_port(address: SocketAddr) -> io::Result<SocketAddr> {
    match address.port() {
        0 => TcpListener::bind(address)?.local_addr(),
        _ => Ok(address),
    }
}

fn client(address: SocketAddr) -> Result<BuilderClient, ForeignError> {
    let settings = EndpointSettings {
        connect_limit: CALL_LIMIT,
        read_limit: INPUT_LIMIT,
    };
    // Not used: the loopback is plain HTTP.
    let tls = public_client_config()?;
    let endpoint = Endpoint::new(&format!("http://{address}"), tls, settings)?;
    let limits = ClientLimits {
        call_limit: CALL_LIMIT,
        ensure_limit: INPUT_LIMIT,
        ..ClientLimits::default()
    };
    Ok(BuilderClient::new(endpoint, limits))
}

/// Waits until the worker is idle, and asks what it is.
async fn until_idle(
    relay: &Relay,
    program: &Program,
    address: SocketAddr,
) -> Result<Info, ForeignError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        let last = match look(relay.client()).await {
            Ok(Ok(info)) => return Ok(info),
            Ok(Err(status)) => format!("it says {status}"),
            Err(error) => error.to_string(),
        };
        if let Some(how) = program.ended() {
            return Err(ForeignError::Ended(how));
        }
        if Instant::now() >= deadline {
            return Err(ForeignError::NotIdle { address, last });
        }
        sleep(START_PAUSE).await;
    }
}

/// What an idle worker is; of another, what it says.
async fn look(client: &BuilderClient) -> Result<Result<Info, &'static str>, ClientError> {
    let status = client.status().await?.status;
    if status == Status::Idle {
        Ok(Ok(client.info().await?))
    } else {
        Ok(Err(status.builder_status()))
    }
}

/// Whether the worker is what the image says.
fn fits(worker: &ForeignWorker, arch: &str, info: &Info) -> Result<(), ForeignError> {
    if info.arch != arch {
        return Err(ForeignError::Arch {
            expected: arch.to_owned(),
            found: info.arch.clone(),
        });
    }
    let missing = worker
        .build_types
        .iter()
        .find(|name| !info.build_types.contains(name));
    match missing {
        Some(missing) => Err(ForeignError::BuildType {
            missing: missing.clone(),
            known: info.build_types.join(", "),
        }),
        None => Ok(()),
    }
}
