//! `[[slot]]`: a place in the rack with a board in it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use panda_protocol::boot_toml::Network;
use serde::Deserialize;
use toml::Spanned;

use crate::boot::ExpectedBoard;

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotSettings {
    /// Its name: one label of a host name.
    pub name: Spanned<String>,
    /// The host names that Launchpad knows it by; its own name where none is given.
    #[serde(default)]
    pub hosts: Vec<Spanned<String>>,
    /// An address of its own; calls there are for this slot whatever `Host` says.
    #[serde(default)]
    pub listen: Option<Spanned<SocketAddr>>,
    /// Where its board's agent listens for the master.
    pub link: Spanned<SocketAddr>,
    /// The board's network.
    #[serde(default)]
    pub network: Option<Spanned<NetworkSettings>>,
    /// Which board belongs here.
    #[serde(default)]
    pub board: ExpectedBoard,
    /// The board's supply.
    pub power: TwinSocket,
    /// The port of its OTG.
    pub pipe: TwinSocket,
    /// Its serial console, where there is one.
    #[serde(default)]
    pub console: Option<TwinSocket>,
}

impl SlotSettings {
    /// The host names that Launchpad knows it by.
    pub fn host_names(&self) -> impl Iterator<Item = &str> {
        let own = self.hosts.is_empty().then_some(self.name.get_ref());
        self.hosts
            .iter()
            .map(Spanned::get_ref)
            .chain(own)
            .map(String::as_str)
    }

    /// The address of its own.
    #[must_use]
    pub fn own_address(&self) -> Option<SocketAddr> {
        self.listen.as_ref().map(|listen| *listen.get_ref())
    }

    /// What the board is told of its network.
    #[must_use]
    pub fn network(&self) -> Network {
        let name = self.name.get_ref();
        match &self.network {
            Some(settings) => settings.get_ref().network(name),
            None => NetworkSettings::default().network(name),
        }
    }

    /// With relative paths taken from `base`.
    pub(super) fn based(mut self, base: &Path) -> Self {
        let drivers = [&mut self.power, &mut self.pipe];
        for driver in drivers.into_iter().chain(&mut self.console) {
            let socket = driver.socket.get_mut();
            *socket = super::from(base, socket);
        }
        self
    }
}

/// `[slot.network]`: a board's own network settings; none where the machine has its network already.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSettings {
    /// Address and prefix length, `10.77.0.11/24`.
    pub address: Option<String>,
    /// The default route.
    pub gateway: Option<String>,
    /// Name servers.
    pub nameservers: Vec<String>,
    /// The host name to take; the slot's name where none is given.
    pub hostname: Option<String>,
    /// The MAC address to give the board's Ethernet.
    pub mac: Option<String>,
}

impl NetworkSettings {
    /// As the board of `slot` is told.
    fn network(&self, slot: &str) -> Network {
        Network {
            address: self.address.clone(),
            gateway: self.gateway.clone(),
            nameservers: self.nameservers.clone(),
            hostname: self.hostname.clone().unwrap_or_else(|| slot.to_owned()),
            mac: self.mac.clone(),
        }
    }
}

/// A driver for a virtual board: one of its three sockets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwinSocket {
    /// The only driver so far.
    pub driver: TwinDriver,
    /// The socket's path.
    pub socket: Spanned<PathBuf>,
}

/// The driver of a virtual board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TwinDriver {
    /// `panda-twin`.
    Twin,
}
