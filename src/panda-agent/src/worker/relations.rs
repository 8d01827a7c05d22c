//! Build dependencies: reading a source's relations, and telling which of them a chroot's archives
//! cannot satisfy. [`super::outcome`] asks when apt's own words do not say what is missing.
//!
//! ```text
//! libfoo-dev:any (>= 1.2) [armhf !amd64] <!nocheck> | libbar-dev, …
//! ^ name     ^ version    ^ architectures ^ profiles  ^ or
//! ```
//! Versions are compared by `dpkg --compare-versions`, which is passed in: the order of Debian's
//! versions is dpkg's business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use panda_protocol::launchpad::status::MAX_TEXT;

/// What sbuild calls the packages that it makes of a source's build dependencies.
pub(crate) const OUR_PACKAGES: &str = "sbuild-build-depends-";

/// The most relations that are read of one source.
const MAX_RELATIONS: usize = 10_000;

/// One alternative: a package, perhaps in some versions only. Shown as Launchpad wants it, without
/// architectures and profiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    /// The package's name, without an architecture qualifier.
    pub(crate) name: String,
    /// Operator and version.
    pub(crate) version: Option<(String, String)>,
}

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.version {
            Some((operator, version)) => write!(f, " ({operator} {version})"),
            None => Ok(()),
        }
    }
}

/// Alternatives, any of which will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation(pub(crate) Vec<Alternative>);

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, alternative) in self.0.iter().enumerate() {
            write!(f, "{}{alternative}", if index == 0 { "" } else { " | " })?;
        }
        Ok(())
    }
}

/// The relations of a field that hold for `arch` with no build profile. What cannot be read is left
/// out: it can then not be reported as missing.
pub(crate) fn parse(field: &str, arch: &str) -> Vec<Relation> {
    // The old `<` and `>` of control files mean "or equal" (Policy 7.1).
    relations(field, arch, "<=", ">=")
}

/// One relation as apt writes it, whose `<` and `>` are strict.
pub(crate) fn parse_apt(text: &str) -> Option<Relation> {
    relations(text, "any", "<<", ">>").into_iter().next()
}

fn relations(field: &str, arch: &str, less: &str, more: &str) -> Vec<Relation> {
    let known = |mut alternative: Alternative| {
        if let Some((operator, _)) = &mut alternative.version {
            match operator.as_str() {
                "<" => less.clone_into(operator),
                ">" => more.clone_into(operator),
                _ => {}
            }
        }
        alternative
    };
    field
        .split(',')
        .take(MAX_RELATIONS)
        .filter_map(|group| {
            let alternatives: Vec<_> = group
                .split('|')
                .filter_map(|text| alternative(text, arch))
                .map(known)
                .collect();
            (!alternatives.is_empty()).then_some(Relation(alternatives))
        })
        .collect()
}

fn alternative(text: &str, arch: &str) -> Option<Alternative> {
    let text = text.trim();
    let end = text
        .find([' ', '\t', '\n', '(', '[', '<'])
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.split(':').next().unwrap_or_default();
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    {
        return None;
    }
    if !rest.trim_start().is_empty() && !rest.trim_start().starts_with(['(', '[', '<']) {
        return None;
    }
    if let Some(list) = bracketed(rest, '[', ']')
        && !architecture_holds(list, arch)
    {
        return None;
    }
    if rest.contains('<') && !profiles_hold(after_version(rest)) {
        return None;
    }
    Some(Alternative {
        name: name.to_owned(),
        version: version(rest),
    })
}

/// The part behind the version: `<` is an operator inside it and a profile behind it.
fn after_version(rest: &str) -> &str {
    rest.split_once(')').map_or(rest, |(_, after)| after)
}

fn version(rest: &str) -> Option<(String, String)> {
    let inner = bracketed(rest, '(', ')')?.trim();
    let end = inner.find(|c| !"<>=".contains(c))?;
    let (operator, version) = inner.split_at(end);
    let known = matches!(operator, "<<" | "<=" | "=" | ">=" | ">>" | "<" | ">");
    let version = version.trim();
    let plain = version
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b".+-:~".contains(&b));
    (known && plain && !version.is_empty()).then(|| (operator.to_owned(), version.to_owned()))
}

fn bracketed(text: &str, open: char, close: char) -> Option<&str> {
    let (_, after) = text.split_once(open)?;
    after.split_once(close).map(|(inner, _)| inner)
}

/// Either all entries are negated, and none may match, or one must match (Policy 7.1).
fn architecture_holds(list: &str, arch: &str) -> bool {
    let matches = |pattern: &str| {
        pattern == arch
            || pattern == "any"
            || pattern == "linux-any"
            || pattern.strip_prefix("any-") == Some(arch)
            || pattern.strip_prefix("linux-") == Some(arch)
            || (pattern == "any-arm" && matches!(arch, "armhf" | "armel"))
    };
    let mut entries = list.split_ascii_whitespace().peekable();
    if entries.peek().is_some_and(|first| first.starts_with('!')) {
        !entries.any(|entry| entry.strip_prefix('!').is_some_and(matches))
    } else {
        entries.any(matches)
    }
}

/// With no profile active, a `<…>` term holds when everything in it is negated; one term must hold.
fn profiles_hold(text: &str) -> bool {
    let mut terms = text.split('<').skip(1).peekable();
    terms.peek().is_none()
        || terms.any(|term| {
            let term = term.split('>').next().unwrap_or_default();
            term.split_ascii_whitespace()
                .all(|profile| profile.starts_with('!'))
        })
}

/// What a chroot's archives offer: versions of packages, and what provides a name.
#[derive(Debug, Default)]
pub(crate) struct Available {
    wanted: BTreeSet<String>,
    versions: BTreeMap<String, Vec<String>>,
    /// Provided name to provided versions; an unversioned provision is an empty text.
    provided: BTreeMap<String, Vec<String>>,
    package: String,
    /// The package that is being read is none: sbuild's own, or of one that is not installed any more.
    passed_over: bool,
}

impl Available {
    /// Remembers only what `relations` ask for: an archive has tens of thousands of packages.
    pub(crate) fn wanting<'a>(relations: impl IntoIterator<Item = &'a Relation>) -> Self {
        let wanted = relations
            .into_iter()
            .flat_map(|relation| &relation.0)
            .map(|a| a.name.clone());
        Self {
            wanted: wanted.collect(),
            ..Self::default()
        }
    }

    /// The packages that are asked for.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &str> {
        self.wanted.iter().map(String::as_str)
    }

    /// Whether anything provides the name.
    pub(crate) fn is_provided(&self, name: &str) -> bool {
        self.provided.contains_key(name)
    }

    /// Takes one line of `apt-cache dumpavail`, of `apt-cache show` or of dpkg's status file.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("Package:") {
            name.trim().clone_into(&mut self.package);
            self.passed_over = self.package.starts_with(OUR_PACKAGES);
        } else if let Some(status) = line.strip_prefix("Status:") {
            self.passed_over |= !status.ends_with(" installed");
        } else if self.passed_over {
        } else if let Some(version) = line.strip_prefix("Version:") {
            if self.wanted.contains(&self.package) {
                let versions = self.versions.entry(self.package.clone()).or_default();
                versions.push(version.trim().to_owned());
            }
        } else if let Some(provides) = line.strip_prefix("Provides:") {
            for item in provides.split(',') {
                let Some(provided) = alternative(item, "any") else {
                    continue;
                };
                if self.wanted.contains(&provided.name) {
                    let version = provided
                        .version
                        .map(|(_, version)| version)
                        .unwrap_or_default();
                    self.provided
                        .entry(provided.name)
                        .or_default()
                        .push(version);
                }
            }
        }
    }

    /// The relations that nothing here satisfies, in their order. `compare` says whether a version
    /// stands in a relation to another.
    pub(crate) fn unsatisfied<'a>(
        &self,
        relations: impl IntoIterator<Item = &'a Relation>,
        compare: &mut dyn FnMut(&str, &str, &str) -> bool,
    ) -> Vec<Relation> {
        let mut satisfies = |alternative: &Alternative| {
            let versions = self.versions.get(&alternative.name);
            let provided = self.provided.get(&alternative.name);
            match &alternative.version {
                None => versions.is_some() || provided.is_some(),
                Some((operator, wanted)) => versions
                    .into_iter()
                    .chain(provided)
                    .flatten()
                    .any(|version| !version.is_empty() && compare(version, operator, wanted)),
            }
        };
        relations
            .into_iter()
            .filter(|relation| !relation.0.iter().any(&mut satisfies))
            .cloned()
            .collect()
    }
}

/// Relations as Launchpad waits for them, as many as `status` can say.
pub(crate) fn join(relations: &[Relation]) -> String {
    let mut text = String::new();
    for relation in relations {
        let next = relation.to_string();
        if text.len() + 2 + next.len() > MAX_TEXT {
            break;
        }
        if !text.is_empty() {
            text += ", ";
        }
        text += &next;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(field: &str, arch: &str) -> String {
        join(&parse(field, arch))
    }

    #[test]
    fn relations_are_shown_without_qualifiers_architectures_and_profiles() {
        let field = "debhelper-compat (= 13),\n libfoo-dev:any (>= 1.2~rc1) [armhf] <!nocheck>, a | b (<< 2)";
        assert_eq!(
            shown(field, "armhf"),
            "debhelper-compat (= 13), libfoo-dev (>= 1.2~rc1), a | b (<< 2)"
        );
    }

    #[test]
    fn relations_for_other_architectures_and_profiles_are_left_out() {
        assert_eq!(
            shown(
                "a [amd64], b [!armhf], c [linux-any], d [any-arm], e [!amd64 !i386]",
                "armhf"
            ),
            "c, d, e"
        );
        assert_eq!(
            shown(
                "a <stage1>, b <!nocheck>, c <stage1> <!cross>, d <!nocheck stage1>",
                "armhf"
            ),
            "b, c"
        );
        assert_eq!(shown("a (<< 2) [amd64] | b", "armhf"), "b");
    }

    #[test]
    fn what_is_no_relation_is_left_out() {
        assert_eq!(shown("", "armhf"), "");
        assert_eq!(
            shown(
                "$(reboot), ${misc:Depends}, ok, bad (frob 1), -, - x, +y",
                "armhf"
            ),
            "ok, bad"
        );
    }

    fn available(relations: &[Relation], text: &str) -> Available {
        let mut available = Available::wanting(relations);
        text.lines().for_each(|line| available.line(line));
        available
    }

    #[test]
    fn only_what_nothing_offers_is_unsatisfied() {
        let relations = parse(
            "a, b (>= 2), c (>= 2), mta, mta (>= 1), v (= 3), x | a, gone",
            "armhf",
        );
        let archive = "Package: a\nVersion: 1\n\nPackage: b\nVersion: 1\n\nPackage: c\nVersion: 1\n\n\
            Package: c\nVersion: 2\n\nPackage: exim\nVersion: 9\nProvides: mta, v (= 3)\n";
        let mut digits = |have: &str, operator: &str, want: &str| match operator {
            ">=" => have >= want,
            "=" => have == want,
            _ => panic!("unexpected operator"),
        };
        let missing = available(&relations, archive).unsatisfied(&relations, &mut digits);
        assert_eq!(join(&missing), "b (>= 2), mta (>= 1), gone");
    }

    #[test]
    fn what_is_not_installed_any_more_and_sbuilds_own_packages_offer_nothing() {
        let relations = parse("a, b, c", "armhf");
        let status = "Package: a\nStatus: deinstall ok config-files\nVersion: 1\n\n\
            Package: sbuild-build-depends-main-dummy\nStatus: install ok installed\nVersion: 1\nProvides: b\n\n\
            Package: c\nStatus: install ok installed\nVersion: 1\n";
        let missing = available(&relations, status).unsatisfied(&relations, &mut |_, _, _| true);
        assert_eq!(join(&missing), "a, b");
    }
}
