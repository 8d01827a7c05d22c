//! Reads a table as the settings type that owns it. A key that is unknown, or has a value of another type, is left out and
//! the rest is read again, so that the next mistake of the table is found as well.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// A key, or its value, that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misread {
    /// Where in the file: of the key or the value; of the table where a key is missing.
    pub span: Range<usize>,
    /// The key, `gadget.vendor` in a table of the table; none where one is missing.
    pub key: Option<String>,
    /// What is wrong, in one line, and what is expected.
    pub text: String,
}

/// What a table could be read as.
#[derive(Debug)]
pub struct Reading<S> {
    /// The settings, where nothing was wrong but keys that it does not know.
    pub settings: Option<S>,
    /// Everything that cannot be read. Of several keys that are missing, the first alone is told.
    pub wrong: Vec<Misread>,
}

impl<S> Reading<S> {
    /// With the settings as something else.
    pub fn map<T>(self, into: impl FnOnce(S) -> T) -> Reading<T> {
        Reading {
            settings: self.settings.map(into),
            wrong: self.wrong,
        }
    }
}

/// Reads `table`, which is at `span`, as settings.
#[must_use]
pub fn read<S: DeserializeOwned>(table: &DeTable<'_>, span: Range<usize>) -> Reading<S> {
    let mut table = table.clone();
    let mut wrong: Vec<Misread> = Vec::new();
    loop {
        let whole = DeValue::Table(table.clone());
        let whole = ValueDeserializer::from(Spanned::new(span.clone(), whole));
        let error = match S::deserialize(whole) {
            Ok(settings) => {
                // Else it has a default where something was written.
                let whole = wrong.iter().all(Misread::is_unknown);
                let settings = whole.then_some(settings);
                return Reading { settings, wrong };
            }
            Err(error) => error,
        };
        let at = error.span().unwrap_or_else(|| span.clone());
        let text = error.message().replace('\n', " ").trim().to_owned();
        let Some(path) = key_at(&table, at.start) else {
            // A key that was left out for its mistake is not missing.
            let left_out = |key: &str| text == format!("missing field `{key}`");
            if !wrong.iter().filter_map(last_key).any(left_out) {
                let key = None;
                wrong.push(Misread { span, key, text });
            }
            let settings = None;
            return Reading { settings, wrong };
        };
        remove(&mut table, &path);
        wrong.push(Misread {
            span: at,
            key: Some(path.join(".")),
            text,
        });
    }
}

impl Misread {
    /// Whether it is a key that the settings do not have.
    fn is_unknown(&self) -> bool {
        self.text.starts_with("unknown field")
    }
}

fn last_key(misread: &Misread) -> Option<&str> {
    misread.key.as_deref()?.rsplit('.').next()
}

/// The key that is written at `at`, or whose value is, through tables in the table.
fn key_at(table: &DeTable<'_>, at: usize) -> Option<Vec<String>> {
    table.iter().find_map(|(key, value)| {
        let within = match value.get_ref() {
            DeValue::Table(table) => key_at(table, at),
            _ => None,
        };
        let within = within.or_else(|| {
            let here = key.span().contains(&at) || value.span().contains(&at);
            here.then(Vec::new)
        });
        let mut path = vec![key.get_ref().to_string()];
        path.extend(within?);
        Some(path)
    })
}

fn remove(table: &mut DeTable<'_>, path: &[String]) {
    match path {
        [] => {}
        [key] => {
            table.remove(key.as_str());
        }
        [key, rest @ ..] => {
            let inner = table.get_mut(key.as_str()).map(Spanned::get_mut);
            if let Some(DeValue::Table(inner)) = inner {
                remove(inner, rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        name: String,
        #[serde(default)]
        gadget: Gadget,
    }

    #[derive(Debug, Default, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Gadget {
        vendor: u16,
        product: u16,
    }

    fn told(text: &str) -> Vec<(usize, Option<String>, String)> {
        let table = DeTable::parse(text).unwrap();
        let reading = read::<Settings>(table.get_ref(), 0..0);
        assert!(reading.settings.is_none());
        let told = reading.wrong.into_iter();
        told.map(|wrong| (wrong.span.start, wrong.key, wrong.text))
            .collect()
    }

    #[test]
    fn every_key_that_cannot_be_read_is_told_with_its_place() {
        let text = "name = 7\nother = 1\n[gadget]\nvendor = \"x\"\nproducts = 3\n";
        let told = told(text);
        let at = |what: &str| text.find(what).unwrap();
        let keys: Vec<_> = told
            .iter()
            .map(|(at, key, _)| (*at, key.as_deref().unwrap()))
            .collect();
        assert_eq!(keys.len(), 4, "{told:?}");
        for wanted in [
            (at("7"), "name"),
            (at("other"), "other"),
            (at("\"x\""), "gadget.vendor"),
            (at("products"), "gadget.products"),
        ] {
            assert!(keys.contains(&wanted), "{wanted:?}: {told:?}");
        }
        assert!(
            told.iter().any(|(_, _, text)| text.contains("`product`")),
            "what is expected: {told:?}"
        );
    }

    #[test]
    fn a_missing_key_is_told_of_the_table_and_one_that_was_wrong_is_not_missing() {
        let wrong = told("gadget = 1\n");
        assert_eq!(wrong.len(), 2, "{wrong:?}");
        assert_eq!(
            (wrong[1].1.as_deref(), wrong[1].2.as_str()),
            (None, "missing field `name`")
        );
        assert_eq!(told("name = 7\n").len(), 1);
    }

    #[test]
    fn a_table_with_an_unknown_key_is_read_all_the_same() {
        let table = DeTable::parse("name = \"x\"\nother = 1\n").unwrap();
        let reading = read::<Settings>(table.get_ref(), 0..0);
        assert_eq!(reading.settings.unwrap().name, "x");
        assert_eq!(reading.wrong.len(), 1);
    }
}
