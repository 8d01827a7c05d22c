//! Serves a run's inputs as the librarian does: by address, private ones only to who sends the token at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http::StatusCode;
use http::header::AUTHORIZATION;
use panda_http::ServerSettings;
use panda_http::body::{bytes_response, text_response};
use panda_protocol::digest::Sha1;
use tokio::net::TcpSocket;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

/// `Basic` and base64 of `:tok:en/1`.
const CREDENTIALS: &str = "Basic OnRvazplbi8x";

/// What is to be served, at an address that is known beforehand.
#[derive(Debug)]
pub(crate) struct Inputs {
    /// It refuses connections until it listens.
    socket: TcpSocket,
    address: SocketAddr,
    files: BTreeMap<String, (Vec<u8>, bool)>,
}

impl Inputs {
    pub(crate) fn new(address: IpAddr) -> Result<Self> {
        let socket = match address {
            IpAddr::V4(_) => TcpSocket::new_v4()?,
            IpAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.bind((address, 0).into())?;
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            address,
            files: BTreeMap::new(),
        })
    }

    /// Adds a file: its sum, its URL, and the password, if it is private.
    pub(crate) fn add(
        &mut self,
        bytes: Vec<u8>,
        password: &'static str,
    ) -> (String, String, &'static str) {
        let sum = Sha1::of(&bytes).to_string();
        let path = format!("/{sum}");
        let url = format!("http://{}{path}", self.address);
        self.files.insert(path, (bytes, !password.is_empty()));
        (sum, url, password)
    }

    /// Serves until the guard is dropped, after an outage.
    pub(crate) fn serve(self, outage: Duration) -> DropGuard {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        tokio::spawn(async move {
            sleep(outage).await;
            if let Err(error) = self.listen(stop).await {
                eprintln!("the inputs cannot be served: {error:#}");
            }
        });
        guard
    }

    async fn listen(self, stop: CancellationToken) -> Result<()> {
        let listener = self.socket.listen(1024)?;
        let files = Arc::new(self.files);
        panda_http::serve(
            listener,
            None,
            ServerSettings::default(),
            stop,
            move |request, _| {
                let files = Arc::clone(&files);
                async move {
                    let sent = request.headers().get(AUTHORIZATION);
                    let knows = sent.is_some_and(|sent| sent == CREDENTIALS);
                    match files.get(request.uri().path()) {
                        Some((bytes, private)) if knows || !private => bytes_response(
                            StatusCode::OK,
                            "application/octet-stream",
                            bytes.clone(),
                        ),
                        Some(_) => text_response(StatusCode::UNAUTHORIZED, "who are you?"),
                        None => text_response(StatusCode::NOT_FOUND, "not found"),
                    }
                }
            },
        )
        .await;
        Ok(())
    }
}
