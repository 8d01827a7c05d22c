//! What the chroot's archives have, against what apt says is missing: a build may only wait for what is
//! not there, since a wait for anything else is over at once and the build tried again for ever.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::process::Command;

use super::command::{CommandError, log, read_lines, succeeds};
use super::root::Root;
use super::sbuild::in_chroot;
use crate::worker::contradiction::contradiction;
use crate::worker::deb822::{self, ControlError, Paragraph};
use crate::worker::outcome::Unmet;
use crate::worker::plan::{Plan, Verdict};
use crate::worker::relations::{self, Available, Relation};

/// The most bytes of dpkg's status file.
const MAX_STATUS: u64 = 64 << 20;
/// How many packages one `apt-cache` is asked for.
const AT_ONCE: usize = 500;

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AvailableError {
    /// The `.dsc`.
    #[error("the .dsc cannot be read: {0}")]
    Dsc(#[from] io::Error),
    /// The `.dsc`.
    #[error("the .dsc is malformed: {0}")]
    Control(#[from] ControlError),
    /// The archives.
    #[error("the chroot's archives cannot be listed: {0}")]
    List(#[from] CommandError),
}

/// What to wait for, where apt says that dependencies are not met: first the source's own relations, as apt
/// shows them; then the first in the chain below; then the source's, as its `.dsc` has them. What the archives have is
/// none of it, and neither is what contradicts itself.
pub(crate) fn verdict(root: &Root, plan: &Plan, unmet: &Unmet) -> Result<Verdict, AvailableError> {
    let dsc = Paragraph::parse(&read_dsc(plan)?)?;
    let field = |name: &str| {
        let only = [
            ("", true),
            ("-Arch", true),
            ("-Indep", plan.args.arch_indep),
        ];
        only.iter()
            .filter(|(_, wanted)| *wanted)
            .filter_map(|(suffix, _)| dsc.get(&format!("{name}{suffix}")))
            .flat_map(|field| relations::parse(field, &plan.args.arch_tag))
            .collect::<Vec<_>>()
    };
    let (wanted, conflicts) = (field("Build-Depends"), field("Build-Conflicts"));
    let (own, below) = (unmet.own(), unmet.below());
    let available = available(root, plan, [&wanted, &own, &below].into_iter().flatten())?;
    let mut compare = |have: &str, operator: &str, want: &str| {
        succeeds(Command::new("dpkg").args(["--compare-versions", have, operator, want]))
    };
    let is_provided = |name: &str| available.is_provided(name);
    if let Some(name) = contradiction(&wanted, &conflicts, &is_provided, &mut compare) {
        log(&format!(
            "The build dependencies on {name} contradict each other: no archive could satisfy them."
        ));
        return Ok(Verdict::PackageFail);
    }
    let mut missing = available.unsatisfied(&own, &mut compare);
    if missing.is_empty() {
        missing = available.unsatisfied(&below, &mut compare);
        missing.truncate(1);
    }
    if missing.is_empty() {
        missing = available.unsatisfied(&wanted, &mut compare);
    }
    if missing.is_empty() {
        log(
            "The archives have every one of the build dependencies, but not so that all can be installed.",
        );
        return Ok(Verdict::PackageFail);
    }
    Ok(Verdict::DepFail(relations::join(&missing)))
}

fn read_dsc(plan: &Plan) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(plan.work.files().join(plan.dsc.as_str()))?
        .take(deb822::MAX_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What there is of the packages in `relations`: all versions in the archives, what provides them, and what
/// is installed.
fn available<'a>(
    root: &Root,
    plan: &Plan,
    relations: impl IntoIterator<Item = &'a Relation>,
) -> Result<Available, AvailableError> {
    let mut available = Available::wanting(relations);
    let mut dump = in_chroot(root, &plan.args, &["apt-cache", "dumpavail"]);
    read_lines(&mut dump, &mut |line| available.line(line))?;
    // The dump has one version of each.
    let names: BTreeSet<_> = available.wanted().map(str::to_owned).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for names in names.chunks(AT_ONCE) {
        let mut show = in_chroot(root, &plan.args, &["apt-cache", "show", "--"]);
        show.args(names).stderr(std::process::Stdio::null());
        match read_lines(&mut show, &mut |line| available.line(line)) {
            // Some of them are not there.
            Ok(())
            | Err(CommandError::Failed {
                status: Some(_), ..
            }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let status = root
        .read("var/lib/dpkg/status", MAX_STATUS)?
        .unwrap_or_default();
    String::from_utf8_lossy(&status)
        .lines()
        .for_each(|line| available.line(line));
    Ok(available)
}
