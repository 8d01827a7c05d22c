//! One accept loop for everything that listens: the front (plain TCP), the link and the depot (TLS).
//! What a connection is asked is the handler's business; this file bounds what a connection may cost.
//!
//! ```text
//! accept ──▶ [a place: crate::places] ──▶ [first byte, or TLS handshake, limited] ──▶ hyper http1 (1.0 and 1.1,
//!    │                                     keep-alive): head limited, answers that nobody reads limited, callers
//!    │                                     that have gone noticed, bodies: body::read_body
//!    ▼ stop
//! no more accepts ──▶ calls in flight end, at most `drain` ──▶ connections dropped ──▶ returns
//! ```
//! A connection that was accepted and has not been asked anything yet has a call in flight, too: whoever made it has
//! sent the request already, or is about to.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::places::{Admission, Place, Places, Standing};
use crate::shared_stream::{SharedStream, Watched};

/// How long, after the stop, a connection may take to its first request.
const FIRST_LIMIT: Duration = Duration::from_secs(3);
/// How long a stranger's connection may take to its first byte or through its handshake.
const STRANGERS_LIMIT: Duration = Duration::from_secs(3);
/// How long an answer may be worked on for a caller who has closed its sending side.
const HALF_CLOSED_LIMIT: Duration = Duration::from_secs(5);

/// What one listener's connections may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSettings {
    /// Connections at once: [`crate::places`] says who makes room for whom.
    pub connections: usize,
    /// Connections at once from one address; more are closed.
    pub connections_per_address: usize,
    /// Time for a request's head, idle time before it included.
    pub head_limit: Duration,
    /// Time to the first byte and for the TLS handshake, of who is known; strangers have 3 s.
    pub handshake_limit: Duration,
    /// How long an answer may find nobody who reads it.
    pub write_limit: Duration,
    /// How long calls in flight may take after the stop.
    pub drain: Duration,
}

impl Default for ServerSettings {
    /// Launchpad opens up to 128 connections at once, from one address.
    fn default() -> Self {
        Self {
            connections: 512,
            connections_per_address: 256,
            head_limit: Duration::from_secs(30),
            handshake_limit: Duration::from_secs(10),
            write_limit: Duration::from_secs(60),
            drain: Duration::from_secs(20),
        }
    }
}

/// Who sent a request, and to which of our addresses.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's address.
    pub address: SocketAddr,
    /// Our address that it reached.
    pub local: SocketAddr,
    /// Under TLS, the client's certificate, whose key it has proven to hold.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Serves `listener` with `handler` until `stop`, then lets calls in flight end and returns. Everybody may connect.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    settings: ServerSettings,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Places::open(settings.connections, settings.connections_per_address);
    serve_in(places, listener, tls, settings, stop, handler).await;
}

/// As [`serve`], with places that other listeners may share and that tell who may connect; the numbers of connections
/// in `settings` then play no part.
pub async fn serve_in<H, F>(
    places: Places,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    settings: ServerSettings,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let tls = tls.map(TlsAcceptor::from);
    let mut connections = JoinSet::new();
    while let Some((stream, address)) = next(&listener, &stop).await {
        while connections.try_join_next().is_some() {}
        let Some(place) = place(&places, address, &stop).await else {
            continue;
        };
        let (tls, stop, handler) = (tls.clone(), stop.clone(), handler.clone());
        connections.spawn(async move {
            let given_up = place.give_up();
            let connection = connection(stream, address, tls, settings, stop, handler, place);
            tokio::select! {
                () = connection => {}
                () = given_up.cancelled() => {
                    tracing::debug!(%address, "given up: its place is needed");
                }
            }
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(settings.drain, drained).await.is_err() {
        tracing::warn!("calls still in flight after the stop are dropped");
    }
}

/// The next connection; none after the stop.
async fn next(listener: &TcpListener, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    let accept = async {
        loop {
            match listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::warn!(%error, "accept failed; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        accepted = accept => Some(accepted),
    }
}

/// A place for a connection that was accepted; where all are busy with those who are known, once one is free.
async fn place(
    places: &Places,
    address: SocketAddr,
    stop: &CancellationToken,
) -> Option<Arc<Place>> {
    loop {
        match places.enter(address.ip()) {
            Admission::Taken(place) => return Some(Arc::new(place)),
            Admission::Closed(why) => {
                tracing::debug!(%address, why, "closed");
                return None;
            }
            Admission::Full => tokio::select! {
                () = stop.cancelled() => return None,
                () = places.freed() => {}
            },
        }
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    settings: ServerSettings,
    stop: CancellationToken,
    handler: H,
    place: Arc<Place>,
) where
    H: Fn(Request<Incoming>, Arc<Peer>) -> F,
    F: Future<Output = Response<Body>>,
{
    let Ok(local) = stream.local_addr() else {
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%address, %error, "no TCP_NODELAY");
    }
    let limit = match place.standing() {
        Standing::Known => settings.handshake_limit,
        Standing::Stranger | Standing::Refused => settings.handshake_limit.min(STRANGERS_LIMIT),
    };
    let (stream, watched) = SharedStream::new(stream);
    let mut peer = Peer {
        address,
        local,
        certificate: None,
    };
    let Some(acceptor) = tls else {
        // After the stop, `requests` gives it its last moment.
        let first = tokio::select! {
            () = stop.cancelled() => Ok(Ok(())),
            first = tokio::time::timeout(limit, watched.first_byte()) => first,
        };
        return match first {
            Ok(Ok(())) => {
                let accepted = Accepted {
                    peer,
                    place,
                    watched,
                };
                requests(stream, accepted, settings, stop, handler).await;
            }
            Ok(Err(error)) => tracing::debug!(%address, %error, "connection ended"),
            Err(_) => tracing::debug!(%address, "nothing came in time"),
        };
    };
    let handshake = tokio::time::timeout(limit, acceptor.accept(stream));
    let shaken = tokio::select! {
        () = stop.cancelled() => return,
        shaken = handshake => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(<[_]>::first).cloned();
            peer.certificate = certificate.map(CertificateDer::into_owned);
            let accepted = Accepted {
                peer,
                place,
                watched,
            };
            requests(stream, accepted, settings, stop, handler).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
    }
}

/// A connection that has shown something for its place.
struct Accepted {
    peer: Peer,
    place: Arc<Place>,
    watched: Watched,
}

async fn requests<S, H, F>(
    stream: S,
    accepted: Accepted,
    settings: ServerSettings,
    stop: CancellationToken,
    handler: H,
) where
    S: AsyncRead + AsyncWrite,
    H: Fn(Request<Incoming>, Arc<Peer>) -> F,
    F: Future<Output = Response<Body>>,
{
    let Accepted {
        peer,
        place,
        watched,
    } = accepted;
    place.idle();
    let address = peer.address;
    let peer = Arc::new(peer);
    let asked = CancellationToken::new();
    let service = service_fn(|request| {
        asked.cancel();
        let busy = Busy::new(place.clone());
        let answer = handler(request, peer.clone());
        let (stop, watched) = (stop.clone(), watched.clone());
        async move {
            let mut answer = tokio::select! {
                answer = answer => answer,
                () = watched.gone(HALF_CLOSED_LIMIT) => return Err(CallerGone),
            };
            if stop.is_cancelled() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok(answer.map(|body| Answered { body, _busy: busy }.boxed()))
        }
    });
    if let Err(error) = converse(stream, service, &asked, settings, &stop).await {
        tracing::debug!(%address, %error, "connection ended");
    }
}

/// Has `service` answer what comes over a connection, until that ends. After the stop it ends with the request in flight;
/// one that was not `asked` anything yet has a moment for that.
pub(crate) async fn converse<S, V>(
    stream: S,
    service: V,
    asked: &CancellationToken,
    settings: ServerSettings,
    stop: &CancellationToken,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite,
    V: Service<Request<Incoming>, Response = Response<Body>>,
    V::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(settings.write_limit));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head_limit)
        .half_close(true)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let mut connection = std::pin::pin!(connection);
    // hyper closes a connection that it is told to end before it has read anything of it.
    let stopped = async {
        stop.cancelled().await;
        tokio::time::timeout(FIRST_LIMIT, asked.cancelled())
            .await
            .ok();
    };
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Nobody is there to take the answer: the work on it ends.
#[derive(Debug, thiserror::Error)]
#[error("the caller has gone")]
struct CallerGone;

/// A request that is being read or answered keeps its connection's place.
struct Busy(Arc<Place>);

impl Busy {
    fn new(place: Arc<Place>) -> Self {
        place.busy();
        Self(place)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.idle();
    }
}

/// An answer's body: its request is over when it is dropped.
struct Answered {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
