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
use panda_protocol::operators::{
    ActionKind, Asker, LaunchpadReset, Problem, ProblemKind, ResetAnswer, ResetEnd,
};
use panda_slot::Board;
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};

use super::actions::Order;
use super::desk::{Desk, Operated};
use super::orders::begun;
use crate::slot::SlotHandle;
use crate::webservice::{Duty, DutyError};

/// How long the slot's own RPC may take for one answer.
const RPC_LIMIT: Duration = Duration::from_secs(5);
/// Between two calls of an RPC that does not answer.
const RPC_PAUSE: Duration = Duration::from_millis(200);
/// The most characters of a name that a refusal repeats.
const MAX_REPEATED: usize = 100;

/// A slot's RPC, reached as Launchpad reaches it: over the network, by its host name.
#[derive(Debug, Clone)]
pub(crate) struct Rpc(BuilderClient);

impl Rpc {
    /// The RPC of the slot that goes by `host` at the listener's `address`; `tls` is not used.
    ///
    /// # Errors
    /// No client can be made.
    pub(crate) fn new(
        host: &str,
        address: SocketAddr,
        tls: ClientConfig,
    ) -> Result<Self, ClientError> {
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
    /// Launchpad's reset of the slot that goes by a name.
    pub(super) async fn launchpad_reset(
        &self,
        reset: &LaunchpadReset,
        asker: Asker,
    ) -> Result<ResetAnswer, Problem> {
        let LaunchpadReset { name, wait_ms } = reset;
        let slot = self.called(name)?;
        let own = slot.handle.name();
        tracing::info!(
            slot = own,
            name,
            waits = wait_ms.is_some(),
            "Launchpad resets"
        );
        let order = Order {
            kind: ActionKind::LaunchpadReset,
            slot: Some(own.to_owned()),
            detail: if wait_ms.is_some() {
                "waits for the end".to_owned()
            } else {
                "its web service is told of the end".to_owned()
            },
            asker,
        };
        let (handle, duty) = (slot.handle.clone(), slot.duty.clone());
        let owes = wait_ms.is_none();
        let work = async move {
            if owes {
                owe(&handle, duty).await?;
            }
            // A Fresh board is ready once its RPC answers, too.
            begun(&handle, handle.reset().await).map(|_fresh_or_not| ())
        };
        self.carry_out(order, work).await?;
        let mut silence = None;
        let end = match wait_ms {
            None => ResetEnd::UnderWay,
            Some(milliseconds) => {
                let ready = ready(&slot.handle, &slot.rpc, &mut silence);
                let waited = timeout(Duration::from_millis(*milliseconds), ready).await;
                waited.unwrap_or(Ok(ResetEnd::UnderWay))?
            }
        };
        if let (ResetEnd::UnderWay, Some(error)) = (end, silence) {
            let detail = format!("{own}: fresh, but its RPC does not answer: {error}");
            return Err(Problem::new(ProblemKind::Refused, detail));
        }
        Ok(ResetAnswer {
            slot: self.describe(slot),
            end,
        })
    }

    /// The one slot that goes by `name`: its own name, a host name of its, or the first label of one.
    fn called(&self, name: &str) -> Result<&Operated, Problem> {
        let wanted = name.to_ascii_lowercase();
        let is = |known: &str| known.eq_ignore_ascii_case(&wanted);
        let label = |known: &str| known.split('.').next().is_some_and(is);
        let by = |matches: &dyn Fn(&Operated) -> bool| -> Vec<&Operated> {
            self.slots.iter().filter(|slot| matches(slot)).collect()
        };
        let whole = by(&|slot| slot.hosts.iter().any(|host| is(host)));
        let short = by(&|slot| is(slot.handle.name()) || slot.hosts.iter().any(|host| label(host)));
        let found = if whole.is_empty() { short } else { whole };
        match found.as_slice() {
            [slot] => Ok(slot),
            [] => Err(self.no_such(name)),
            several => {
                let names: Vec<&str> = several.iter().map(|slot| slot.handle.name()).collect();
                let shown: String = name.chars().take(MAX_REPEATED).collect();
                let detail = format!(
                    "{shown:?} may be any of {}: use a whole host name",
                    names.join(", ")
                );
                Err(Problem::new(ProblemKind::Refused, detail))
            }
        }
    }
}

/// Writes down that Launchpad is to be told of the end. Before the reset: one that nobody tells Launchpad of leaves the
/// builder waiting for ever.
async fn owe(slot: &SlotHandle, duty: Option<Duty>) -> Result<(), Problem> {
    let own = slot.name();
    let Some(duty) = duty else {
        tracing::warn!(
            slot = own,
            "no [webservice]: somebody else has to tell Launchpad when the slot is clean"
        );
        return Ok(());
    };
    let attempt = slot.view().slot.attempt;
    duty.begin(attempt).await.map_err(|error| match error {
        DutyError::Stopping => Problem::stopping(),
        DutyError::Ledger(error) => Problem::new(ProblemKind::Failed, format!("{own}: {error}")),
    })
}

/// Waits until a dispatch to the slot would be served, or will not be for long. `silence` is why its RPC
/// does not answer, while it does not.
async fn ready(
    slot: &SlotHandle,
    rpc: &Rpc,
    silence: &mut Option<ClientError>,
) -> Result<ResetEnd, Problem> {
    loop {
        let mut watch = slot.watch();
        let settled = watch.wait_for(|view| {
            view.is_idle()
                || view.slot.held.is_some()
                || matches!(view.slot.board, Board::Failed { .. } | Board::Off)
        });
        match settled.await.map(|view| view.is_idle()) {
            Ok(true) => {}
            Ok(false) => return Ok(ResetEnd::Failed),
            Err(_closed) => return Err(Problem::stopping()),
        }
        match rpc.answers().await {
            Ok(()) if slot.view().is_idle() => return Ok(ResetEnd::Fresh),
            Ok(()) => *silence = None,
            Err(error) => *silence = Some(error),
        }
        sleep(RPC_PAUSE).await;
    }
}
