//! Launchpad's web service as far as reset protocol 2.0 needs it: each builder's entry in the `devel` API, over the
//! very `clean_status` that the model's database has.
//!
//! ```text
//!  manager's scan ── CLEANING ──▶ clean_status ◀── GET /devel/builders/panda01 ── daemon
//!                                      ▲────────── PATCH, If-Match ◀───────────────┘
//! ```
//!
//! It is as strict as Launchpad, and stricter: credentials, their signature's method, a time stamp near now, no nonce
//! twice, an ETag of what the entry says now, and no change but to `Clean`. Whatever a well-behaved daemon would not
//! send is a note of the run's, which then fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use http::header::{AUTHORIZATION, ETAG, HeaderValue, IF_MATCH};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use panda_http::ServerSettings;
use panda_http::body::{Body, bytes_response, text_response};
use panda_tests::manager_model::BuilderNo;
use panda_tests::manager_model::pool::Cleanness;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::history::Shared;

/// What the daemon knows, and nobody else.
const TOKEN_SECRET: &str = "hush-2.0";
/// The signature that PLAINTEXT makes of it: consumer's and token's secret, with `&` between, percent-encoded.
const SIGNATURE: &str = "%26hush-2.0";
/// How old a time stamp may be, in seconds.
const NEAR: u64 = 300;

/// The service, at an address that is known before it serves.
#[derive(Debug)]
pub(crate) struct WebService {
    listener: TcpListener,
    address: SocketAddr,
}

/// What all requests share.
struct Desk {
    shared: Arc<Shared>,
    builders: BTreeMap<String, BuilderNo>,
    nonces: Mutex<BTreeSet<String>>,
}

impl WebService {
    pub(crate) fn bind() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Writes the credentials into the rack's state directory; the part of `rack.toml` that names them.
    pub(crate) fn configure(&self, state: &Path) -> Result<String> {
        let credentials = state.join("launchpad");
        let text = format!(
            "[1]\nconsumer_key = rack\nconsumer_secret =\naccess_token = t\naccess_secret = {TOKEN_SECRET}\n"
        );
        fs::write(&credentials, text)?;
        fs::set_permissions(&credentials, Permissions::from_mode(0o600))?;
        // As much quicker than usual as the scans are.
        Ok(format!(
            "\n[webservice]\nurl = \"http://{}/devel\"\ncredentials = \"launchpad\"\n\
             first_pause_ms = 20\nmost_pause_ms = 600\n",
            self.address
        ))
    }

    /// Serves until the guard is dropped.
    pub(crate) fn serve(
        self,
        shared: Arc<Shared>,
        builders: BTreeMap<String, BuilderNo>,
    ) -> DropGuard {
        let desk = Arc::new(Desk {
            shared,
            builders,
            nonces: Mutex::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(panda_http::serve(
            self.listener,
            None,
            ServerSettings::default(),
            stop.clone(),
            move |request, _| {
                let desk = Arc::clone(&desk);
                async move { desk.answer(request).await }
            },
        ));
        stop.drop_guard()
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            // A daemon that is killed breaks its connection; nothing is changed by half a request.
            return text_response(StatusCode::BAD_REQUEST, "the body ends early");
        };
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        if let Err(error) = self.identify(header(AUTHORIZATION).unwrap_or_default()) {
            self.note(&format!("{} {}: {error:#}", head.method, head.uri));
            return text_response(StatusCode::UNAUTHORIZED, "");
        }
        let name = head.uri.path().strip_prefix("/devel/builders/");
        let Some(builder) = name.and_then(|name| self.builders.get(name).copied()) else {
            self.note(&format!("no such entry: {}", head.uri));
            return text_response(StatusCode::NOT_FOUND, "");
        };
        match head.method {
            Method::GET => self.entry(builder, StatusCode::OK),
            Method::PATCH => self.change(builder, header(IF_MATCH), &body.to_bytes()),
            _ => {
                self.note(&format!("{} {}", head.method, head.uri));
                text_response(StatusCode::METHOD_NOT_ALLOWED, "")
            }
        }
    }

    /// OAuth 1.0, PLAINTEXT.
    fn identify(&self, authorization: &str) -> Result<()> {
        let fields = authorization
            .strip_prefix("OAuth ")
            .context("no OAuth credentials")?;
        let fields: BTreeMap<&str, &str> = fields
            .split(", ")
            .filter_map(|field| field.split_once('='))
            .map(|(name, value)| (name, value.trim_matches('"')))
            .collect();
        for (name, wanted) in [
            ("oauth_consumer_key", "rack"),
            ("oauth_token", "t"),
            ("oauth_signature_method", "PLAINTEXT"),
            ("oauth_signature", SIGNATURE),
        ] {
            anyhow::ensure!(fields.get(name) == Some(&wanted), "a wrong {name}");
        }
        let stamp: u64 = fields
            .get("oauth_timestamp")
            .context("no time stamp")?
            .parse()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        anyhow::ensure!(now.abs_diff(stamp) <= NEAR, "an old time stamp");
        let nonce = fields.get("oauth_nonce").context("no nonce")?;
        let new = self
            .nonces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((*nonce).to_owned());
        anyhow::ensure!(new, "a nonce for the second time");
        Ok(())
    }

    fn change(&self, builder: BuilderNo, if_match: Option<&str>, body: &[u8]) -> Response<Body> {
        let changes: Value = serde_json::from_slice(body).unwrap_or_default();
        if changes != json!({"clean_status": "Clean"}) {
            self.note(&format!("a change to {changes}"));
            return text_response(StatusCode::BAD_REQUEST, "");
        }
        {
            let mut history = self.shared.lock();
            let now = etag(history.manager.cleanness(builder));
            if if_match != Some(&now) {
                history.outdated += 1;
                return text_response(StatusCode::PRECONDITION_FAILED, "");
            }
            history.told_clean += 1;
            history.manager.web_says_clean(builder);
        }
        let changed = StatusCode::from_u16(209).unwrap_or(StatusCode::OK);
        self.entry(builder, changed)
    }

    fn entry(&self, builder: BuilderNo, status: StatusCode) -> Response<Body> {
        let (cleanness, builderok) = {
            let history = self.shared.lock();
            let manager = &history.manager;
            (manager.cleanness(builder), manager.is_in_service(builder))
        };
        let etag = etag(cleanness);
        let entry = json!({
            "clean_status": name(cleanness), "builderok": builderok, "virtualized": true, "http_etag": etag,
        });
        let mut answer = bytes_response(status, "application/json", entry.to_string());
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            answer.headers_mut().insert(ETAG, etag);
        }
        answer
    }

    fn note(&self, what: &str) {
        let note = format!("web service: {what}");
        self.shared.lock().wrong.push(note);
    }
}

fn name(cleanness: Cleanness) -> &'static str {
    match cleanness {
        Cleanness::Clean => "Clean",
        Cleanness::Cleaning => "Cleaning",
        Cleanness::Dirty => "Dirty",
    }
}

/// As Launchpad's, of what the entry says: an entry that says the same again has the same one again.
fn etag(cleanness: Cleanness) -> String {
    format!("\"devel-{}\"", name(cleanness).to_ascii_lowercase())
}
