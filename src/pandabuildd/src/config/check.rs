//! What no room can see alone: that the parts of a `rack.toml` fit together.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use panda_board::settings::Mistakes;

use super::file::File;
use super::problem::Found;
use super::slot::{FileSlot, NetworkSettings, SlotKeys};
use super::{DepotSettings, RackSettings, drivers};
use crate::ledger::Grade;

/// The most slots of a rack.
const MAX_SLOTS: usize = 500;
const NO_PORT: &str = "port 0 is no port; expected 1 to 65535";

/// Checks all of the file that could be read.
pub(super) fn check(file: &File<'_>, found: &mut Found<'_>) {
    rooms(file, found);
    if file.slots.len() > MAX_SLOTS || file.slots.is_empty() {
        let count = file.slots.len();
        let text = format!("expected 1 to {MAX_SLOTS} [[slot]] tables, found {count}");
        found.add(file.rack.place(""), "slot", text);
        return;
    }
    names(file, found);
    builders(file, found);
    networks(file, found);
    addresses(file, found);
    let boot = file.boot.settings.as_ref();
    let presence = boot.is_some_and(|boot| boot.require_cut == Grade::Presence);
    drivers::check_claims(&file.slots, presence, found);
}

/// Each room's own check.
fn rooms(file: &File<'_>, found: &mut Found<'_>) {
    file.rack.check(found, RackSettings::check);
    file.front.check(found, |front| front.check());
    file.depot.check(found, DepotSettings::check);
    file.filecache.check(found, |filecache| filecache.check());
    file.boot.check(found, |boot| boot.check());
    file.guest.check(found, |guest| guest.check());
    file.slot_task.check(found, |slot| {
        let mut mistakes = Mistakes::default();
        if let Err(error) = slot.check() {
            mistakes.add(error.key, format!("expected {}", error.allowed));
        }
        mistakes.end()
    });
    file.operators.check(found, |operators| operators.check());
    if let Some(webservice) = &file.webservice {
        webservice.check(found, |webservice| webservice.check());
    }
}

impl RackSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let named = !self.name.trim().is_empty() && !self.name.chars().any(char::is_control);
        mistakes.unless(named, "name", "expected a name for people, in one line");
        let expected = "expected at least one, such as \"binarypackage\"";
        mistakes.unless(!self.build_types.is_empty(), "build_types", expected);
        for (key, rate) in [
            ("link_mbit_per_s", self.link_mbit_per_s),
            ("usb_mbit_per_s", self.usb_mbit_per_s),
        ] {
            let expected = format!("expected 1 to 1000000, got {rate}");
            mistakes.unless((1..=1_000_000).contains(&rate), key, expected);
        }
        mistakes.end()
    }
}

impl DepotSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let expected = "`listen` is every address of this machine, so say which one boards reach";
        let reachable = !self.address().ip().is_unspecified();
        mistakes.unless(reachable, "advertise", expected);
        let ports = self.listen.port() != 0 && self.address().port() != 0;
        mistakes.unless(ports, "listen", NO_PORT);
        mistakes.end()
    }
}

/// The slots whose keys can be read.
fn slots<'a>(file: &'a File<'_>) -> impl Iterator<Item = &'a SlotKeys> {
    file.slots.iter().filter_map(|slot| slot.keys.as_ref())
}

/// No two slots share a name or a host name, and every name is one.
fn names(file: &File<'_>, found: &mut Found<'_>) {
    let mut names = Taken::default();
    let mut hosts = Taken::default();
    for slot in slots(file) {
        let name = slot.name.get_ref();
        let at = slot.name.span().start;
        if !is_label(name) {
            let expected = "expected 1 to 63 of a-z, 0-9 and -, not beginning or ending with -";
            found.add(at, "slot.name", format!("{name:?}: {expected}"));
            continue;
        }
        if !names.take(name.clone(), name, at, "slot.name", found) {
            continue;
        }
        let own = slot.hosts.is_empty().then_some(&slot.name);
        for host in slot.hosts.iter().chain(own) {
            let (text, at) = (host.get_ref(), host.span().start);
            if is_host(text) {
                hosts.take(text.to_ascii_lowercase(), name, at, "slot.hosts", found);
            } else {
                let expected = "expected a host name without a port, such as panda01.rack.example";
                found.add(at, "slot.hosts", format!("{text:?}: {expected}"));
            }
        }
    }
}

/// Launchpad's names are of slots that are there, and no two slots are one builder.
fn builders(file: &File<'_>, found: &mut Found<'_>) {
    let Some(room) = &file.webservice else {
        return;
    };
    let Some(settings) = &room.settings else {
        return;
    };
    let slots: Vec<String> = file.slots.iter().map(FileSlot::name).collect();
    for name in settings.builders.keys() {
        if !slots.contains(name) {
            let text = format!("{name:?}: there is no such slot");
            room.wrong(found, "builders", text);
        }
    }
    let mut taken = HashMap::new();
    for slot in &slots {
        let builder = settings.builder(slot);
        // Of two slots with one name that is told already.
        if let Some(other) = taken.insert(builder, slot)
            && other != slot
        {
            let text = format!("{other} and {slot} are both {builder:?}");
            room.wrong(found, "builders", text);
        }
    }
}

/// What boards are told of their network can be used.
fn networks(file: &File<'_>, found: &mut Found<'_>) {
    for slot in &file.slots {
        let network = slot.keys.as_ref().and_then(|keys| keys.network.as_ref());
        if let Some(Err(mistakes)) = network.map(|network| network.get_ref().check()) {
            for mistake in mistakes {
                let at = slot.place_in("network", &mistake.key);
                found.add(at, format!("slot.network.{}", mistake.key), mistake.text);
            }
        }
    }
}

impl NetworkSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let address = |text: &String| text.parse::<IpAddr>().is_ok();
        let mut mistakes = Mistakes::default();
        let right = self.address.as_deref().is_none_or(is_interface);
        let expected = "expected ADDRESS/PREFIX, such as 10.77.0.11/24";
        mistakes.unless(right, "address", expected);
        let right = self.gateway.as_ref().is_none_or(address);
        mistakes.unless(right, "gateway", "expected an IP address");
        let right = self.nameservers.len() <= 3 && self.nameservers.iter().all(address);
        let expected = "expected at most three IP addresses";
        mistakes.unless(right, "nameservers", expected);
        let right = self.mac.as_deref().is_none_or(is_mac);
        mistakes.unless(
            right,
            "mac",
            "expected six bytes, such as 02:70:61:6e:00:01",
        );
        let right = self.hostname.as_deref().is_none_or(is_host);
        mistakes.unless(right, "hostname", "expected a host name");
        mistakes.end()
    }
}

/// No two slots share an address, and each can be reached.
fn addresses(file: &File<'_>, found: &mut Found<'_>) {
    let front = file.front.settings.as_ref();
    let shared = front.and_then(|front| front.listen);
    let mut listening: Vec<(SocketAddr, String)> = Vec::new();
    if let Some(listen) = shared {
        if listen.port() == 0 {
            file.front.wrong(found, "listen", NO_PORT);
        }
        listening.push((listen, "[front]".to_owned()));
    }
    if let Some(depot) = &file.depot.settings {
        let taken = |(address, _): &(SocketAddr, String)| clash(*address, depot.listen);
        if listening.iter().any(taken) {
            let text = "[front] listens there already";
            file.depot.wrong(found, "listen", text);
        }
        listening.push((depot.listen, "[depot]".to_owned()));
    }
    let mut links = Taken::default();
    for slot in slots(file) {
        link(slot, &mut links, found);
        let name = slot.name.get_ref();
        let Some(listen) = &slot.listen else {
            if shared.is_none() && front.is_some() {
                let text = format!(
                    "{name} cannot be reached: give it a `listen` of its own, or [front] one for all"
                );
                found.add(slot.name.span().start, "slot.listen", text);
            }
            continue;
        };
        let (address, at) = (*listen.get_ref(), listen.span().start);
        if address.port() == 0 {
            found.add(at, "slot.listen", NO_PORT);
            continue;
        }
        // One slot may have the shared address as its own, for calls that name no slot.
        let mut others = listening
            .iter()
            .filter(|(other, who)| !(*other == address && who == "[front]"));
        if let Some((_, who)) = others.find(|(other, _)| clash(*other, address)) {
            let text = format!("{address}: {who} listens there already");
            found.add(at, "slot.listen", text);
            continue;
        }
        listening.push((address, format!("slot {name}")));
    }
}

/// Where a slot's board is reached, and listens.
fn link(slot: &SlotKeys, links: &mut Taken, found: &mut Found<'_>) {
    let (link, at) = (slot.link.get_ref(), slot.link.span().start);
    if link.port() == 0 || link.ip().is_unspecified() {
        let expected = "expected the address and port of this one board";
        found.add(at, "slot.link", expected);
    } else {
        links.take(
            link.to_string(),
            slot.name.get_ref(),
            at,
            "slot.link",
            found,
        );
    }
    if let Some(told) = &slot.link_listen
        && told.get_ref().port() == 0
    {
        let text =
            "port 0 is no port; expected the address and port that the board's agent listens on";
        found.add(told.span().start, "slot.link_listen", text);
    }
}

/// Whether two listeners cannot be there at once.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// Who has what already.
#[derive(Debug, Default)]
struct Taken(HashMap<String, String>);

impl Taken {
    /// Whether `slot` can have it; else that is noted.
    fn take(
        &mut self,
        what: String,
        slot: &str,
        at: usize,
        key: &str,
        found: &mut Found<'_>,
    ) -> bool {
        let Some(other) = self.0.get(&what) else {
            self.0.insert(what, slot.to_owned());
            return true;
        };
        let text = format!("{what:?}: slot {other} has it already; no two slots may share one");
        found.add(at, key, text);
        false
    }
}

/// An address with a prefix length.
fn is_interface(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else {
        return false;
    };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    let prefix = prefix.parse::<u8>();
    prefix.is_ok_and(|prefix| (1..=most).contains(&prefix))
}

fn is_mac(text: &str) -> bool {
    let byte = |byte: &str| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok();
    text.split(':').count() == 6 && text.split(':').all(byte)
}

/// One label of a host name.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A host name, in any case.
fn is_host(text: &str) -> bool {
    text.len() <= 253 && text.to_ascii_lowercase().split('.').all(is_label)
}
