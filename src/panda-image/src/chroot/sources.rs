//! Where a chroot's packages come from: what the host's own apt is configured with, or `--mirror`.
//!
//! apt itself is asked (`apt-get indextargets`), so one-line and deb822 sources are the same here. Entries
//! of a suite with the wanted base (`bookworm`, `bookworm-updates`, `bookworm-security`) are taken when they
//! are of a distribution's own components; a host that knows the distribution, but not the suite, lends its
//! mirror. apt does not tell the key an entry is signed by, so that is looked up in the file it names.

use std::collections::BTreeMap;
use std::path::Path;

/// One line of sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The archive's address.
    pub(crate) uri: String,
    /// The suite, with its pocket.
    pub(crate) suite: String,
    /// `main` and others, in the order that apt has them.
    pub(crate) components: Vec<String>,
    /// The key file it is signed by, where the host says one.
    pub(crate) signed_by: Option<String>,
}

impl Entry {
    /// As mmdebstrap takes it.
    #[must_use]
    pub(crate) fn line(&self) -> String {
        let options = self
            .signed_by
            .as_ref()
            .map(|key| format!("[signed-by={key}] "))
            .unwrap_or_default();
        format!(
            "deb {options}{} {} {}",
            self.uri,
            self.suite,
            self.components.join(" ")
        )
    }

    /// Whether a chroot can be made without it: updates and security are on top of the suite itself.
    #[must_use]
    pub(crate) fn is_optional(&self, suite: &str) -> bool {
        self.suite != suite
    }
}

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
#[error(
    "this machine's apt has no source of a Debian or Ubuntu archive; give one with --mirror URL"
)]
pub(crate) struct NoSource;

/// The fields that apt is asked for.
pub(crate) const FORMAT: &str = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SOURCESENTRY)";

/// Components that distributions have; others are somebody's own archive.
const COMPONENTS: [&str; 8] = [
    "main",
    "contrib",
    "non-free",
    "non-free-firmware",
    "universe",
    "restricted",
    "multiverse",
    "rpi",
];

/// The sources for `suite` from apt's `listing` (lines of [`FORMAT`]), its own suite first.
///
/// # Errors
/// [`NoSource`].
pub(crate) fn from_apt(
    listing: &str,
    suite: &str,
    read: impl Fn(&Path) -> Option<String>,
) -> Result<Vec<Entry>, NoSource> {
    let mut entries: BTreeMap<(String, String), Entry> = BTreeMap::new();
    let mut lender: Option<Entry> = None;
    for line in listing.lines() {
        let mut fields = line.split('|');
        let (Some(uri), Some(release), Some(component), Some(origin), Some(place)) = (
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
            fields.next(),
        ) else {
            continue;
        };
        if !COMPONENTS.contains(&component) || !is_distribution(origin) {
            continue;
        }
        let entry = || Entry {
            uri: uri.to_owned(),
            suite: release.to_owned(),
            components: Vec::new(),
            signed_by: signing_key(place, &read),
        };
        if pocket_of(release, suite) {
            let known = entries
                .entry((release.to_owned(), uri.to_owned()))
                .or_insert_with(entry);
            if !known.components.iter().any(|known| known == component) {
                known.components.push(component.to_owned());
            }
        } else if component == "main" && lender.is_none() && !release.contains(['-', '/']) {
            lender = Some(Entry {
                suite: suite.to_owned(),
                components: vec!["main".to_owned()],
                ..entry()
            });
        }
    }
    let mut entries: Vec<Entry> = entries.into_values().collect();
    entries.sort_by_key(|entry| entry.suite != suite);
    if entries.first().is_none_or(|entry| entry.suite != suite) {
        entries = vec![lender.ok_or(NoSource)?];
    }
    Ok(entries)
}

/// `bookworm`, `bookworm-updates`, `bookworm-security` and `buster/updates`, but not backports and
/// proposed: a builder's chroot holds what every user of the suite has.
fn pocket_of(release: &str, suite: &str) -> bool {
    release
        .strip_prefix(suite)
        .is_some_and(|pocket| matches!(pocket, "" | "-updates" | "-security" | "/updates"))
}

/// apt leaves the field's name standing where it has not seen the archive's Release file.
fn is_distribution(origin: &str) -> bool {
    matches!(origin, "Debian" | "Ubuntu" | "Raspbian" | "") || origin.starts_with("$(")
}

/// The key file that a `.sources` or `.list` file names, if it names exactly one.
fn signing_key(place: &str, read: &impl Fn(&Path) -> Option<String>) -> Option<String> {
    let (file, _) = place.rsplit_once(':')?;
    let text = read(Path::new(file))?;
    let mut keys: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| match line.split_once(':') {
            Some((field, key)) if field.eq_ignore_ascii_case("signed-by") => Some(key.trim()),
            _ => line
                .split_once("signed-by=")
                .and_then(|(_, rest)| rest.split([' ', ']']).next()),
        })
        .filter(|key| key.starts_with('/'))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    match keys.as_slice() {
        [key] => Some((*key).to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APT: &str = "\
http://mirror.example/debian/|bookworm|main|Debian|/etc/apt/sources.list.d/debian.sources:1
http://mirror.example/debian/|bookworm|contrib|Debian|/etc/apt/sources.list.d/debian.sources:1
http://mirror.example/debian/|bookworm-updates|main|Debian|/etc/apt/sources.list.d/debian.sources:1
http://mirror.example/debian/|bookworm-backports|main|Debian|/etc/apt/sources.list.d/debian.sources:1
http://mirror.example/security/|bookworm-security|main|$(ORIGIN)|/etc/apt/sources.list.d/debian.sources:2
http://elsewhere.example/|bookworm|stable|Docker|/etc/apt/sources.list:3
http://elsewhere.example/|bookworm|main|Somebody|/etc/apt/sources.list:4
";

    fn file(path: &Path) -> Option<String> {
        match path.to_str() {
            Some("/etc/apt/sources.list.d/debian.sources") => Some(
                "Types: deb\n# Signed-By: /no\nSigned-By: /usr/share/keyrings/d.gpg\n\n\
                 Types: deb\nSigned-By: /usr/share/keyrings/d.gpg\n"
                    .into(),
            ),
            Some("/etc/apt/one.list") => {
                Some("deb [arch=amd64 signed-by=/k.gpg] http://x y z\n".into())
            }
            _ => None,
        }
    }

    #[test]
    fn a_suite_the_host_has_comes_with_its_pockets_and_its_own_first() {
        let lines: Vec<_> = from_apt(APT, "bookworm", file)
            .unwrap()
            .iter()
            .map(Entry::line)
            .collect();
        assert_eq!(
            lines,
            [
                "deb [signed-by=/usr/share/keyrings/d.gpg] http://mirror.example/debian/ bookworm main contrib",
                "deb [signed-by=/usr/share/keyrings/d.gpg] http://mirror.example/security/ bookworm-security main",
                "deb [signed-by=/usr/share/keyrings/d.gpg] http://mirror.example/debian/ bookworm-updates main",
            ]
        );
    }

    #[test]
    fn another_suite_borrows_the_mirror() {
        let entries = from_apt(APT, "trixie", file).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(
            (entries[0].uri.as_str(), entries[0].suite.as_str()),
            ("http://mirror.example/debian/", "trixie")
        );
        assert!(!entries[0].is_optional("trixie"));
    }

    #[test]
    fn a_one_line_source_tells_its_key_too() {
        let apt = "http://m.example/|sid|main|Debian|/etc/apt/one.list:1\n";
        assert_eq!(
            from_apt(apt, "sid", file).unwrap()[0].line(),
            "deb [signed-by=/k.gpg] http://m.example/ sid main"
        );
    }

    #[test]
    fn a_host_without_a_distribution_says_what_to_do() {
        let error = from_apt(
            "http://elsewhere.example/|x|main|Somebody|/f:1\n",
            "sid",
            file,
        )
        .unwrap_err();
        assert!(error.to_string().contains("--mirror"));
    }
}
