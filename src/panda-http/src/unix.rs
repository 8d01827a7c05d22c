//! HTTP over a Unix socket: what the daemon's operators use. Requests are taken as [`crate::server`] takes them, with two
//! things that only such a socket has: the kernel says who asks ([`UnixPeer`]), and a caller that has gone altogether is told from one that
//! has only said all that it wants to say.
//!
//! ```text
//! accept ──▶ peer's user and process ──▶ requests, as over TCP
//!                                         │ the caller closes its sending half   the answer still reaches it
//!                                         └ the caller is gone                   its requests end at once
//! ```
//!
//! [`exchange`] is the other side: one request, one answer, bounded.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::server::{ServerSettings, converse};

/// The pause after a connection could not be accepted: no descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who sent a request, as the kernel says: it cannot be made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixPeer {
    /// The user that it ran as when it connected.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process; none where the kernel does not say.
    pub pid: Option<i32>,
}

/// Serves `listener` with `handler` until `stop`, then lets calls in flight end and returns. Of `settings`, addresses and
/// the handshake play no part. A request whose caller has gone is dropped where it stands.
pub async fn serve_unix<H, F>(
    listener: UnixListener,
    settings: ServerSettings,
    stop: CancellationToken,
    handler: H,
) where
    H: Fn(Request<Incoming>, Arc<UnixPeer>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(settings.connections));
    let mut connections = JoinSet::new();
    loop {
        let (stream, place) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (stop, handler) = (stop.clone(), handler.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, settings, stop, handler).await {
                tracing::debug!(%error, "a connection to a Unix socket ended");
            }
            drop(place);
        });
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(settings.drain, drained).await.is_err() {
        tracing::warn!("calls still in flight after the stop are dropped");
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &UnixListener,
    places: &Arc<Semaphore>,
) -> (UnixStream, Option<OwnedSemaphorePermit>) {
    // Nobody closes the semaphore.
    let place = places.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _unnamed)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "accept failed; trying again");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<H, F>(
    stream: UnixStream,
    settings: ServerSettings,
    stop: CancellationToken,
    handler: H,
) -> io::Result<()>
where
    H: Fn(Request<Incoming>, Arc<UnixPeer>) -> F,
    F: Future<Output = Response<Body>>,
{
    let credentials = stream.peer_cred()?;
    let peer = UnixPeer {
        uid: credentials.uid(),
        gid: credentials.gid(),
        pid: credentials.pid(),
    };
    // A descriptor of its own: hyper has the other.
    let watched = std::os::unix::net::UnixStream::from(stream.as_fd().try_clone_to_owned()?);
    let watched = UnixStream::from_std(watched)?;
    let peer = Arc::new(peer);
    let asked = CancellationToken::new();
    let service = service_fn(|request| {
        asked.cancel();
        let answer = handler(request, peer.clone());
        let stop = stop.clone();
        async move {
            let mut answer = answer.await;
            if stop.is_cancelled() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let conversation = converse(stream, service, &asked, settings, &stop);
    tokio::select! {
        ended = conversation => ended.map_err(io::Error::other),
        gone = gone(&watched) => gone,
    }
}

/// Waits until the other end is closed in both directions. One that has closed its sending half may still read.
async fn gone(stream: &UnixStream) -> io::Result<()> {
    // That it can be written to is nothing new: this has tokio wait for the next change.
    let nothing_new = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
    while !stream.ready(Interest::WRITABLE).await?.is_write_closed() {
        if let Err(error) = stream.try_io(Interest::WRITABLE, nothing_new)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Why a request over a Unix socket has no answer.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// Nobody can be reached there.
    #[error("{0}")]
    Connect(io::Error),
    /// The connection ended before the answer did.
    #[error("the connection broke: {0}")]
    Broken(hyper::Error),
    /// What came is no HTTP.
    #[error("the answer is no HTTP: {0}")]
    NotHttp(hyper::Error),
    /// The answer has more bytes than allowed.
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
    /// No whole answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}

impl From<hyper::Error> for UnixError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() {
            Self::NotHttp(error)
        } else {
            Self::Broken(error)
        }
    }
}

/// Sends `request` over a connection of its own to the socket at `path`: the answer, at most `max` bytes of it, all within
/// `limit`. Dropping the future closes the connection, and with it the request.
///
/// # Errors
/// See [`UnixError`].
pub async fn exchange(
    path: &Path,
    request: Request<Full<Bytes>>,
    max: usize,
    limit: Duration,
) -> Result<Response<Bytes>, UnixError> {
    let exchange = async {
        let stream = UnixStream::connect(path)
            .await
            .map_err(UnixError::Connect)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            Ok(Response::from_parts(head, bounded(body, max).await?))
        };
        let mut answer = std::pin::pin!(answer);
        // hyper sends and receives in the connection's future.
        tokio::select! {
            answered = &mut answer => answered,
            ended = connection => match ended {
                Err(error) => Err(error.into()),
                Ok(()) => answer.await,
            },
        }
    };
    timeout(limit, exchange)
        .await
        .map_err(|_| UnixError::TimedOut(limit))?
}

async fn bounded(mut body: Incoming, max: usize) -> Result<Bytes, UnixError> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if data.len() > max - bytes.len() {
            return Err(UnixError::TooLong(max));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}
