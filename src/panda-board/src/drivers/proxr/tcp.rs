//! A relay board's network front: one TCP connection at a time, and about a second between two.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use panda_protocol::proxr::TCP_PORT;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::board::{Pace, Stream, Wire};
use super::{Contact, MOST_MS, ProxrPower, RelayBoard, claims, first_bank, one_second, yes};
use crate::Power;
use crate::driver::{Claim, Machine, PowerDriver, Settings, Thing};
use crate::settings::{Mistake, Mistakes};

/// `driver = "proxr-tcp"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxrTcpSettings {
    /// Where the relay board is.
    pub address: RelayAddress,
    /// The relay's bank, 1 to 4.
    #[serde(default = "first_bank")]
    pub bank: u8,
    /// The relay, 1 to 8.
    pub relay: u8,
    /// A relay that is on cuts power.
    #[serde(default = "yes")]
    pub normally_closed: bool,
    /// A connection must be there within this.
    #[serde(default = "two_seconds")]
    pub connect_ms: u64,
    /// Each answer must come within this.
    #[serde(default = "one_second")]
    pub answer_ms: u64,
    /// After a connection was closed, the next one waits this long.
    #[serde(default = "one_second")]
    pub pause_ms: u64,
}

const fn two_seconds() -> u64 {
    2_000
}

impl ProxrTcpSettings {
    /// What `driver` says.
    pub const DRIVER: &'static str = "proxr-tcp";

    /// The relay and its wiring.
    ///
    /// # Errors
    /// No such bank or relay.
    pub fn contact(&self) -> Result<Contact, Mistake> {
        Contact::new(self.bank, self.relay, self.normally_closed)
    }

    /// The relay board; nothing is opened before the first order.
    #[must_use]
    pub fn board(&self) -> RelayBoard {
        let pace = Pace {
            connect: Duration::from_millis(self.connect_ms),
            answer: Duration::from_millis(self.answer_ms),
            pause: Duration::from_millis(self.pause_ms),
        };
        RelayBoard::spawn(self.address, pace)
    }
}

impl Settings for ProxrTcpSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let address = self.address.0;
        let one = address.port() != 0 && !address.ip().is_unspecified();
        mistakes.unless(one, "address", "expected the address of one relay board");
        mistakes.milliseconds("connect_ms", self.connect_ms, 1..=MOST_MS);
        mistakes.milliseconds("answer_ms", self.answer_ms, 1..=MOST_MS);
        mistakes.milliseconds("pause_ms", self.pause_ms, 0..=MOST_MS);
        mistakes.note(self.contact());
        mistakes.end()
    }

    fn claims(&self) -> Vec<Claim> {
        let board = Thing::Address(self.address.0);
        let way = vec![self.connect_ms, self.answer_ms, self.pause_ms];
        claims("address", board, way, self.contact().ok())
    }
}

impl PowerDriver for ProxrTcpSettings {
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Power>, Mistake> {
        let contact = self.contact()?;
        let board = machine.shared(Thing::Address(self.address.0), || self.board());
        Ok(Arc::new(ProxrPower::new(board, contact)))
    }
}

/// An IP address, with a port or with the one that relay boards listen on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct RelayAddress(pub SocketAddr);

impl TryFrom<String> for RelayAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let with_port = text.parse();
        let without = || {
            text.parse::<IpAddr>()
                .map(|ip| SocketAddr::new(ip, TCP_PORT))
        };
        with_port.or_else(|_| without()).map(Self).map_err(|_| {
            format!(
                "{text:?}: expected an IP address, with a port or without ({TCP_PORT} then), such as 10.77.0.5"
            )
        })
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl Wire for RelayAddress {
    fn place(&self) -> String {
        self.to_string()
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.0).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}
