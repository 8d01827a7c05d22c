//! What happened: the packages, each boot's chain, and the table of marks.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::super::slots::{align, one_line};
use super::super::{boots, say};
use super::marks::{self, Marks, PLACES};
use super::{Role, Run};

/// Tells it all; whether everything is as it must be.
///
/// # Errors
/// Standard output is gone; results cannot be listed.
pub(crate) fn tell(real: &Run, control: &Run) -> anyhow::Result<bool> {
    say("")?;
    say("== Packages")?;
    for (role, run) in [(Role::Real, real), (Role::Control, control)] {
        for (number, built) in (1..).zip(&run.builds) {
            say(&format!(
                "{} {number}, after {:.0} s:",
                role.name(),
                built.took.as_secs_f64()
            ))?;
            for line in files(&built.output)? {
                say(&format!("  {line}"))?;
            }
        }
    }
    for (role, run) in [(Role::Real, real), (Role::Control, control)] {
        say("")?;
        say(&format!("== Boots of the {} Panda", role.name()))?;
        for boot in &run.boots {
            for line in boots::lines(boot) {
                say(&line)?;
            }
        }
    }
    say("")?;
    say("== Marks that the first build left as root, and what the second build found of them")?;
    for line in table(real, control) {
        say(line.trim_end())?;
    }
    say("")?;
    let mut good = true;
    for (title, run, found) in [
        (
            "The real Panda: the second build found nothing of the first",
            real,
            false,
        ),
        (
            "The control, whose disk key is fixed: the same search found every mark",
            control,
            true,
        ),
    ] {
        let faults = match run.builds.as_slice() {
            [first, second, ..] => marks::faults(&first.marks, &second.marks, found),
            _ => vec!["there were not two builds".to_owned()],
        };
        if faults.is_empty() {
            say(&format!("{title}."))?;
        }
        for fault in faults {
            good = false;
            say(&format!("NOT SO. {title}? {}", one_line(&fault)))?;
        }
    }
    Ok(good)
}

fn table(real: &Run, control: &Run) -> Vec<String> {
    let mut rows = vec![["PLACE", "WHAT IT IS", "SEARCHED", "REAL", "CONTROL"].map(str::to_owned)];
    for (name, what) in PLACES {
        let second = |run: &Run| run.builds.get(1).map(|built| built.marks.clone());
        let (real, control) = (second(real), second(control));
        let searched = real
            .as_ref()
            .and_then(|marks| marks.place(name))
            .map(|place| match place.bytes >> 20 {
                0 => place.searched.clone(),
                mib => format!("{} ({mib} MiB)", place.searched),
            });
        rows.push(
            [
                name.to_owned(),
                what.to_owned(),
                searched.unwrap_or_default(),
                found(real.as_ref(), name),
                found(control.as_ref(), name),
            ]
            .map(|cell| one_line(&cell)),
        );
    }
    align(&rows)
}

fn found(marks: Option<&Marks>, name: &str) -> String {
    match marks.and_then(|marks| marks.place(name)) {
        None => "not searched".to_owned(),
        Some(place) if place.found.is_empty() => "nothing found".to_owned(),
        Some(place) => {
            let runs: Vec<String> = place
                .found
                .iter()
                .map(|run| run.chars().take(8).collect())
                .collect();
            format!("found {}", runs.join(", "))
        }
    }
}

/// The files in a directory, with their sizes.
fn files(directory: &Path) -> anyhow::Result<Vec<String>> {
    let what = || directory.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(what)? {
        let entry = entry.with_context(what)?;
        let bytes = entry.metadata().with_context(what)?.len();
        let name = entry.file_name().to_string_lossy().into_owned();
        found.push(format!("{} ({bytes} bytes)", one_line(&name)));
    }
    found.sort();
    Ok(found)
}
