//! Serves inputs as the librarian does: any file that was added, by its sum; slowly, where a test wants to act meanwhile.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use panda_protocol::digest::Sha1;

/// Into so many pieces a file is cut when it is served slowly.
const PIECES: usize = 10;

/// A server, until the test ends.
pub(crate) struct Inputs {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Is told of each step as it begins.
pub(crate) type Watcher = Arc<dyn Fn(&'static str) + Send + Sync>;

#[derive(Default)]
struct Shared {
    watcher: Mutex<Option<Watcher>>,
    files: Mutex<HashMap<String, Vec<u8>>>,
    pause_ms: AtomicU64,
}

impl Inputs {
    pub(crate) fn serve() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let served = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let served = served.clone();
                // A daemon that is killed breaks its connection.
                std::thread::spawn(move || answer(&stream, &served).ok());
            }
        });
        Ok(Self { address, shared })
    }

    /// From now on its URLs name this address, which is how the daemon's machine sees this one.
    pub(crate) fn seen_at(&mut self, address: IpAddr) {
        self.address.set_ip(address);
    }

    /// Adds a file: its sum and its URL.
    pub(crate) fn add(&self, bytes: Vec<u8>) -> (Sha1, String) {
        let sum = Sha1::of(&bytes);
        let mut files = self
            .shared
            .files
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        files.insert(sum.to_string(), bytes);
        (sum, format!("http://{}/{sum}", self.address))
    }

    pub(crate) fn watch(&self, watcher: Watcher) {
        let mut place = self
            .shared
            .watcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(watcher);
    }

    pub(crate) fn slow(&self, pause: Duration) {
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.shared.pause_ms.store(pause, Ordering::SeqCst);
    }
}

fn answer(stream: &TcpStream, shared: &Shared) -> Result<()> {
    let mut head = String::new();
    let mut reader = BufReader::new(stream);
    while !head.ends_with("\r\n\r\n") {
        anyhow::ensure!(reader.read_line(&mut head)? > 0, "closed");
    }
    let watcher = shared
        .watcher
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some(watcher) = watcher {
        watcher("download");
    }
    let name = head.split(' ').nth(1).context("a path")?;
    let files = shared.files.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = files
        .get(name.trim_start_matches('/'))
        .context("no such file")?
        .clone();
    drop(files);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        bytes.len()
    )?;
    for piece in bytes.chunks((bytes.len() / PIECES).max(1)) {
        let pause = Duration::from_millis(shared.pause_ms.load(Ordering::SeqCst));
        if !pause.is_zero() {
            std::thread::park_timeout(pause);
        }
        stream.write_all(piece)?;
    }
    Ok(())
}
