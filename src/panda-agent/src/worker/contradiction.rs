//! Build dependencies that can never be satisfied together, whatever an archive has: waiting for one of
//! them would be in vain. [`super::inner`] asks before a build is said to wait.
//!
//! Only what can be proved is said: packages that are wanted without an alternative, against their other
//! wanted versions and `Build-Conflicts`. A name that others provide may be there in several versions
//! at once, and is left out.

use super::relations::{Alternative, Relation};

/// Compares two versions by an operator, as `dpkg --compare-versions` does.
type Compare<'a> = dyn FnMut(&str, &str, &str) -> bool + 'a;

/// A package that `wanted` and `conflicts` can never agree on.
pub(crate) fn contradiction<'a>(
    wanted: &'a [Relation],
    conflicts: &[Relation],
    is_provided: &dyn Fn(&str) -> bool,
    compare: &mut Compare<'_>,
) -> Option<&'a str> {
    let alone = |relation: &'a Relation| match relation.0.as_slice() {
        [alternative] => Some(alternative),
        _ => None,
    };
    let mut names: Vec<&str> = wanted
        .iter()
        .filter_map(alone)
        .map(|a| a.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().find(|name| {
        let of_name = |alternative: &&Alternative| alternative.name == *name;
        let conflicting: Vec<_> = conflicts
            .iter()
            .flat_map(|c| &c.0)
            .filter(of_name)
            .collect();
        if conflicting
            .iter()
            .any(|conflict| conflict.version.is_none())
        {
            return true;
        }
        if is_provided(name) {
            return false;
        }
        let mut versions = Versions::default();
        for alternative in wanted.iter().filter_map(alone).filter(of_name) {
            if let Some((operator, version)) = &alternative.version {
                versions.want(operator, version, compare);
            }
        }
        for (operator, version) in conflicting.iter().filter_map(|c| c.version.as_ref()) {
            match operator.as_str() {
                "<<" => versions.want(">=", version, compare),
                "<=" => versions.want(">>", version, compare),
                ">=" => versions.want("<<", version, compare),
                ">>" => versions.want("<=", version, compare),
                _ => versions.not.push(version),
            }
        }
        versions.is_empty(compare)
    })
}

/// The versions that are left of a package: those between two bounds.
#[derive(Default)]
struct Versions<'a> {
    /// The least version, and whether it is one itself.
    least: Option<(&'a str, bool)>,
    /// The greatest version, and whether it is one itself.
    greatest: Option<(&'a str, bool)>,
    not: Vec<&'a str>,
}

impl<'a> Versions<'a> {
    fn want(&mut self, operator: &str, version: &'a str, compare: &mut Compare<'_>) {
        let itself = matches!(operator, "=" | ">=" | "<=");
        if matches!(operator, "=" | ">=" | ">>") {
            let tighter = self.least.is_none_or(|(least, with)| {
                compare(version, ">>", least) || (with && !itself && compare(version, "=", least))
            });
            if tighter {
                self.least = Some((version, itself));
            }
        }
        if matches!(operator, "=" | "<=" | "<<") {
            let tighter = self.greatest.is_none_or(|(greatest, with)| {
                compare(version, "<<", greatest)
                    || (with && !itself && compare(version, "=", greatest))
            });
            if tighter {
                self.greatest = Some((version, itself));
            }
        }
    }

    fn is_empty(&self, compare: &mut Compare<'_>) -> bool {
        let (Some((least, from)), Some((greatest, to))) = (self.least, self.greatest) else {
            return false;
        };
        // Between any two versions there is another one: `1`, `1~`.
        if compare(least, "<<", greatest) {
            return false;
        }
        let only = from && to && compare(least, "=", greatest);
        !only || self.not.iter().any(|not| compare(least, "=", not))
    }
}

#[cfg(test)]
mod tests {
    use super::super::relations::parse;
    use super::*;

    fn contradicts(wanted: &str, conflicts: &str) -> Option<String> {
        let mut compare = |have: &str, operator: &str, want: &str| match operator {
            "<<" => have < want,
            ">>" => have > want,
            "=" => have == want,
            other => panic!("unexpected operator {other}"),
        };
        let (wanted, conflicts) = (parse(wanted, "armhf"), parse(conflicts, "armhf"));
        let provided = |name: &str| name == "virtual";
        contradiction(&wanted, &conflicts, &provided, &mut compare).map(str::to_owned)
    }

    #[test]
    fn what_no_version_satisfies_is_a_contradiction() {
        for (wanted, conflicts) in [
            ("a", "a"),
            ("a (>= 2)", "a"),
            ("a (>= 3)", "a (>= 2)"),
            ("a (>= 3), a (<< 2)", ""),
            ("a (>= 3), a (<< 3)", ""),
            ("a (>> 3), a (<= 3)", ""),
            ("a (= 1), a (= 2)", ""),
            ("a (= 1), a (>= 2)", ""),
            ("a (= 1)", "a (= 1)"),
            ("a (>= 2), a (<= 2)", "a (= 2)"),
            ("a (<= 3)", "a (<< 4)"),
            ("virtual", "virtual"),
        ] {
            assert_eq!(
                contradicts(&format!("b, {wanted}"), conflicts).as_deref(),
                Some(&wanted[..wanted.find(' ').unwrap_or(wanted.len())]),
                "{wanted} / {conflicts}"
            );
        }
    }

    #[test]
    fn what_some_version_satisfies_is_none() {
        for (wanted, conflicts) in [
            ("a", "b"),
            ("a", "a (<< 2)"),
            ("a (>= 2)", "a (<< 2)"),
            ("a (>= 1), a (<< 2)", "a (= 1)"),
            ("a (>= 2), a (<= 2)", "a (= 3)"),
            ("a | b", "a"),
            ("a (= 1) | b, a (= 2)", ""),
            ("virtual (= 1), virtual (= 2)", ""),
            ("a", "a (= 1), a (= 2)"),
        ] {
            assert_eq!(
                contradicts(wanted, conflicts),
                None,
                "{wanted} / {conflicts}"
            );
        }
    }
}
