//! Where on a machine's USB something is plugged in, as Linux names it: a bus and the ports on the way. It names a
//! place, whatever is there; a device's address changes with every arrival, and is used nowhere.
//!
//! ```text
//! 1-2.3    bus 1, its root hub's port 2, and on the hub there port 3
//! usb1     the root hub of bus 1: its port 2 is 1-2
//! ```

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// The most ports on the way: USB allows seven tiers, the root hub's included.
const MOST_TIERS: usize = 6;

/// A port: `1-2.3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct PortPath {
    bus: u16,
    ports: Vec<u8>,
}

impl PortPath {
    /// The bus.
    #[must_use]
    pub const fn bus(&self) -> u16 {
        self.bus
    }

    /// The hub that this is a port of.
    #[must_use]
    pub fn hub(&self) -> HubPath {
        let (_, up) = self.ports.split_last().unwrap_or((&0, &[]));
        HubPath {
            bus: self.bus,
            ports: up.to_vec(),
        }
    }

    /// Its number on that hub.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.ports.last().copied().unwrap_or_default()
    }

    /// Whether this is `other`, or on the way behind it.
    #[must_use]
    pub fn is_at_or_behind(&self, other: &Self) -> bool {
        self.bus == other.bus && self.ports.starts_with(&other.ports)
    }

    /// Whether either is on the way to the other, or both are the same.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.is_at_or_behind(other) || other.is_at_or_behind(self)
    }

    /// Where sysfs has what is known of the port itself, below its directory of USB devices.
    #[cfg(any(test, feature = "usb"))]
    pub(crate) fn directory(&self) -> String {
        let hub = self.hub();
        let interface = if hub.ports.is_empty() {
            format!("{}-0:1.0", self.bus)
        } else {
            format!("{hub}:1.0")
        };
        format!("{interface}/{hub}-port{}", self.number())
    }
}

impl fmt::Display for PortPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_path(f, self.bus, &self.ports)
    }
}

fn write_path(f: &mut fmt::Formatter<'_>, bus: u16, ports: &[u8]) -> fmt::Result {
    write!(f, "{bus}")?;
    for (at, port) in ports.iter().enumerate() {
        write!(f, "{}{port}", if at == 0 { '-' } else { '.' })?;
    }
    Ok(())
}

/// What is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Of no port.
    #[error(
        "{0:?}: expected a USB port's path, such as 1-2.3 (bus 1, port 2, port 3 of the hub there); `pandabuildd usb list` shows all"
    )]
    Port(String),
    /// Of no hub.
    #[error(
        "{0:?}: expected a USB hub's path, such as 1-2, or usb1 for the root hub of bus 1; `pandabuildd usb list` shows all"
    )]
    Hub(String),
}

impl FromStr for PortPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let wrong = || PathError::Port(text.chars().take(40).collect());
        let (bus, ports) = text.split_once('-').ok_or_else(wrong)?;
        let ports: Option<Vec<u8>> = ports.split('.').map(number).collect();
        let path = Self {
            bus: number(bus).ok_or_else(wrong)?,
            ports: ports.ok_or_else(wrong)?,
        };
        if path.ports.len() > MOST_TIERS {
            return Err(wrong());
        }
        Ok(path)
    }
}

/// A number from 1, written as Linux writes it: the same place has one name only.
fn number<N: FromStr + PartialEq + Default>(text: &str) -> Option<N> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl TryFrom<String> for PortPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

/// A hub: `1-2`, or `usb1` for a bus's root hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct HubPath {
    bus: u16,
    ports: Vec<u8>,
}

impl HubPath {
    /// The port of this number on it.
    #[must_use]
    pub fn port(&self, number: u8) -> PortPath {
        let mut ports = self.ports.clone();
        ports.push(number);
        PortPath {
            bus: self.bus,
            ports,
        }
    }

    /// The root hub of a bus.
    #[must_use]
    pub const fn root(bus: u16) -> Self {
        Self {
            bus,
            ports: Vec::new(),
        }
    }
}

impl fmt::Display for HubPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ports.is_empty() {
            write!(f, "usb{}", self.bus)
        } else {
            write_path(f, self.bus, &self.ports)
        }
    }
}

impl FromStr for HubPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let wrong = || PathError::Hub(text.chars().take(40).collect());
        if let Some(bus) = text.strip_prefix("usb") {
            return Ok(Self::root(number(bus).ok_or_else(wrong)?));
        }
        let PortPath { bus, ports } = text.parse().map_err(|_| wrong())?;
        Ok(Self { bus, ports })
    }
}

impl TryFrom<String> for HubPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_written_as_linux_names_them() {
        for text in ["1-2", "1-2.3", "12-1.4.7.1.2.15"] {
            assert_eq!(text.parse::<PortPath>().unwrap().to_string(), text);
        }
        for text in ["usb1", "1-2", "3-1.4"] {
            assert_eq!(text.parse::<HubPath>().unwrap().to_string(), text);
        }
        let port: PortPath = "1-2.3".parse().unwrap();
        assert_eq!((port.hub().to_string().as_str(), port.number()), ("1-2", 3));
        assert_eq!(port.directory(), "1-2:1.0/1-2-port3");
        let root: PortPath = "1-2".parse().unwrap();
        assert_eq!(root.hub().to_string(), "usb1");
        assert_eq!(root.directory(), "1-0:1.0/usb1-port2");
        assert_eq!("usb1".parse::<HubPath>().unwrap().port(2), root);
    }

    #[test]
    fn what_is_no_path_is_refused_with_an_example() {
        for text in [
            "",
            "1",
            "1-",
            "-1",
            "0-1",
            "1-0",
            "01-2",
            "1-2.",
            "1-2..3",
            "1-+2",
            "1-256",
            "usb1",
            "1-2:1.0",
            "1-1.1.1.1.1.1.1",
            "../x",
            "1-2/..",
        ] {
            let error = text.parse::<PortPath>().unwrap_err().to_string();
            assert!(error.contains("such as 1-2.3"), "{text}: {error}");
        }
        for text in ["usb", "usb0", "usb-1", "", "x"] {
            assert!(text.parse::<HubPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_behind_a_port_is_told_from_its_neighbours() {
        let path = |text: &str| text.parse::<PortPath>().unwrap();
        assert!(path("1-2.3").is_at_or_behind(&path("1-2")));
        assert!(path("1-2").is_at_or_behind(&path("1-2")));
        assert!(!path("1-2").is_at_or_behind(&path("1-2.3")));
        assert!(!path("1-21").is_at_or_behind(&path("1-2")));
        assert!(!path("2-2").is_at_or_behind(&path("1-2")));
    }
}
