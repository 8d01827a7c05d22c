//! A toy agent for tests: a TLS server with a boot's certificate and a worker that says what it is told to
//! say. It speaks the real protocol over loopback.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use panda_http::body::bytes_response;
use panda_http::endpoint::EndpointSettings;
use panda_http::service::fault;
use panda_http::{
    BuilderService, Endpoint, FileError, Identity, ServedFile, ServerSettings, ServiceLimits,
    pinned, respond, serve,
};
use panda_protocol::boot_toml::BootToml;
use panda_protocol::digest::Sha256;
use panda_protocol::launchpad::xml::Fault;
use panda_protocol::launchpad::{
    Abort, Aborting, Answered, BuildCall, BuildId, BuildReply, BuildStatus, Clean, Dialect,
    EnsurePresent, FileName, GetInfo, GetStatus, Outcome, Presence, Status, StatusReply,
    StatusReport,
};
use panda_protocol::link::{
    BOOT_PATH, BootStep, FAILURE_PATH, Failure, MAX_REPORT, REPORT_PATH, Report,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::ledger::BootSecrets;

/// What the worker says and has; shared with the test.
pub(crate) struct Toy {
    pub(crate) status: watch::Sender<Status>,
    pub(crate) files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Every call, by name.
    pub(crate) calls: watch::Sender<Vec<String>>,
    /// The boot that it reports, where that is not its own.
    pub(crate) reports: Mutex<Option<String>>,
    /// Its boot's own steps, and what is insecure about it.
    pub(crate) told: Mutex<(Vec<BootStep>, Vec<String>)>,
    /// The step that its boot fails at, and why.
    pub(crate) fails: Mutex<Option<(String, String)>>,
    /// What `build` and `abort` make of the status.
    pub(crate) obeys: bool,
    /// Its log has one byte more each time that it is asked for.
    pub(crate) drips: bool,
    /// It does not answer `status`.
    pub(crate) silent: AtomicBool,
    /// The fault that `abort` is answered with.
    pub(crate) abort_fault: Option<&'static str>,
}

impl Toy {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            status: watch::Sender::new(Status::Idle),
            files: Mutex::default(),
            calls: watch::Sender::new(Vec::new()),
            reports: Mutex::default(),
            told: Mutex::default(),
            fails: Mutex::default(),
            obeys: true,
            drips: false,
            silent: AtomicBool::new(false),
            abort_fault: None,
        })
    }

    pub(crate) fn say(&self, status: Status) {
        self.status.send_replace(status);
    }

    pub(crate) fn has(&self, name: &str, bytes: &[u8]) {
        self.files
            .lock()
            .unwrap()
            .insert(name.to_owned(), bytes.to_vec());
    }

    pub(crate) fn called(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }

    /// Waits until a call has been made `times` times.
    pub(crate) async fn until_called(&self, name: &str, times: usize) {
        let enough =
            |calls: &Vec<String>| calls.iter().filter(|call| *call == name).count() >= times;
        self.calls.subscribe().wait_for(enough).await.unwrap();
    }

    fn noted(&self, name: &str) {
        self.calls.send_modify(|calls| calls.push(name.to_owned()));
    }
}

pub(crate) fn build_id() -> BuildId {
    BuildId::try_from("PACKAGEBUILD-7".to_owned()).unwrap()
}

pub(crate) fn building() -> Status {
    Status::Building {
        build_id: build_id(),
        logtail: Vec::new(),
    }
}

pub(crate) fn waiting(build_status: BuildStatus) -> Status {
    Status::Waiting {
        build_id: build_id(),
        outcome: Outcome::bare(build_status),
    }
}

impl BuilderService for Toy {
    async fn admit(&self, method: &'static str) -> Result<(), Fault> {
        self.noted(method);
        Ok(())
    }

    async fn info(&self) -> Answered<GetInfo> {
        Err(fault("not for a toy"))
    }

    async fn status(&self) -> Answered<GetStatus> {
        if self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let status = self.status.borrow().clone();
        Ok(StatusReply {
            dialect: Dialect::Current,
            report: StatusReport::bare(status),
        })
    }

    async fn ensure_present(&self, _request: EnsurePresent) -> Answered<EnsurePresent> {
        Ok(Presence {
            present: self.obeys,
            info: Presence::DOWNLOAD.to_owned(),
        })
    }

    async fn build(&self, request: BuildCall) -> Answered<BuildCall> {
        let build_id = request.build_id;
        if self.obeys {
            self.say(Status::Building {
                build_id: build_id.clone(),
                logtail: Vec::new(),
            });
        }
        Ok(BuildReply::Building { build_id })
    }

    async fn abort(&self) -> Answered<Abort> {
        if let Some(text) = self.abort_fault {
            return Err(fault(text));
        }
        if self.obeys {
            self.say(waiting(BuildStatus::Aborted));
        }
        Ok(Aborting)
    }

    async fn clean(&self) -> Answered<Clean> {
        Err(fault("not for a toy"))
    }

    async fn file(&self, name: &FileName) -> Result<Option<ServedFile>, FileError> {
        self.noted(&format!("file {name}"));
        if self.drips
            && let Some(bytes) = self.files.lock().unwrap().get_mut(name.as_str())
        {
            bytes.push(b'.');
        }
        let Some(bytes) = self.files.lock().unwrap().get(name.as_str()).cloned() else {
            return Ok(None);
        };
        let mut file = tempfile::tempfile()?;
        file.write_all(&bytes)?;
        std::io::Seek::rewind(&mut file)?;
        Ok(Some(
            ServedFile::new(tokio::fs::File::from_std(file)).await?,
        ))
    }
}

/// A running toy agent; dropped, it stops.
pub(crate) struct ToyAgent {
    pub(crate) address: SocketAddr,
    _stop: DropGuard,
}

impl ToyAgent {
    /// An agent in the boot of `secrets`, at `listen`.
    pub(crate) async fn start(
        listen: &str,
        secrets: &BootSecrets,
        master: &Identity,
        toy: Arc<Toy>,
    ) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = Identity::from_pem(&secrets.certificate_pem, &secrets.key_pem).unwrap();
        let master = master.certificate().to_vec();
        let tls = pinned::server_config(&own, Arc::new(move |der| der == master)).unwrap();
        let (boot, image) = (secrets.id.clone(), secrets.image);
        let handler = move |request: Request<Incoming>, _| {
            let (toy, boot) = (toy.clone(), boot.clone());
            async move {
                if request.uri().path() == BOOT_PATH {
                    toy.noted("boot");
                    let boot = toy.reports.lock().unwrap().clone().unwrap_or(boot);
                    let report = report(&boot, image).encode();
                    return bytes_response(StatusCode::OK, "application/json", report);
                }
                respond(&*toy, &ServiceLimits::default(), request).await
            }
        };
        let stop = CancellationToken::new();
        let settings = ServerSettings {
            drain: Duration::ZERO,
            ..ServerSettings::default()
        };
        tokio::spawn(serve(listener, Some(tls), settings, stop.clone(), handler));
        Self {
            address,
            _stop: stop.drop_guard(),
        }
    }

    /// An agent as a board would start it from its `boot.toml`: it listens, and reports to the depot.
    pub(crate) async fn boot(boot: &BootToml, toy: Arc<Toy>) -> Self {
        let secrets = BootSecrets {
            id: boot.boot.clone(),
            image: boot.image,
            certificate_pem: boot.link.certificate.clone(),
            key_pem: boot.link.key.clone(),
        };
        // Only the certificate of it is used.
        let master = Identity::from_pem(&boot.link.master_certificate, &boot.link.key).unwrap();
        let reports = toy
            .reports
            .lock()
            .unwrap()
            .clone()
            .unwrap_or(boot.boot.clone());
        let agent = Self::start(&boot.link.listen, &secrets, &master, toy.clone()).await;
        let depot = depot(&boot.link.depot, &secrets, &boot.link.master_certificate);
        let (steps, insecure) = toy.told.lock().unwrap().clone();
        let fails = toy.fails.lock().unwrap().clone();
        if let Some((step, reason)) = fails {
            let failure = Failure {
                boot: reports,
                image: boot.image,
                step,
                reason,
                steps,
            };
            post(&depot, FAILURE_PATH, failure.encode()).await.unwrap();
            return agent;
        }
        let report = Report {
            steps,
            insecure,
            ..report(&reports, boot.image)
        };
        post_report(&depot, report.encode()).await.unwrap();
        agent
    }
}

pub(crate) fn report(boot: &str, image: Sha256) -> Report {
    Report {
        boot: boot.to_owned(),
        image,
        rootfs: None,
        uptime_ms: 7,
        clock_unix_ms: crate::clock::now_unix_ms(),
        agent: "toy-agent 1".to_owned(),
        arch: "amd64".to_owned(),
        build_types: vec!["binarypackage".to_owned()],
        steps: Vec::new(),
        insecure: Vec::new(),
    }
}

/// A client of the depot, with a boot's certificate.
pub(crate) fn depot(address: &str, secrets: &BootSecrets, master_pem: &str) -> Endpoint {
    let own = Identity::from_pem(&secrets.certificate_pem, &secrets.key_pem).unwrap();
    depot_as(address, &own, master_pem)
}

/// The depot, as the board of that certificate meets it.
pub(crate) fn depot_as(address: &str, own: &Identity, master_pem: &str) -> Endpoint {
    let master = pinned::certificate_from_pem(master_pem).unwrap();
    let tls = pinned::client_config(own, master).unwrap();
    Endpoint::pinned(address.parse().unwrap(), tls, EndpointSettings::default()).unwrap()
}

pub(crate) async fn post_report(
    depot: &Endpoint,
    report: String,
) -> Result<StatusCode, panda_http::ClientError> {
    post(depot, REPORT_PATH, report).await
}

pub(crate) async fn post(
    depot: &Endpoint,
    path: &str,
    json: String,
) -> Result<StatusCode, panda_http::ClientError> {
    let limit = Duration::from_secs(10);
    let (status, _) = depot
        .post(path, "application/json", json, MAX_REPORT, limit)
        .await?;
    Ok(status)
}
