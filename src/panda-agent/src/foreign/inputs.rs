//! The depot's inputs on the board's loopback, for a worker that cannot speak to the depot itself: what it asks
//! for here is asked for there, over the boot's certificate, and passes through while it arrives. The depot
//! gives a board what its build needs and nothing else, so this gives no more.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use panda_http::body::{piped, text_response};
use panda_http::download::{DownloadError, Sink, Source};
use panda_http::{Body, ServerSettings, serve};
use panda_protocol::digest::Sha1;
use panda_protocol::link::INPUT_PATH;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::worker::Depot;

/// The loopback's server; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Inputs {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Inputs {
    /// Serves what `depot` has, at any port of `ip`.
    pub(super) async fn listen(ip: IpAddr, depot: &Depot) -> io::Result<Self> {
        let listener = TcpListener::bind((ip, 0)).await?;
        let address = listener.local_addr()?;
        let (stop, depot) = (CancellationToken::new(), depot.clone());
        let settings = ServerSettings {
            connections: 64,
            connections_per_address: 64,
            ..ServerSettings::default()
        };
        let served = serve(listener, None, settings, stop.clone(), move |request, _| {
            let depot = depot.clone();
            async move { answer(&depot, &request).await }
        });
        tokio::spawn(served);
        Ok(Self {
            address,
            _stop: stop.drop_guard(),
        })
    }

    /// Where the input of that name is.
    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}{INPUT_PATH}{name}", self.address)
    }
}

async fn answer<B>(depot: &Depot, request: &Request<B>) -> Response<Body> {
    let name = request.uri().path().strip_prefix(INPUT_PATH);
    let Some(sha1) = name.and_then(|name| name.parse::<Sha1>().ok()) else {
        return text_response(StatusCode::NOT_FOUND, "not found");
    };
    if request.method() != Method::GET {
        return text_response(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    let url = format!("{}{}{sha1}", depot.url, INPUT_PATH.trim_start_matches('/'));
    let source = match Source::new(&url, "", "") {
        Ok(source) => source,
        Err(error) => return text_response(StatusCode::BAD_GATEWAY, &error.to_string()),
    };
    let (pieces, body) = piped();
    let (begun, beginning) = oneshot::channel();
    let mut pipe = Pipe {
        pieces,
        begun: Some(begun),
    };
    let downloader = depot.downloader.clone();
    let download = tokio::spawn(async move {
        let fetched = downloader.fetch(&source, &mut pipe).await;
        if let Err(error) = &fetched {
            tracing::warn!(%sha1, %error, "an input was not had from the depot");
            // Whoever reads sees the connection break; where nobody does, there is nobody to tell.
            let broken = Err(io::Error::other(error.to_string()));
            drop(pipe.pieces.send(broken).await);
        }
        fetched
    });
    // Dropped without a word when nothing has arrived, be it empty or not there.
    match beginning.await {
        Ok(length) => {
            let mut response = Response::new(body);
            if let Some(length) = length {
                let length = HeaderValue::from(length);
                response.headers_mut().insert(CONTENT_LENGTH, length);
            }
            response
        }
        Err(_) => match download.await {
            Ok(Ok(())) => Response::new(body),
            Ok(Err(DownloadError::Status { status: 404, .. })) => {
                text_response(StatusCode::NOT_FOUND, "the depot has no such input")
            }
            Ok(Err(_)) | Err(_) => {
                text_response(StatusCode::BAD_GATEWAY, "the depot gave no such input")
            }
        },
    }
}

/// A download's other end: an answer's body.
struct Pipe {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    /// Told the length, where it is known, when the first of it is there.
    begun: Option<oneshot::Sender<Option<u64>>>,
}

impl Pipe {
    fn begin(&mut self, length: Option<u64>) {
        if let Some(begun) = self.begun.take()
            && begun.send(length).is_err()
        {
            tracing::debug!("who asked has gone; the next piece ends the download");
        }
    }
}

impl Sink for Pipe {
    async fn expect(&mut self, bytes: u64) -> Result<(), DownloadError> {
        self.begin(Some(bytes));
        Ok(())
    }

    async fn write(&mut self, piece: &Bytes) -> Result<(), DownloadError> {
        self.begin(None);
        let sent = self.pieces.send(Ok(piece.clone())).await;
        sent.map_err(|_| DownloadError::Sink("the worker does not read it".to_owned()))
    }
}
