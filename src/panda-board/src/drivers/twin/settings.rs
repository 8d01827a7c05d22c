//! `driver = "twin"`: one of a virtual board's sockets, as supply, port or console.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;

use super::{TwinConsole, TwinPort, TwinPower};
use crate::driver::{
    Claim, ConsoleDriver, Machine, PipeDriver, PowerDriver, Settings, Thing, rebase,
};
use crate::settings::{Mistake, Mistakes};
use crate::{BoardError, Console, Port, Power};

/// The most bytes of a Unix socket's path, less its NUL.
const MAX_SOCKET: usize = 107;

/// `driver = "twin"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwinSettings {
    /// The socket's path.
    pub socket: PathBuf,
}

impl TwinSettings {
    /// What `driver` says.
    pub const DRIVER: &'static str = "twin";
}

impl Settings for TwinSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let bytes = self.socket.as_os_str().len();
        let expected = format!(
            "{:?}: expected a path of 1 to {MAX_SOCKET} bytes",
            self.socket
        );
        let mut mistakes = Mistakes::default();
        mistakes.unless((1..=MAX_SOCKET).contains(&bytes), "socket", expected);
        mistakes.end()
    }

    fn claims(&self) -> Vec<Claim> {
        let socket = Thing::Socket(self.socket.clone());
        vec![Claim::alone("socket", socket, "a virtual board's socket")]
    }

    fn rebase(&mut self, base: &Path) {
        rebase(base, &mut self.socket);
    }
}

impl PowerDriver for TwinSettings {
    fn make(&self, _: &mut Machine) -> Result<Arc<dyn Power>, Mistake> {
        Ok(Arc::new(TwinPower::new(&self.socket)))
    }
}

impl PipeDriver for TwinSettings {
    fn make(&self, _: &mut Machine) -> Result<Arc<dyn Port>, Mistake> {
        Ok(Arc::new(TwinPort::spawn(&self.socket)))
    }
}

#[async_trait]
impl ConsoleDriver for TwinSettings {
    async fn open(&self) -> Result<Box<dyn Console>, BoardError> {
        Ok(Box::new(TwinConsole::connect(&self.socket).await?))
    }
}
