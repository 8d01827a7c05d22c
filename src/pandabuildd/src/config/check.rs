//! What no room can see alone: that the parts of a `rack.toml` fit together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use toml::Spanned;

use super::error::Problem;
use super::{File, shared};

/// The most slots of a rack.
const MAX_SLOTS: usize = 500;

/// Checks the whole file; the first problem ends it.
pub(super) fn check(file: &File) -> Result<(), Problem> {
    rooms(file)?;
    if file.slot.is_empty() || file.slot.len() > MAX_SLOTS {
        let problem = format!(
            "expected 1 to {MAX_SLOTS} [[slot]] tables, found {}",
            file.slot.len()
        );
        return Err(Problem::at(file.rack.span(), "slot", problem));
    }
    names(file)?;
    builders(file)?;
    networks(file)?;
    addresses(file)?;
    shared::check(file)
}

/// Each room's own check.
fn rooms(file: &File) -> Result<(), Problem> {
    fn ask<T>(
        table: &str,
        settings: Option<&Spanned<T>>,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Result<(), Problem> {
        match settings {
            Some(settings) => check(settings.get_ref())
                .map_err(|text| Problem::within(settings.span(), table, &text)),
            None => Ok(()),
        }
    }
    ask("rack", Some(&file.rack), |rack| {
        if rack.name.trim().is_empty() || rack.name.chars().any(char::is_control) {
            return Err("name: expected a name for people, in one line".to_owned());
        }
        if rack.build_types.is_empty() {
            return Err("build_types: expected at least one, such as \"binarypackage\"".to_owned());
        }
        for (key, rate) in [
            ("link_mbit_per_s", rack.link_mbit_per_s),
            ("usb_mbit_per_s", rack.usb_mbit_per_s),
        ] {
            if !(1..=1_000_000).contains(&rate) {
                return Err(format!("{key}: expected 1 to 1000000, got {rate}"));
            }
        }
        Ok(())
    })?;
    ask("front", file.front.as_ref(), |front| front.check())?;
    ask("depot", Some(&file.depot), |depot| {
        if depot.address().ip().is_unspecified() {
            return Err("advertise: `listen` is every address of this machine, so say which one boards reach".to_owned());
        }
        if depot.listen.port() == 0 || depot.address().port() == 0 {
            return Err("listen: port 0 is no port; expected 1 to 65535".to_owned());
        }
        Ok(())
    })?;
    ask("filecache", file.filecache.as_ref(), |filecache| {
        filecache.check()
    })?;
    ask("boot", file.boot.as_ref(), |boot| boot.check())?;
    ask("guest", file.guest.as_ref(), |guest| guest.check())?;
    ask("webservice", file.webservice.as_ref(), |webservice| {
        webservice.check()
    })?;
    ask("slot_task", file.slot_task.as_ref(), |slot| {
        if !(1..=100).contains(&slot.attempts) {
            return Err(format!(
                "attempts: expected 1 to 100, got {}",
                slot.attempts
            ));
        }
        Ok(())
    })
}

/// No two slots share a name or a host name, and every name is one.
fn names(file: &File) -> Result<(), Problem> {
    let mut names = Taken::default();
    let mut hosts = Taken::default();
    for slot in &file.slot {
        let slot = slot.get_ref();
        let name = slot.name.get_ref();
        if !is_label(name) {
            return Err(Problem::at(
                slot.name.span(),
                "slot.name",
                format!(
                    "{name:?}: expected 1 to 63 of a-z, 0-9 and -, not beginning or ending with -"
                ),
            ));
        }
        names.take(name.clone(), name, slot.name.span(), "slot.name")?;
        let own = slot.hosts.is_empty().then_some(&slot.name);
        for host in slot.hosts.iter().chain(own) {
            let text = host.get_ref();
            if !is_host(text) {
                return Err(Problem::at(
                    host.span(),
                    "slot.hosts",
                    format!(
                        "{text:?}: expected a host name without a port, such as panda01.rack.example"
                    ),
                ));
            }
            hosts.take(text.to_ascii_lowercase(), name, host.span(), "slot.hosts")?;
        }
    }
    Ok(())
}

/// Launchpad's names are of slots that are there, and no two slots are one builder.
fn builders(file: &File) -> Result<(), Problem> {
    let Some(webservice) = &file.webservice else {
        return Ok(());
    };
    let settings = webservice.get_ref();
    let slots: Vec<&str> = file
        .slot
        .iter()
        .map(|slot| slot.get_ref().name.get_ref().as_str())
        .collect();
    let problem = |text: String| Err(Problem::within(webservice.span(), "webservice", &text));
    if let Some(unknown) = settings
        .builders
        .keys()
        .find(|name| !slots.contains(&name.as_str()))
    {
        return problem(format!("builders: {unknown:?}: there is no such slot"));
    }
    let mut taken = HashMap::new();
    for slot in slots {
        if let Some(other) = taken.insert(settings.builder(slot), slot) {
            let builder = settings.builder(slot);
            return problem(format!("builders: {other} and {slot} are both {builder:?}"));
        }
    }
    Ok(())
}

/// What boards are told of their network can be used.
fn networks(file: &File) -> Result<(), Problem> {
    let address = |text: &String| text.parse::<IpAddr>().is_ok();
    let interface = |text: &String| {
        text.split_once('/').is_some_and(|(address, prefix)| {
            let most = match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => 32,
                Ok(IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            prefix
                .parse::<u8>()
                .is_ok_and(|prefix| (1..=most).contains(&prefix))
        })
    };
    let mac = |text: &String| {
        text.split(':').count() == 6
            && text
                .split(':')
                .all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok())
    };
    for slot in &file.slot {
        let Some(settings) = &slot.get_ref().network else {
            continue;
        };
        let network = settings.get_ref();
        let servers = &network.nameservers;
        for (right, text) in [
            (
                network.address.as_ref().is_none_or(interface),
                "address: expected ADDRESS/PREFIX, such as 10.77.0.11/24",
            ),
            (
                network.gateway.as_ref().is_none_or(address),
                "gateway: expected an IP address",
            ),
            (
                servers.len() <= 3 && servers.iter().all(address),
                "nameservers: expected at most three IP addresses",
            ),
            (
                network.mac.as_ref().is_none_or(mac),
                "mac: expected six bytes, such as 02:70:61:6e:00:01",
            ),
            (
                network.hostname.as_ref().is_none_or(|name| is_host(name)),
                "hostname: expected a host name",
            ),
        ] {
            if !right {
                return Err(Problem::within(settings.span(), "slot.network", text));
            }
        }
    }
    Ok(())
}

/// No two slots share an address, and each can be reached.
fn addresses(file: &File) -> Result<(), Problem> {
    let shared = file.front.as_ref().and_then(|front| front.get_ref().listen);
    let mut listening: Vec<(SocketAddr, String)> = Vec::new();
    if let (Some(listen), Some(front)) = (shared, &file.front) {
        if listen.port() == 0 {
            return Err(Problem::within(
                front.span(),
                "front",
                "listen: port 0 is no port; expected 1 to 65535",
            ));
        }
        listening.push((listen, "[front]".to_owned()));
    }
    let depot = file.depot.get_ref().listen;
    if listening.iter().any(|(address, _)| clash(*address, depot)) {
        return Err(Problem::within(
            file.depot.span(),
            "depot",
            "listen: [front] listens there already",
        ));
    }
    listening.push((depot, "[depot]".to_owned()));
    let mut links = Taken::default();
    for slot in &file.slot {
        let slot = slot.get_ref();
        let name = slot.name.get_ref();
        let link = &slot.link;
        if link.get_ref().port() == 0 || link.get_ref().ip().is_unspecified() {
            return Err(Problem::at(
                link.span(),
                "slot.link",
                "expected the address and port of this one board",
            ));
        }
        links.take(link.get_ref().to_string(), name, link.span(), "slot.link")?;
        if let Some(told) = &slot.link_listen
            && told.get_ref().port() == 0
        {
            return Err(Problem::at(
                told.span(),
                "slot.link_listen",
                "port 0 is no port; expected the address and port that the board's agent listens on",
            ));
        }
        let Some(listen) = &slot.listen else {
            if shared.is_none() {
                return Err(Problem::at(
                    slot.name.span(),
                    "slot.listen",
                    format!(
                        "{name} cannot be reached: give it a `listen` of its own, or [front] one for all"
                    ),
                ));
            }
            continue;
        };
        let address = *listen.get_ref();
        if address.port() == 0 {
            return Err(Problem::at(
                listen.span(),
                "slot.listen",
                "port 0 is no port; expected 1 to 65535",
            ));
        }
        // One slot may have the shared address as its own, for calls that name no slot.
        let others = listening
            .iter()
            .filter(|(other, who)| !(*other == address && who == "[front]"));
        if let Some((_, who)) = others.clone().find(|(other, _)| clash(*other, address)) {
            return Err(Problem::at(
                listen.span(),
                "slot.listen",
                format!("{address}: {who} listens there already"),
            ));
        }
        listening.push((address, format!("slot {name}")));
    }
    Ok(())
}

/// Whether two listeners cannot be there at once.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// Who has what already.
#[derive(Debug, Default)]
pub(super) struct Taken(HashMap<String, String>);

impl Taken {
    pub(super) fn take(
        &mut self,
        what: String,
        slot: &str,
        span: Range<usize>,
        key: &str,
    ) -> Result<(), Problem> {
        match self.0.entry(what) {
            Entry::Vacant(free) => {
                free.insert(slot.to_owned());
                Ok(())
            }
            Entry::Occupied(taken) => Err(Problem::at(
                span,
                key,
                format!(
                    "{:?}: slot {} has it already; no two slots may share one",
                    taken.key(),
                    taken.get()
                ),
            )),
        }
    }
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
