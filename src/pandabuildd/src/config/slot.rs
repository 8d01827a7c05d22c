//! `[[slot]]`: a place in the rack with a board in it.

use std::net::SocketAddr;
use std::path::Path;

use panda_protocol::boot_toml::Network;
use serde::Deserialize;
use toml::Spanned;

use super::driver::{
    self, ConsoleSettings, DriverTable, PipeSettings, PowerSettings, PowerTables, SenseSettings,
};
use super::error::Problem;
use crate::boot::ExpectedBoard;

/// One slot as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSlot {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) hosts: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) listen: Option<Spanned<SocketAddr>>,
    pub(super) link: Spanned<SocketAddr>,
    #[serde(default)]
    pub(super) link_listen: Option<Spanned<SocketAddr>>,
    #[serde(default)]
    pub(super) network: Option<Spanned<NetworkSettings>>,
    #[serde(default)]
    board: ExpectedBoard,
    pub(super) power: Spanned<PowerTables>,
    pub(super) pipe: Spanned<DriverTable<PipeSettings>>,
    #[serde(default)]
    pub(super) console: Option<Spanned<DriverTable<ConsoleSettings>>>,
    #[serde(default)]
    pub(super) sense: Option<Spanned<DriverTable<SenseSettings>>>,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSettings {
    /// Its name: one label of a host name.
    pub name: Spanned<String>,
    /// The host names that Launchpad knows it by; its own name where none is given.
    pub hosts: Vec<Spanned<String>>,
    /// An address of its own; calls there are for this slot whatever `Host` says.
    pub listen: Option<Spanned<SocketAddr>>,
    /// Where the master reaches its board's agent.
    pub link: Spanned<SocketAddr>,
    /// Where the agent is told to listen, when that is another address: something between the two translates.
    pub link_listen: Option<Spanned<SocketAddr>>,
    /// The board's network.
    pub network: Option<Spanned<NetworkSettings>>,
    /// Which board belongs here.
    pub board: ExpectedBoard,
    /// The board's supply.
    pub power: PowerSettings,
    /// The port of its OTG.
    pub pipe: PipeSettings,
    /// Its serial console, where there is one.
    pub console: Option<ConsoleSettings>,
    /// What senses its supply, where there is something.
    pub sense: Option<SenseSettings>,
}

impl FileSlot {
    /// With the drivers' tables read and checked, and relative paths taken from `base`.
    pub(super) fn settings(self, base: &Path) -> Result<SlotSettings, Problem> {
        let power = self.power.get_ref().settings(&self.power.span())?;
        let pipe = self.pipe.get_ref().settings(self.pipe.span())?;
        let console = match &self.console {
            Some(table) => Some(table.get_ref().settings(table.span())?),
            None => None,
        };
        let sense = match &self.sense {
            Some(table) => Some(table.get_ref().settings(table.span())?),
            None => None,
        };
        Ok(SlotSettings {
            name: self.name,
            hosts: self.hosts,
            listen: self.listen,
            link: self.link,
            link_listen: self.link_listen,
            network: self.network,
            board: self.board,
            power: driver::based(power, base),
            pipe: driver::based(pipe, base),
            console: console.map(|console| driver::based(console, base)),
            sense: sense.map(|sense| driver::based(sense, base)),
        })
    }
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

    /// Where the board's agent is told to listen.
    #[must_use]
    pub fn link_listen(&self) -> SocketAddr {
        *self.link_listen.as_ref().unwrap_or(&self.link).get_ref()
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
