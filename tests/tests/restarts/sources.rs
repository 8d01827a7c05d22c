//! Reads the daemon's sources: every line that writes, names or removes a file, switches a board's supply, or changes
//! something at a worker or at Launchpad has its failpoint beside it, or a reason here why it needs none.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use panda_tests::programs::root;

/// What an effect looks like.
const EFFECTS: [&str; 18] = [
    "remove(&shared.path(",
    "remove(&entry.path(",
    "fs::rename(",
    "remove_dir_all(",
    "remove_file(",
    ".persist(",
    "fs::write(",
    "write_all(",
    ".set_len(",
    ".ensure_present(",
    "worker.build(",
    "worker.abort(",
    "power.off(",
    "power.on(",
    ".0.off(",
    ".0.on(",
    "Method::PATCH",
    "File::create(",
];
/// How far from the effect its failpoint may be, in lines.
const NEAR: usize = 4;
/// What is no part of the daemon's life: the command line's other programs, images made beforehand, tests.
const OUTSIDE: [&str; 6] = [
    "/cli/",
    "/images/",
    "/tests/",
    "tests.rs",
    "toy.rs",
    "testing.rs",
];
/// Effects without a failpoint: where, what, and why. Each must be there.
const EXCUSED: [(&str, &str, &str); 9] = [
    (
        "identity.rs",
        "fs::remove_file(&beside)",
        "nobody reads it: the next start removes it again",
    ),
    (
        "identity.rs",
        "write_all(text",
        "beside its place: only its name counts",
    ),
    (
        "activity/power_off.rs",
        "power.off()",
        "a guarded supply, as all are",
    ),
    ("boot/cut.rs", "power.off()", "a guarded supply, as all are"),
    (
        "boot/power_on.rs",
        "power.on()",
        "a guarded supply, as all are",
    ),
    (
        "operators/routes.rs",
        "remove_file(&path)",
        "the socket of a daemon that has ended; the next one replaces it",
    ),
    (
        "front/mod.rs",
        "filecache.ensure_present(",
        "the file cache's own, which pins and fetches past failpoints",
    ),
    (
        "console/log.rs",
        "file.write_all(text",
        "a console's words, for people: half a line of them harms nothing",
    ),
    (
        "console/log.rs",
        "remove_file(directory.join",
        "an old console log, which the next start removes too",
    ),
];
/// Effects of `panda-http` without one.
const EXCUSED_HTTP: [(&str, &str, &str); 1] = [(
    "store.rs",
    "match fs::remove_file(path)",
    "both its callers pass one",
)];

#[test]
fn every_effect_in_the_daemons_sources_has_its_failpoint() -> Result<()> {
    let mut bare = Vec::new();
    let mut unused: Vec<_> = EXCUSED.iter().chain(&EXCUSED_HTTP).collect();
    let mut seen = 0;
    let daemon = sources(&root().join("src/pandabuildd/src"))?;
    let shared = ["draft.rs", "store.rs"].map(|name| root().join("src/panda-http/src").join(name));
    for path in daemon.into_iter().chain(shared) {
        let shown = path.strip_prefix(root())?.display().to_string();
        if OUTSIDE.iter().any(|part| shown.contains(part)) || shown.contains("/failpoint") {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let text = text
            .split("#[cfg(test)]\nmod tests {")
            .next()
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let is_effect = EFFECTS.iter().any(|effect| line.contains(effect));
            if !is_effect || line.trim_start().starts_with("//") {
                continue;
            }
            seen += 1;
            let near = &lines[number.saturating_sub(NEAR)..(number + NEAR).min(lines.len())];
            let excuse = unused
                .iter()
                .position(|(file, what, _)| shown.ends_with(file) && line.contains(what));
            if let Some(excuse) = excuse {
                unused.swap_remove(excuse);
            } else if !near.iter().any(|line| line.contains("failpoint::")) {
                bare.push(format!("{shown}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    ensure!(
        seen > 20,
        "only {seen} effects are seen: has their look changed?"
    );
    ensure!(
        bare.is_empty(),
        "no failpoint beside these: give each one (src/pandabuildd/src/failpoint), or say here why it needs none:\n{}",
        bare.join("\n")
    );
    ensure!(unused.is_empty(), "excused, and not there: {unused:?}");
    Ok(())
}

/// Every Rust file below a directory.
fn sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}
