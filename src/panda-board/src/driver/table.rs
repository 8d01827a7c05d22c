//! How a table of `rack.toml` is read as the driver that it names, of those that [`crate::drivers`] lists.

use std::fmt;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::settings::{Misread, Reading, read};

/// What `driver` names.
const DRIVER: &str = "driver";

/// The drivers of one kind; `T` is what their settings are.
pub struct Drivers<T: ?Sized + 'static> {
    /// The table of `[[slot]]` that names one of them.
    pub table: &'static str,
    pub(crate) all: &'static [Driver<T>],
}

/// Reads a table, which is at a place, as a driver's settings.
pub(crate) type Read<T> = fn(&DeTable<'_>, Range<usize>) -> Reading<Box<T>>;

/// One of them.
pub(crate) struct Driver<T: ?Sized> {
    pub(crate) name: &'static str,
    pub(crate) read: Read<T>,
}

impl<T: ?Sized> fmt::Debug for Drivers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drivers")
            .field("table", &self.table)
            .field("all", &self.names())
            .finish()
    }
}

impl<T: ?Sized> Drivers<T> {
    /// What `driver` may say.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.all.iter().map(|driver| driver.name).collect()
    }

    /// Reads the table `keys`, which is at `span`, as the settings of the driver that it names. What is wrong is that it
    /// names none, or everything in it that its driver does not know or cannot take.
    #[must_use]
    pub fn read(&self, keys: &DeTable<'_>, span: Range<usize>) -> Reading<Box<T>> {
        let wrong = |span, text| {
            let key = Some(DRIVER.to_owned());
            Reading {
                settings: None,
                wrong: vec![Misread { span, key, text }],
            }
        };
        let expected = format!("expected one of {:?}", self.names());
        let Some(driver) = keys.get(DRIVER) else {
            return wrong(span, format!("missing; {expected}"));
        };
        let at = driver.span();
        let DeValue::String(name) = driver.get_ref() else {
            return wrong(at, expected);
        };
        let known = self.all.iter().find(|driver| driver.name == name.as_ref());
        let Some(driver) = known else {
            return wrong(at, format!("{:?}: {expected}", name.as_ref()));
        };
        let mut reading = (driver.read)(keys, span);
        for misread in &mut reading.wrong {
            // What is missing is missing for this driver.
            if misread.key.is_none() {
                misread.span = at.clone();
                misread.key = Some(DRIVER.to_owned());
                misread.text = format!("driver {:?}: {}", driver.name, misread.text);
            }
        }
        reading
    }
}

/// Reads the keys of a driver's table, but for the one that names it.
pub(crate) fn settings<S: DeserializeOwned>(keys: &DeTable<'_>, span: Range<usize>) -> Reading<S> {
    let mut keys = keys.clone();
    keys.remove(DRIVER);
    read(&keys, span)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::{CONSOLE, PIPE, POWER, SENSE};

    #[test]
    fn a_table_with_an_unknown_key_is_refused_naming_the_key_and_its_place() {
        let text = "driver = \"tcp\"\naddress = \"10.0.0.5:3001\"\nport = 3001\n";
        let table = DeTable::parse(text).unwrap();
        let reading = CONSOLE.read(table.get_ref(), table.span());
        let [wrong] = reading.wrong.as_slice() else {
            panic!("{:?}", reading.wrong)
        };
        assert_eq!(wrong.key.as_deref(), Some("port"));
        assert_eq!(wrong.span.start, text.find("port").unwrap());
        assert!(wrong.text.contains("expected `address`"), "{}", wrong.text);
    }

    #[test]
    fn the_drivers_of_a_kind_have_names_of_their_own() {
        for mut names in [POWER.names(), PIPE.names(), SENSE.names(), CONSOLE.names()] {
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{names:?}");
        }
    }
}
