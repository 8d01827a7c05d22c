//! Bodies and small whole answers, used by every route of the front, the link and the depot.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as HttpBody, Frame};
use serde::Serialize;
use tokio::sync::mpsc;

/// The body of an answer: bytes in memory, or a file that is streamed.
pub type Body = BoxBody<Bytes, io::Error>;

/// An answer of `content_type` that is wholly in memory.
#[must_use]
pub fn bytes_response(
    status: StatusCode,
    content_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Response<Body> {
    let body = Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A plain-text answer; `text` gets a line's end.
#[must_use]
pub fn text_response(status: StatusCode, text: &str) -> Response<Body> {
    bytes_response(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

/// A JSON answer, or 500 where `value` cannot be written as JSON.
#[must_use]
pub fn json_response(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(json) => bytes_response(status, "application/json", json),
        Err(_) => text_response(StatusCode::INTERNAL_SERVER_ERROR, "the answer is not JSON"),
    }
}

/// An answer without a body, such as 204.
#[must_use]
pub fn empty_response(status: StatusCode) -> Response<Body> {
    let body = Full::new(Bytes::new())
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Pieces that wait in a [`piped`] body.
const PIECES: usize = 4;

/// A body that somebody else fills, piece by piece; an error breaks the connection off, so that nobody takes
/// the part for the whole. The sender is closed when nobody reads any more.
#[must_use]
pub fn piped() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
    let (sender, pieces) = mpsc::channel(PIECES);
    (sender, Piped(pieces).boxed())
}

struct Piped(mpsc::Receiver<io::Result<Bytes>>);

impl HttpBody for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Why a request's body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It has, or says that it has, more bytes than are allowed.
    #[error("the request's body may have at most {0} bytes")]
    TooLong(usize),
    /// It did not arrive in time.
    #[error("the request's body did not arrive within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The connection broke, or the body's framing is wrong.
    #[error("the request's body could not be read to its end")]
    Broken,
}

impl BodyError {
    /// The answer that says so. The connection is closed with it: what the peer still sends is not
    /// worth reading.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let status = match self {
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken => StatusCode::BAD_REQUEST,
        };
        let mut response = text_response(status, &self.to_string());
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// Reads a request's whole body: at most `max` bytes, within `limit`. A `Content-Length` over `max`
/// is refused before a byte is read.
///
/// # Errors
/// See [`BodyError`]; its [`response`](BodyError::response) is the answer.
pub async fn read_body<B>(
    request: Request<B>,
    max: usize,
    limit: Duration,
) -> Result<Bytes, BodyError>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    if declared_length(&request).is_some_and(|declared| declared > max as u64) {
        return Err(BodyError::TooLong(max));
    }
    let mut body = request.into_body();
    let read = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BodyError::Broken)?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if data.len() > max - bytes.len() {
                return Err(BodyError::TooLong(max));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(limit, read)
        .await
        .map_err(|_| BodyError::TooSlow(limit))?
}

fn declared_length<B>(request: &Request<B>) -> Option<u64> {
    request
        .headers()
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn request(body: &'static [u8]) -> Request<Full<Bytes>> {
        Request::new(Full::new(Bytes::from_static(body)))
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_bound_is_read_and_one_byte_more_is_refused() {
        assert_eq!(
            read_body(request(b"12345"), 5, SECOND).await.unwrap(),
            "12345"
        );
        assert!(matches!(
            read_body(request(b"123456"), 5, SECOND).await,
            Err(BodyError::TooLong(5))
        ));
    }

    #[tokio::test]
    async fn a_declared_length_over_the_bound_is_refused_unread() {
        let mut request = request(b"");
        request
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("6"));
        let error = read_body(request, 5, SECOND).await.unwrap_err();
        assert_eq!(error.response().status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(error.response().headers()[CONNECTION], "close");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let body = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<hyper::body::Frame<Bytes>, io::Error>,
        >());
        let error = read_body(Request::new(body), 5, SECOND).await.unwrap_err();
        assert_eq!(error.response().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
