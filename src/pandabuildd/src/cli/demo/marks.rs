//! What the package says of marks, in its build's log, and what may be concluded from it.
//!
//! ```text
//! PANDA-MARKS run=<32 hexadecimal digits>                                   this build's own mark
//! PANDA-MARKS place=NAME searched=WHERE bytes=N found=-|RUN[,RUN] left=yes|no:WHY      one for each place
//! PANDA-MARKS end
//! ```
//! The package may do what it likes with its log: what is said here is believed only as far as one build says one thing and the
//! control says the opposite of the same search.

use std::collections::BTreeMap;

/// What such lines begin with.
pub(crate) const WORD: &str = "PANDA-MARKS ";
/// The places that must be searched.
pub(crate) const PLACES: [(&str, &str); 6] = [
    ("root-file", "a file in the board's root file system"),
    ("scratch-file", "a file on its scratch disk"),
    (
        "mapped-raw",
        "the scratch disk's blocks, through the encryption",
    ),
    (
        "disk-raw",
        "the scratch disk's blocks, below the encryption",
    ),
    ("swap-raw", "swap's blocks, through the encryption"),
    ("swap-page", "memory that the kernel wrote to swap"),
];

/// What one build says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Its own mark.
    pub(crate) run: Option<String>,
    places: BTreeMap<String, Place>,
    ended: bool,
}

/// What it says of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where that is.
    pub(crate) searched: String,
    /// How much was looked at.
    pub(crate) bytes: u64,
    /// The marks of earlier builds.
    pub(crate) found: Vec<String>,
    /// Whether its own mark was left there, or why not.
    pub(crate) left: String,
}

impl Marks {
    /// Takes a line of the log.
    pub(crate) fn hear(&mut self, line: &str) {
        let Some(text) = line.strip_prefix(WORD) else {
            return;
        };
        if text.trim() == "end" {
            self.ended = true;
            return;
        }
        let fields: BTreeMap<&str, &str> = text
            .split_whitespace()
            .filter_map(|field| field.split_once('='))
            .collect();
        let field = |name| fields.get(name).copied().unwrap_or_default();
        if let Some(run) = fields.get("run") {
            self.run = Some((*run).to_owned());
        } else if let Some(place) = fields.get("place")
            && self.places.len() < 4 * PLACES.len()
        {
            let found = field("found").split(',').filter(|run| *run != "-");
            self.places.insert(
                (*place).to_owned(),
                Place {
                    searched: field("searched").to_owned(),
                    bytes: field("bytes").parse().unwrap_or(0),
                    found: found
                        .filter(|run| !run.is_empty())
                        .map(str::to_owned)
                        .collect(),
                    left: field("left").to_owned(),
                },
            );
        }
    }

    /// What it says of a place.
    #[must_use]
    pub(crate) fn place(&self, name: &str) -> Option<&Place> {
        self.places.get(name)
    }
}

/// What is wrong with a Panda's two builds; nothing is wrong where it is empty. `found` says whether the second one must have found
/// the marks of the first, or must not.
#[must_use]
pub(crate) fn faults(first: &Marks, second: &Marks, found: bool) -> Vec<String> {
    let mut faults = Vec::new();
    for (which, marks) in [("first", first), ("second", second)] {
        if marks.run.is_none() || !marks.ended {
            faults.push(format!("the {which} build did not end its search"));
        }
    }
    if first.run == second.run {
        faults.push("both builds have the same mark, so neither can be told from the other".into());
    }
    for (name, _) in PLACES {
        let (Some(before), Some(after)) = (first.place(name), second.place(name)) else {
            faults.push(format!("{name} was not searched by both builds"));
            continue;
        };
        if before.left != "yes" {
            faults.push(format!(
                "the first build could not leave its mark in {name} ({}), so that none is found there shows nothing",
                before.left
            ));
        }
        if after.bytes == 0 && !name.ends_with("-file") {
            faults.push(format!("nothing of {name} was read"));
        }
        let has = first
            .run
            .as_ref()
            .is_some_and(|run| after.found.contains(run));
        if found && !has {
            faults.push(format!(
                "the search did not find the first build's mark in {name}, where it must be: it proves nothing for the other Panda"
            ));
        }
        if !found && !after.found.is_empty() {
            faults.push(format!(
                "MARKS WERE FOUND in {name}: {}",
                after.found.join(", ")
            ));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A build's lines: its mark, and what it found everywhere.
    fn build(run: &str, found: &str) -> Marks {
        let mut marks = Marks::default();
        marks.hear("dpkg-buildpackage: info: something else");
        marks.hear(&format!("PANDA-MARKS run={run}"));
        for (name, _) in PLACES {
            marks.hear(&format!(
                "PANDA-MARKS place={name} searched=/dev/vda bytes=1024 found={found} left=yes"
            ));
        }
        marks.hear("PANDA-MARKS end");
        marks
    }

    fn without(marks: &Marks, line: &str) -> Marks {
        let mut marks = marks.clone();
        marks.hear(line);
        marks
    }

    #[test]
    fn a_clean_second_build_and_a_control_that_finds_everything_are_right() {
        assert_eq!(faults(&build("aa", "-"), &build("bb", "-"), false), [""; 0]);
        assert_eq!(faults(&build("aa", "-"), &build("bb", "aa"), true), [""; 0]);
        let both = build("cc", "bb,aa");
        assert_eq!(both.place("swap-raw").unwrap().found, ["bb", "aa"]);
        assert_eq!(faults(&build("aa", "-"), &both, true), [""; 0]);
    }

    #[test]
    fn a_mark_in_one_place_is_enough_to_be_wrong_and_so_is_one_that_the_control_misses() {
        let (first, second) = (build("aa", "-"), build("bb", "-"));
        let line = "PANDA-MARKS place=swap-raw searched=x bytes=1 found=aa left=yes";
        let found = faults(&first, &without(&second, line), false);
        assert_eq!(found, ["MARKS WERE FOUND in swap-raw: aa"]);
        let line = "PANDA-MARKS place=disk-raw searched=x bytes=1 found=zz left=yes";
        let missed = faults(&first, &without(&build("bb", "aa"), line), true);
        assert!(
            missed[0].contains("in disk-raw") && missed.len() == 1,
            "{missed:?}"
        );
    }

    #[test]
    fn a_search_that_was_none_shows_nothing() {
        let (first, second) = (build("aa", "-"), build("bb", "-"));
        for (line, expected) in [
            (
                "PANDA-MARKS place=mapped-raw searched=x bytes=0 found=- left=yes",
                "nothing of mapped-raw was read",
            ),
            ("PANDA-MARKS run=aa", "the same mark"),
        ] {
            let faults = faults(&first, &without(&second, line), false).join("\n");
            assert!(faults.contains(expected), "{faults}");
        }
        let line = "PANDA-MARKS place=root-file searched=x bytes=0 found=- left=no:read-only";
        let faults_of = |first: &Marks, second: &Marks| faults(first, second, false).join("\n");
        assert!(
            faults_of(&without(&first, line), &second)
                .contains("could not leave its mark in root-file (no:read-only)")
        );
        assert!(
            faults_of(&first, &Marks::default())
                .contains("the second build did not end its search")
        );
    }
}
