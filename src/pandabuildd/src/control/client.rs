//! The command line's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use super::wire::{Answer, Ask, MAX_ANSWER, Question, Reply, VERSION};

/// How long an answer may take beyond what the question lets the daemon wait.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two looks for a daemon that is not there yet.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the daemon was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It cannot be reached.
    #[error("{}: {source}{}{}", path.display(), hint(source), super::server::long_hint(path))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon closed the connection: {0}; look at its log")]
    Broken(io::Error),
    /// It does not answer.
    #[error("the daemon has not answered within {0:?}; look at its log")]
    TimedOut(Duration),
    /// It speaks another version.
    #[error(
        "the daemon's answer is not understood ({0}); this program and the daemon must be of one release"
    )]
    Answer(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

impl ControlError {
    /// Whether no daemon is there (yet).
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Connect { source, .. }
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        )
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; no daemon runs there: start `pandabuildd serve`, or give its state directory's control.sock \
             with --socket or PANDABUILDD_SOCKET"
        }
        io::ErrorKind::PermissionDenied => "; only the daemon's own user and root may ask it",
        _ => "",
    }
}

/// Asks the daemon at `socket`; `waits` is how long the question itself lets it wait.
///
/// # Errors
/// See [`ControlError`].
pub async fn ask(socket: &Path, ask: Ask, waits: Duration) -> Result<Answer, ControlError> {
    let limit = waits.saturating_add(LIMIT);
    match timeout(limit, exchange(socket, ask)).await {
        Ok(answer) => answer,
        Err(_) => Err(ControlError::TimedOut(limit)),
    }
}

/// Asks as [`ask`], but a daemon that is not there yet is waited for too, within `waits`.
///
/// # Errors
/// See [`ControlError`].
pub async fn ask_when_there(
    socket: &Path,
    question: Ask,
    waits: Duration,
) -> Result<Answer, ControlError> {
    let until = Instant::now() + waits;
    loop {
        match ask(socket, question.clone(), waits).await {
            Err(error) if error.is_absence() && Instant::now() < until => sleep(PAUSE).await,
            answer => return answer,
        }
    }
}

async fn exchange(socket: &Path, ask: Ask) -> Result<Answer, ControlError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ControlError::Connect {
            path: socket.to_owned(),
            source,
        })?;
    let mut stream = BufReader::new(stream);
    let mut line = serde_json::to_vec(&Question {
        version: VERSION,
        ask,
    })
    .map_err(|error| ControlError::Answer(error.to_string()))?;
    line.push(b'\n');
    stream
        .write_all(&line)
        .await
        .map_err(ControlError::Broken)?;
    let mut answer = Vec::new();
    let most = MAX_ANSWER as u64 + 1;
    (&mut stream)
        .take(most)
        .read_until(b'\n', &mut answer)
        .await
        .map_err(ControlError::Broken)?;
    if answer.last() != Some(&b'\n') {
        return Err(ControlError::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    let reply: Reply =
        serde_json::from_slice(&answer).map_err(|error| ControlError::Answer(error.to_string()))?;
    match reply.answer {
        _ if reply.version != VERSION => {
            Err(ControlError::Answer(format!("version {}", reply.version)))
        }
        Answer::Refused { reason } => Err(ControlError::Refused(reason)),
        answer => Ok(answer),
    }
}
