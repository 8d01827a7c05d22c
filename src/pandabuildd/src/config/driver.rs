//! Tables with a `driver` key, which says what other keys they may have: `[slot.power]`, `[slot.pipe]`,
//! `[slot.console]` and `[slot.sense]`. Each driver owns its settings type; here a table is read as the one that its driver names,
//! and a mistake keeps its exact line: that of the key whose value was being read when it was found.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use panda_board::command::{CommandSenseSettings, CommandSettings};
use panda_board::console::{SerialConsoleSettings, TcpConsoleSettings};
use panda_board::proxr::{ProxrSerialSettings, ProxrTcpSettings};
use panda_board::usb::{HubPortSettings, UsbPortSettings};
use serde::de::value::MapAccessDeserializer;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::{Spanned, Value};

use super::error::Problem;

/// `[slot.power]`: what switches a board's supply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PowerSettings {
    /// A virtual board's.
    Twin(TwinSettings),
    /// A ProXR relay board on TCP.
    ProxrTcp(ProxrTcpSettings),
    /// A ProXR relay board on a serial line.
    ProxrSerial(ProxrSerialSettings),
    /// A command of the rack's owner.
    Command(CommandSettings),
    /// A port of a USB hub.
    HubPort(HubPortSettings),
    /// Several, switched together.
    Together(Vec<Self>),
}

impl PowerSettings {
    /// Each supply.
    pub fn each(&self) -> &[Self] {
        match self {
            Self::Together(supplies) => supplies,
            one => std::slice::from_ref(one),
        }
    }
}

/// `[slot.pipe]`: the port that a board's OTG is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PipeSettings {
    /// A virtual board's.
    Twin(TwinSettings),
    /// A USB port of the master.
    Usb(UsbPortSettings),
}

/// `[slot.sense]`: what tells whether a board's supply carries power, and does not go through what switches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenseSettings {
    /// A command of the rack's owner.
    Command(CommandSenseSettings),
}

/// `[slot.console]`: a board's serial console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleSettings {
    /// A virtual board's.
    Twin(TwinSettings),
    /// A serial line of the master.
    Serial(SerialConsoleSettings),
    /// A TCP port that passes a serial line on.
    Tcp(TcpConsoleSettings),
}

/// `driver = "twin"`: one of a virtual board's sockets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TwinSettings {
    /// The socket's path.
    pub socket: PathBuf,
}

/// What the drivers of one kind of table have in common.
pub(super) trait Drivers: Sized {
    /// The table, for messages.
    const TABLE: &'static str;
    /// The drivers' names.
    const NAMES: &'static [&'static str];

    /// Reads the keys as the settings of `driver`; none where there is no such driver.
    fn read(driver: &str, keys: &Keys) -> Option<Result<Self, Mistake>>;

    /// The driver's own check: `key: what is expected`.
    fn check(&self) -> Result<(), String>;

    /// Takes every path in it that is relative from `base`.
    fn rebase(&mut self, base: &Path);
}

impl Drivers for PowerSettings {
    const TABLE: &'static str = "slot.power";
    const NAMES: &'static [&'static str] =
        &["twin", "proxr-tcp", "proxr-serial", "command", "hub-port"];

    fn read(driver: &str, keys: &Keys) -> Option<Result<Self, Mistake>> {
        Some(match driver {
            "twin" => keys.read().map(Self::Twin),
            "proxr-tcp" => keys.read().map(Self::ProxrTcp),
            "proxr-serial" => keys.read().map(Self::ProxrSerial),
            "command" => keys.read().map(Self::Command),
            "hub-port" => keys.read().map(Self::HubPort),
            _ => return None,
        })
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Twin(_) => Ok(()),
            Self::ProxrTcp(settings) => settings.check(),
            Self::ProxrSerial(settings) => settings.check(),
            Self::Command(settings) => settings.check(),
            Self::HubPort(settings) => settings.check(),
            Self::Together(supplies) => supplies.iter().try_for_each(Self::check),
        }
    }

    fn rebase(&mut self, base: &Path) {
        match self {
            Self::Twin(settings) => super::rebase(base, &mut settings.socket),
            Self::ProxrSerial(settings) => super::rebase(base, &mut settings.device),
            Self::ProxrTcp(_) | Self::Command(_) | Self::HubPort(_) => {}
            Self::Together(supplies) => {
                for supply in supplies {
                    supply.rebase(base);
                }
            }
        }
    }
}

impl Drivers for PipeSettings {
    const TABLE: &'static str = "slot.pipe";
    const NAMES: &'static [&'static str] = &["twin", "usb"];

    fn read(driver: &str, keys: &Keys) -> Option<Result<Self, Mistake>> {
        Some(match driver {
            "twin" => keys.read().map(Self::Twin),
            "usb" => keys.read().map(Self::Usb),
            _ => return None,
        })
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Twin(_) | Self::Usb(_) => Ok(()),
        }
    }

    fn rebase(&mut self, base: &Path) {
        match self {
            Self::Twin(settings) => super::rebase(base, &mut settings.socket),
            Self::Usb(_) => {}
        }
    }
}

impl Drivers for SenseSettings {
    const TABLE: &'static str = "slot.sense";
    const NAMES: &'static [&'static str] = &["command"];

    fn read(driver: &str, keys: &Keys) -> Option<Result<Self, Mistake>> {
        Some(match driver {
            "command" => keys.read().map(Self::Command),
            _ => return None,
        })
    }

    fn check(&self) -> Result<(), String> {
        let Self::Command(settings) = self;
        settings.check()
    }

    fn rebase(&mut self, _: &Path) {}
}

impl Drivers for ConsoleSettings {
    const TABLE: &'static str = "slot.console";
    const NAMES: &'static [&'static str] = &["twin", "serial", "tcp"];

    fn read(driver: &str, keys: &Keys) -> Option<Result<Self, Mistake>> {
        Some(match driver {
            "twin" => keys.read().map(Self::Twin),
            "serial" => keys.read().map(Self::Serial),
            "tcp" => keys.read().map(Self::Tcp),
            _ => return None,
        })
    }

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Twin(_) => Ok(()),
            Self::Serial(settings) => settings.check(),
            Self::Tcp(settings) => settings.check(),
        }
    }

    fn rebase(&mut self, base: &Path) {
        match self {
            Self::Twin(settings) => super::rebase(base, &mut settings.socket),
            Self::Serial(settings) => super::rebase(base, &mut settings.device),
            Self::Tcp(_) => {}
        }
    }
}

/// The most supplies of one slot.
const MAX_SUPPLIES: usize = 4;

/// `[slot.power]`, or several, `[[slot.power]]`.
#[derive(Debug)]
pub(super) struct PowerTables(Vec<Spanned<DriverTable<PowerSettings>>>, bool);

impl PowerTables {
    /// Each supply's table, and where it begins; `header` is where all of them do.
    pub(super) fn each(
        &self,
        header: &Range<usize>,
    ) -> impl Iterator<Item = (&DriverTable<PowerSettings>, Range<usize>)> {
        self.0.iter().map(|table| {
            let span = if self.1 { table.span() } else { header.clone() };
            (table.get_ref(), span)
        })
    }

    /// The settings of all, checked.
    pub(super) fn settings(&self, header: &Range<usize>) -> Result<PowerSettings, Problem> {
        if self.0.is_empty() || self.0.len() > MAX_SUPPLIES {
            let text = format!(
                "expected 1 to {MAX_SUPPLIES} supplies, found {}",
                self.0.len()
            );
            return Err(Problem::at(header.clone(), "slot.power", text));
        }
        let each = self.each(header);
        let mut all: Vec<_> = each
            .map(|(table, span)| table.settings(span))
            .collect::<Result<_, _>>()?;
        Ok(match (all.pop(), all.is_empty()) {
            (Some(one), true) => one,
            (last, _) => {
                all.extend(last);
                PowerSettings::Together(all)
            }
        })
    }
}

impl<'de> Deserialize<'de> for PowerTables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMore)
    }
}

struct OneOrMore;

impl<'de> Visitor<'de> for OneOrMore {
    type Value = PowerTables;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table with a `driver`, or an array of such tables")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PowerTables, A::Error> {
        let table = DriverTable::deserialize(MapAccessDeserializer::new(map))?;
        Ok(PowerTables(vec![Spanned::new(0..0, table)], false))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PowerTables, A::Error> {
        let mut tables = Vec::new();
        while let Some(table) = seq.next_element()? {
            tables.push(table);
        }
        Ok(PowerTables(tables, true))
    }
}

/// A table as it is written, not yet read as its driver's.
pub(super) struct DriverTable<T> {
    keys: Keys,
    kind: PhantomData<T>,
}

impl<T> fmt::Debug for DriverTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverTable").finish_non_exhaustive()
    }
}

impl<T: Drivers> DriverTable<T> {
    /// The settings, checked; `header` is where the table begins.
    pub(super) fn settings(&self, header: Range<usize>) -> Result<T, Problem> {
        let problem =
            |span, key: &str, text: String| Problem::at(span, format!("{}.{key}", T::TABLE), text);
        let expected = || format!("expected one of {:?}", T::NAMES);
        let Some((_, driver)) = self.keys.0.iter().find(|(name, _)| name == "driver") else {
            let text = format!("missing; {}", expected());
            return Err(problem(header, "driver", text));
        };
        let Some(name) = driver.get_ref().as_str() else {
            return Err(problem(driver.span(), "driver", expected()));
        };
        let read = T::read(name, &self.keys)
            .ok_or_else(|| problem(driver.span(), "driver", format!("{name:?}: {}", expected())))?;
        let settings = read.map_err(|mistake| match mistake.key {
            Some(key) => {
                let text = mistake.text.replace('\n', " ");
                problem(self.place(&key, header), &key, text.trim().to_owned())
            }
            None => {
                let text = format!("driver {name:?}: {}", mistake.text.trim());
                problem(driver.span(), "driver", text)
            }
        })?;
        settings.check().map_err(|text| {
            let (key, text) = text.split_once(": ").unwrap_or(("driver", &text));
            problem(self.place(key, driver.span()), key, text.to_owned())
        })?;
        Ok(settings)
    }

    /// Where a key's value is, or `otherwise`: a key that is not written has its default.
    pub(super) fn place(&self, key: &str, otherwise: Range<usize>) -> Range<usize> {
        let written = self.keys.0.iter().find(|(name, _)| name == key);
        written.map_or(otherwise, |(_, value)| value.span())
    }
}

/// With a relative path taken from `base`.
pub(super) fn based<T: Drivers>(mut settings: T, base: &Path) -> T {
    settings.rebase(base);
    settings
}

/// A table's keys and values, each with its place.
pub(super) struct Keys(Vec<(String, Spanned<Value>)>);

/// Why keys cannot be read as a driver's settings, and the key that is to blame, unless one is missing.
pub(super) struct Mistake {
    key: Option<String>,
    text: String,
}

impl Keys {
    fn read<S: DeserializeOwned>(&self) -> Result<S, Mistake> {
        // A mistake in a key or its value is found while it is the last one that was handed out.
        let last = Cell::new(None);
        let keys = self.0.iter().filter(|(name, _)| name != "driver");
        let handed = keys.map(|(name, value)| {
            last.set(Some(name));
            (name.as_str(), value.get_ref().clone())
        });
        let ended = std::iter::from_fn(|| {
            last.set(None);
            None
        });
        S::deserialize(MapDeserializer::new(handed.chain(ended))).map_err(
            |error: toml::de::Error| Mistake {
                key: last.get().cloned(),
                text: error.message().to_owned(),
            },
        )
    }
}

impl<'de, T> Deserialize<'de> for DriverTable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collect(PhantomData))
    }
}

struct Collect<T>(PhantomData<T>);

impl<'de, T> Visitor<'de> for Collect<T> {
    type Value = DriverTable<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table with a `driver`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = map.next_key()? {
            keys.push((key, map.next_value()?));
        }
        Ok(DriverTable {
            keys: Keys(keys),
            kind: PhantomData,
        })
    }
}
