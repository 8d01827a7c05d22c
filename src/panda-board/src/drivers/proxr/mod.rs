//! Power by ProXR relay boards (National Control Devices), on TCP or a serial line. The bytes are in
//! [`panda_protocol::proxr`]; [`RelayBoard`] is the one task that talks to a relay board for all slots on it.
//!
//! ```text
//! slot panda01 ── ProxrPower{relay 1} ──┐
//! slot panda02 ── ProxrPower{relay 2} ──┼─▶ RelayBoard ── connect ▶ test ▶ order ▶ read back … ▶ close
//! slot panda03 ── ProxrPower{relay 3} ──┘        one order at a time; closed as soon as none is waiting
//! ```

mod board;
#[cfg(feature = "serial")]
mod serial;
mod tcp;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use panda_protocol::proxr::Relay;

use crate::driver::{Claim, Thing};
use crate::settings::Mistake;
use crate::{Power, PowerError, PowerState};

pub use board::RelayBoard;
#[cfg(feature = "serial")]
pub use serial::ProxrSerialSettings;
pub use tcp::{ProxrTcpSettings, RelayAddress};

/// A relay that is on a board's supply, and how it is wired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contact {
    /// The relay.
    pub relay: Relay,
    /// The supply goes through the contact that is closed while the relay rests, so a relay that is *on* means a
    /// board that is *off*.
    pub normally_closed: bool,
}

impl Contact {
    /// From the settings `bank`, `relay` and `normally_closed`.
    fn new(bank: u8, relay: u8, normally_closed: bool) -> Result<Self, Mistake> {
        let relay = Relay::new(bank, relay).map_err(|error| {
            let key = if (1..=4).contains(&bank) {
                "relay"
            } else {
                "bank"
            };
            Mistake::new(key, error.to_string())
        })?;
        Ok(Self {
            relay,
            normally_closed,
        })
    }

    /// Whether the relay is on while the board's power is in this state.
    const fn relay_on(self, power: PowerState) -> bool {
        matches!(power, PowerState::Off) == self.normally_closed
    }

    const fn power(self, relay_on: bool) -> PowerState {
        if relay_on == self.normally_closed {
            PowerState::Off
        } else {
            PowerState::On
        }
    }
}

/// What a contact claims: its relay board, spoken to in one `way`, in turns with others, and its relay alone. `key` names
/// the relay board. Nothing of a relay that does not exist: the check says so.
fn claims(key: &'static str, board: Thing, way: Vec<u64>, contact: Option<Contact>) -> Vec<Claim> {
    let Some(Contact { relay, .. }) = contact else {
        return Vec::new();
    };
    let output = Thing::Output {
        of: Box::new(board.clone()),
        output: format!("relay {} of bank {}", relay.number(), relay.bank()),
    };
    vec![
        Claim::turns(key, board, "a relay board", way),
        Claim::alone("relay", output, "a relay"),
    ]
}

/// The longest that any time of a relay board may be.
const MOST_MS: u64 = 60_000;

/// The supply of a board that is on a relay.
#[derive(Debug, Clone)]
pub struct ProxrPower {
    board: RelayBoard,
    contact: Contact,
}

impl ProxrPower {
    /// Of the board on this contact.
    #[must_use]
    pub const fn new(board: RelayBoard, contact: Contact) -> Self {
        Self { board, contact }
    }

    async fn switch(&self, power: PowerState) -> Result<(), PowerError> {
        let on = self.contact.relay_on(power);
        self.board.switch(self.contact.relay, on).await
    }
}

#[async_trait]
impl Power for ProxrPower {
    async fn off(&self) -> Result<(), PowerError> {
        self.switch(PowerState::Off).await
    }

    async fn on(&self) -> Result<(), PowerError> {
        self.switch(PowerState::On).await
    }

    async fn read(&self) -> Result<Option<PowerState>, PowerError> {
        let on = self.board.read(self.contact.relay).await?;
        Ok(Some(self.contact.power(on)))
    }
}

const fn yes() -> bool {
    true
}

const fn first_bank() -> u8 {
    1
}

const fn one_second() -> u64 {
    1_000
}
