//! A builder that does nothing, behind the real server loop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use panda_http::service::fault;
use panda_http::{
    BuilderService, FileError, Places, ServedFile, ServerSettings, ServiceLimits, respond, serve_in,
};
use panda_protocol::launchpad::xml::Limits;
use panda_protocol::launchpad::{
    Abort, Answered, BuildCall, BuildId, BuildReply, BuildStatus, Clean, Cleaned, Dialect,
    EnsurePresent, FileName, GetInfo, GetProxyInfo, GetStatus, GetStatusDict, Info, Needed,
    Outcome, Presence, Status, StatusReply, StatusReport, Sum,
};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Answers every call; serves the files of a directory.
pub(crate) struct Toy {
    pub(crate) files: tempfile::TempDir,
    /// The files that were asked for.
    pub(crate) asked: Mutex<Vec<String>>,
    /// `clean` tells that it has begun, and waits.
    pub(crate) cleaning: Notify,
    pub(crate) cleaned: Notify,
}

impl Toy {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            files: tempfile::tempdir().unwrap(),
            asked: Mutex::default(),
            cleaning: Notify::new(),
            cleaned: Notify::new(),
        })
    }

    pub(crate) fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl BuilderService for Toy {
    async fn info(&self) -> Answered<GetInfo> {
        Ok(Info::new("armhf", vec!["binarypackage".to_owned()]))
    }

    async fn status(&self) -> Answered<GetStatus> {
        let outcome = Outcome::bare(BuildStatus::PackageFail);
        let status = Status::Waiting {
            build_id: BuildId::try_from("PACKAGEBUILD-1".to_owned()).unwrap(),
            outcome,
        };
        Ok(StatusReply {
            dialect: Dialect::Current,
            report: StatusReport::bare(status),
        })
    }

    async fn status_dict(&self) -> Answered<GetStatusDict> {
        Err(fault("error\u{1}"))
    }

    async fn ensure_present(&self, request: EnsurePresent) -> Answered<EnsurePresent> {
        Ok(Presence {
            present: request.username.is_empty() && request.password == "tok:en/1",
            info: Presence::DOWNLOAD.to_owned(),
        })
    }

    async fn build(&self, request: BuildCall) -> Answered<BuildCall> {
        Ok(match request.build_type.as_str() {
            "binarypackage" => BuildReply::Building {
                build_id: request.build_id,
            },
            "sums" => BuildReply::unknown_sums(&[(Needed::Chroot, Sum("91adca07".to_owned()))]),
            other => BuildReply::unknown_builder(other, &["binarypackage".to_owned()]),
        })
    }

    async fn abort(&self) -> Answered<Abort> {
        Err(fault("nothing is running"))
    }

    async fn clean(&self) -> Answered<Clean> {
        self.cleaning.notify_one();
        self.cleaned.notified().await;
        Ok(Cleaned)
    }

    async fn proxy_info(&self) -> Answered<GetProxyInfo> {
        Err(fault("error\u{1}"))
    }

    async fn file(&self, name: &FileName) -> Result<Option<ServedFile>, FileError> {
        self.asked.lock().unwrap().push(name.to_string());
        if name.as_str() == "later" {
            return Err(FileError::Unavailable(
                "the slot is between boots".to_owned(),
            ));
        }
        Ok(ServedFile::open(&self.files.path().join(name.as_str())).await?)
    }
}

/// A running server.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn limits() -> ServiceLimits {
    ServiceLimits {
        xml: Limits {
            bytes: 64 * 1024,
            ..Limits::default()
        },
        body_limit: Duration::from_secs(20),
    }
}

/// Serves `toy` as both sides do.
pub(crate) async fn start(toy: &Arc<Toy>, settings: ServerSettings) -> Running {
    let places = Places::open(settings.connections, settings.connections_per_address);
    serve_toy(toy, settings, places).await
}

/// The same, to those whom `places` let in.
pub(crate) async fn start_in(toy: &Arc<Toy>, places: Places) -> Running {
    serve_toy(toy, ServerSettings::default(), places).await
}

async fn serve_toy(toy: &Arc<Toy>, settings: ServerSettings, places: Places) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let toy = toy.clone();
    let handler = move |request, _peer| {
        let toy = toy.clone();
        async move { respond(&*toy, &limits(), request).await }
    };
    let served = serve_in(places, listener, None, settings, stop.clone(), handler);
    let task = tokio::spawn(served);
    Running {
        address,
        stop,
        task,
    }
}
