//! HTTP in and out: who asks, the body within its bounds, the request decoded once, and its answer or problem as JSON.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONNECTION, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use panda_http::ServerSettings;
use panda_http::body::{Body, BodyError, bytes_response, read_body};
use panda_http::unix::{UnixPeer, serve_unix};
use panda_protocol::operators::{
    Asker, Drain, GetBoots, GetSlot, GetSlots, GetVersion, Hold, LaunchpadReset, MAX_BODY,
    MAX_ON_BEHALF_OF, ON_BEHALF_OF, Operation, PROBLEM_MEDIA_TYPE, Problem, ProblemKind,
    ReadConsole, RecordRefusal, Release, Request as Asked, Reset, TypeKeys, Version, decode,
};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::socket::Bound;

/// Time for a request's body to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// What a socket's connections may cost. Whoever waits for a slot has one all the time.
const SETTINGS: ServerSettings = ServerSettings {
    connections: 256,
    connections_per_address: 256,
    head_limit: Duration::from_secs(60),
    handshake_limit: Duration::from_secs(10),
    write_limit: Duration::from_secs(60),
    drain: Duration::from_secs(5),
};

/// Answers at `sockets` until `stop`. Requests that wait then are told that the daemon is stopping.
pub(crate) async fn serve(sockets: Vec<Bound>, desk: Desk, stop: CancellationToken) {
    let desk = Arc::new(desk);
    let mut served = JoinSet::new();
    for socket in sockets {
        served.spawn(serve_one(socket, desk.clone(), stop.clone()));
    }
    while let Some(ended) = served.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "an operators' socket ended badly");
        }
    }
}

async fn serve_one(socket: Bound, desk: Arc<Desk>, stop: CancellationToken) {
    let Bound {
        listener,
        path,
        moved,
        _lock,
    } = socket;
    let told = Arc::new(std::sync::Once::new());
    let (old, stopped) = (path.clone(), stop.clone());
    let handler = move |request: Request<Incoming>, peer: Arc<UnixPeer>| {
        if let Some(moved) = &moved {
            told.call_once(|| {
                tracing::warn!(
                    "somebody asks at {}, which will not be there for ever: ask at {}",
                    old.display(),
                    moved.display()
                );
            });
        }
        let (desk, stop) = (desk.clone(), stopped.clone());
        async move {
            let answer = tokio::select! {
                biased;
                answer = answer(&desk, request, &peer) => answer,
                () = stop.cancelled() => Err(Problem::stopping()),
            };
            answer.unwrap_or_else(|problem| told_problem(&problem))
        }
    };
    serve_unix(listener, SETTINGS, stop, handler).await;
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(%error, "the operators' socket was gone already");
    }
}

async fn answer(
    desk: &Arc<Desk>,
    request: Request<Incoming>,
    peer: &UnixPeer,
) -> Result<Response<Body>, Problem> {
    let asker = asker(request.headers(), peer)?;
    let method = request.method().clone();
    let target = request.uri().path_and_query().map(ToString::to_string);
    let body = read_body(request, MAX_BODY, BODY_LIMIT).await;
    let body = body.map_err(|error| unread(&error))?;
    let operation = decode(method.as_str(), target.as_deref().unwrap_or("*"), &body)?;
    match operation {
        Operation::Version(_) => good::<GetVersion>(&version()),
        Operation::Slots(asked) => good::<GetSlots>(&desk.slots(&asked).await),
        Operation::Slot(asked) => good::<GetSlot>(&desk.slot(&asked).await?),
        Operation::Boots(asked) => good::<GetBoots>(&desk.boots(&asked).await?),
        Operation::ReadConsole(asked) => good::<ReadConsole>(&desk.read_console(&asked).await?),
        Operation::TypeKeys(typed) => good::<TypeKeys>(&desk.type_keys(typed, asker).await?),
        Operation::Reset(order) => good::<Reset>(&desk.reset(&order, asker).await?),
        Operation::Hold(order) => good::<Hold>(&desk.hold(order, asker).await?),
        Operation::Drain(order) => good::<Drain>(&desk.drain(order, asker).await?),
        Operation::Release(order) => good::<Release>(&desk.release(&order, asker).await?),
        Operation::LaunchpadReset(order) => {
            good::<LaunchpadReset>(&desk.launchpad_reset(&order, asker).await?)
        }
        Operation::RecordRefusal(refusal) => {
            good::<RecordRefusal>(&desk.record_refusal(&refusal, asker).await)
        }
    }
}

fn version() -> Version {
    Version {
        program: "pandabuildd".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        interface: vec![1],
    }
}

/// Who asks: what the kernel says, and for whom that says it asks. The user's name is looked up with the record.
fn asker(headers: &HeaderMap, peer: &UnixPeer) -> Result<Asker, Problem> {
    let fits = |text: &&str| {
        (1..=MAX_ON_BEHALF_OF).contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    let on_behalf_of = match headers.get(ON_BEHALF_OF).map(HeaderValue::to_str) {
        None => None,
        Some(text) => match text.ok().filter(fits) {
            Some(text) => Some(text.to_owned()),
            None => {
                return Err(Problem::malformed(format!(
                    "header {ON_BEHALF_OF}: expected 1 to {MAX_ON_BEHALF_OF} printable characters of ASCII"
                )));
            }
        },
    };
    Ok(Asker {
        uid: peer.uid,
        user: None,
        pid: peer.pid,
        on_behalf_of,
    })
}

fn unread(error: &BodyError) -> Problem {
    let kind = match error {
        BodyError::TooLong(_) => ProblemKind::TooLarge,
        BodyError::TooSlow(_) => ProblemKind::TooSlow,
        BodyError::Broken => ProblemKind::Malformed,
    };
    Problem::new(kind, error.to_string())
}

/// A good answer to a request of the kind `R`.
fn good<R: Asked>(answer: &R::Answer) -> Result<Response<Body>, Problem> {
    json(StatusCode::OK, "application/json", answer).map_err(|error| {
        Problem::new(
            ProblemKind::Failed,
            format!("the answer is no JSON: {error}"),
        )
    })
}

fn told_problem(problem: &Problem) -> Response<Body> {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, PROBLEM_MEDIA_TYPE, problem).unwrap_or_else(|_| {
        bytes_response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "no JSON\n")
    });
    let headers = response.headers_mut();
    if let Ok(allow) = HeaderValue::from_str(&problem.allow.join(", "))
        && !problem.allow.is_empty()
    {
        headers.insert(ALLOW, allow);
    }
    // What the peer still sends is not worth reading.
    if matches!(problem.kind, ProblemKind::TooLarge | ProblemKind::TooSlow) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// JSON with a line's end, for whoever looks at it in a terminal.
fn json(
    status: StatusCode,
    media_type: &'static str,
    value: &impl Serialize,
) -> serde_json::Result<Response<Body>> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    Ok(bytes_response(status, media_type, bytes))
}
