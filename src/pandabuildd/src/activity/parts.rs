//! What one slot's activities are put together from; whoever assembles the rack fills it in.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use panda_board::{Port, Power};
use panda_protocol::boot_toml::Network;

use crate::boot::{BootSettings, ExpectedBoard, Sense};
use crate::depot::Depot;
use crate::filecache::Filecache;
use crate::guest::{GuestSettings, Results};
use crate::identity::KeyAndCertificate;
use crate::ledger::Ledger;
use panda_image::Image;

/// Everything that one slot's activities need.
pub(crate) struct Parts {
    /// The slot's name.
    pub(crate) slot: String,
    /// Where the board's agent is reached.
    pub(crate) link: SocketAddr,
    /// Where it is told to listen.
    pub(crate) link_listen: SocketAddr,
    /// Where boards reach the depot.
    pub(crate) depot_address: SocketAddr,
    /// The board's network.
    pub(crate) network: Network,
    /// Which board belongs on the port.
    pub(crate) expected: ExpectedBoard,
    /// The board's supply.
    pub(crate) power: Arc<dyn Power>,
    /// The port of its OTG.
    pub(crate) port: Arc<dyn Port>,
    /// A sense of its rail, where there is one.
    pub(crate) sense: Option<Arc<dyn Sense>>,
    /// What it boots.
    pub(crate) image: Arc<Image>,
    /// The master's identity.
    pub(crate) master: Arc<KeyAndCertificate>,
    /// The ledger.
    pub(crate) ledger: Ledger,
    /// The depot.
    pub(crate) depot: Depot,
    /// The rack's inputs.
    pub(crate) inputs: Filecache,
    /// The slot's results.
    pub(crate) results: Results,
    /// Limits of a boot.
    pub(crate) boot: BootSettings,
    /// Limits of a guest.
    pub(crate) guest: GuestSettings,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
