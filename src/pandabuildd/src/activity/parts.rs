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
pub struct Parts {
    /// The slot's name.
    pub slot: String,
    /// Where the board's agent is reached.
    pub link: SocketAddr,
    /// Where it is told to listen.
    pub link_listen: SocketAddr,
    /// Where boards reach the depot.
    pub depot_address: SocketAddr,
    /// The board's network.
    pub network: Network,
    /// Which board belongs on the port.
    pub expected: ExpectedBoard,
    /// The board's supply.
    pub power: Arc<dyn Power>,
    /// The port of its OTG.
    pub port: Arc<dyn Port>,
    /// A sense of its rail, where there is one.
    pub sense: Option<Arc<dyn Sense>>,
    /// What it boots.
    pub image: Arc<Image>,
    /// The master's identity.
    pub master: Arc<KeyAndCertificate>,
    /// The ledger.
    pub ledger: Ledger,
    /// The depot.
    pub depot: Depot,
    /// The rack's inputs.
    pub inputs: Filecache,
    /// The slot's results.
    pub results: Results,
    /// Limits of a boot.
    pub boot: BootSettings,
    /// Limits of a guest.
    pub guest: GuestSettings,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}
