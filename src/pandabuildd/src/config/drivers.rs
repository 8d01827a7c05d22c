//! The tables of a slot that name a driver: `[slot.power]`, one or several, `[slot.pipe]`, `[slot.console]` and
//! `[slot.sense]`. Which drivers there are, what their keys may be and what they claim is theirs to say
//! ([`panda_board::driver`]); here their tables are read and checked, and all claims of the rack compared.

use panda_board::driver::{Claims, Drivers, PowerDriver, Settings};
use panda_board::drivers::POWER;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::place;
use super::problem::Found;
use super::slot::FileSlot;

/// The most supplies of one slot.
const MAX_SUPPLIES: usize = 4;

/// A driver's settings, and the table that they were read from.
pub(super) struct Named<'a, T: ?Sized> {
    pub(super) settings: Box<T>,
    written: Written<'a>,
}

/// A driver's table.
#[derive(Clone, Copy)]
struct Written<'a> {
    /// `power`.
    table: &'static str,
    at: usize,
    keys: &'a DeTable<'a>,
}

impl Written<'_> {
    /// Notes what is wrong with the value of `key`, or with the table.
    fn wrong(&self, found: &mut Found<'_>, key: Option<&str>, text: String) {
        let table = self.table;
        match key {
            Some(key) => {
                let at = place(Some(self.keys), key, self.at);
                found.add(at, format!("slot.{table}.{key}"), text);
            }
            None => found.add(self.at, format!("slot.{table}"), text),
        }
    }
}

/// Reads the table `value` as that of the driver which it names, and checks it; none where it cannot be read.
pub(super) fn read<'a, T: Settings + ?Sized>(
    drivers: &Drivers<T>,
    value: &'a Spanned<DeValue<'a>>,
    found: &mut Found<'_>,
) -> Option<Named<'a, T>> {
    let (table, at) = (drivers.table, value.span().start);
    let DeValue::Table(keys) = value.get_ref() else {
        let key = format!("slot.{table}");
        found.add(at, key, "expected a table with a `driver`");
        return None;
    };
    let reading = drivers.read(keys, value.span());
    found.misread(&format!("slot.{table}"), reading.wrong);
    let settings = reading.settings?;
    let written = Written { table, at, keys };
    if let Err(mistakes) = settings.check() {
        for mistake in mistakes {
            written.wrong(found, Some(&mistake.key), mistake.text);
        }
    }
    Some(Named { settings, written })
}

/// Reads `[slot.power]`, or several, `[[slot.power]]`.
pub(super) fn read_supplies<'a>(
    value: &'a Spanned<DeValue<'a>>,
    found: &mut Found<'_>,
) -> Vec<Named<'a, dyn PowerDriver>> {
    let DeValue::Array(array) = value.get_ref() else {
        return read(&POWER, value, found).into_iter().collect();
    };
    if array.is_empty() || array.len() > MAX_SUPPLIES {
        let text = format!(
            "expected 1 to {MAX_SUPPLIES} supplies, found {}",
            array.len()
        );
        found.add(value.span().start, "slot.power", text);
        return Vec::new();
    }
    let each = array.iter();
    each.filter_map(|value| read(&POWER, value, found))
        .collect()
}

/// No two drivers claim what only one can have. Devices by their names here; two names of one are told when the rack
/// starts.
pub(super) fn check_claims(slots: &[FileSlot<'_>], presence_tells: bool, found: &mut Found<'_>) {
    let mut claims = Claims::default();
    for slot in slots {
        for (settings, written) in slot.drivers() {
            for claim in settings.claims() {
                // A gadget that leaves because its port was switched off shows nothing of the board's supply.
                if presence_tells && claim.thing.is_port_power() {
                    let text = "boot.require_cut is `presence`, and whatever is on a port that is switched off \
                                leaves it, powered or not; require `readback` or `sensed`";
                    written.wrong(found, Some(claim.key), text.to_owned());
                }
                claims.add(&slot.name(), claim, written);
            }
        }
    }
    for clash in claims.clashes() {
        clash.place.wrong(found, clash.key, clash.text);
    }
}

impl<'a> FileSlot<'a> {
    /// Every driver of the slot, as far as it can be read.
    fn drivers(&self) -> impl Iterator<Item = (&dyn Settings, Written<'a>)> {
        let power = self.power.iter().map(|named| {
            let settings: &dyn Settings = named.settings.as_ref();
            (settings, named.written)
        });
        let pipe = self.pipe.iter().map(|named| {
            let settings: &dyn Settings = named.settings.as_ref();
            (settings, named.written)
        });
        let sense = self.sense.iter().map(|named| {
            let settings: &dyn Settings = named.settings.as_ref();
            (settings, named.written)
        });
        let console = self.console.iter().map(|named| {
            let settings: &dyn Settings = named.settings.as_ref();
            (settings, named.written)
        });
        power.chain(pipe).chain(sense).chain(console)
    }
}
