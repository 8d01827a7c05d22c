//! A board's serial console: keeps the last bytes, and hands what comes to every reader. A reader that is too
//! slow is dropped, so that none can hold up the machine.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// How many bytes are kept for a new reader.
pub const KEPT: usize = 64 * 1024;
/// How many pieces may wait for one reader before it is too slow.
const QUEUE: usize = 256;
/// How many readers there may be.
const MAX_READERS: usize = 16;

/// What was said at once, shared by all readers.
type Piece = Arc<[u8]>;

/// One board's console; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Console(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    kept: VecDeque<u8>,
    readers: Vec<mpsc::Sender<Piece>>,
}

impl Console {
    /// A console that nothing was said on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine says something.
    pub fn push(&self, bytes: &[u8]) {
        let mut inner = self.lock();
        inner
            .kept
            .extend(&bytes[bytes.len().saturating_sub(KEPT)..]);
        let over = inner.kept.len().saturating_sub(KEPT);
        inner.kept.drain(..over);
        if !inner.readers.is_empty() {
            let piece: Piece = bytes.into();
            inner
                .readers
                .retain(|reader| reader.try_send(Arc::clone(&piece)).is_ok());
        }
    }

    /// The twin itself says something: a line of its own, marked as such.
    pub fn note(&self, line: &str) {
        self.push(format!("[twin] {line}\r\n").as_bytes());
    }

    /// What is kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> Vec<u8> {
        self.lock().kept.iter().copied().collect()
    }

    /// What is kept, and then every later piece.
    fn subscribe(&self) -> Option<(Vec<u8>, mpsc::Receiver<Piece>)> {
        let mut inner = self.lock();
        inner.readers.retain(|reader| !reader.is_closed());
        if inner.readers.len() == MAX_READERS {
            return None;
        }
        let (reader, pieces) = mpsc::channel(QUEUE);
        inner.readers.push(reader);
        Some((inner.kept.iter().copied().collect(), pieces))
    }

    /// Serves one reader until it leaves or is too slow.
    pub async fn serve(self, stream: UnixStream) {
        let Some((kept, mut pieces)) = self.subscribe() else {
            tracing::warn!("a console has {MAX_READERS} readers already; one more is refused");
            return;
        };
        let (mut reader, mut writer) = stream.into_split();
        let send = async {
            writer.write_all(&kept).await?;
            while let Some(piece) = pieces.recv().await {
                writer.write_all(&piece).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        let left = async {
            let mut ignored = [0; 256];
            while reader.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {}
        };
        tokio::select! {
            sent = send => tracing::debug!(?sent, "a console reader was dropped"),
            () = left => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn connect(console: &Console) -> UnixStream {
        let (near, far) = UnixStream::pair().unwrap();
        tokio::spawn(console.clone().serve(far));
        near
    }

    #[tokio::test]
    async fn a_new_reader_gets_what_was_kept_and_then_what_comes() {
        let console = Console::new();
        console.push(b"before ");
        let mut reader = connect(&console).await;
        let mut bytes = [0; 7];
        reader.read_exact(&mut bytes).await.unwrap();
        console.push(b"after");
        let mut later = [0; 5];
        reader.read_exact(&mut later).await.unwrap();
        assert_eq!((&bytes, &later), (b"before ", b"after"));
    }

    #[tokio::test]
    async fn the_last_64_kib_are_kept() {
        let console = Console::new();
        console.push(b"lost");
        console.push(&[b'x'; KEPT - 1]);
        console.push(b"!");
        let (kept, _pieces) = console.subscribe().unwrap();
        assert_eq!(kept.len(), KEPT);
        assert_eq!((kept[0], kept[KEPT - 1]), (b'x', b'!'));
        console.push(&[b'y'; 3 * KEPT]);
        assert_eq!(console.subscribe().unwrap().0, [b'y'; KEPT]);
    }

    #[tokio::test]
    async fn a_slow_reader_is_dropped_and_does_not_hold_up_others() {
        let console = Console::new();
        let (_, slow) = console.subscribe().unwrap();
        let mut quick = connect(&console).await;
        for _ in 0..QUEUE + 1 {
            console.push(b"x");
            let mut byte = [0];
            quick.read_exact(&mut byte).await.unwrap();
        }
        assert!(slow.is_closed());
        assert_eq!(console.lock().readers.len(), 1);
    }

    #[tokio::test]
    async fn readers_are_bounded_and_those_that_left_make_room() {
        let console = Console::new();
        let mut readers: Vec<_> = (0..MAX_READERS)
            .map(|_| console.subscribe().unwrap())
            .collect();
        assert!(console.subscribe().is_none());
        readers.pop();
        assert!(console.subscribe().is_some());
    }
}
