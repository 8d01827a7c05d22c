//! One accept loop for everything that listens: the front (plain TCP), the link and the depot (TLS).
//! What a connection is asked is the handler's business; this file bounds what a connection may cost.
//!
//! ```text
//! accept ──▶ [per-address bound] ──▶ [TLS handshake, limited] ──▶ hyper http1 (1.0 and 1.1, keep-alive)
//!    │                                                             head limited, answers that nobody
//!    ▼ stop                                                        reads limited, bodies: body::read_body
//! no more accepts ──▶ calls in flight end, at most `drain` ──▶ connections dropped ──▶ returns
//! ```
//! A connection that was accepted and has not been asked anything yet has a call in flight, too: whoever made it has
//! sent the request already, or is about to.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::body::Body;

/// How long, after the stop, a connection may take to its first request.
const FIRST_LIMIT: Duration = Duration::from_secs(3);

/// What one listener's connections may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSettings {
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// Connections at once from one address; more are closed.
    pub connections_per_address: usize,
    /// Time for a request's head, idle time before it included.
    pub head_limit: Duration,
    /// Time for the TLS handshake.
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

/// Serves `listener` with `handler` until `stop`, then lets calls in flight end and returns.
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
    let tls = tls.map(TlsAcceptor::from);
    let places = Arc::new(Semaphore::new(settings.connections));
    let addresses = Arc::new(Addresses::default());
    let mut connections = JoinSet::new();
    while let Some((stream, address, place)) = next(&listener, &places, &stop).await {
        while connections.try_join_next().is_some() {}
        let Some(share) = addresses.enter(address.ip(), settings.connections_per_address) else {
            tracing::debug!(%address, "closed: too many connections from this address");
            continue;
        };
        let (tls, stop, handler) = (tls.clone(), stop.clone(), handler.clone());
        connections.spawn(async move {
            connection(stream, address, tls, settings, stop, handler).await;
            drop((place, share));
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(settings.drain, drained).await.is_err() {
        tracing::warn!("calls still in flight after the stop are dropped");
    }
}

/// The next connection, once there is a place for it; none after the stop.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let accept = async {
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, address)) => return Some((stream, address, place)),
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
        accepted = accept => accepted,
    }
}

async fn connection<H, F>(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    settings: ServerSettings,
    stop: CancellationToken,
    handler: H,
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
    let Some(acceptor) = tls else {
        let peer = Peer {
            address,
            local,
            certificate: None,
        };
        return requests(stream, peer, settings, stop, handler).await;
    };
    let handshake = tokio::time::timeout(settings.handshake_limit, acceptor.accept(stream));
    let accepted = tokio::select! {
        () = stop.cancelled() => return,
        accepted = handshake => accepted,
    };
    match accepted {
        Ok(Ok(stream)) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let certificate = certificates.and_then(<[_]>::first).cloned();
            let certificate = certificate.map(CertificateDer::into_owned);
            let peer = Peer {
                address,
                local,
                certificate,
            };
            requests(stream, peer, settings, stop, handler).await;
        }
        Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
    }
}

async fn requests<S, H, F>(
    stream: S,
    peer: Peer,
    settings: ServerSettings,
    stop: CancellationToken,
    handler: H,
) where
    S: AsyncRead + AsyncWrite,
    H: Fn(Request<Incoming>, Arc<Peer>) -> F,
    F: Future<Output = Response<Body>>,
{
    let address = peer.address;
    let peer = Arc::new(peer);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(settings.write_limit));
    let asked = CancellationToken::new();
    let service = service_fn(|request| {
        asked.cancel();
        let answer = handler(request, peer.clone());
        async {
            let mut answer = answer.await;
            if stop.is_cancelled() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
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
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended");
    }
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Addresses(Mutex<HashMap<IpAddr, usize>>);

impl Addresses {
    fn enter(self: &Arc<Self>, address: IpAddr, max: usize) -> Option<Share> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Share {
            address,
            addresses: self.clone(),
        })
    }
}

/// One connection's place in [`Addresses`], given back when dropped.
struct Share {
    address: IpAddr,
    addresses: Arc<Addresses>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self
            .addresses
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}
