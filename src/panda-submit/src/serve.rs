//! Gives a builder the files of a build over HTTP. The addresses hold 128 random bits, nothing is listed,
//! and only the files of this build can be asked for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use panda_http::body::text_response;
use panda_http::ranges::file_response;
use panda_http::{Body, ServedFile, ServerSettings};
use panda_protocol::digest::Sha1;
use tokio::net::{TcpListener, UdpSocket, lookup_host};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

/// Where to serve: an address, and a port where it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    address: IpAddr,
    port: u16,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(place) = text.parse::<SocketAddr>() {
            return Ok(Self {
                address: place.ip(),
                port: place.port(),
            });
        }
        text.trim_matches(['[', ']'])
            .parse()
            .map(|address| Self { address, port: 0 })
            .map_err(|_| {
                "expected an IP address of this machine, ADDRESS or ADDRESS:PORT".to_owned()
            })
    }
}

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct FileServer {
    base: String,
    files: Files,
    _stop: DropGuard,
}

type Files = Arc<Mutex<BTreeMap<String, PathBuf>>>;

impl FileServer {
    /// Listens where the builder at `builder` can reach it, or at `place`.
    ///
    /// # Errors
    /// The builder's name is unknown, or the place cannot be listened on.
    pub(crate) async fn start(builder: &str, place: Option<&Place>) -> anyhow::Result<Self> {
        let place = match place {
            Some(place) if !place.address.is_unspecified() => *place,
            other => Place {
                address: facing(builder).await?,
                port: other.map_or(0, |place| place.port),
            },
        };
        let listener = TcpListener::bind((place.address, place.port)).await.with_context(|| {
            format!(
                "--serve: {} port {} cannot be listened on; name an address of this machine, and a port that is free",
                place.address, place.port
            )
        })?;
        let token = token()?;
        let base = format!("http://{}/{token}/", listener.local_addr()?);
        let files = Files::default();
        let stop = CancellationToken::new();
        let served = files.clone();
        let prefix: Arc<str> = format!("/{token}/").into();
        let handler = move |request: Request<Incoming>, _| {
            let (served, prefix) = (served.clone(), prefix.clone());
            async move { answer(&served, &prefix, &request).await }
        };
        let settings = ServerSettings::default();
        tokio::spawn(panda_http::serve(
            listener,
            None,
            settings,
            stop.clone(),
            handler,
        ));
        Ok(Self {
            base,
            files,
            _stop: stop.drop_guard(),
        })
    }

    /// Serves `path` from now on; returns its address.
    pub(crate) fn add(&self, sha1: Sha1, path: &Path) -> String {
        let name = sha1.to_string();
        let url = format!("{}{name}", self.base);
        self.files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, path.to_owned());
        url
    }
}

async fn answer(files: &Files, prefix: &str, request: &Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().strip_prefix(prefix).and_then(|name| {
        files
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    });
    let Some(path) = path else {
        return text_response(StatusCode::NOT_FOUND, "not found");
    };
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return text_response(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    }
    match ServedFile::open(&path).await {
        Ok(Some(file)) => file_response(request.method(), request.headers(), file).await,
        Ok(None) => text_response(StatusCode::NOT_FOUND, "not found"),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot be served to the builder");
            text_response(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read")
        }
    }
}

/// This machine's address on the way to the builder.
async fn facing(builder: &str) -> anyhow::Result<IpAddr> {
    let url = Url::parse(builder).context("--builder: not a URL; expected http://HOST:PORT")?;
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        bail!("--builder: expected http://HOST:PORT");
    };
    let host = host.trim_matches(['[', ']']);
    let peer = lookup_host((host, port))
        .await
        .ok()
        .and_then(|mut addresses| addresses.next())
        .with_context(|| format!("--builder: the host name {host} is not known"))?;
    let any: IpAddr = if peer.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // Connecting a UDP socket sends nothing; it only asks the routing table.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket
        .connect(peer)
        .await
        .context("there is no route to the builder; give an address with --serve")?;
    Ok(socket.local_addr()?.ip())
}

fn token() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_with_or_without_a_port() {
        let place = |text: &str| {
            text.parse::<Place>()
                .map(|place| (place.address.to_string(), place.port))
        };
        assert_eq!(place("10.0.0.1"), Ok(("10.0.0.1".into(), 0)));
        assert_eq!(place("10.0.0.1:8000"), Ok(("10.0.0.1".into(), 8000)));
        assert_eq!(place("[::1]:8000"), Ok(("::1".into(), 8000)));
        assert!(place("localhost").is_err() && place("").is_err());
    }

    async fn get(url: &str) -> (u16, String) {
        let url = Url::parse(url).unwrap();
        let mut stream =
            tokio::net::TcpStream::connect((url.host_str().unwrap(), url.port().unwrap()))
                .await
                .unwrap();
        let request = format!("GET {} HTTP/1.0\r\n\r\n", url.path());
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)
            .await
            .unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn only_the_builds_files_are_served_and_only_under_the_token() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "data").unwrap();
        let server = FileServer::start("http://127.0.0.1:9", None).await.unwrap();
        let sha1 = Sha1::of(b"data");
        let url = server.add(sha1, &path);
        assert_eq!(get(&url).await, (200, "data".into()));
        assert_eq!(get(&server.base).await.0, 404);
        assert_eq!(
            get(&format!("{}{}", server.base, Sha1::of(b"other")))
                .await
                .0,
            404
        );
        let mut bare = Url::parse(&url).unwrap();
        bare.set_path(&sha1.to_string());
        assert_eq!(get(bare.as_str()).await.0, 404);
    }
}
