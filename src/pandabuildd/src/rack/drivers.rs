//! The drivers that the slots of a rack name, made for this machine. Which there are, and what they need, is theirs to say
//! ([`panda_board::driver`]); what only the whole rack shows is looked at here: that by whatever name, no two claim what
//! only one can have.
//!
//! ```text
//! find: is all there, on this machine, and everyone's own? ─▶ make: each slot's drivers ─▶ ports closed to what nobody awaits
//! ```

use std::sync::Arc;

use panda_board::driver::{Claims, Clash, Machine, Settings, Together};
use panda_board::settings::Mistake;
use panda_board::{Port, Power, Sense};

use super::RackError;
use crate::config::{Config, SlotSettings};

/// One slot's drivers.
pub(crate) struct Made {
    pub(crate) power: Arc<dyn Power>,
    pub(crate) port: Arc<dyn Port>,
    pub(crate) sense: Option<Arc<dyn Sense>>,
}

/// A driver's table.
#[derive(Debug, Clone, Copy)]
struct Table<'a> {
    slot: &'a str,
    name: &'static str,
    /// Which, where a slot has several.
    index: Option<usize>,
}

impl Table<'_> {
    fn refused(&self, mistake: Mistake) -> RackError {
        RackError::Driver {
            slot: self.slot.to_owned(),
            table: self.name,
            index: self.index,
            mistake,
        }
    }
}

/// The drivers of each slot, in their order, on `machine`.
///
/// # Errors
/// [`RackError::Driver`], or several.
pub(crate) async fn make(config: &Config, machine: Machine) -> Result<Vec<Made>, RackError> {
    let slots = config.slots.clone();
    // Hubs are asked, and drivers taken from devices: that may last.
    let made = tokio::task::spawn_blocking(move || make_all(&slots, machine)).await;
    made.map_err(|_| RackError::Interrupted)?
}

fn make_all(slots: &[SlotSettings], mut machine: Machine) -> Result<Vec<Made>, RackError> {
    RackError::all(find(slots, &machine))?;
    let mut made = Vec::new();
    for slot in slots {
        made.push(make_slot(slot, &mut machine)?);
    }
    // Nothing else can be refused: now the ports are closed to all but what boots await.
    for slot in slots {
        let closed = slot.pipe.guard(&mut machine);
        closed.map_err(|mistake| table(slot, "pipe").refused(mistake))?;
    }
    Ok(made)
}

fn make_slot(slot: &SlotSettings, machine: &mut Machine) -> Result<Made, RackError> {
    let mut supplies = Vec::new();
    for (index, supply) in slot.power.iter().enumerate() {
        let made = supply.make(machine);
        supplies.push(made.map_err(|mistake| power(slot, index).refused(mistake))?);
    }
    let power = match (supplies.pop(), supplies.is_empty()) {
        (Some(one), true) => one,
        (last, _) => {
            supplies.extend(last);
            Arc::new(Together::new(supplies)) as Arc<dyn Power>
        }
    };
    let port = slot.pipe.make(machine);
    let sense = slot.sense.as_ref().map(|sense| sense.make(machine));
    Ok(Made {
        power,
        port: port.map_err(|mistake| table(slot, "pipe").refused(mistake))?,
        sense: sense
            .transpose()
            .map_err(|mistake| table(slot, "sense").refused(mistake))?,
    })
}

/// Everything that drivers need and that is not there, and whatever two of them claim by two names. Touches nothing, and
/// may block.
pub(crate) fn find(slots: &[SlotSettings], machine: &Machine) -> Vec<RackError> {
    let mut refused = Vec::new();
    let mut claims = Claims::default();
    for slot in slots {
        for (settings, table) in drivers(slot) {
            if let Err(mistake) = settings.find(machine) {
                refused.push(table.refused(mistake));
            }
            // Of a device that is not there its first claim tells; the next ones would tell the same.
            let mut missing = None;
            for mut claim in settings.claims() {
                match claim.thing.found() {
                    Ok(found) => {
                        claim.thing = found;
                        claims.add(table.slot, claim, table);
                    }
                    Err(error) => {
                        missing.get_or_insert_with(|| Mistake::new(claim.key, error.to_string()));
                    }
                }
            }
            refused.extend(missing.map(|mistake| table.refused(mistake)));
        }
    }
    refused.extend(claims.clashes().into_iter().map(|clash| {
        let Clash { place, key, text } = clash;
        let text = format!("{text} (two names of one device are one)");
        place.refused(Mistake::new(key.unwrap_or("driver"), text))
    }));
    refused
}

/// Every driver of a slot, and its table.
fn drivers(slot: &SlotSettings) -> Vec<(&dyn Settings, Table<'_>)> {
    let mut all: Vec<(&dyn Settings, Table<'_>)> = Vec::new();
    if let Some(console) = &slot.console {
        all.push((console.as_ref(), table(slot, "console")));
    }
    for (index, supply) in slot.power.iter().enumerate() {
        all.push((supply.as_ref(), power(slot, index)));
    }
    all.push((slot.pipe.as_ref(), table(slot, "pipe")));
    if let Some(sense) = &slot.sense {
        all.push((sense.as_ref(), table(slot, "sense")));
    }
    all
}

fn table<'a>(slot: &'a SlotSettings, name: &'static str) -> Table<'a> {
    Table {
        slot: slot.name.get_ref(),
        name,
        index: None,
    }
}

fn power(slot: &SlotSettings, index: usize) -> Table<'_> {
    Table {
        index: (slot.power.len() > 1).then_some(index),
        ..table(slot, "power")
    }
}

#[cfg(test)]
mod tests;
