//! The command line's end of the operators' interface.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http_body_util::Full;
use nix::unistd::{Gid, Group, Uid, User};
use panda_http::unix::{UnixError, exchange};
use panda_protocol::operators::{
    MAX_ANSWER, MAX_ON_BEHALF_OF, ON_BEHALF_OF, Problem, ProblemKind, Request,
};
use tokio::time::{Instant, sleep};

use super::settings::{DEFAULT, FORMER, long_hint};

/// How long an answer may take beyond what the request lets the daemon wait.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks for a daemon that is not there yet.
const PAUSE: Duration = Duration::from_millis(100);

/// A daemon to be asked.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    socket: PathBuf,
    /// Where it may be instead: one of an earlier release, or one whose user may not make the usual directory.
    former: Option<PathBuf>,
    on_behalf_of: Option<String>,
    /// That it was found there has been told.
    told: Arc<AtomicBool>,
}

/// Why the daemon was not asked, or did not answer well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It cannot be reached.
    #[error("{}: {source}{}{}", path.display(), Hint(path, source), long_hint(path))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon closed the connection: {0}; look at its log")]
    Broken(String),
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
    Problem(Problem),
}

impl AskError {
    /// Whether no daemon is there (yet), or it has just gone.
    #[must_use]
    pub(crate) fn is_absence(&self) -> bool {
        match self {
            Self::Connect { source, .. } => is_nobody(source),
            Self::Problem(problem) => problem.kind == ProblemKind::Stopping,
            Self::Broken(_) => true,
            Self::TimedOut(_) | Self::Answer(_) => false,
        }
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

impl Daemon {
    /// The one that listens at `socket`.
    #[must_use]
    pub(crate) fn at(socket: PathBuf) -> Self {
        Self {
            socket,
            former: None,
            on_behalf_of: None,
            told: Arc::default(),
        }
    }

    /// The one of this machine.
    #[must_use]
    pub(crate) fn usual() -> Self {
        Self {
            former: Some(PathBuf::from(FORMER)),
            ..Self::at(PathBuf::from(DEFAULT))
        }
    }

    /// Has what is asked recorded as asked for somebody: what is not printable ASCII is left out of the name.
    #[must_use]
    pub(crate) fn on_behalf_of(mut self, name: Option<String>) -> Self {
        let plain = |name: String| -> String {
            let plain = name.chars().filter(|c| matches!(c, ' '..='~'));
            plain.take(MAX_ON_BEHALF_OF).collect()
        };
        self.on_behalf_of = name.map(plain).filter(|name| !name.is_empty());
        self
    }

    /// Asks; `waits` is how long the request itself lets the daemon wait.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(crate) async fn ask<R: Request>(
        &self,
        request: &R,
        waits: Duration,
    ) -> Result<R::Answer, AskError> {
        let first = self.ask_at(&self.socket, request, waits).await;
        let Some(former) = &self.former else {
            return first;
        };
        match &first {
            Err(AskError::Connect { source, .. }) if is_nobody(source) => {}
            _ => return first,
        }
        match self.ask_at(former, request, waits).await {
            // The usual place is the one to tell of.
            Err(AskError::Connect { source, .. }) if is_nobody(&source) => first,
            asked => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    eprintln!(
                        "pandabuildd: the daemon listens at {}, where it used to, and not at {}; name it with --socket",
                        former.display(),
                        self.socket.display()
                    );
                }
                asked
            }
        }
    }

    /// Asks as [`Daemon::ask`], but a daemon that is not there yet is waited for too: `request` is made with the time that
    /// is left of `waits`.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(crate) async fn ask_when_there<R: Request>(
        &self,
        request: impl Fn(Duration) -> R,
        waits: Duration,
    ) -> Result<R::Answer, AskError> {
        let until = Instant::now() + waits;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.ask(&request(left), left).await {
                Err(error) if error.is_absence() && Instant::now() < until => sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }

    async fn ask_at<R: Request>(
        &self,
        socket: &Path,
        request: &R,
        waits: Duration,
    ) -> Result<R::Answer, AskError> {
        let mut http = http::Request::builder()
            .method(R::METHOD.as_str())
            .uri(request.target())
            .header(HOST, "pandabuildd")
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json");
        if let Some(name) = &self.on_behalf_of {
            http = http.header(ON_BEHALF_OF, name);
        }
        let http = http.body(Full::new(Bytes::from(request.body())));
        let http = http.map_err(|error| AskError::Answer(error.to_string()))?;
        let limit = waits.saturating_add(LIMIT);
        let answer = exchange(socket, http, MAX_ANSWER, limit).await;
        let answer = answer.map_err(|error| match error {
            UnixError::Connect(source) => AskError::Connect {
                path: socket.to_owned(),
                source,
            },
            UnixError::Broken(error) => AskError::Broken(error.to_string()),
            UnixError::TimedOut(limit) => AskError::TimedOut(limit),
            other @ (UnixError::NotHttp(_) | UnixError::TooLong(_)) => {
                AskError::Answer(other.to_string())
            }
        })?;
        let status = answer.status();
        let body = answer.into_body();
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| AskError::Answer(error.to_string()));
        }
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(AskError::Problem(problem)),
            Err(_) => Err(AskError::Answer(format!("HTTP status {status}"))),
        }
    }
}

/// What to do about a socket that cannot be opened.
struct Hint<'a>(&'a Path, &'a io::Error);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path, error) = self;
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => f.write_str(
                "; no daemon runs there: start `pandabuildd serve`, or name its socket ([operators] socket of its \
                 rack.toml) with --socket or PANDABUILDD_SOCKET",
            ),
            io::ErrorKind::PermissionDenied => write!(f, "; {}", who_may(path)),
            _ => Ok(()),
        }
    }
}

/// Who may ask at a socket, by its owner and its mode.
fn who_may(path: &Path) -> String {
    let Ok(socket) = std::fs::metadata(path) else {
        return "only the daemon's own user and root may ask it".to_owned();
    };
    let user = User::from_uid(Uid::from_raw(socket.uid())).ok().flatten();
    let user = user.map_or_else(
        || format!("user {}", socket.uid()),
        |user| format!("user {}", user.name),
    );
    if socket.mode() & 0o020 == 0 {
        return format!(
            "only {user} and root may ask the daemon; [operators] group of its rack.toml lets a group do so"
        );
    }
    let group = Group::from_gid(Gid::from_raw(socket.gid())).ok().flatten();
    let group = group.map_or_else(|| socket.gid().to_string(), |group| group.name);
    format!("only {user}, members of the group {group} and root may ask the daemon")
}
