//! `[[slot]]`: a place in the rack with a board in it.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use panda_board::driver::{ConsoleDriver, PipeDriver, PowerDriver, SenseDriver, Settings};
use panda_board::drivers::{CONSOLE, PIPE, SENSE};
use panda_board::settings::read;
use panda_protocol::boot_toml::Network;
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::drivers::{self, Named};
use super::file::place;
use super::problem::Found;
use crate::boot::ExpectedBoard;

/// One slot as it is written.
pub(super) struct FileSlot<'a> {
    table: &'a DeTable<'a>,
    at: usize,
    /// How many slots are written before it.
    index: usize,
    /// Its keys but for the drivers' tables; none where they cannot be read.
    pub(super) keys: Option<SlotKeys>,
    pub(super) power: Vec<Named<'a, dyn PowerDriver>>,
    pub(super) pipe: Option<Named<'a, dyn PipeDriver>>,
    pub(super) console: Option<Named<'a, dyn ConsoleDriver>>,
    pub(super) sense: Option<Named<'a, dyn SenseDriver>>,
}

/// The keys of `[[slot]]`; the drivers' tables are read apart.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SlotKeys {
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
    #[serde(rename = "power")]
    _power: IgnoredAny,
    #[serde(rename = "pipe")]
    _pipe: IgnoredAny,
    #[serde(default, rename = "console")]
    _console: IgnoredAny,
    #[serde(default, rename = "sense")]
    _sense: IgnoredAny,
}

/// One slot.
#[derive(Debug, Clone)]
pub(crate) struct SlotSettings {
    /// Its name: one label of a host name.
    pub(crate) name: Spanned<String>,
    /// The host names that Launchpad knows it by; its own name where none is given.
    pub(crate) hosts: Vec<Spanned<String>>,
    /// An address of its own; calls there are for this slot whatever `Host` says.
    pub(crate) listen: Option<Spanned<SocketAddr>>,
    /// Where the master reaches its board's agent.
    pub(crate) link: Spanned<SocketAddr>,
    /// Where the agent is told to listen, when that is another address: something between the two translates.
    pub(crate) link_listen: Option<Spanned<SocketAddr>>,
    /// The board's network.
    pub(crate) network: Option<Spanned<NetworkSettings>>,
    /// Which board belongs here.
    pub(crate) board: ExpectedBoard,
    /// The board's supplies, at least one, switched together.
    pub(crate) power: Vec<Arc<dyn PowerDriver>>,
    /// The port of its OTG.
    pub(crate) pipe: Arc<dyn PipeDriver>,
    /// Its serial console, where there is one.
    pub(crate) console: Option<Arc<dyn ConsoleDriver>>,
    /// What senses its supply, where there is something.
    pub(crate) sense: Option<Arc<dyn SenseDriver>>,
}

impl<'a> FileSlot<'a> {
    /// Reads the slot at `span`, after `index` others.
    pub(super) fn read(
        table: &'a DeTable<'a>,
        span: Range<usize>,
        index: usize,
        found: &mut Found<'_>,
    ) -> Self {
        let at = span.start;
        let reading = read(table, span);
        found.misread("slot", reading.wrong);
        let power = table.get("power");
        Self {
            table,
            at,
            index,
            keys: reading.settings,
            power: power.map_or_else(Vec::new, |value| drivers::read_supplies(value, found)),
            pipe: table
                .get("pipe")
                .and_then(|value| drivers::read(&PIPE, value, found)),
            console: table
                .get("console")
                .and_then(|value| drivers::read(&CONSOLE, value, found)),
            sense: table
                .get("sense")
                .and_then(|value| drivers::read(&SENSE, value, found)),
        }
    }

    /// Its name, where it has one.
    pub(super) fn name(&self) -> String {
        let name = self
            .table
            .get("name")
            .and_then(|name| name.get_ref().as_str());
        name.map_or_else(|| format!("number {}", self.index + 1), str::to_owned)
    }

    /// Where the value of `key` in the table `table` is, or that table.
    pub(super) fn place_in(&self, table: &str, key: &str) -> usize {
        let at = place(Some(self.table), table, self.at);
        let inner = self.table.get(table).map(Spanned::get_ref);
        place(inner.and_then(DeValue::as_table), key, at)
    }

    /// With relative paths taken from `base`; none where something of it could not be read.
    pub(super) fn settings(self, base: &Path) -> Option<SlotSettings> {
        fn rebase<T: Settings + ?Sized>(named: Named<'_, T>, base: &Path) -> Arc<T> {
            let mut settings = named.settings;
            settings.rebase(base);
            Arc::from(settings)
        }
        let keys = self.keys?;
        let power = self.power.into_iter();
        Some(SlotSettings {
            name: keys.name,
            hosts: keys.hosts,
            listen: keys.listen,
            link: keys.link,
            link_listen: keys.link_listen,
            network: keys.network,
            board: keys.board,
            power: power.map(|supply| rebase(supply, base)).collect(),
            pipe: rebase(self.pipe?, base),
            console: self.console.map(|console| rebase(console, base)),
            sense: self.sense.map(|sense| rebase(sense, base)),
        })
    }
}

impl SlotSettings {
    /// The host names that Launchpad knows it by.
    pub(crate) fn host_names(&self) -> impl Iterator<Item = &str> {
        let own = self.hosts.is_empty().then_some(self.name.get_ref());
        self.hosts
            .iter()
            .map(Spanned::get_ref)
            .chain(own)
            .map(String::as_str)
    }

    /// The address of its own.
    #[must_use]
    pub(crate) fn own_address(&self) -> Option<SocketAddr> {
        self.listen.as_ref().map(|listen| *listen.get_ref())
    }

    /// Where the board's agent is told to listen.
    #[must_use]
    pub(crate) fn link_listen(&self) -> SocketAddr {
        *self.link_listen.as_ref().unwrap_or(&self.link).get_ref()
    }

    /// What the board is told of its network.
    #[must_use]
    pub(crate) fn network(&self) -> Network {
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
pub(crate) struct NetworkSettings {
    /// Address and prefix length, `10.77.0.11/24`.
    pub(crate) address: Option<String>,
    /// The default route.
    pub(crate) gateway: Option<String>,
    /// Name servers.
    pub(crate) nameservers: Vec<String>,
    /// The host name to take; the slot's name where none is given.
    pub(crate) hostname: Option<String>,
    /// The MAC address to give the board's Ethernet.
    pub(crate) mac: Option<String>,
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
