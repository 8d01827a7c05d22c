//! The file as it is written: each table read as the settings type of the room that owns it, with its places kept for the
//! checks' problems. What cannot be read is noted, and the rest is read all the same.

use std::ops::Range;

use panda_board::settings::{Mistakes, read};
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use super::problem::Found;
use super::slot::FileSlot;
use super::{DepotSettings, RackSettings};
use crate::boot::BootSettings;
use crate::filecache::FilecacheSettings;
use crate::front::FrontSettings;
use crate::guest::GuestSettings;
use crate::operators::OperatorsSettings;
use crate::webservice::WebServiceSettings;

/// Every table that there may be.
const TABLES: [&str; 10] = [
    "rack",
    "front",
    "depot",
    "filecache",
    "boot",
    "guest",
    "slot_task",
    "operators",
    "webservice",
    "slot",
];

/// The whole file.
pub(super) struct File<'a> {
    pub(super) rack: Room<'a, RackSettings>,
    pub(super) front: Room<'a, FrontSettings>,
    pub(super) depot: Room<'a, DepotSettings>,
    pub(super) filecache: Room<'a, FilecacheSettings>,
    pub(super) boot: Room<'a, BootSettings>,
    pub(super) guest: Room<'a, GuestSettings>,
    pub(super) slot_task: Room<'a, crate::slot::Settings>,
    pub(super) operators: Room<'a, OperatorsSettings>,
    pub(super) webservice: Option<Room<'a, WebServiceSettings>>,
    pub(super) slots: Vec<FileSlot<'a>>,
}

/// One room's table.
pub(super) struct Room<'a, T> {
    /// Its name.
    name: &'static str,
    /// Where it begins: at the file's beginning where it is not written.
    at: usize,
    table: Option<&'a DeTable<'a>>,
    /// None where it cannot be read.
    pub(super) settings: Option<T>,
}

impl<'a> File<'a> {
    /// Reads all of it.
    pub(super) fn read(document: &'a DeTable<'a>, found: &mut Found<'_>) -> Self {
        for key in document.keys() {
            if !TABLES.contains(&key.get_ref().as_ref()) {
                let tables = TABLES.map(|table| format!("`{table}`")).join(", ");
                let text = format!("unknown field `{key}`, expected one of {tables}");
                found.add(key.span().start, key.get_ref().as_ref(), text);
            }
        }
        Self {
            rack: Room::required(document, "rack", found),
            front: Room::optional(document, "front", found),
            depot: Room::required(document, "depot", found),
            filecache: Room::optional(document, "filecache", found),
            boot: Room::optional(document, "boot", found),
            guest: Room::optional(document, "guest", found),
            slot_task: Room::optional(document, "slot_task", found),
            operators: Room::optional(document, "operators", found),
            webservice: Room::written(document, "webservice", found),
            slots: slots(document, found),
        }
    }
}

impl<'a, T: DeserializeOwned> Room<'a, T> {
    /// The table `name`, where it is written.
    fn written(
        document: &'a DeTable<'a>,
        name: &'static str,
        found: &mut Found<'_>,
    ) -> Option<Self> {
        let value = document.get(name)?;
        let at = value.span().start;
        let mut room = Self {
            name,
            at,
            table: None,
            settings: None,
        };
        match value.get_ref() {
            DeValue::Table(table) => {
                let reading = read(table, value.span());
                found.misread(name, reading.wrong);
                room.table = Some(table);
                room.settings = reading.settings;
            }
            _ => found.add(at, name, format!("expected a table, [{name}]")),
        }
        Some(room)
    }

    fn required(document: &'a DeTable<'a>, name: &'static str, found: &mut Found<'_>) -> Self {
        Self::written(document, name, found).unwrap_or_else(|| {
            found.add(0, name, format!("missing; expected a table [{name}]"));
            Self {
                name,
                at: 0,
                table: None,
                settings: None,
            }
        })
    }

    fn optional(document: &'a DeTable<'a>, name: &'static str, found: &mut Found<'_>) -> Self
    where
        T: Default,
    {
        Self::written(document, name, found).unwrap_or_else(|| Self {
            name,
            at: 0,
            table: None,
            settings: Some(T::default()),
        })
    }
}

impl<T> Room<'_, T> {
    /// Notes what is wrong with the value of `key`.
    pub(super) fn wrong(&self, found: &mut Found<'_>, key: &str, text: impl Into<String>) {
        found.add(self.place(key), format!("{}.{key}", self.name), text);
    }

    /// Notes everything that the room's own check finds, where the settings could be read.
    pub(super) fn check(
        &self,
        found: &mut Found<'_>,
        check: impl FnOnce(&T) -> Result<(), Mistakes>,
    ) {
        if let Some(Err(mistakes)) = self.settings.as_ref().map(check) {
            for mistake in mistakes {
                self.wrong(found, &mistake.key, mistake.text);
            }
        }
    }

    /// Where a key's value is, or the table: a key that is not written has its default.
    pub(super) fn place(&self, key: &str) -> usize {
        place(self.table, key, self.at)
    }
}

/// Where a key's value is, or `otherwise`.
pub(super) fn place(table: Option<&DeTable<'_>>, key: &str, otherwise: usize) -> usize {
    let Some(table) = table else {
        return otherwise;
    };
    if let Some(value) = table.get(key) {
        return value.span().start;
    }
    // Of a table in the table: `families.omap4.second_stage_ms`.
    let Some((outer, inner)) = key.split_once('.') else {
        return otherwise;
    };
    match table
        .get(outer)
        .map(|value| (value.span(), value.get_ref()))
    {
        Some((span, DeValue::Table(table))) => place(Some(table), inner, span.start),
        _ => otherwise,
    }
}

fn slots<'a>(document: &'a DeTable<'a>, found: &mut Found<'_>) -> Vec<FileSlot<'a>> {
    let Some(value) = document.get("slot") else {
        return Vec::new();
    };
    let expected = "expected tables, each with the header [[slot]]";
    let DeValue::Array(array) = value.get_ref() else {
        found.add(value.span().start, "slot", expected);
        return Vec::new();
    };
    let mut slots = Vec::new();
    for (index, value) in array.iter().enumerate() {
        let span: Range<usize> = value.span();
        match value.get_ref() {
            DeValue::Table(table) => slots.push(FileSlot::read(table, span, index, found)),
            _ => found.add(span.start, "slot", expected),
        }
    }
    slots
}
