//! `driver = "tcp"`: a console that a TCP port passes on, byte for byte.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::socket::{setsockopt, sockopt};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{StreamConsole, USAGE, error};
use crate::driver::{Claim, ConsoleDriver, Settings, Thing};
use crate::settings::Mistakes;
use crate::{BoardError, Console};

/// It must be there within this.
const CONNECT: Duration = Duration::from_secs(10);

/// `driver = "tcp"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpConsoleSettings {
    /// Where the console is passed on, byte for byte.
    pub address: SocketAddr,
}

impl TcpConsoleSettings {
    /// What `driver` says.
    pub const DRIVER: &'static str = "tcp";
}

impl Settings for TcpConsoleSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        let one = self.address.port() != 0 && !self.address.ip().is_unspecified();
        let expected = "expected address and port of this one console";
        mistakes.unless(one, "address", expected);
        mistakes.end()
    }

    fn claims(&self) -> Vec<Claim> {
        let address = Thing::Address(self.address);
        vec![Claim::alone("address", address, USAGE)]
    }
}

#[async_trait]
impl ConsoleDriver for TcpConsoleSettings {
    async fn open(&self) -> Result<Box<dyn Console>, BoardError> {
        let place = self.address.to_string();
        let connected = match timeout(CONNECT, TcpStream::connect(self.address)).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let stream = connected.map_err(|source| error(&place, source))?;
        // A console may be silent for days; a peer that has gone is noticed all the same.
        setsockopt(&stream, sockopt::KeepAlive, &true)
            .map_err(|errno| error(&place, errno.into()))?;
        Ok(Box::new(StreamConsole { place, stream }))
    }
}
