//! The daemon's end of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use panda_protocol::launchpad::Dialect;
use panda_slot::{Answer as SlotAnswer, Board};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::describe;
use super::ppa::Rpc;
use super::wire::{Answer, Ask, MAX_ASK, MAX_BOOTS, Question, Reply, ResetEnd, SlotInfo, VERSION};
use crate::boot::INSECURE;
use crate::console::Consoles;
use crate::failpoint::{self, Point};
use crate::ledger::Ledger;
use crate::slot::SlotHandle;
use crate::webservice::Duty;

/// Connections at once.
const CONNECTIONS: usize = 64;
/// How long a connection may be idle, and an answer unread.
const IDLE: Duration = Duration::from_secs(60);
/// The longest that anybody may wait for a slot.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[error("control socket {}: {source}{}", path.display(), long_hint(path))]
pub struct ControlServerError {
    path: PathBuf,
    source: io::Error,
}

/// The longest path of a Unix socket: 108 bytes with its NUL.
const LONGEST_PATH: usize = 107;

/// What the system's own words for it do not say.
pub(super) fn long_hint(path: &Path) -> &'static str {
    if path.as_os_str().len() > LONGEST_PATH {
        "; Linux takes at most 107 bytes for a socket's path: use a shorter state directory"
    } else {
        ""
    }
}

/// What operators may ask of.
#[derive(Debug)]
pub struct Desk {
    /// The slots, in the order of `rack.toml`.
    pub slots: Vec<Operated>,
    /// What their consoles have said.
    pub consoles: Consoles,
    /// For the history of boots.
    pub ledger: Ledger,
    /// Which manager the rack speaks to.
    pub dialect: Dialect,
    /// Whether that manager knows the builders as virtualised.
    pub virtualized: bool,
}

/// A slot that operators may ask of.
#[derive(Debug)]
pub struct Operated {
    /// The slot.
    pub handle: SlotHandle,
    /// The host names that Launchpad knows it by.
    pub hosts: Vec<String>,
    /// Its RPC, as Launchpad reaches it.
    pub rpc: Rpc,
    /// Its duty towards Launchpad's web service, where one is configured.
    pub duty: Option<Duty>,
}

/// A control socket that nobody answers at yet.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    path: PathBuf,
}

/// Makes the socket at `path`. One that an earlier daemon has left is replaced: whoever calls holds the state
/// directory's lock.
///
/// # Errors
/// The socket cannot be made.
pub fn bind(path: &Path) -> Result<Bound, ControlServerError> {
    let path = path.to_owned();
    match bind_private(&path) {
        Ok(listener) => Ok(Bound { listener, path }),
        Err(source) => Err(ControlServerError { path, source }),
    }
}

/// Answers at `bound` until `stop`.
pub fn serve(bound: Bound, desk: Desk, stop: CancellationToken) -> JoinHandle<()> {
    let Bound { listener, path } = bound;
    tokio::spawn(async move {
        let desk = Arc::new(desk);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        tracing::warn!("control socket: too many connections; one is closed");
                        continue;
                    };
                    let (desk, stop) = (desk.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            ended = desk.converse(stream) => if let Err(error) = ended {
                                tracing::debug!(%error, "control connection ended");
                            },
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control socket: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, "the control socket was gone already");
        }
    })
}

/// Nobody else can open the socket at any moment: it is made in a directory of ours alone, and moved.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let private = tempfile::Builder::new()
        .prefix(".c")
        .rand_bytes(4)
        .tempdir_in(directory)?;
    let made = private.path().join("s");
    let listener = UnixListener::bind(&made)?;
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o600))?;
    failpoint::around(Point::ControlSocket, String::new, || {
        std::fs::rename(&made, path)
    })?;
    Ok(listener)
}

impl Desk {
    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut stream).take(MAX_ASK as u64 + 1);
            match timeout(IDLE, bounded.read_until(b'\n', &mut line)).await {
                Err(_) | Ok(Ok(0)) => return Ok(()),
                Ok(read) => read?,
            };
            let whole = line.last() == Some(&b'\n');
            let answer = if whole {
                match question(&line) {
                    Ok(ask) => tokio::select! {
                        answer = self.take(ask) => answer,
                        // Who asked has gone: nobody waits any more.
                        gone = gone(&mut stream) => return gone,
                    },
                    Err(reason) => Answer::Refused { reason },
                }
            } else {
                Answer::Refused {
                    reason: format!("a question has one line of at most {MAX_ASK} bytes"),
                }
            };
            let mut reply = serde_json::to_vec(&Reply {
                version: VERSION,
                answer,
            })?;
            reply.push(b'\n');
            timeout(IDLE, stream.write_all(&reply)).await??;
            if !whole {
                return Ok(());
            }
        }
    }

    /// Answers; an order passes its failpoint.
    async fn take(&self, ask: Ask) -> Answer {
        let order = match &ask {
            Ask::Reset { .. } => Some(Point::ControlReset),
            Ask::PpaReset { .. } => Some(Point::ControlPpaReset),
            // Nothing changes by these.
            Ask::Slots { .. }
            | Ask::SshRefused { .. }
            | Ask::Console { .. }
            | Ask::Type { .. }
            | Ask::Boots { .. } => None,
        };
        order.into_iter().for_each(failpoint::before);
        let answer = self.answer(ask).await;
        order.into_iter().for_each(failpoint::after);
        answer
    }

    async fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Slots {
                fresh_within_seconds,
            } => {
                let in_time = match fresh_within_seconds {
                    Some(seconds) => {
                        let fresh = join_all(self.slots.iter().map(|slot| fresh(&slot.handle)));
                        let all = timeout(wait(Duration::from_secs(seconds)), fresh).await;
                        all.is_ok_and(|slots| slots.into_iter().all(|fresh| fresh))
                    }
                    None => true,
                };
                let mut slots: Vec<_> = self.slots.iter().map(|slot| self.describe(slot)).collect();
                for slot in &mut slots {
                    self.warn(slot).await;
                }
                Answer::Slots { slots, in_time }
            }
            Ask::Reset {
                slot,
                force,
                wait_seconds,
            } => self.reset(&slot, force, wait_seconds).await,
            Ask::PpaReset { name, wait_ms } => self.ppa_reset(&name, wait_ms).await,
            Ask::SshRefused { from, command } => {
                // Shown as Debug does: in one line, without control characters.
                tracing::warn!(?from, ?command, "refused over SSH");
                Answer::Recorded
            }
            Ask::Console {
                slot,
                boot,
                from,
                wait_seconds,
            } => self.console(&slot, boot, from, wait_seconds).await,
            Ask::Type { slot, keys } => self.type_keys(&slot, keys).await,
            Ask::Boots { slot, limit } => self.boots(slot.as_deref(), limit).await,
        }
    }

    async fn reset(&self, name: &str, force: bool, wait_seconds: Option<u64>) -> Answer {
        let refused = |reason: String| Answer::Refused { reason };
        let Some(slot) = self.slots.iter().find(|slot| slot.handle.name() == name) else {
            return self.no_such(name);
        };
        let begun = match slot.handle.operator_reset(force).await {
            Ok(SlotAnswer::Ready) => ResetEnd::Fresh,
            Ok(SlotAnswer::Joined) => ResetEnd::UnderWay,
            Ok(SlotAnswer::Refused(refusal)) => return refused(format!("{name}: {refusal}")),
            Ok(_) => {
                return refused(format!(
                    "{name}: the reset was answered with something else"
                ));
            }
            Err(closed) => return refused(closed.to_string()),
        };
        let end = match (begun, wait_seconds) {
            (ResetEnd::UnderWay, Some(seconds)) => {
                match timeout(wait(Duration::from_secs(seconds)), settled(&slot.handle)).await {
                    Ok(end) => end,
                    Err(_) => ResetEnd::UnderWay,
                }
            }
            (begun, _) => begun,
        };
        Answer::Reset {
            slot: self.describe(slot),
            end,
        }
    }

    async fn boots(&self, name: Option<&str>, limit: u32) -> Answer {
        if let Some(name) = name
            && !self.slots.iter().any(|slot| slot.handle.name() == name)
        {
            return self.no_such(name);
        }
        match self.ledger.boots(name, limit.min(MAX_BOOTS)).await {
            Ok(boots) => Answer::Boots { boots },
            Err(error) => Answer::Refused {
                reason: error.to_string(),
            },
        }
    }

    /// A slot whose last boot was of an image for demonstrations is shown as what it is.
    async fn warn(&self, slot: &mut SlotInfo) {
        let last = self.ledger.boots(Some(&slot.slot), 1).await;
        let insecure = last.iter().flatten().flat_map(|boot| &boot.steps);
        if insecure.into_iter().any(|step| step.name == INSECURE) {
            let what = "INSECURE IMAGE, for demonstrations only".to_owned();
            let mut parts = vec![what, std::mem::take(&mut slot.detail)];
            parts.retain(|part| !part.is_empty());
            slot.detail = parts.join("; ");
        }
    }

    fn no_such(&self, name: &str) -> Answer {
        Answer::Refused {
            reason: self.unknown(name),
        }
    }

    pub(super) fn unknown(&self, name: &str) -> String {
        let known: Vec<&str> = self.slots.iter().map(|slot| slot.handle.name()).collect();
        format!("no slot {name:?}; this rack has {}", known.join(", "))
    }

    pub(super) fn describe(&self, slot: &Operated) -> SlotInfo {
        let view = slot.handle.view();
        let mut info = describe(
            slot.handle.name(),
            &slot.hosts,
            &view,
            self.dialect,
            self.virtualized,
        );
        if let Some(note) = slot.duty.as_ref().and_then(Duty::note) {
            let mut parts = vec![std::mem::take(&mut info.detail), note];
            parts.retain(|part| !part.is_empty());
            info.detail = parts.join("; ");
        }
        info
    }
}

fn question(line: &[u8]) -> Result<Ask, String> {
    let question: Question = serde_json::from_slice(line).map_err(|error| {
        format!("the question is not understood: {error}; is the daemon of another release?")
    })?;
    if question.version == VERSION {
        Ok(question.ask)
    } else {
        Err(format!(
            "version {} is not spoken here, only {VERSION}",
            question.version
        ))
    }
}

pub(super) fn wait(wanted: Duration) -> Duration {
    wanted.min(LONGEST_WAIT)
}

/// The client has closed its end. One that sends its next question early is waited for instead.
async fn gone(stream: &mut BufReader<UnixStream>) -> io::Result<()> {
    if stream.fill_buf().await?.is_empty() {
        return Ok(());
    }
    std::future::pending().await
}

/// Waits until the slot is Fresh; false when the daemon stops.
async fn fresh(slot: &SlotHandle) -> bool {
    slot.watch().wait_for(|view| view.is_fresh()).await.is_ok()
}

/// Waits for the end of a reset.
async fn settled(slot: &SlotHandle) -> ResetEnd {
    let mut watch = slot.watch();
    let settled = watch
        .wait_for(|view| {
            view.is_fresh() || matches!(view.slot.board, Board::Failed { .. } | Board::Off)
        })
        .await;
    match settled {
        Ok(view) if view.is_fresh() => ResetEnd::Fresh,
        Ok(_) => ResetEnd::Failed,
        Err(_) => ResetEnd::UnderWay,
    }
}
