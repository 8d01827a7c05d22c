//! A request's query, `?limit=20&slot=panda01`: each key at most once, none that nobody asked for.

use std::str::FromStr;

use url::form_urlencoded;

use super::problem::Problem;

/// The most keys of a query.
const MAX_KEYS: usize = 16;

/// What is left of a query while a request takes what it knows of it.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            if pairs.len() == MAX_KEYS {
                return Err(Problem::malformed(format!(
                    "the query has more than {MAX_KEYS} keys"
                )));
            }
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(Problem::malformed(format!("{}: given twice", shown(&key))));
            }
            pairs.push((key.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// The value of `key`, where there is one; `expected` says what it may be.
    pub(super) fn take<T: FromStr>(
        &mut self,
        key: &str,
        expected: &str,
    ) -> Result<Option<T>, Problem> {
        let Some(at) = self.0.iter().position(|(known, _)| known == key) else {
            return Ok(None);
        };
        let (_, value) = self.0.swap_remove(at);
        match value.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(Problem::malformed(format!("{key}: expected {expected}"))),
        }
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(Problem::malformed(format!(
                "{}: this path has no such key in its query",
                shown(key)
            ))),
        }
    }
}

/// A key, fit for one short line.
fn shown(key: &str) -> String {
    format!("{:?}", key.chars().take(40).collect::<String>())
}

/// `path` with those `pairs` that have a value.
pub(super) fn with_query(mut path: String, pairs: &[(&str, Option<String>)]) -> String {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (key, value) in pairs {
        if let Some(value) = value {
            text.append_pair(key, value);
        }
    }
    let text = text.finish();
    if !text.is_empty() {
        path.push('?');
        path.push_str(&text);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_for_doubled_or_of_another_kind_is_named() {
        let mut query = Query::parse("limit=20&slot=panda01").unwrap();
        assert_eq!(query.take::<u32>("limit", "a number").unwrap(), Some(20));
        assert_eq!(query.take::<u32>("limit", "a number").unwrap(), None);
        let left = query.finish().unwrap_err();
        assert!(left.detail.contains("\"slot\""), "{left}");
        let twice = Query::parse("a=1&a=2").unwrap_err();
        assert!(twice.detail.contains("given twice"), "{twice}");
        let wrong = Query::parse("limit=-1")
            .unwrap()
            .take::<u32>("limit", "1 to 9");
        assert_eq!(wrong.unwrap_err().detail, "limit: expected 1 to 9");
        let many: String = (0..20).map(|key| format!("k{key}=&")).collect();
        assert!(Query::parse(&many).is_err());
    }
}
