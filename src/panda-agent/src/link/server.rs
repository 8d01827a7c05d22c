//! The link's server: shows this boot's certificate, and talks to nobody but the master.

use std::io;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use panda_http::body::{json_response, text_response};
use panda_http::pinned::{PinnedError, certificate_from_pem, server_config};
use panda_http::{Body, Identity, ServerSettings, serve};
use panda_protocol::boot_toml::Link;
use panda_protocol::link::BOOT_PATH;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::report::Reporter;
use super::served::Served;

/// Why the link cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The certificates.
    #[error("boot.toml, link: {0}")]
    Certificates(#[from] PinnedError),
    /// The address.
    #[error("cannot listen on link.listen {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// The link's server, listening.
#[derive(Debug)]
pub struct LinkServer {
    listener: TcpListener,
    tls: Arc<ServerConfig>,
}

impl LinkServer {
    /// Listens where `link` says.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn listen(link: &Link) -> Result<Self, LinkError> {
        let identity = Identity::from_pem(&link.certificate, &link.key)?;
        let master = certificate_from_pem(&link.master_certificate)?;
        let tls = server_config(&identity, Arc::new(move |der| der == master.as_ref()))?;
        let listener =
            TcpListener::bind(&link.listen)
                .await
                .map_err(|source| LinkError::Listen {
                    address: link.listen.clone(),
                    source,
                })?;
        Ok(Self { listener, tls })
    }

    /// Serves the worker and the boot's report until `stop`.
    pub async fn run(self, worker: Served, reporter: Reporter, stop: CancellationToken) {
        let (worker, reporter) = (Arc::new(worker), Arc::new(reporter));
        let handler = move |request, _peer| answer(worker.clone(), reporter.clone(), request);
        serve(
            self.listener,
            Some(self.tls),
            ServerSettings::default(),
            stop,
            handler,
        )
        .await;
    }
}

async fn answer(
    worker: Arc<Served>,
    reporter: Arc<Reporter>,
    request: Request<Incoming>,
) -> Response<Body> {
    if request.uri().path() != BOOT_PATH {
        return worker.answer(request).await;
    }
    if request.method() == Method::GET {
        json_response(StatusCode::OK, &reporter.report())
    } else {
        text_response(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
    }
}
