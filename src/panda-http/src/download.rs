//! Fetching a file from anywhere over http(s), as `ensurepresent` asks for it.
//!
//! - Credentials go out with the first request, an empty user name included. They follow a redirect
//!   only within the origin (or from `http` to `https` on one host, default ports); they are never
//!   taken from a redirect, and while they are held a step from `https` down to `http` is refused.
//! - What arrives is bounded in bytes and time, and must be as long as its `Content-Length` says.
//! - Errors are fit for Launchpad and for logs: they name scheme, host and path, never the user, the
//!   password or the query.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::LOCATION;
use reqwest::Response;
use rustls::ClientConfig;
use url::Url;

use crate::endpoint::{ClientError, EndpointSettings, http_client};
use crate::pinned::public_client_config;

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 10;
/// The most bytes of a URL; beyond 65,534 no request can hold it.
const MAX_URL: usize = 16 << 10;

/// Where a file is and what opens it. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Source {
    url: Url,
    credentials: Option<Credentials>,
}

#[derive(Clone)]
struct Credentials {
    username: String,
    password: String,
}

/// What a download may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadSettings {
    /// Time for TCP and TLS to connect.
    pub connect_limit: Duration,
    /// Time between two pieces.
    pub read_limit: Duration,
    /// Time for the whole file.
    pub total_limit: Duration,
    /// How long one caller of [`crate::Store::fetch`] is kept waiting, whatever downloads it joins or tries.
    pub wait_limit: Duration,
    /// The most bytes of a file.
    pub max_bytes: u64,
}

impl Default for DownloadSettings {
    fn default() -> Self {
        Self {
            connect_limit: Duration::from_secs(15),
            read_limit: Duration::from_secs(60),
            total_limit: Duration::from_secs(30 * 60),
            // Today's manager gives an answer to `ensurepresent` ten minutes.
            wait_limit: Duration::from_secs(9 * 60),
            max_bytes: 4 << 30,
        }
    }
}

/// Why a file was not fetched. The texts hold no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownloadError {
    /// Not an http(s) URL.
    #[error("the URL must be http:// or https:// with a host")]
    Url,
    /// The other side answered with something else than the file.
    #[error("{place}: HTTP status {status}")]
    Status {
        /// Where, without secrets.
        place: String,
        /// The HTTP status.
        status: u16,
    },
    /// A redirect that is not followed.
    #[error("{place}: {problem}")]
    Redirect {
        /// Where, without secrets.
        place: String,
        /// Why not.
        problem: &'static str,
    },
    /// No connection, or it broke, also before all promised bytes came.
    #[error("{place}: {problem}")]
    Transport {
        /// Where, without secrets.
        place: String,
        /// What happened.
        problem: String,
    },
    /// It took too long.
    #[error("{place}: not finished within {seconds} s")]
    TooSlow {
        /// Where, without secrets.
        place: String,
        /// The limit.
        seconds: u64,
    },
    /// It is, or says that it is, larger than allowed.
    #[error("{place}: more than {max} bytes")]
    TooLong {
        /// Where, without secrets.
        place: String,
        /// The bound.
        max: u64,
    },
    /// Other bytes came than `Content-Length` promised.
    #[error("{place}: {got} bytes came where {declared} were promised")]
    Length {
        /// Where, without secrets.
        place: String,
        /// What was promised.
        declared: u64,
        /// What came.
        got: u64,
    },
    /// The bytes could not be stored; why.
    #[error("{0}")]
    Sink(String),
}

/// Takes a download's bytes.
pub trait Sink: Send {
    /// How many bytes are promised, before the first piece; not always known.
    fn expect(&mut self, bytes: u64) -> impl Future<Output = Result<(), DownloadError>> + Send;

    /// The next piece.
    fn write(&mut self, piece: &Bytes) -> impl Future<Output = Result<(), DownloadError>> + Send;
}

/// Fetches files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Downloader {
    http: reqwest::Client,
    settings: DownloadSettings,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Source {
    /// From a URL and, where user name or password is not empty, credentials; else those within the
    /// URL, if any.
    ///
    /// # Errors
    /// [`DownloadError::Url`].
    pub fn new(url: &str, username: &str, password: &str) -> Result<Self, DownloadError> {
        let mut url = Url::parse(url).map_err(|_| DownloadError::Url)?;
        let fits = matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.port() != Some(0)
            && url.as_str().len() <= MAX_URL;
        if !fits {
            return Err(DownloadError::Url);
        }
        let credentials = Credentials::of(username, password).or_else(|| {
            let decode = |text| percent_encoding::percent_decode_str(text).decode_utf8_lossy();
            let password = url.password().unwrap_or_default();
            Credentials::of(&decode(url.username()), &decode(password))
        });
        strip_user(&mut url)?;
        Ok(Self { url, credentials })
    }

    /// Where a redirect from here to `location` leads.
    fn redirected(&self, location: &str) -> Result<Self, &'static str> {
        let mut url = self
            .url
            .join(location)
            .map_err(|_| "a redirect to no URL")?;
        if !matches!(url.scheme(), "http" | "https") || strip_user(&mut url).is_err() {
            return Err("a redirect to something else than http or https");
        }
        url.set_fragment(None);
        if self.credentials.is_some() && self.url.scheme() == "https" && url.scheme() == "http" {
            return Err("a redirect from https to http while credentials are needed");
        }
        let kept = self.url.origin() == url.origin() || is_upgrade(&self.url, &url);
        Ok(Self {
            url,
            credentials: self.credentials.clone().filter(|_| kept),
        })
    }

    /// Which server it is: scheme, host and port.
    #[must_use]
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// For people: without user, password, query and fragment, and cut.
    fn place(&self) -> String {
        let port = self
            .url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let host = self.url.host_str().unwrap_or_default();
        let place = format!("{}://{host}{port}{}", self.url.scheme(), self.url.path());
        place.chars().take(300).collect()
    }
}

impl Credentials {
    fn of(username: &str, password: &str) -> Option<Self> {
        let given = !username.is_empty() || !password.is_empty();
        given.then(|| Self {
            username: username.to_owned(),
            password: password.to_owned(),
        })
    }
}

fn strip_user(url: &mut Url) -> Result<(), DownloadError> {
    url.set_username("").map_err(|()| DownloadError::Url)?;
    url.set_password(None).map_err(|()| DownloadError::Url)
}

/// From `http` to `https` on the same host, both on their default ports.
fn is_upgrade(from: &Url, to: &Url) -> bool {
    from.scheme() == "http"
        && to.scheme() == "https"
        && from.host() == to.host()
        && from.port().is_none()
        && to.port().is_none()
}

impl Downloader {
    /// A downloader that trusts, over https, the servers that `tls` trusts.
    ///
    /// # Errors
    /// [`ClientError::Client`].
    pub fn new(settings: DownloadSettings, tls: ClientConfig) -> Result<Self, ClientError> {
        let connections = EndpointSettings {
            connect_limit: settings.connect_limit,
            read_limit: settings.read_limit,
        };
        let http =
            http_client(tls, connections).map_err(|error| ClientError::Client(describe(&error)))?;
        Ok(Self { http, settings })
    }

    /// A downloader that trusts, over https, the servers that this host trusts.
    ///
    /// # Errors
    /// [`ClientError::Client`].
    pub fn public(settings: DownloadSettings) -> Result<Self, ClientError> {
        let tls = public_client_config().map_err(|error| ClientError::Client(error.to_string()))?;
        Self::new(settings, tls)
    }

    /// How long one caller of a store is kept waiting.
    pub(crate) fn wait_limit(&self) -> Duration {
        self.settings.wait_limit
    }

    /// Fetches `source` into `sink`. On failure the sink holds a part that is worth nothing.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub async fn fetch(&self, source: &Source, sink: &mut impl Sink) -> Result<(), DownloadError> {
        let limit = self.settings.total_limit;
        let fetch = async {
            let (place, response) = self.find(source).await?;
            self.receive(&place, response, sink).await
        };
        tokio::time::timeout(limit, fetch)
            .await
            .unwrap_or_else(|_| {
                Err(DownloadError::TooSlow {
                    place: source.place(),
                    seconds: limit.as_secs(),
                })
            })
    }

    /// Whether the server of `source` answers within `limit`, be it a refusal; the file is not fetched.
    pub async fn answers(&self, source: &Source, limit: Duration) -> bool {
        match tokio::time::timeout(limit, self.find(source)).await {
            Ok(Ok(_)) => true,
            Ok(Err(DownloadError::Status { status, .. })) => status < 500,
            Ok(Err(error)) => matches!(error, DownloadError::Redirect { .. }),
            Err(_) => false,
        }
    }

    /// Follows redirects to the answer that is the file.
    async fn find(&self, source: &Source) -> Result<(String, Response), DownloadError> {
        let mut source = source.clone();
        for _ in 0..=MAX_REDIRECTS {
            let place = source.place();
            let mut request = self.http.get(source.url.clone());
            if let Some(Credentials { username, password }) = &source.credentials {
                request = request.basic_auth(username, Some(password));
            }
            let response = request
                .send()
                .await
                .map_err(|error| transport(&place, &error))?;
            let status = response.status();
            match status {
                StatusCode::OK => return Ok((place, response)),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let location = response.headers().get(LOCATION).map(|value| value.to_str());
                    let next = match location {
                        Some(Ok(location)) => source.redirected(location),
                        Some(Err(_)) => Err("a redirect to no URL"),
                        None => Err("a redirect to nowhere"),
                    };
                    source = next.map_err(|problem| DownloadError::Redirect { place, problem })?;
                }
                _ => {
                    return Err(DownloadError::Status {
                        place,
                        status: status.as_u16(),
                    });
                }
            }
        }
        Err(DownloadError::Redirect {
            place: source.place(),
            problem: "more than 10 redirects",
        })
    }

    async fn receive(
        &self,
        place: &str,
        mut response: Response,
        sink: &mut impl Sink,
    ) -> Result<(), DownloadError> {
        let max = self.settings.max_bytes;
        let too_long = || DownloadError::TooLong {
            place: place.to_owned(),
            max,
        };
        let declared = response.content_length();
        if let Some(declared) = declared {
            if declared > max {
                return Err(too_long());
            }
            sink.expect(declared).await?;
        }
        let mut got = 0;
        loop {
            match response.chunk().await {
                Ok(Some(piece)) => {
                    got += piece.len() as u64;
                    if got > max {
                        return Err(too_long());
                    }
                    sink.write(&piece).await?;
                }
                Ok(None) => return Ok(()),
                // The connection's end before the promised one is an error of the connection.
                Err(error) => match declared {
                    Some(declared) if !error.is_timeout() => {
                        let place = place.to_owned();
                        return Err(DownloadError::Length {
                            place,
                            declared,
                            got,
                        });
                    }
                    _ => return Err(transport(place, &error)),
                },
            }
        }
    }
}

fn transport(place: &str, error: &reqwest::Error) -> DownloadError {
    // It was not even asked: what cannot be asked for is no URL, and another try would end the same.
    if error.is_builder() {
        return DownloadError::Url;
    }
    DownloadError::Transport {
        place: place.to_owned(),
        problem: describe(error),
    }
}

/// What went wrong and its first cause, without the URL that `reqwest` would show.
pub(crate) fn describe(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else if error.is_body() || error.is_decode() {
        "the answer broke off"
    } else {
        "no answer"
    };
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(Error::source) {
        cause = Some(deeper);
    }
    match cause {
        Some(cause) if !error.is_timeout() => format!("{what}: {cause}"),
        _ => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a redirect leads, and whether the credentials go along.
    fn redirected(from: &str, to: &str) -> Result<(String, bool), &'static str> {
        let source = Source::new(from, "", "secret").unwrap();
        let next = source.redirected(to)?;
        Ok((next.url.to_string(), next.credentials.is_some()))
    }

    fn to(url: &str, kept: bool) -> Result<(String, bool), &'static str> {
        Ok((url.to_owned(), kept))
    }

    #[test]
    fn credentials_follow_a_redirect_within_the_origin_only() {
        assert_eq!(redirected("http://a/x/y", "z"), to("http://a/x/z", true));
        assert_eq!(
            redirected("http://a/x", "/z?t=1"),
            to("http://a/z?t=1", true)
        );
        assert_eq!(
            redirected("http://a/x", "http://A:80/z"),
            to("http://a/z", true)
        );
        assert_eq!(
            redirected("http://a/x", "http://b/x"),
            to("http://b/x", false)
        );
        assert_eq!(redirected("http://a/x", "//b/x"), to("http://b/x", false));
        assert_eq!(
            redirected("http://a/x", "http://a:81/x"),
            to("http://a:81/x", false)
        );
        assert_eq!(
            redirected("http://a/x", "http://a.b/x"),
            to("http://a.b/x", false)
        );
        assert_eq!(
            redirected("https://a/x", "https://b/x"),
            to("https://b/x", false)
        );
    }

    #[test]
    fn credentials_follow_to_https_on_the_same_host() {
        assert_eq!(
            redirected("http://a/x", "https://a/x"),
            to("https://a/x", true)
        );
        assert_eq!(
            redirected("http://a/x", "https://a:8443/x"),
            to("https://a:8443/x", false)
        );
        assert_eq!(
            redirected("http://a:81/x", "https://a/x"),
            to("https://a/x", false)
        );
        assert_eq!(
            redirected("http://a/x", "https://b/x"),
            to("https://b/x", false)
        );
    }

    #[test]
    fn a_redirect_down_to_http_is_refused_while_credentials_are_held() {
        assert!(redirected("https://a/x", "http://a/x").is_err());
        assert!(redirected("https://a/x", "http://b/x").is_err());
        let open = Source::new("https://a/x", "", "").unwrap();
        assert!(open.redirected("http://a/x").is_ok());
    }

    #[test]
    fn a_redirect_gives_no_credentials_and_leaves_http_for_nothing_else() {
        let open = Source::new("http://a/x", "", "").unwrap();
        let next = open.redirected("http://user:pass@b/x").unwrap();
        assert_eq!(next.url.as_str(), "http://b/x");
        assert!(next.credentials.is_none());
        for location in [
            "file:///etc/passwd",
            "ftp://a/x",
            "data:,x",
            "http://",
            "unix:/x",
        ] {
            assert!(open.redirected(location).is_err(), "{location}");
        }
    }

    #[test]
    fn only_http_and_https_are_sources() {
        for url in [
            "",
            "x",
            "/etc/passwd",
            "file:///etc/passwd",
            "ftp://a/b",
            "http://",
            "data:,x",
        ] {
            assert_eq!(
                Source::new(url, "", "").unwrap_err(),
                DownloadError::Url,
                "{url}"
            );
        }
    }

    #[test]
    fn nothing_that_is_shown_of_a_source_holds_a_secret() {
        let source = Source::new("http://us3r:pa55@a:81/x/y?token=t0k#frag", "", "").unwrap();
        assert_eq!(source.place(), "http://a:81/x/y");
        assert_eq!(format!("{source:?}"), "Source { .. }");
    }
}
