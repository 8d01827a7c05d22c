//! Sockets that the service manager holds for the daemon, so that nobody finds the port closed while one daemon goes
//! and the next comes: calls made meanwhile wait in the socket's queue. Taken by `serve` before anything else is opened.
//!
//! ```text
//! pandabuildd.socket  ListenStream=192.0.2.7:8221 ──▶ LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES ──▶ Sockets
//! rack.toml           [front] listen, [[slot]] listen, [depot] listen ──▶ the held socket of that address, or a new one
//! ```
//!
//! Which socket is which is told by its address. One that no address of `rack.toml` is would answer nobody, and its
//! callers would wait for ever, so it ends the start.

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::config::Config;

/// The first descriptor that is passed.
const FIRST: u32 = 3;
/// More sockets than a rack could have addresses.
const MOST: u32 = 1000;
/// `st` of a socket that listens, in the kernel's table of TCP sockets.
const LISTENS: &str = "0A";

/// What is wrong with the sockets that were passed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// The variables are not as they should be.
    #[error(
        "LISTEN_FDS={given:?}: expected the number of sockets that were passed, at most {MOST}; start the daemon by \
         its unit, or unset LISTEN_FDS"
    )]
    Count {
        /// What the variable says.
        given: String,
    },
    /// A descriptor is no socket that listens.
    #[error(
        "socket {name} of those that LISTEN_FDS counts is {what}: expected one that listens for TCP connections; give \
         pandabuildd.socket `ListenStream=ADDRESS:PORT` lines only (Accept=no)"
    )]
    Kind {
        /// Its name, or its number.
        name: String,
        /// What it is.
        what: String,
    },
    /// Its address is none of ours.
    #[error(
        "the service manager holds {address} (socket {name}), which is no address of rack.toml; those are {known}: \
         make ListenStream= in pandabuildd.socket and `listen` in rack.toml the same, digit for digit"
    )]
    Address {
        /// Its name, or its number.
        name: String,
        /// Its address.
        address: SocketAddr,
        /// What `rack.toml` names.
        known: String,
    },
    /// Two have one address.
    #[error(
        "the service manager passes two sockets for {address}; keep one of them in pandabuildd.socket"
    )]
    Twice {
        /// The address.
        address: SocketAddr,
    },
    /// The system refused.
    #[error("socket {name} that the service manager passes cannot be used: {source}")]
    System {
        /// Its name, or its number.
        name: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Sockets that are held for us, by address.
#[derive(Debug, Default)]
pub(crate) struct Sockets(Vec<Held>);

#[derive(Debug)]
struct Held {
    name: String,
    address: SocketAddr,
    listener: TcpListener,
}

impl Sockets {
    /// Takes what was passed to this process; none where nothing was. To be called once, and before the process
    /// opens TCP sockets of its own.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub(crate) fn passed() -> Result<Self, SocketError> {
        let own = std::process::id().to_string();
        let Ok(given) = std::env::var("LISTEN_FDS") else {
            return Ok(Self::default());
        };
        if std::env::var("LISTEN_PID").is_ok_and(|pid| pid != own) {
            // Another process's; a parent has left its variables.
            return Ok(Self::default());
        }
        let count = given.parse().ok().filter(|count| *count <= MOST);
        let count: u32 = count.ok_or_else(|| SocketError::Count {
            given: given.chars().take(40).collect(),
        })?;
        // Looked at by number first: a descriptor that is something else of ours must not be taken over.
        for number in FIRST..FIRST + count {
            if let Err(what) = listens(number) {
                let name = format!("{} of {count}", number - FIRST + 1);
                return Err(SocketError::Kind { name, what });
            }
        }
        let passed = sd_listen_fds::get().map_err(|_| SocketError::Count { given })?;
        let named = (1..).zip(passed).map(|(number, (name, socket))| {
            let name = name.filter(|name| !name.is_empty());
            let name = name.map_or_else(
                || format!("{number} of {count}"),
                |name| format!("{name:?}"),
            );
            Held::new(name, socket.into_std())
        });
        named.collect::<Result<_, _>>().map(Self)
    }

    /// Every socket has an address of `config`, and no two the same.
    ///
    /// # Errors
    /// The first that has not.
    pub(crate) fn check(&self, config: &Config) -> Result<(), SocketError> {
        let known = addresses(config);
        let mut seen = HashSet::new();
        for held in &self.0 {
            let address = held.address;
            if !known.iter().any(|(_, known)| *known == address) {
                let known: Vec<String> = known
                    .iter()
                    .map(|(who, address)| format!("{who} {address}"))
                    .collect();
                return Err(SocketError::Address {
                    name: held.name.clone(),
                    address,
                    known: known.join(", "),
                });
            }
            if !seen.insert(address) {
                return Err(SocketError::Twice { address });
            }
        }
        Ok(())
    }

    /// The socket that is held for `address`, if any.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let place = self.0.iter().position(|held| held.address == address)?;
        let held = self.0.swap_remove(place);
        tracing::info!(%address, name = held.name, "the service manager holds this socket");
        Some(held.listener)
    }
}

impl Held {
    fn new(name: String, socket: OwnedFd) -> Result<Self, SocketError> {
        let listener = TcpListener::from(socket);
        let ready = || {
            // What the daemon starts must not hold the port.
            fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
            listener.set_nonblocking(true)?;
            listener.local_addr()
        };
        match ready() {
            Ok(address) => Ok(Self {
                name,
                address,
                listener,
            }),
            Err(source) => Err(SocketError::System { name, source }),
        }
    }
}

/// Every address that `config` listens on, and whose it is.
fn addresses(config: &Config) -> Vec<(String, SocketAddr)> {
    let front = config
        .front
        .listen
        .map(|address| ("[front]".to_owned(), address));
    let slots = config.slots.iter().filter_map(|slot| {
        let address = slot.own_address()?;
        Some((format!("slot {}", slot.name.get_ref()), address))
    });
    let depot = ("[depot]".to_owned(), config.depot.listen);
    front.into_iter().chain(slots).chain([depot]).collect()
}

/// Whether a descriptor of ours is a TCP socket that listens; else what it is.
fn listens(number: u32) -> Result<(), String> {
    let link = fs::read_link(format!("/proc/self/fd/{number}"))
        .map_err(|_| format!("a descriptor ({number}) that is not open"))?;
    let link = link.to_string_lossy().into_owned();
    let inode = link
        .strip_prefix("socket:[")
        .and_then(|rest| rest.strip_suffix(']'));
    let Some(inode) = inode else {
        return Err(format!("a file or pipe ({link})"));
    };
    let state = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .into_iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| {
            table
                .lines()
                .skip(1)
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .find(|fields| fields.get(9) == Some(&inode))
                .and_then(|fields| fields.get(3).map(ToString::to_string))
        });
    match state.as_deref() {
        Some(LISTENS) => Ok(()),
        Some(_) => Err("a TCP socket that does not listen".to_owned()),
        None => Err("a socket that is not of TCP".to_owned()),
    }
}
