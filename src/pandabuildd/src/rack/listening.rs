//! Every address that a rack listens on, bound before any board is touched, and how each slot is reached there.

use std::net::SocketAddr;
use std::sync::Arc;

use panda_http::pinned::public_client_config;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{RackError, Sockets};
use crate::config::{Config, SlotSettings};
use crate::front::SlotFront;
use crate::front::routes::{Hosts, Routes};
use crate::operators::Rpc;

/// Everything that is listened on.
pub(super) struct Listeners {
    pub(super) depot: TcpListener,
    pub(super) fronts: Fronts,
}

/// What listens for Launchpad: the listener, whether all slots are there by name, and the slot whose own it is.
pub(super) struct Fronts(Vec<(TcpListener, bool, Option<usize>)>);

impl Listeners {
    /// Binds all of them, or takes those that are held for us.
    pub(super) async fn bind(config: &Config, mut held: Sockets) -> Result<Self, RackError> {
        held.check(config)?;
        let depot = bind("[depot]", config.depot.listen, &mut held).await?;
        let mut fronts = Vec::new();
        let own = |address| {
            config
                .slots
                .iter()
                .position(|slot| slot.own_address() == Some(address))
        };
        if let Some(shared) = config.front.listen {
            fronts.push((bind("[front]", shared, &mut held).await?, true, own(shared)));
        }
        for (index, slot) in config.slots.iter().enumerate() {
            let Some(address) = slot
                .own_address()
                .filter(|own| config.front.listen != Some(*own))
            else {
                continue;
            };
            let who = format!("slot {}", slot.name.get_ref());
            fronts.push((bind(&who, address, &mut held).await?, false, Some(index)));
        }
        Ok(Self {
            depot,
            fronts: Fronts(fronts),
        })
    }
}

impl Fronts {
    /// Answers on each, until `stop`: the slots are `hosts` by name, and `slots` in their order.
    pub(super) fn serve(
        self,
        config: &Config,
        hosts: &Hosts,
        slots: &[Arc<SlotFront>],
        stop: &CancellationToken,
    ) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for (listener, shared, own) in self.0 {
            let hosts = if shared {
                Arc::new(hosts.clone())
            } else {
                Arc::default()
            };
            let own = own.and_then(|index| slots.get(index).cloned());
            let (server, limits) = (config.front.server(), config.front.service());
            tasks.spawn(Routes { hosts, own }.serve(listener, server, limits, stop.clone()));
        }
        tasks
    }
}

pub(super) async fn bind(
    who: &str,
    address: SocketAddr,
    held: &mut Sockets,
) -> Result<TcpListener, RackError> {
    let listener = match held.take(address) {
        Some(listener) => TcpListener::from_std(listener),
        None => TcpListener::bind(address).await,
    };
    listener.map_err(|source| RackError::Listen {
        who: who.to_owned(),
        address,
        source,
    })
}

/// Each slot's RPC, as Launchpad reaches it.
pub(super) fn rpcs(config: &Config) -> Result<Vec<Rpc>, RackError> {
    // Not used: these calls go over plain HTTP. Making one reads every certificate of the system.
    let tls = public_client_config()?;
    let rpc = |slot: &SlotSettings| {
        let host = slot.host_names().next().unwrap_or_default();
        // A slot without an address of its own is at the shared one: the configuration's check saw to it.
        let address = slot.own_address().or(config.front.listen);
        let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        Rpc::new(host, address, tls.clone()).map_err(|source| RackError::Rpc {
            slot: slot.name.get_ref().clone(),
            source,
        })
    };
    config.slots.iter().map(rpc).collect()
}

/// The URL of each slot: its own address, or its first host name at the shared one.
pub(super) fn urls(config: &Config) -> Vec<(String, String)> {
    config
        .slots
        .iter()
        .map(|slot| {
            let shared = config.front.listen.map_or(0, |listen| listen.port());
            let url = match slot.own_address() {
                Some(own) if own.ip().is_unspecified() => {
                    format!("http://localhost:{}", own.port())
                }
                Some(own) => format!("http://{own}"),
                None => format!(
                    "http://{}:{shared}",
                    slot.host_names().next().unwrap_or_default()
                ),
            };
            (slot.name.get_ref().clone(), url)
        })
        .collect()
}
