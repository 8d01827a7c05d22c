//! A builder's two routes, the same for a slot of the master and for the worker on a board:
//!
//! | route | answer |
//! | --- | --- |
//! | `POST /rpc`, `POST /rpc/` | XML-RPC: 200 and `text/xml`, faults too |
//! | `GET`, `HEAD` `/filecache/NAME` | the file, or a range of it; 404 where there is none |
//! | another method there | 405 |
//! | anything else | 404; nothing is listed |
//!
//! `NAME` is decoded once and must be one plain file name; the service sees no other.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use dxr::Value;
use http::header::{ALLOW, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Body as HttpBody;
use panda_protocol::launchpad::xml::{self, Fault, Limits};
use panda_protocol::launchpad::{
    Abort, Answered, BuildCall, Call, Clean, Echo, Echoed, EnsurePresent, FileName, GetInfo,
    GetProxyInfo, GetStatus, GetStatusDict, Reply,
};

use crate::body::{Body, bytes_response, read_body, text_response};
use crate::encoding::{Encoding, UnpackError};
use crate::ranges::{ServedFile, file_response};

/// What answers a builder's calls, each with the reply that it names. A refusal is usually [`fault`] with a text
/// that says where things stand; the text must hold no secret.
pub trait BuilderService: Send + Sync + 'static {
    /// Before any call is answered: a fault here answers it.
    fn admit(&self, method: &'static str) -> impl Future<Output = Result<(), Fault>> + Send {
        let _ = method;
        async { Ok(()) }
    }

    /// Says back what it was given.
    fn echo(&self, request: Echo) -> impl Future<Output = Answered<Echo>> + Send {
        async move { Ok(Echoed(request.0)) }
    }

    /// What this builder is.
    fn info(&self) -> impl Future<Output = Answered<GetInfo>> + Send;

    /// What it says of itself, in its own dialect.
    fn status(&self) -> impl Future<Output = Answered<GetStatus>> + Send;

    /// The same as a struct, whatever its dialect.
    fn status_dict(&self) -> impl Future<Output = Answered<GetStatusDict>> + Send {
        async move { self.status().await.map(|status| status.report) }
    }

    /// Has a file in its cache.
    fn ensure_present(
        &self,
        request: EnsurePresent,
    ) -> impl Future<Output = Answered<EnsurePresent>> + Send;

    /// Starts a build.
    fn build(&self, request: BuildCall) -> impl Future<Output = Answered<BuildCall>> + Send;

    /// Ends the running build.
    fn abort(&self) -> impl Future<Output = Answered<Abort>> + Send;

    /// Forgets the finished build.
    fn clean(&self) -> impl Future<Output = Answered<Clean>> + Send;

    /// Of the running build's proxy.
    fn proxy_info(&self) -> impl Future<Output = Answered<GetProxyInfo>> + Send {
        async { Err(fault("proxy_info: there is no build with a proxy")) }
    }

    /// Answers a call that has come.
    fn call(&self, call: Call) -> impl Future<Output = Result<Value, Fault>> + Send {
        async move {
            self.admit(call.method()).await?;
            match call {
                Call::Echo(values) => self.echo(Echo(values)).await.map(Reply::encode),
                Call::Info => self.info().await.map(Reply::encode),
                Call::Status => self.status().await.map(Reply::encode),
                Call::StatusDict => self.status_dict().await.map(Reply::encode),
                Call::EnsurePresent(request) => {
                    self.ensure_present(request).await.map(Reply::encode)
                }
                Call::Build(request) => self.build(*request).await.map(Reply::encode),
                Call::Abort => self.abort().await.map(Reply::encode),
                Call::Clean => self.clean().await.map(Reply::encode),
                Call::ProxyInfo => self.proxy_info().await.map(Reply::encode),
            }
        }
    }

    /// Opens a file of `/filecache/`: `buildlog`, or a result by its SHA-1. None where there is none.
    fn file(
        &self,
        name: &FileName,
    ) -> impl Future<Output = Result<Option<ServedFile>, FileError>> + Send;

    /// Answers a GET or HEAD of a file: from [`BuilderService::file`], where its files are here.
    fn answer_file(
        &self,
        method: &Method,
        name: &FileName,
        headers: &HeaderMap,
    ) -> impl Future<Output = Response<Body>> + Send {
        async move {
            match self.file(name).await {
                Ok(Some(file)) => file_response(method, headers, file).await,
                Ok(None) => not_found(),
                Err(FileError::Unavailable(text)) => {
                    text_response(StatusCode::SERVICE_UNAVAILABLE, &text)
                }
                Err(FileError::Io(error)) => {
                    tracing::warn!(%name, %error, "a file cannot be served");
                    text_response(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read")
                }
            }
        }
    }
}

/// Why a file that should be there is not served.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be served now: 503 with this text, which must hold no secret.
    #[error("{0}")]
    Unavailable(String),
    /// It cannot be read: 500.
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
}

/// What a call may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceLimits {
    /// Bounds of a call's document.
    pub xml: Limits,
    /// Time for its bytes to arrive.
    pub body_limit: Duration,
}

impl Default for ServiceLimits {
    fn default() -> Self {
        Self {
            xml: Limits::default(),
            body_limit: Duration::from_secs(30),
        }
    }
}

/// The fault that an error inside a method is.
#[must_use]
pub fn fault(text: impl Into<String>) -> Fault {
    Fault {
        code: Fault::FAILURE,
        text: text.into(),
    }
}

/// Answers one request to a builder.
pub async fn respond<S, B>(
    service: &S,
    limits: &ServiceLimits,
    request: Request<B>,
) -> Response<Body>
where
    S: BuilderService,
    B: HttpBody<Data = Bytes> + Unpin,
{
    match Route::of(request.uri().path()) {
        Route::Rpc if request.method() == Method::POST => rpc(service, limits, request).await,
        Route::Rpc => method_not_allowed("POST"),
        Route::File(name) if [Method::GET, Method::HEAD].contains(request.method()) => {
            let (method, headers) = (request.method().clone(), request.headers().clone());
            service.answer_file(&method, &name, &headers).await
        }
        Route::File(_) => method_not_allowed("GET, HEAD"),
        Route::None => not_found(),
    }
}

async fn rpc<S, B>(service: &S, limits: &ServiceLimits, request: Request<B>) -> Response<Body>
where
    S: BuilderService,
    B: HttpBody<Data = Bytes> + Unpin,
{
    let encoding = match Encoding::of(request.headers()) {
        Ok(encoding) => encoding,
        Err(unknown) => return unknown.response(),
    };
    let max = limits.xml.bytes;
    let body = match read_body(request, max, limits.body_limit).await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let answer = match encoding.unpack(body, max).await {
        Ok(document) => answer(service, limits, &document).await,
        Err(UnpackError::TooLong(error)) => return error.response(),
        Err(error @ UnpackError::Broken) => Err(fault(error.to_string())),
    };
    let text = xml::encode_answer(&answer).or_else(|error| {
        tracing::warn!(%error, "an answer cannot be written");
        xml::encode_answer(&Err(fault("error")))
    });
    match text {
        Ok(text) => bytes_response(StatusCode::OK, "text/xml; charset=utf-8", text),
        Err(_) => text_response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the answer cannot be written",
        ),
    }
}

async fn answer<S: BuilderService>(
    service: &S,
    limits: &ServiceLimits,
    document: &[u8],
) -> Result<Value, Fault> {
    let (method, params) =
        xml::decode_call(document, &limits.xml).map_err(|error| fault(error.to_string()))?;
    let call = Call::decode(&method, params).map_err(|error| error.fault())?;
    service.call(call).await
}

fn not_found() -> Response<Body> {
    text_response(StatusCode::NOT_FOUND, "not found")
}

fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Rpc,
    File(FileName),
    None,
}

impl Route {
    fn of(path: &str) -> Self {
        if let "/rpc" | "/rpc/" = path {
            return Self::Rpc;
        }
        let Some(name) = path.strip_prefix("/filecache/") else {
            return Self::None;
        };
        let Ok(name) = percent_encoding::percent_decode_str(name).decode_utf8() else {
            return Self::None;
        };
        FileName::try_from(name.into_owned()).map_or(Self::None, Self::File)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Route {
        Route::File(FileName::try_from(name.to_owned()).unwrap())
    }

    #[test]
    fn a_path_leads_to_the_calls_or_to_one_plain_file_name() {
        assert_eq!(Route::of("/rpc"), Route::Rpc);
        assert_eq!(Route::of("/rpc/"), Route::Rpc);
        assert_eq!(Route::of("/filecache/buildlog"), file("buildlog"));
        assert_eq!(
            Route::of("/filecache/hello_1.0%7Erc1.dsc"),
            file("hello_1.0~rc1.dsc")
        );
        assert_eq!(Route::of("/filecache/a+b%25"), file("a+b%"));
    }

    #[test]
    fn no_other_path_leads_anywhere() {
        for path in [
            "",
            "/",
            "*",
            "/rpc//",
            "/rpc/x",
            "/RPC",
            "/RPC2",
            "/filecache",
            "/filecache/",
            "/filecache//buildlog",
            "/filecache/.",
            "/filecache/..",
            "/filecache/../rpc",
            "/filecache/%2e%2e",
            "/filecache/a/b",
            "/filecache/a%2fb",
            "/filecache/%2Fetc%2Fpasswd",
            "/filecache/a%00",
            "/filecache/a%0a",
            "/filecache/%ff",
            "//filecache/buildlog",
        ] {
            assert_eq!(Route::of(path), Route::None, "{path}");
        }
        assert_eq!(
            Route::of(&format!("/filecache/{}", "x".repeat(256))),
            Route::None
        );
    }
}
