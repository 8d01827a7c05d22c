//! Serves a run's inputs as the librarian does: by address, private ones only to who sends the token at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use http::StatusCode;
use http::header::AUTHORIZATION;
use panda_http::ServerSettings;
use panda_http::body::{bytes_response, text_response};
use panda_protocol::digest::Sha1;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// `Basic` and base64 of `:tok:en/1`.
const CREDENTIALS: &str = "Basic OnRvazplbi8x";

/// What is to be served, at an address that is known beforehand.
#[derive(Debug)]
pub(crate) struct Inputs {
    listener: TcpListener,
    address: SocketAddr,
    files: BTreeMap<String, (Vec<u8>, bool)>,
}

impl Inputs {
    pub(crate) async fn new(address: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Self {
            listener,
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

    /// Serves until the guard is dropped.
    pub(crate) fn serve(self) -> DropGuard {
        let stop = CancellationToken::new();
        let files = Arc::new(self.files);
        tokio::spawn(panda_http::serve(
            self.listener,
            None,
            ServerSettings::default(),
            stop.clone(),
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
        ));
        stop.drop_guard()
    }
}
