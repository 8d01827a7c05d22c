//! The board's network, as `boot.toml` has it: one Ethernet interface, one address, one way out. Through the
//! kernel's own interface (rtnetlink): the ramdisk has no programs.
//!
//! A Panda's Ethernet is a USB device that comes late and has no MAC address of its own, so the interface is waited
//! for, and is given its address before it goes up. Nothing is taken from the network itself (router
//! advertisements): a board has what the master gave it, and nothing else.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use panda_protocol::boot_toml::Network;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder, new_connection};
use tokio::time::{Instant, sleep};

const INTERFACES: &str = "/sys/class/net";
/// How long the interface may take to come.
const APPEARS_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to find its cable: a 100 Mb/s link takes about two seconds.
const CARRIER_LIMIT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The kernel answers at once.
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// Why the network is not up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// Not told which.
    #[error("boot.toml gives no network.address; set the slot's network in rack.toml")]
    NoAddress,
    /// A value that is none.
    #[error("boot.toml, {0}")]
    Value(&'static str),
    /// No interface.
    #[error(
        "no Ethernet interface within {} s: is its module in the ramdisk?",
        APPEARS_LIMIT.as_secs()
    )]
    NoInterface,
    /// No link.
    #[error("{name} has no link within {} s: is the cable in?", CARRIER_LIMIT.as_secs())]
    NoCarrier {
        /// The interface.
        name: String,
    },
    /// The kernel refused.
    #[error("{doing}: {problem}")]
    Refused {
        /// What.
        doing: String,
        /// Why.
        problem: String,
    },
    /// No netlink at all.
    #[error("the kernel's network cannot be spoken to: {0}")]
    Netlink(#[from] io::Error),
}

/// What is to be set up, each value what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    address: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    mac: Option<[u8; 6]>,
}

impl Wanted {
    /// Reads the texts of `boot.toml`.
    pub(crate) fn of(network: &Network) -> Result<Self, NetworkError> {
        let text = network.address.as_deref().ok_or(NetworkError::NoAddress)?;
        let (address, prefix) = parse_address(text).ok_or(NetworkError::Value(
            "network.address: expected ADDRESS/PREFIX",
        ))?;
        let gateway = match network.gateway.as_deref() {
            Some(text) => Some(
                text.parse()
                    .ok()
                    .filter(|gateway: &IpAddr| gateway.is_ipv4() == address.is_ipv4())
                    .ok_or(NetworkError::Value(
                        "network.gateway: expected an address as network.address has",
                    ))?,
            ),
            None => None,
        };
        let mac = match network.mac.as_deref() {
            Some(text) => Some(parse_mac(text).ok_or(NetworkError::Value(
                "network.mac: expected as 02:00:00:00:00:01, of one station",
            ))?),
            None => None,
        };
        Ok(Self {
            address,
            prefix,
            gateway,
            mac,
        })
    }
}

/// Brings the network up; returns what was done in a few words.
pub(crate) async fn up(network: &Network) -> Result<String, NetworkError> {
    let wanted = Wanted::of(network)?;
    let (connection, handle, _) = new_connection()?;
    let serving = tokio::spawn(connection);
    let done = set_up(&handle, &wanted).await;
    serving.abort();
    done
}

async fn set_up(handle: &Handle, wanted: &Wanted) -> Result<String, NetworkError> {
    let links = handle.link();
    let change = async |name: &str, what: &str, message: LinkMessage| {
        ask(format!("{name} {what}"), links.change(message).execute()).await
    };
    change(
        "lo",
        "up",
        LinkUnspec::new_with_index(index_of("lo")?).up().build(),
    )
    .await?;
    let name = appears().await?;
    let index = index_of(&name)?;
    if let Some(mac) = wanted.mac {
        // Most drivers take another address only while they are down.
        change(
            &name,
            "down",
            LinkUnspec::new_with_index(index).down().build(),
        )
        .await?;
        let message = LinkUnspec::new_with_index(index)
            .address(mac.to_vec())
            .build();
        change(&name, "address", message).await?;
    }
    believe_nobody(&name)?;
    change(&name, "up", LinkUnspec::new_with_index(index).up().build()).await?;
    let add = handle
        .address()
        .add(index, wanted.address, wanted.prefix)
        .replace();
    ask(
        format!("{name} {}/{}", wanted.address, wanted.prefix),
        add.execute(),
    )
    .await?;
    carrier(&name).await?;
    if let Some(gateway) = wanted.gateway {
        let add = handle.route().add(default_route(gateway, index)).replace();
        ask(format!("route via {gateway}"), add.execute()).await?;
    }
    Ok(format!("{name} {}/{}", wanted.address, wanted.prefix))
}

async fn ask(
    doing: String,
    question: impl Future<Output = Result<(), rtnetlink::Error>>,
) -> Result<(), NetworkError> {
    let problem = match tokio::time::timeout(ASK_LIMIT, question).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the kernel does not answer".to_owned(),
    };
    Err(NetworkError::Refused { doing, problem })
}

fn default_route(gateway: IpAddr, index: u32) -> RouteMessage {
    match gateway {
        IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .build(),
        IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .build(),
    }
}

/// The first Ethernet interface, once there is one.
async fn appears() -> Result<String, NetworkError> {
    let deadline = Instant::now() + APPEARS_LIMIT;
    loop {
        if let Some(name) = ethernet(Path::new(INTERFACES)) {
            return Ok(name);
        }
        if Instant::now() >= deadline {
            return Err(NetworkError::NoInterface);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// The first by name that is Ethernet and belongs to a device: no bridge, no tunnel.
fn ethernet(interfaces: &Path) -> Option<String> {
    let mut names: Vec<String> = fs::read_dir(interfaces)
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_ethernet = fs::read_to_string(path.join("type")).ok()?.trim() == "1";
            let fits = is_ethernet && path.join("device").exists();
            fits.then(|| Some(path.file_name()?.to_str()?.to_owned()))?
        })
        .collect();
    names.sort();
    names.into_iter().next()
}

fn index_of(name: &str) -> Result<u32, NetworkError> {
    let path = PathBuf::from(INTERFACES).join(name).join("ifindex");
    fs::read_to_string(path)?
        .trim()
        .parse()
        .map_err(|_| NetworkError::Netlink(io::ErrorKind::InvalidData.into()))
}

async fn carrier(name: &str) -> Result<(), NetworkError> {
    let path = PathBuf::from(INTERFACES).join(name).join("carrier");
    let deadline = Instant::now() + CARRIER_LIMIT;
    while fs::read_to_string(&path).map_or(true, |text| text.trim() != "1") {
        if Instant::now() >= deadline {
            return Err(NetworkError::NoCarrier {
                name: name.to_owned(),
            });
        }
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// No addresses or routes by router advertisements, and no wait for a neighbour that might have our address.
fn believe_nobody(name: &str) -> Result<(), NetworkError> {
    for setting in ["accept_ra", "autoconf", "accept_dad"] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
        match fs::write(path, "0") {
            // A kernel without IPv6 believes nobody.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn parse_address(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= most)?;
    let host = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
    host.then_some((address, prefix))
}

/// Six bytes, the first one even: an odd one means a group of stations.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut parts = text.split(':');
    let mut mac = [0; 6];
    for byte in &mut mac {
        let digits = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let part = parts.next().filter(digits)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: Option<&str>, gateway: Option<&str>, mac: Option<&str>) -> Network {
        Network {
            address: address.map(str::to_owned),
            gateway: gateway.map(str::to_owned),
            nameservers: Vec::new(),
            hostname: "panda01".to_owned(),
            mac: mac.map(str::to_owned),
        }
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let wanted = Wanted::of(&network(
            Some("10.0.2.15/24"),
            Some("10.0.2.2"),
            Some("02:00:5e:00:00:fF"),
        ));
        assert_eq!(
            wanted.unwrap(),
            Wanted {
                address: IpAddr::from([10, 0, 2, 15]),
                prefix: 24,
                gateway: Some(IpAddr::from([10, 0, 2, 2])),
                mac: Some([2, 0, 0x5e, 0, 0, 255]),
            }
        );
        let alone = Wanted::of(&network(Some("fd00::11/64"), None, None)).unwrap();
        assert_eq!((alone.prefix, alone.gateway, alone.mac), (64, None, None));
    }

    #[test]
    fn what_is_no_address_is_refused_by_its_key() {
        let address = Some("10.77.0.11/24");
        for (wrong, key) in [
            (network(None, None, None), "network.address"),
            (
                network(Some("10.77.0.11/33"), None, None),
                "network.address",
            ),
            (network(Some("127.0.0.1/8"), None, None), "network.address"),
            (network(Some("224.0.0.1/8"), None, None), "network.address"),
            (network(Some("0.0.0.0/0"), None, None), "network.address"),
            (network(address, Some("fd00::1"), None), "network.gateway"),
            (
                network(address, None, Some("01:00:00:00:00:01")),
                "network.mac",
            ),
            (
                network(address, None, Some("00:00:00:00:00:00")),
                "network.mac",
            ),
            (
                network(address, None, Some("02:00:00:00:00:01:02")),
                "network.mac",
            ),
            (
                network(address, None, Some("02:00:00:00:00:+1")),
                "network.mac",
            ),
        ] {
            let said = Wanted::of(&wrong).unwrap_err().to_string();
            assert!(said.contains(key), "{said}");
        }
    }

    #[test]
    fn the_interface_is_the_first_ethernet_that_belongs_to_a_device() {
        let directory = tempfile::tempdir().unwrap();
        let interface = |name: &str, kind: &str, device: bool| {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("type"), kind).unwrap();
            if device {
                fs::create_dir(path.join("device")).unwrap();
            }
        };
        interface("lo", "772\n", false);
        interface("br0", "1\n", false);
        interface("can0", "280\n", true);
        assert_eq!(ethernet(directory.path()), None);
        interface("eth1", "1\n", true);
        interface("eth0", "1\n", true);
        assert_eq!(ethernet(directory.path()).unwrap(), "eth0");
    }
}
