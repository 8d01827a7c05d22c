//! How a build ended, from sbuild's exit status and, for status 3, from its log. The rules are
//! Launchpad's (its builder protocol page): which of sbuild's failures is whose fault.
//!
//! ```text
//! 0 OK · 1, 2 PACKAGEFAIL · death by a signal: PACKAGEFAIL · 4 and more: BUILDERFAIL before, PACKAGEFAIL after other
//! people's programs have run · 3:
//!   a line "E: There are problems and -y was used without --force-yes"  -> GIVENBACK
//!   "Fail-Stage: install-deps" in the last 4 KiB, and
//!       apt could not fetch something                                   -> Unfetched: once more, then CHROOTFAIL
//!       apt reports unmet dependencies                                  -> Unmet: compare with the archives
//!   anything else                                                       -> PACKAGEFAIL
//! ```
//! A builder that is broken says so itself: sbuild runs in a PID namespace of its own, and what kills it there was
//! started by the build.
//!
//! The log is read as it is written, up to a line beginning `Toolchain package versions:` (what the
//! package itself prints comes after it, and must not be able to pose as apt), and its end apart.

use std::collections::VecDeque;

use super::fetching;
use super::pointers::PointerScan;
use super::relations::{Alternative, OUR_PACKAGES, Relation};

/// How much of the log's end is searched for the failing stage.
const TAIL: usize = 4 * 1024;
/// The longest line that is looked at; the rest of a longer one is ignored.
const MAX_LINE: usize = 16 * 1024;
/// The most lines of apt's report that are kept.
const MAX_REPORT: usize = 2_000;

const REPORT_BEGINS: &str = "The following packages have unmet dependencies:";
/// sbuild's own words, after all that apt had to say.
const REPORT_ENDS: &str = "apt-get failed.";
/// What apt 3 begins its own account of it with, some of them without the report.
const UNSATISFIED: &str = "Unable to satisfy dependencies.";
/// What apt's error after a report ends with.
const ERROR_ENDS: &str = "held broken packages.";
const PACKAGE_OUTPUT_BEGINS: &str = "Toolchain package versions:";
const NEEDS_FORCE: &str = "E: There are problems and -y was used without --force-yes";
const FAILED_INSTALLING: &[u8] = b"Fail-Stage: install-deps";

/// What an exit status and a log mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    /// It was built.
    Ok,
    /// The package does not build.
    PackageFail,
    /// The builder does not work.
    BuilderFail,
    /// The builder gives the build back.
    GivenBack,
    /// Dependencies are not met, as apt tells it.
    Unmet(Unmet),
    /// Apt could not fetch a dependency: that says nothing about the package.
    Unfetched,
}

/// What apt complained of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unmet {
    /// The source's own dependencies.
    own: Vec<(Relation, Kind)>,
    /// Those of the packages below, in apt's order.
    below: Vec<(Relation, Kind)>,
}

impl Unmet {
    /// The source's own dependencies that are not met.
    pub(crate) fn own(&self) -> Vec<Relation> {
        self.own
            .iter()
            .map(|(relation, _)| relation.clone())
            .collect()
    }

    /// Those of the packages below that are not met.
    pub(crate) fn below(&self) -> Vec<Relation> {
        self.below
            .iter()
            .map(|(relation, _)| relation.clone())
            .collect()
    }

    /// What is missing by apt's words alone, where no archive can be asked: the source's own relations say it
    /// best; else the first one in the chain below.
    pub(crate) fn told(&self) -> Vec<Relation> {
        let missing = |all: &[(Relation, Kind)]| {
            all.iter()
                .filter(|(_, kind)| *kind == Kind::Missing)
                .map(|(relation, _)| relation.clone())
                .collect::<Vec<_>>()
        };
        let own = missing(&self.own);
        if own.is_empty() {
            missing(&self.below).into_iter().take(1).collect()
        } else {
            own
        }
    }
}

/// Reads sbuild's log as it goes by.
#[derive(Debug, Default)]
pub(crate) struct LogScan {
    line: Vec<u8>,
    tail: VecDeque<u8>,
    package_output: bool,
    needs_force: bool,
    /// Apt could not fetch something, and has not gone on.
    unfetched: bool,
    /// Packages of others have been unpacked: their programs may have run.
    others: bool,
    in_report: bool,
    /// Apt reported unmet dependencies, in words that are read or not.
    reported: bool,
    report: Vec<String>,
    pointers: PointerScan,
}

impl LogScan {
    /// The next piece of the log.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.tail.extend(&piece[piece.len().saturating_sub(TAIL)..]);
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                self.whole_line(line.trim_end());
            }
        }
    }

    /// What was found in the compiler's warnings.
    pub(crate) fn conversions(&self) -> &[String] {
        self.pointers.found()
    }

    /// Whether apt could not fetch something, and has not gone on all the same.
    pub(crate) fn is_unfetched(&self) -> bool {
        self.unfetched
    }

    fn whole_line(&mut self, line: &str) {
        self.pointers.line(line);
        if self.package_output {
            return;
        }
        self.others |= line.starts_with("Unpacking ") || line.starts_with("Setting up ");
        if fetching::is_trouble(line) {
            self.unfetched = true;
        } else if fetching::is_past(line) {
            self.unfetched = false;
        }
        if line.starts_with(PACKAGE_OUTPUT_BEGINS) {
            self.package_output = true;
        } else if line.starts_with(NEEDS_FORCE) {
            self.needs_force = true;
        } else if line.ends_with(REPORT_BEGINS) || line.contains(UNSATISFIED) {
            (self.in_report, self.reported) = (true, true);
        } else if line.starts_with(REPORT_ENDS) {
            self.in_report = false;
        } else if self.in_report
            && self.report.len() < MAX_REPORT
            && let Some(line) = reported(line)
        {
            self.report.push(line.to_owned());
        }
    }

    /// What `exit` means with this log; `None` is a death by signal.
    pub(crate) fn finish(mut self, exit: Option<i32>) -> Reading {
        match exit {
            Some(0) => Reading::Ok,
            Some(1 | 2) => Reading::PackageFail,
            Some(3) => self.third(),
            // A shell's way to tell a death by signal.
            Some(129..=192) | None => Reading::PackageFail,
            Some(_) if self.others || self.package_output => Reading::PackageFail,
            Some(_) => Reading::BuilderFail,
        }
    }

    fn third(&mut self) -> Reading {
        if self.needs_force {
            return Reading::GivenBack;
        }
        let tail = self.tail.make_contiguous();
        if !tail
            .split(|byte| *byte == b'\n')
            .any(|line| line == FAILED_INSTALLING)
        {
            return Reading::PackageFail;
        }
        if self.unfetched {
            return Reading::Unfetched;
        }
        let unmet = complaints(&self.report);
        if unmet == Unmet::default() && !self.reported {
            return Reading::PackageFail;
        }
        Reading::Unmet(unmet)
    }
}

/// A line of apt's report: it begins with a blank. Apt writes its error in pieces, and not through
/// sbuild as the report: any of them may have got between the report's lines, or before one.
fn reported(line: &str) -> Option<&str> {
    if line.starts_with([' ', '\t']) {
        return Some(line);
    }
    let rest = line.split_once(ERROR_ENDS).map_or(line, |(_, rest)| rest);
    let rest = rest.strip_prefix('E').unwrap_or(rest);
    let rest = rest.strip_prefix(':').unwrap_or(rest);
    rest.starts_with(' ').then_some(rest)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The relation itself cannot be had.
    Missing,
    /// It might be had: something below it is in the way, or apt does not say what is.
    Unclear,
}

/// Apt's report: ` subject : Depends: name (>= 1) but it is not installable`, further dependencies
/// of the same subject without it, and alternatives as lines that end in ` or`. Where something provides
/// the name, and no version of it is right, the line ends behind the relation. Apt 3 adds, or says instead:
/// `   2. subject:amd64=1 Depends name (>= 1)` and `but none of the choices are installable:`.
fn complaints(report: &[String]) -> Unmet {
    let mut unmet = Unmet::default();
    let (mut ours, mut depends) = (false, false);
    let mut pending: Vec<(Alternative, Kind)> = Vec::new();
    for line in report {
        let mut text = line.trim();
        if let Some((subject, relation)) = decision(text) {
            pending.clear();
            depends = false;
            unmet.add(subject.starts_with(OUR_PACKAGES), relation, Kind::Unclear);
            continue;
        }
        if let Some((subject, rest)) = text.split_once(" : ") {
            ours = subject.trim().starts_with(OUR_PACKAGES);
            text = rest.trim();
        }
        if let Some((field, rest)) = text.split_once(": ")
            && field
                .bytes()
                .all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
        {
            depends = matches!(field, "Depends" | "PreDepends" | "Pre-Depends");
            text = rest;
        }
        if !depends {
            // A conflict: nothing that could be waited for.
            pending.clear();
            continue;
        }
        let (text, more) = match text.strip_suffix(" or") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let Some(alternative) = complaint(text) else {
            pending.clear();
            continue;
        };
        pending.push(alternative);
        if more {
            continue;
        }
        let kind = if pending.iter().all(|(_, kind)| *kind == Kind::Missing) {
            Kind::Missing
        } else {
            Kind::Unclear
        };
        let alternatives = pending.drain(..).map(|(alternative, _)| alternative);
        unmet.add(ours, Relation(alternatives.collect()), kind);
    }
    unmet
}

impl Unmet {
    fn add(&mut self, ours: bool, relation: Relation, kind: Kind) {
        let all = if ours { &mut self.own } else { &mut self.below };
        if !all.iter().any(|(known, _)| *known == relation) {
            all.push((relation, kind));
        }
    }
}

/// `name[:arch] [(op version)] [but …]`
fn complaint(text: &str) -> Option<(Alternative, Kind)> {
    let (relation, reason) = text.split_once(" but ").unwrap_or((text, ""));
    let relation = super::relations::parse_apt(relation)?;
    let alternative = relation.0.into_iter().next()?;
    let missing = [
        "is to be installed",
        "is installed",
        "is not installable",
        "is a virtual package",
    ]
    .iter()
    .any(|known| reason.ends_with(known));
    Some((
        alternative,
        if missing {
            Kind::Missing
        } else {
            Kind::Unclear
        },
    ))
}

/// `2. subject[:arch][=version] Depends relation`, as apt 3 writes its decisions.
fn decision(text: &str) -> Option<(&str, Relation)> {
    let (number, rest) = text.split_once(". ")?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (subject, relation) = rest
        .split_once(" Depends ")
        .or_else(|| rest.split_once(" PreDepends "))?;
    let alternatives = relation
        .split(" | ")
        .filter_map(super::relations::parse_apt);
    let alternatives: Vec<_> = alternatives.flat_map(|relation| relation.0).collect();
    (!alternatives.is_empty()).then_some((subject, Relation(alternatives)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::relations;
    use super::*;

    /// A log of a failed installation with `report` in it, as sbuild 0.85 and apt 2.6 write them.
    fn log(report: &str) -> String {
        format!(
            "Install main build dependencies (apt-based resolver)\n\nInstalling build dependencies\n\
             Reading package lists...\nSome packages could not be installed.\n\
             The following packages have unmet dependencies:\n{report}\
             E: Unable to correct problems, you have held broken packages.\napt-get failed.\n\
             E: Package installation failed\n\nJob: x.dsc\nFail-Stage: install-deps\nStatus: given-back\n"
        )
    }

    fn read(log: &str, exit: i32) -> Reading {
        let mut scan = LogScan::default();
        scan.push(log.as_bytes());
        scan.finish(Some(exit))
    }

    fn depfail(reading: &Reading) -> Option<String> {
        match reading {
            Reading::Unmet(unmet) => {
                Some(relations::join(&unmet.told())).filter(|told| !told.is_empty())
            }
            _ => None,
        }
    }

    const SUBJECT: &str = " sbuild-build-depends-main-dummy : Depends: ";

    #[test]
    fn every_exit_status_has_its_outcome() {
        for (exit, reading) in [
            (0, Reading::Ok),
            (1, Reading::PackageFail),
            (2, Reading::PackageFail),
            (3, Reading::PackageFail),
            (4, Reading::BuilderFail),
            (255, Reading::BuilderFail),
            (137, Reading::PackageFail),
            (143, Reading::PackageFail),
        ] {
            assert_eq!(read("some log\n", exit), reading, "exit status {exit}");
        }
        assert_eq!(LogScan::default().finish(None), Reading::PackageFail);
    }

    #[test]
    fn once_programs_of_others_have_run_the_builder_is_not_to_blame() {
        for line in [
            "Unpacking killer (1) ...",
            "Setting up killer (1) ...",
            "Toolchain package versions: gcc_12",
        ] {
            assert_eq!(
                read(&format!("{line}\n"), 255),
                Reading::PackageFail,
                "{line}"
            );
        }
    }

    #[test]
    fn what_could_not_be_fetched_says_nothing_about_the_package() {
        let failed = "E: Failed to fetch http://x.example/a.deb  Hash Sum mismatch\n\
            E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n";
        let end = "apt-get failed.\nE: Package installation failed\nFail-Stage: install-deps\n";
        assert_eq!(read(&format!("{failed}{end}"), 3), Reading::Unfetched);
        // A package's own script may say the same words, and fails as itself.
        let script = "E: Sub-process /usr/bin/dpkg returned an error code (1)\n";
        assert_eq!(
            read(&format!("{failed}{script}{end}"), 3),
            Reading::PackageFail
        );
        let late = format!("Toolchain package versions: gcc_12\n{failed}{end}");
        assert_eq!(read(&late, 3), Reading::PackageFail);
        assert_eq!(read(&failed.replace("E: ", " "), 3), Reading::PackageFail);
    }

    fn unmet(reading: &Reading) -> (String, String) {
        match reading {
            Reading::Unmet(unmet) => (
                relations::join(&unmet.own()),
                relations::join(&unmet.below()),
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_version_of_something_that_is_only_provided_is_read_without_a_reason() {
        let log = log(&format!(
            "{SUBJECT}virt-x (>= 1)\n            Depends: debhelper-compat (= 99)\n"
        ));
        let reading = read(&log, 3);
        assert_eq!(unmet(&reading).0, "virt-x (>= 1), debhelper-compat (= 99)");
        assert_eq!(depfail(&reading), None, "the archives have to be asked");
    }

    #[test]
    fn what_apt_3_says_is_read_with_and_without_the_old_report() {
        let account = "E: The following information from --solver 3.0 may provide additional context:\n   \
            Unable to satisfy dependencies. Reached two conflicting decisions:\n   \
            1. sbuild-build-depends-main-dummy:amd64=0.invalid.0 is selected for install\n   \
            2. sbuild-build-depends-main-dummy:amd64 Depends nope-1 (>= 2)\n      \
            but none of the choices are installable:\n      [no choices]\n";
        let both = log(&format!(
            "{SUBJECT}nope-1 (>= 2) but it is not installable\n"
        ))
        .replace("apt-get failed.", &format!("{account}apt-get failed."));
        assert_eq!(unmet(&read(&both, 3)).0, "nope-1 (>= 2)");
        assert_eq!(depfail(&read(&both, 3)).as_deref(), Some("nope-1 (>= 2)"));
        let alone = format!("{account}apt-get failed.\nFail-Stage: install-deps\n");
        assert_eq!(unmet(&read(&alone, 3)).0, "nope-1 (>= 2)");
    }

    #[test]
    fn a_dependency_that_cannot_be_had_is_named() {
        for (complaint, relation) in [
            ("no-such but it is not installable", "no-such"),
            ("no-such:armhf but it is not installable", "no-such"),
            (
                "libfoo-dev (>= 2.0) but 1.0-1 is to be installed",
                "libfoo-dev (>= 2.0)",
            ),
            (
                "libfoo-dev (< 2.0) but 3.0-1 is installed",
                "libfoo-dev (<< 2.0)",
            ),
            ("mta (>= 1) but it is a virtual package", "mta (>= 1)"),
        ] {
            let log = log(&format!("{SUBJECT}{complaint}\n"));
            assert_eq!(
                depfail(&read(&log, 3)).as_deref(),
                Some(relation),
                "{complaint}"
            );
        }
    }

    #[test]
    fn several_missing_dependencies_are_all_named() {
        let log = log(&format!(
            "{SUBJECT}a but it is not installable\n                                   \
             Depends: b (>= 2) but 1 is to be installed\n"
        ));
        assert_eq!(depfail(&read(&log, 3)).as_deref(), Some("a, b (>= 2)"));
    }

    #[test]
    fn alternatives_are_missing_only_together() {
        let both = format!(
            "{SUBJECT}a but it is not installable or\n            b but it is not installable\n"
        );
        assert_eq!(depfail(&read(&log(&both), 3)).as_deref(), Some("a | b"));
        let one = format!(
            "{SUBJECT}a but it is not installable or\n            b but it is not going to be installed\n"
        );
        let reading = read(&log(&one), 3);
        assert_eq!(
            (depfail(&reading), unmet(&reading).0),
            (None, "a | b".to_owned())
        );
    }

    #[test]
    fn a_dependency_further_down_is_named_when_ours_only_follow_from_it() {
        let log = log(&format!(
            " libfoo-dev : Depends: libfoo1 (= 1.0) but 1.1 is to be installed\n\
             {SUBJECT}libfoo-dev but it is not going to be installed\n"
        ));
        assert_eq!(depfail(&read(&log, 3)).as_deref(), Some("libfoo1 (= 1.0)"));
    }

    proptest! {
        /// Apt's error and its report take different ways into the log.
        #[test]
        fn an_error_in_the_midst_of_the_report_does_not_hide_it(mut places in [0..5_usize, 0..5, 0..5, 0..5]) {
            places.sort_unstable();
            let lines = [
                format!("{REPORT_BEGINS}\n"),
                format!("{SUBJECT}a but it is not installable\n"),
                "                      Depends: b (>= 2) but 1 is to be installed\n".to_owned(),
                "                      Depends: c but it is not installable\n".to_owned(),
                "apt-get failed.\n".to_owned(),
            ];
            let pieces = ["E", ": ", "Unable to correct problems, you have held broken packages.", "\n"];
            let mut log = "Reading state information...\n".to_owned();
            for (number, line) in lines.iter().enumerate() {
                for (place, piece) in places.iter().zip(pieces) {
                    if *place == number {
                        log += piece;
                    }
                }
                log += line;
            }
            log += "Fail-Stage: install-deps\n";
            prop_assert_eq!(depfail(&read(&log, 3)), Some("a, b (>= 2), c".to_owned()), "{}", log);
        }
    }

    #[test]
    fn a_conflict_is_nothing_to_wait_for() {
        let log = log(
            " b : Conflicts: a but 1 is to be installed\n     Breaks: c (< 2) but 1 is to be installed\n",
        );
        assert_eq!(depfail(&read(&log, 3)), None);
        assert_eq!(unmet(&read(&log, 3)), (String::new(), String::new()));
    }

    #[test]
    fn an_unclear_report_asks_for_a_comparison() {
        for complaint in [
            "a but it is not going to be installed",
            "a but it is not installed",
        ] {
            let reading = read(&log(&format!("{SUBJECT}{complaint}\n")), 3);
            assert_eq!(
                (depfail(&reading), unmet(&reading).0),
                (None, "a".to_owned())
            );
        }
    }

    #[test]
    fn without_the_failing_stage_at_the_end_it_is_the_package() {
        let report = log(&format!("{SUBJECT}a but it is not installable\n"));
        let elsewhere = report.replace("install-deps", "build");
        assert_eq!(read(&elsewhere, 3), Reading::PackageFail);
        let buried = format!("{report}{}", "x\n".repeat(TAIL));
        assert_eq!(read(&buried, 3), Reading::PackageFail);
    }

    #[test]
    fn what_the_package_prints_cannot_pose_as_apt() {
        let report = log(&format!("{SUBJECT}a but it is not installable\n"));
        let late = format!("Toolchain package versions: gcc_12\n{report}");
        assert_eq!(read(&late, 3), Reading::PackageFail);
        let late = format!("Toolchain package versions: gcc_12\n{NEEDS_FORCE}\n");
        assert_eq!(read(&late, 3), Reading::PackageFail);
    }

    #[test]
    fn problems_that_need_force_give_the_build_back() {
        assert_eq!(read(&format!("x\n{NEEDS_FORCE}\n"), 3), Reading::GivenBack);
        assert_eq!(read(&format!("x {NEEDS_FORCE}\n"), 3), Reading::PackageFail);
    }

    #[test]
    fn pieces_and_overlong_lines_do_not_change_the_reading() {
        let whole = format!(
            "{}\n{}",
            "y".repeat(3 * MAX_LINE),
            log(&format!("{SUBJECT}a but it is not installable\n"))
        );
        for size in [1, 7, 4096] {
            let mut scan = LogScan::default();
            whole
                .as_bytes()
                .chunks(size)
                .for_each(|piece| scan.push(piece));
            assert_eq!(
                depfail(&scan.finish(Some(3))).as_deref(),
                Some("a"),
                "pieces of {size}"
            );
        }
    }
}
