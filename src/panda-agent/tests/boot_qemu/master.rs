//! The master's side of one boot, on this host's loopback, which the machine sees as 10.0.2.2.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::body::Incoming;
use panda_http::body::{empty_response, read_body, text_response};
use panda_http::endpoint::EndpointSettings;
use panda_http::pinned::{certificate_from_pem, client_config, server_config};
use panda_http::{BuilderClient, ClientLimits, Endpoint, Identity, ServedFile, ServerSettings};
use panda_protocol::agent_toml::AgentToml;
use panda_protocol::boot_toml::{self, BootToml, Link, Network, RootFs};
use panda_protocol::cpio::Writer;
use panda_protocol::digest::Sha256;
use panda_protocol::launchpad::FileName;
use panda_protocol::link::{Failure, Report};
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a boot may take, proof or failure; far more than any does.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
pub(crate) const BOOT_ID: &str = "0123456789abcdef0123456789abcdef";
/// A port that nobody listens on: the one for "discard".
const NOBODY: u16 = 9;

/// A certificate and its key, as PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["panda".to_owned()]).unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key).unwrap()
    }
}

/// How a master differs from a good one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Quirks {
    /// It names another root file system than it serves.
    pub(crate) wrong_digest: bool,
    /// It breaks off the root file system's first pieces.
    pub(crate) breaks_off: bool,
    /// Its depot is not there.
    pub(crate) no_depot: bool,
}

/// What boards have said.
#[derive(Debug, Default)]
struct Said {
    reports: Vec<Report>,
    failures: Vec<Failure>,
    pieces: usize,
}

/// A master that awaits one boot.
pub(crate) struct Master {
    pair: Pair,
    boot: Pair,
    quirks: Quirks,
    depot: SocketAddr,
    pub(crate) link: SocketAddr,
    rootfs: RootFs,
    said: Arc<Mutex<Said>>,
    _stop: DropGuard,
}

impl Master {
    /// Serves the root file system at `rootfs`, and the files of `inputs` by their SHA-1.
    pub(crate) async fn new(rootfs: &Path, inputs: &Path, quirks: Quirks) -> Self {
        let (pair, boot) = (Pair::new(), Pair::new());
        let pinned = certificate_from_pem(&boot.certificate).unwrap();
        let tls = server_config(&pair.identity(), Arc::new(move |der| der == &pinned[..])).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let depot = listener.local_addr().unwrap();
        let said = Arc::new(Mutex::new(Said::default()));
        let (taken, served, inputs) = (said.clone(), rootfs.to_owned(), inputs.to_owned());
        let handler = move |request: http::Request<Incoming>, _| {
            let (said, rootfs, inputs) = (taken.clone(), served.clone(), inputs.clone());
            answer(request, said, rootfs, inputs, quirks)
        };
        let stop = CancellationToken::new();
        let settings = ServerSettings::default();
        tokio::spawn(panda_http::serve(
            listener,
            Some(tls),
            settings,
            stop.clone(),
            handler,
        ));
        let link = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let mut named = described(rootfs);
        if quirks.wrong_digest {
            named.sha256 = Sha256::of(b"another");
        }
        Self {
            pair,
            boot,
            quirks,
            depot,
            link,
            rootfs: named,
            said,
            _stop: stop.drop_guard(),
        }
    }

    /// What is appended to the image's ramdisk for this boot; `agent` takes the place of the image's.
    pub(crate) fn appendix(&self, agent: &AgentToml) -> Vec<u8> {
        let port = if self.quirks.no_depot {
            NOBODY
        } else {
            self.depot.port()
        };
        let boot = BootToml {
            version: boot_toml::VERSION,
            boot: BOOT_ID.to_owned(),
            slot: "panda01".to_owned(),
            image: Sha256::of(b"image"),
            // Long ago: the master's own time is what counts.
            time_unix_ms: 1_750_000_000_000,
            network: Network {
                address: Some("10.0.2.15/24".to_owned()),
                gateway: Some("10.0.2.2".to_owned()),
                nameservers: vec!["10.0.2.3".to_owned()],
                hostname: "panda01".to_owned(),
                mac: Some("02:00:5e:10:00:01".to_owned()),
            },
            link: Link {
                listen: "10.0.2.15:8222".to_owned(),
                depot: format!("10.0.2.2:{port}"),
                master_certificate: self.pair.certificate.clone(),
                certificate: self.boot.certificate.clone(),
                key: self.boot.key.clone(),
            },
            rootfs: Some(self.rootfs.clone()),
            worker: None,
        };
        let mut archive = Writer::new();
        let text = panda_protocol::agent_toml::encode(agent).unwrap();
        let name = FileName::try_from("agent.toml".to_owned()).unwrap();
        archive.file(&name.into(), 0o644, text.as_bytes()).unwrap();
        let mut bytes = archive.finish();
        bytes.extend(boot_toml::cpio_with(&boot).unwrap());
        bytes
    }

    /// A line of the boot's private key.
    pub(crate) fn secret(&self) -> &str {
        self.boot.key.lines().nth(1).unwrap()
    }

    pub(crate) fn rootfs(&self) -> Sha256 {
        self.rootfs.sha256
    }

    /// The board's link, as only this master may use it.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let boot = certificate_from_pem(&self.boot.certificate).unwrap();
        let tls = client_config(&self.pair.identity(), boot).unwrap();
        Endpoint::pinned(self.link, tls, EndpointSettings::default()).unwrap()
    }

    pub(crate) fn client(&self) -> BuilderClient {
        BuilderClient::new(self.endpoint(), ClientLimits::default())
    }

    pub(crate) fn depot_url(&self, path: &str) -> String {
        format!("https://10.0.2.2:{}{path}", self.depot.port())
    }

    /// The boot's report; a failure that comes in its place ends the test.
    pub(crate) async fn proven(&self) -> Report {
        self.until(|said| {
            assert_eq!(said.failures, [], "the boot failed");
            said.reports.first().cloned()
        })
        .await
    }

    pub(crate) async fn failed(&self) -> Failure {
        self.until(|said| {
            assert_eq!(said.reports, [], "the boot did not fail");
            said.failures.first().cloned()
        })
        .await
    }

    /// How often a piece of the root file system was asked for.
    pub(crate) fn pieces(&self) -> usize {
        self.said.lock().unwrap().pieces
    }

    async fn until<T>(&self, found: impl Fn(&Said) -> Option<T>) -> T {
        let asked = async {
            loop {
                if let Some(found) = found(&self.said.lock().unwrap()) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(BOOT_LIMIT, asked)
            .await
            .expect("the board's word")
    }
}

fn described(rootfs: &Path) -> RootFs {
    let mut file = std::fs::File::open(rootfs).unwrap();
    let mut hasher = sha2::Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut piece).unwrap();
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        bytes += count as u64;
    }
    RootFs {
        sha256: Sha256::from_bytes(hasher.finalize().into()),
        bytes,
    }
}

async fn answer(
    request: http::Request<Incoming>,
    said: Arc<Mutex<Said>>,
    rootfs: PathBuf,
    inputs: PathBuf,
    quirks: Quirks,
) -> http::Response<panda_http::Body> {
    let path = request.uri().path().to_owned();
    if let Some(name) = path.strip_prefix("/input/") {
        return file(&request, &inputs.join(name)).await;
    }
    match path.as_str() {
        "/time" => text_response(StatusCode::OK, &now_ms().to_string()),
        "/rootfs" => {
            let number = {
                let mut said = said.lock().unwrap();
                said.pieces += 1;
                said.pieces
            };
            if quirks.breaks_off && number <= 2 {
                return short(&rootfs, number);
            }
            file(&request, &rootfs).await
        }
        "/report" => {
            let body = read_body(request, 16 * 1024, BOOT_LIMIT).await.unwrap();
            let report = Report::decode(&body).expect("a report that the master takes");
            said.lock().unwrap().reports.push(report);
            empty_response(StatusCode::NO_CONTENT)
        }
        "/failure" => {
            let body = read_body(request, 16 * 1024, BOOT_LIMIT).await.unwrap();
            let failure = Failure::decode(&body).expect("a failure that the master takes");
            said.lock().unwrap().failures.push(failure);
            empty_response(StatusCode::NO_CONTENT)
        }
        _ => text_response(StatusCode::NOT_FOUND, "nothing"),
    }
}

async fn file(request: &http::Request<Incoming>, path: &Path) -> http::Response<panda_http::Body> {
    let file = ServedFile::open(path).await.unwrap().unwrap();
    panda_http::ranges::file_response(request.method(), request.headers(), file).await
}

/// First an error, then a piece that is shorter than was asked for.
fn short(rootfs: &Path, number: usize) -> http::Response<panda_http::Body> {
    if number == 1 {
        return panda_http::body::bytes_response(
            StatusCode::PARTIAL_CONTENT,
            "text/plain",
            Bytes::from_static(b"no range is named"),
        );
    }
    let mut piece = vec![0; 1000];
    let mut file = std::fs::File::open(rootfs).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut piece).unwrap();
    let length = described(rootfs).bytes;
    let mut response = panda_http::body::bytes_response(
        StatusCode::PARTIAL_CONTENT,
        "application/octet-stream",
        Bytes::from(piece),
    );
    let range = format!("bytes 0-999/{length}").parse().unwrap();
    response
        .headers_mut()
        .insert(http::header::CONTENT_RANGE, range);
    response
}

pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
