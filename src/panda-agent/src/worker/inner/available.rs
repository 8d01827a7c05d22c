//! Which of a source's direct build dependencies the chroot's archives cannot satisfy: asked when
//! apt's report does not say it.

use std::fs::File;
use std::io::{self, Read as _};
use std::process::Command;

use super::command::{CommandError, read_lines, succeeds};
use super::root::Root;
use super::sbuild::in_chroot;
use crate::worker::deb822::{self, ControlError, Paragraph};
use crate::worker::plan::Plan;
use crate::worker::relations::{self, Available, Relation};

/// The most bytes of dpkg's status file.
const MAX_STATUS: u64 = 64 << 20;

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

/// The build dependencies that nothing satisfies.
pub(crate) fn unsatisfied(root: &Root, plan: &Plan) -> Result<Vec<Relation>, AvailableError> {
    let mut bytes = Vec::new();
    File::open(plan.work.files().join(plan.dsc.as_str()))?
        .take(deb822::MAX_BYTES)
        .read_to_end(&mut bytes)?;
    let dsc = Paragraph::parse(&bytes)?;
    let mut fields = vec!["Build-Depends", "Build-Depends-Arch"];
    if plan.args.arch_indep {
        fields.push("Build-Depends-Indep");
    }
    let wanted: Vec<_> = fields
        .iter()
        .filter_map(|field| dsc.get(field))
        .flat_map(|field| relations::parse(field, &plan.args.arch_tag))
        .collect();
    let mut available = Available::wanting(&wanted);
    let mut dump = in_chroot(root, &plan.args.arch_tag, &["apt-cache", "dumpavail"]);
    read_lines(&mut dump, &mut |line| available.line(line))?;
    let status = root
        .read("var/lib/dpkg/status", MAX_STATUS)?
        .unwrap_or_default();
    String::from_utf8_lossy(&status)
        .lines()
        .for_each(|line| available.line(line));
    Ok(available.unsatisfied(&wanted, &mut |have, operator, want| {
        // dpkg's own `<` and `>` mean "or equal", as in old relations.
        succeeds(Command::new("dpkg").args(["--compare-versions", have, operator, want]))
    }))
}
