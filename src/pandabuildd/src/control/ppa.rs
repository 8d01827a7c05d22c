//! Launchpad's own reset, as its manager runs it by a command (`vm_resume_command`): by any name that it
//! knows the slot by, whatever the slot has, and done only when a dispatch would be served.
//!
//! ```text
//! name ─▶ slot ─▶ [2.0: the duty to tell Launchpad, in the ledger] ─▶ Reset ─▶ [1.1: Fresh, and its RPC answers]
//! ```
//!
//! The manager counts every failed command against the builder at once. So whatever ends by itself (a boot
//! under way, a daemon that restarts) is waited for, and a name that could mean two slots is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use dxr::Value;
use panda_http::client::ClientLimits;
use panda_http::endpoint::{ClientError, EndpointSettings};
use panda_http::{BuilderClient, Endpoint};
use panda_slot::{Answer as SlotAnswer, Board};
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};

use super::server::{Desk, Operated, wait};
use super::wire::{Answer, ResetEnd};
use crate::slot::SlotHandle;

/// How long the slot's own RPC may take for one answer.
const RPC_LIMIT: Duration = Duration::from_secs(5);
/// Between two calls of an RPC that does not answer.
const RPC_PAUSE: Duration = Duration::from_millis(200);
/// The most characters of a name that an answer repeats.
const MAX_REPEATED: usize = 100;

/// A slot's RPC, reached as Launchpad reaches it: over the network, by its host name.
#[derive(Debug, Clone)]
pub struct Rpc(BuilderClient);

impl Rpc {
    /// The RPC of the slot that goes by `host` at the listener's `address`; `tls` is not used.
    ///
    /// # Errors
    /// No client can be made.
    pub fn new(host: &str, address: SocketAddr, tls: ClientConfig) -> Result<Self, ClientError> {
        let settings = EndpointSettings {
            connect_limit: RPC_LIMIT,
            read_limit: RPC_LIMIT,
        };
        let endpoint = Endpoint::named(host, reachable(address), tls, settings)?;
        let limits = ClientLimits {
            call_limit: RPC_LIMIT,
            ..ClientLimits::default()
        };
        Ok(Self(BuilderClient::new(endpoint, limits)))
    }

    /// What the manager asks after its command.
    async fn answers(&self) -> Result<(), ClientError> {
        self.0.echo(vec![Value::String("ping".to_owned())]).await
    }
}

/// Where a listener's address is reached from this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

impl Desk {
    /// Launchpad's reset of the slot that goes by `name`.
    pub(super) async fn ppa_reset(&self, name: &str, wait_ms: Option<u64>) -> Answer {
        let slot = match self.called(name) {
            Ok(slot) => slot,
            Err(reason) => return Answer::Refused { reason },
        };
        let own = slot.handle.name();
        tracing::info!(
            slot = own,
            name,
            waits = wait_ms.is_some(),
            "Launchpad resets"
        );
        if wait_ms.is_none()
            && let Err(reason) = self.owe(slot).await
        {
            return Answer::Refused { reason };
        }
        let begun = match slot.handle.reset().await {
            Ok(SlotAnswer::Ready | SlotAnswer::Joined) => ResetEnd::UnderWay,
            Ok(SlotAnswer::Refused(refusal)) => {
                let reason = format!("{own}: {refusal}");
                return Answer::Refused { reason };
            }
            Ok(_) => {
                let reason = format!("{own}: the reset was answered with something else");
                return Answer::Refused { reason };
            }
            Err(_closed) => return stopping().await,
        };
        let mut silence = None;
        let end = match wait_ms {
            None => begun,
            Some(milliseconds) => {
                let limit = wait(Duration::from_millis(milliseconds));
                let ready = ready(&slot.handle, &slot.rpc, &mut silence);
                timeout(limit, ready).await.unwrap_or(ResetEnd::UnderWay)
            }
        };
        if let (ResetEnd::UnderWay, Some(error)) = (end, silence) {
            let reason = format!("{own}: fresh, but its RPC does not answer: {error}");
            return Answer::Refused { reason };
        }
        Answer::Reset {
            slot: self.describe(slot),
            end,
        }
    }

    /// Writes down that Launchpad is to be told of the end. Before the reset: one that nobody tells Launchpad
    /// of leaves the builder waiting for ever.
    async fn owe(&self, slot: &Operated) -> Result<(), String> {
        let own = slot.handle.name();
        let Some(duty) = &slot.duty else {
            tracing::warn!(
                slot = own,
                "no [webservice]: somebody else has to tell Launchpad when the slot is clean"
            );
            return Ok(());
        };
        let attempt = slot.handle.view().slot.attempt;
        let begun = duty.begin(attempt).await;
        begun.map_err(|error| format!("{own}: {error}"))
    }

    /// The one slot that goes by `name`: its own name, a host name of its, or the first label of one.
    fn called(&self, name: &str) -> Result<&Operated, String> {
        let wanted = name.to_ascii_lowercase();
        let is = |known: &str| known.eq_ignore_ascii_case(&wanted);
        let label = |known: &str| known.split('.').next().is_some_and(is);
        let by = |matches: &dyn Fn(&Operated) -> bool| -> Vec<&Operated> {
            self.slots.iter().filter(|slot| matches(slot)).collect()
        };
        let whole = by(&|slot| slot.hosts.iter().any(|host| is(host)));
        let short = by(&|slot| is(slot.handle.name()) || slot.hosts.iter().any(|host| label(host)));
        let found = if whole.is_empty() { short } else { whole };
        let shown: String = name.chars().take(MAX_REPEATED).collect();
        match found.as_slice() {
            [slot] => Ok(slot),
            [] => Err(self.unknown(&shown)),
            several => {
                let names: Vec<&str> = several.iter().map(|slot| slot.handle.name()).collect();
                Err(format!(
                    "{shown:?} may be any of {}: use a whole host name",
                    names.join(", ")
                ))
            }
        }
    }
}

/// Waits until a dispatch to the slot would be served, or will not be for long. `silence` is why its RPC
/// does not answer, while it does not.
async fn ready(slot: &SlotHandle, rpc: &Rpc, silence: &mut Option<ClientError>) -> ResetEnd {
    loop {
        let mut watch = slot.watch();
        let settled = watch.wait_for(|view| {
            view.is_idle()
                || view.slot.held.is_some()
                || matches!(view.slot.board, Board::Failed { .. } | Board::Off)
        });
        match settled.await.map(|view| view.is_idle()) {
            Ok(true) => {}
            Ok(false) => return ResetEnd::Failed,
            Err(_closed) => return stopping().await,
        }
        match rpc.answers().await {
            Ok(()) if slot.view().is_idle() => return ResetEnd::Fresh,
            Ok(()) => *silence = None,
            Err(error) => *silence = Some(error),
        }
        sleep(RPC_PAUSE).await;
    }
}

/// The daemon is stopping: the connection closes with it, and who asked asks the next one.
async fn stopping<T>() -> T {
    std::future::pending().await
}
