//! The depot: what boards may report and fetch. A TLS server with the master's certificate that lets in a
//! board only with the certificate of a boot that is current, and serves it only what this boot and its
//! present build may have, as the file cache says. Made once when the daemon starts; the slot's activities admit and dismiss boots.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /report` | 204, and the report goes to the boot step that waits for it; 403 when it names another boot |
//! | `POST /failure` | 204, and that step fails with what the board says of its own; 403 as above |
//! | `POST /alive` | 204, and silence of this boot means its death from now on |
//! | `GET /time` | this machine's clock |
//! | `GET /input/<sha1>` | the input, when the slot's present build has it; else 404 |
//! | `GET /rootfs` | the root file system of the image that the boot was given; 404 where it has none |

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use panda_http::body::{empty_response, read_body, text_response};
use panda_http::pinned::{self, PinnedError};
use panda_http::ranges::file_response;
use panda_http::{Body, Identity, Peer, ServedFile, ServerSettings, serve};
use panda_protocol::digest::{Sha1, Sha256};
use panda_protocol::link::{
    ALIVE_PATH, FAILURE_PATH, Failure, INPUT_PATH, MAX_REPORT, REPORT_PATH, ROOTFS_PATH, Report,
    TIME_PATH,
};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::failpoint::{self, Point};
use crate::filecache::Filecache;
use crate::guest::difference;
use crate::ledger::BootSecrets;

/// Connections at once from one board. An agent needs two; a board that opens more must not take the
/// places of others.
const PER_ADDRESS: usize = 64;
/// How long a report may take to arrive.
const REPORT_LIMIT: Duration = Duration::from_secs(10);

/// A handle of the depot. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Depot {
    shared: Arc<Shared>,
}

struct Shared {
    inputs: Filecache,
    /// By slot: a slot has one current boot.
    boots: Mutex<HashMap<String, Admitted>>,
    /// By slot, the certificate of its boot before: who shows it is not let in, but known.
    earlier: Mutex<HashMap<String, Vec<u8>>>,
}

/// A boot that is let in.
struct Admitted {
    certificate: Vec<u8>,
    boot: String,
    image: Sha256,
    rootfs: Option<PathBuf>,
    reports: watch::Sender<Option<Arrived>>,
    heard: watch::Sender<Heard>,
    /// Somebody has called with the certificate of the boot before.
    outdated: Outdated,
}

/// What was heard of a boot before its report.
#[derive(Debug, Clone, Copy)]
enum Heard {
    Nothing,
    /// It asked for something. An agent that does not know `POST /alive` says nothing else until it reports.
    Something,
    /// It said last at this moment that it is under way.
    Alive(Instant),
}

/// What came in place of a boot's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// The report, of this boot and image.
    Report(Report),
    /// A report of another boot or image, over this boot's certificate.
    Foreign(&'static str),
    /// The board says that this boot has failed, and where.
    Failed(Failure),
}

/// A boot's place at the depot.
#[derive(Debug)]
pub(crate) struct Awaiting {
    reports: watch::Receiver<Option<Arrived>>,
    heard: watch::Receiver<Heard>,
    outdated: Outdated,
}

/// Whether somebody has called with the certificate of the slot's boot before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outdated(Arc<AtomicBool>);

impl Outdated {
    /// So far.
    #[must_use]
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a boot was silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// From its start.
    Never,
    /// From its start, while somebody called with the certificate of the slot's boot before. That alone ends nothing:
    /// who has that certificate may be a build on another board, and must not be able to stop this one.
    Outdated,
    /// After it had said that it is under way.
    Fell,
}

impl Awaiting {
    /// The first report over this boot's certificate; none when the boot was dismissed.
    pub(crate) async fn arrived(&mut self) -> Option<Arrived> {
        let arrived = self.reports.wait_for(Option::is_some).await.ok()?;
        arrived.clone()
    }

    /// Whether an agent of the boot before calls.
    #[must_use]
    pub(crate) fn outdated(&self) -> Outdated {
        self.outdated.clone()
    }

    /// Waits until nothing at all was heard of the boot within `first` from now, or until it has been silent for
    /// `limit` after it said that it is under way; for ever, where neither comes.
    pub(crate) fn silence(
        &self,
        first: Duration,
        limit: Duration,
    ) -> impl Future<Output = Silence> + Send + use<> {
        let (mut heard, outdated) = (self.heard.clone(), self.outdated.clone());
        let begun = Instant::now();
        async move {
            loop {
                let (due, silence) = match *heard.borrow_and_update() {
                    Heard::Nothing => (Some(begun + first), Silence::Never),
                    Heard::Something => (None, Silence::Never),
                    Heard::Alive(at) => (Some(at + limit), Silence::Fell),
                };
                let passed = async {
                    match due {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = heard.changed() => if changed.is_err() {
                        // Dismissed: whoever awaits the report hears of that.
                        std::future::pending::<()>().await;
                    },
                    () = passed => return match silence {
                        Silence::Never if outdated.get() => Silence::Outdated,
                        other => other,
                    },
                }
            }
        }
    }
}

impl fmt::Debug for Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Depot").finish_non_exhaustive()
    }
}

impl Depot {
    /// Serves boards on `listener` until `stop`. The task ends when calls in flight have.
    ///
    /// # Errors
    /// A master's certificate that cannot be used.
    pub(crate) fn serve(
        listener: TcpListener,
        master: &Identity,
        inputs: Filecache,
        settings: ServerSettings,
        stop: CancellationToken,
    ) -> Result<(Self, JoinHandle<()>), PinnedError> {
        let shared = Arc::new(Shared {
            inputs,
            boots: Mutex::default(),
            earlier: Mutex::default(),
        });
        let known = shared.clone();
        let accepts: pinned::Accepts = Arc::new(move |der| known.accepts(der));
        let tls = pinned::server_config(master, accepts)?;
        let handler_shared = shared.clone();
        let handler = move |request, peer: Arc<Peer>| {
            let shared = handler_shared.clone();
            async move { shared.answer(request, &peer).await }
        };
        // A listener that cannot tell its address has a bound that fits a rack.
        let loopback = listener
            .local_addr()
            .is_ok_and(|address| address.ip().is_loopback());
        let settings = bounded(settings, loopback);
        let task = tokio::spawn(serve(listener, Some(tls), settings, stop, handler));
        Ok((Self { shared }, task))
    }

    /// Lets a slot's new boot in, in the place of any other boot of it.
    ///
    /// # Errors
    /// A certificate that is none.
    pub(crate) fn admit(
        &self,
        slot: &str,
        secrets: &BootSecrets,
        rootfs: Option<PathBuf>,
    ) -> Result<Awaiting, PinnedError> {
        let certificate = pinned::certificate_from_pem(&secrets.certificate_pem)?;
        let (reports, reported) = watch::channel(None);
        let (heard, hearing) = watch::channel(Heard::Nothing);
        let outdated = Outdated::default();
        let admitted = Admitted {
            certificate: certificate.to_vec(),
            boot: secrets.id.clone(),
            image: secrets.image,
            rootfs,
            reports,
            heard,
            outdated: outdated.clone(),
        };
        let before = self.shared.boots().insert(slot.to_owned(), admitted);
        self.shared.retire(slot, before);
        Ok(Awaiting {
            reports: reported,
            heard: hearing,
            outdated,
        })
    }

    /// Whether this boot of the slot is let in.
    #[must_use]
    pub(crate) fn admits(&self, slot: &str, boot: &str) -> bool {
        self.shared
            .boots()
            .get(slot)
            .is_some_and(|admitted| admitted.boot == boot)
    }

    /// Lets the slot's board in no longer.
    pub(crate) fn dismiss(&self, slot: &str) {
        let before = self.shared.boots().remove(slot);
        self.shared.retire(slot, before);
    }
}

/// What boards' connections may cost. In a rack an address is a board; on loopback all boards are one
/// address, which a bound for one board would starve.
fn bounded(settings: ServerSettings, loopback: bool) -> ServerSettings {
    if loopback {
        return settings;
    }
    ServerSettings {
        connections_per_address: settings.connections_per_address.min(PER_ADDRESS),
        ..settings
    }
}

impl Shared {
    fn boots(&self) -> MutexGuard<'_, HashMap<String, Admitted>> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the certificate of a boot that is no longer let in, where there was one.
    fn retire(&self, slot: &str, boot: Option<Admitted>) {
        if let Some(boot) = boot {
            let mut earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
            earlier.insert(slot.to_owned(), boot.certificate);
        }
    }

    /// Whether a board with this certificate is let in. One of the boot before is not, and taken down.
    fn accepts(&self, certificate: &[u8]) -> bool {
        if self.slot_of(certificate).is_some() {
            return true;
        }
        let earlier = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = earlier
            .iter()
            .find_map(|(slot, known)| (known == certificate).then(|| slot.clone()));
        drop(earlier);
        if let Some(slot) = slot
            && let Some(current) = self.boots().get(&slot)
            // Said once a boot: whoever has it may call as often as it likes.
            && !current.outdated.0.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                slot,
                "an agent calls with the certificate of the boot before"
            );
        }
        false
    }

    /// The slot whose current boot has this certificate.
    fn slot_of(&self, certificate: &[u8]) -> Option<String> {
        let boots = self.boots();
        let found = boots
            .iter()
            .find(|(_, admitted)| admitted.certificate == certificate);
        found.map(|(slot, _)| slot.clone())
    }

    /// Answers one request. The certificate was known when the connection was made; its boot may have
    /// ended since.
    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let certificate = peer.certificate.as_deref().unwrap_or_default();
        let Some(slot) = self.slot_of(certificate) else {
            return not_awaited();
        };
        let path = request.uri().path().to_owned();
        self.hear(&slot, path == ALIVE_PATH);
        match (request.method(), path.as_str()) {
            (&Method::POST, REPORT_PATH) => {
                failpoint::before(Point::DepotReport);
                let answer = self.report(request, certificate).await;
                failpoint::after(Point::DepotReport);
                answer
            }
            (&Method::POST, FAILURE_PATH) => self.failure(request, certificate).await,
            (&Method::POST, ALIVE_PATH) => empty_response(StatusCode::NO_CONTENT),
            (&Method::GET, TIME_PATH) => {
                text_response(StatusCode::OK, &crate::clock::now_unix_ms().to_string())
            }
            (&Method::GET | &Method::HEAD, ROOTFS_PATH) => {
                failpoint::before(Point::DepotRootfs);
                let path = self
                    .boots()
                    .get(&slot)
                    .and_then(|admitted| admitted.rootfs.clone());
                let served = match path {
                    Some(path) => ServedFile::open(&path).await,
                    None => Ok(None),
                };
                let answer = file(&request, &slot, served).await;
                failpoint::after(Point::DepotRootfs);
                answer
            }
            (&Method::GET | &Method::HEAD, path) => {
                failpoint::before(Point::DepotInput);
                let sha1 = path
                    .strip_prefix(INPUT_PATH)
                    .and_then(|text| text.parse::<Sha1>().ok());
                let served = match sha1 {
                    Some(sha1) => self.inputs.open_for(&slot, sha1).await,
                    None => Ok(None),
                };
                let answer = file(&request, &slot, served).await;
                failpoint::after(Point::DepotInput);
                answer
            }
            _ => text_response(
                StatusCode::METHOD_NOT_ALLOWED,
                "POST /report, GET /input/<sha1>",
            ),
        }
    }

    /// Notes that the slot's boot has asked for something, or said that it is under way.
    fn hear(&self, slot: &str, alive: bool) {
        if let Some(admitted) = self.boots().get(slot) {
            admitted.heard.send_modify(|heard| {
                *heard = match *heard {
                    Heard::Nothing | Heard::Something if !alive => Heard::Something,
                    Heard::Nothing | Heard::Something | Heard::Alive(_) => {
                        Heard::Alive(Instant::now())
                    }
                };
            });
        }
    }

    async fn report(&self, request: Request<Incoming>, certificate: &[u8]) -> Response<Body> {
        let body = match read_body(request, MAX_REPORT, REPORT_LIMIT).await {
            Ok(body) => body,
            Err(error) => return error.response(),
        };
        match Report::decode(&body) {
            Ok(report) => self.arrived(certificate, |boot, image| {
                match difference(&report, boot, image) {
                    None => Arrived::Report(report),
                    Some(what) => Arrived::Foreign(what),
                }
            }),
            Err(error) => text_response(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }

    async fn failure(&self, request: Request<Incoming>, certificate: &[u8]) -> Response<Body> {
        let body = match read_body(request, MAX_REPORT, REPORT_LIMIT).await {
            Ok(body) => body,
            Err(error) => return error.response(),
        };
        match Failure::decode(&body) {
            Ok(failure) => self.arrived(certificate, |boot, image| {
                if failure.boot != boot {
                    Arrived::Foreign("boot")
                } else if failure.image != image {
                    Arrived::Foreign("image")
                } else {
                    Arrived::Failed(failure)
                }
            }),
            Err(error) => text_response(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }

    /// Hands what has come over a boot's certificate to whoever awaits it.
    fn arrived(
        &self,
        certificate: &[u8],
        judge: impl FnOnce(&str, Sha256) -> Arrived,
    ) -> Response<Body> {
        let boots = self.boots();
        let Some(admitted) = boots
            .values()
            .find(|admitted| admitted.certificate == certificate)
        else {
            drop(boots);
            return not_awaited();
        };
        let arrived = judge(&admitted.boot, admitted.image);
        let ours = !matches!(arrived, Arrived::Foreign(_));
        admitted.reports.send_replace(Some(arrived));
        if ours {
            empty_response(StatusCode::NO_CONTENT)
        } else {
            not_awaited()
        }
    }
}

async fn file(
    request: &Request<Incoming>,
    slot: &str,
    served: io::Result<Option<ServedFile>>,
) -> Response<Body> {
    match served {
        Ok(Some(served)) => file_response(request.method(), request.headers(), served).await,
        Ok(None) => text_response(StatusCode::NOT_FOUND, "this boot may not have that"),
        Err(error) => {
            tracing::error!(slot, %error, "a file for the board cannot be read");
            text_response(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read")
        }
    }
}

fn not_awaited() -> Response<Body> {
    text_response(StatusCode::FORBIDDEN, "this boot is not awaited")
}
