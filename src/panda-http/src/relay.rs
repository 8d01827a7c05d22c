//! A builder that stands behind another: requests go on to it as they came, its replies and files come back as
//! they are, and nothing else passes. The agent puts a worker that is not ours behind its link so.
//!
//! ```text
//! POST /rpc ──▶ read, checked, bounded ──▶ written again ──▶ builder ──▶ read, bounded ──▶ written again
//! GET /filecache/NAME, Range ────────────▶ builder ──▶ 200, 206, 404, 416 and the bytes; else 502
//! ```
//!
//! Values survive it: what XML-RPC can hold is read and written without loss, but that texts for people are cut.

use std::io;

use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, Method, Response, StatusCode};
use panda_protocol::launchpad::xml::Fault;
use panda_protocol::launchpad::{Answered, FileName, Request};
use tokio::time::Instant;

use crate::body::{Body, piped, text_response};
use crate::client::BuilderClient;
use crate::endpoint::ClientError;
use crate::service::fault;

/// The way to a builder behind. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Relay(BuilderClient);

impl Relay {
    /// To the builder that `client` speaks to, with its limits.
    #[must_use]
    pub fn new(client: BuilderClient) -> Self {
        Self(client)
    }

    /// The builder behind.
    #[must_use]
    pub fn client(&self) -> &BuilderClient {
        &self.0
    }

    /// Passes a request on, and its reply back.
    ///
    /// # Errors
    /// The builder's own fault; or one that says why it gave no reply.
    pub async fn ask<R: Request>(&self, request: R) -> Answered<R> {
        self.0.ask(request).await.map_err(|error| match error {
            ClientError::Fault { code, text } => Fault {
                code,
                text: text.as_str().to_owned(),
            },
            error => fault(format!("the worker gives no answer: {error}")),
        })
    }

    /// Passes a GET or HEAD of a file on, and the answer back.
    pub async fn file(
        &self,
        method: &Method,
        name: &FileName,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let until = Instant::now() + self.0.file_limit();
        let range = headers.get(RANGE).cloned();
        let encoded = percent_encoding::utf8_percent_encode(name.as_str(), NAME).to_string();
        let found = match self.0.ask_file(method.clone(), &encoded, range).await {
            Ok(found) => found,
            Err(error) => {
                let text = format!("the worker gives no answer: {error}");
                return text_response(StatusCode::BAD_GATEWAY, &text);
            }
        };
        let status = found.status();
        if status == StatusCode::NOT_FOUND {
            return text_response(status, "not found");
        }
        if ![
            StatusCode::OK,
            StatusCode::PARTIAL_CONTENT,
            StatusCode::RANGE_NOT_SATISFIABLE,
        ]
        .contains(&status)
        {
            let text = format!("the worker answers HTTP status {}", status.as_u16());
            return text_response(StatusCode::BAD_GATEWAY, &text);
        }
        let passed: HeaderMap = [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_RANGE, ACCEPT_RANGES]
            .into_iter()
            .filter_map(|key| Some((key.clone(), found.headers().get(key)?.clone())))
            .collect();
        let mut response = Response::new(bytes_of(found, until));
        *response.status_mut() = status;
        *response.headers_mut() = passed;
        response
    }
}

/// What stands for itself in a path's last part.
const NAME: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The body as it arrives, until `until` at the latest; a reader that goes away ends it.
fn bytes_of(mut found: reqwest::Response, until: Instant) -> Body {
    let (pieces, body) = piped();
    tokio::spawn(async move {
        loop {
            let piece = match tokio::time::timeout_at(until, found.chunk()).await {
                Ok(Ok(Some(piece))) => Ok(piece),
                Ok(Ok(None)) => return,
                Ok(Err(error)) => Err(io::Error::other(error.without_url())),
                Err(_) => Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the file takes too long",
                )),
            };
            let ended = piece.is_err();
            if pieces.send(piece).await.is_err() || ended {
                return;
            }
        }
    });
    body
}
