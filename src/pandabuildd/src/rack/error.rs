//! Why a rack does not start, and what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use panda_board::settings::Mistake;
use panda_http::endpoint::ClientError;
use panda_http::pinned::PinnedError;

use super::sockets::SocketError;
use crate::filecache::FilecacheError;
use crate::identity::IdentityError;
use crate::ledger::LedgerError;
use crate::operators;
use crate::webservice::WebServiceError;
use panda_image::ImageError;

/// Why a rack does not start. Every message says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RackError {
    /// The state directory.
    #[error("state directory {}: {source}; the daemon needs a directory of its own that it may write", path.display())]
    State {
        /// The directory, or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error("state directory {}: another pandabuildd uses it; stop that one, or give this one a directory of its own", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// An address cannot be listened on.
    #[error("{who} cannot listen on {address}: {source}{}", listen_hint(source))]
    Listen {
        /// `[front]`, `[depot]`, `slot panda01`.
        who: String,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A socket that the service manager holds for us.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The master's key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The master's certificate.
    #[error(transparent)]
    Pinned(#[from] PinnedError),
    /// The inputs.
    #[error(transparent)]
    Filecache(#[from] FilecacheError),
    /// Launchpad's web service.
    #[error(transparent)]
    WebService(#[from] WebServiceError),
    /// A client for a slot's own RPC.
    #[error("slot {slot}: {source}")]
    Rpc {
        /// The slot.
        slot: String,
        /// Why.
        source: ClientError,
    },
    /// A driver that cannot work here.
    #[error("slot {slot}: [slot.{table}]: {mistake}")]
    Driver {
        /// The slot.
        slot: String,
        /// `power`, `pipe`, `sense` or `console`.
        table: &'static str,
        /// Which, where a slot has several.
        index: Option<usize>,
        /// The key, and what is wrong.
        mistake: Mistake,
    },
    /// Several things, each by itself.
    #[error("{}", lines(.0))]
    Several(Vec<RackError>),
    /// The operators' socket.
    #[error(transparent)]
    Operators(#[from] operators::SocketError),
    /// A task that ends by itself has a fault.
    #[error("the daemon's start was cut short")]
    Interrupted,
}

impl RackError {
    /// All of `errors` as one; nothing where there are none.
    ///
    /// # Errors
    /// There are some.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match (errors.pop(), errors.is_empty()) {
            (None, _) => Ok(()),
            (Some(one), true) => Err(one),
            (Some(last), false) => {
                errors.push(last);
                Err(Self::Several(errors))
            }
        }
    }
}

/// One a line.
fn lines(errors: &[RackError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has it: stop that one (`ss -ltnp` names it), or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        _ => "",
    }
}
