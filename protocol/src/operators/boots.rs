//! The last boots, each with its chain: `GET /v1/boots`, `GET /v1/slots/NAME/boots`.

use serde::{Deserialize, Serialize};

use super::BootHistory;
use super::problem::Problem;
use super::query::{Query, with_query};
use super::request::{Method, PREFIX, Request, slot_path};

/// The most boots that one answer tells.
pub const MAX_BOOTS: u32 = 1000;
/// How many it tells where nothing else is asked.
pub const DEFAULT_BOOTS: u32 = 20;

/// Asks for the last boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GetBoots {
    /// Of this slot only.
    pub slot: Option<String>,
    /// At most so many, the latest; 1 to [`MAX_BOOTS`].
    pub limit: u32,
}

/// The last boots, the latest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots {
    /// Each with its chain.
    pub boots: Vec<BootHistory>,
}

impl GetBoots {
    pub(super) fn decode(slot: Option<&str>, query: &mut Query) -> Result<Self, Problem> {
        let limit = query.take("limit", "a number")?.unwrap_or(DEFAULT_BOOTS);
        if !(1..=MAX_BOOTS).contains(&limit) {
            let detail = format!("limit: expected 1 to {MAX_BOOTS}");
            return Err(Problem::malformed(detail));
        }
        Ok(Self {
            slot: slot.map(str::to_owned),
            limit,
        })
    }
}

impl Request for GetBoots {
    type Answer = Boots;
    const METHOD: Method = Method::Get;

    fn target(&self) -> String {
        let path = match &self.slot {
            Some(slot) => slot_path(slot, "boots"),
            None => format!("{PREFIX}/boots"),
        };
        with_query(path, &[("limit", Some(self.limit.to_string()))])
    }
}
