//! What `pandabuildd chroot build` does: a chroot tarball for builders, made by mmdebstrap.
//!
//! - `sources`: where its packages come from
//! - `binfmt`: can this machine run programs of its architecture
//! - `bootstrap`: one run of mmdebstrap
//! - `pack`: the tarball, as builders want it

pub(crate) mod binfmt;
mod bootstrap;
mod pack;
mod sources;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use panda_protocol::word::check_word;

use self::bootstrap::{Bootstrap, Limits, Tools};
use self::pack::{Compression, Packer};
use self::sources::Entry;
use crate::programs;
use crate::steps::Interrupted;

/// What a builder needs beside Debian's buildd variant (Essential, apt and build-essential).
const INCLUDE: &str = "build-essential,ca-certificates,fakeroot";

/// What a chroot is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    suite: String,
    arch: String,
    output: PathBuf,
    /// As `--mirror`.
    pub mirror: Option<String>,
    /// As `--components`.
    pub components: String,
    /// Leave out what no build reads: documentation, translations.
    pub slim: bool,
    /// Leave these files out too, by dpkg's patterns.
    pub left_out: &'static [&'static str],
    /// Say nothing but what went wrong.
    pub quiet: bool,
    /// Shell commands that change the chroot, `$1`, before it is packed.
    pub hooks: Vec<String>,
}

impl Recipe {
    /// A chroot of `suite` for `arch`, as builders have it, in the tarball `output`.
    #[must_use]
    pub fn new(suite: &str, arch: &str, output: &Path) -> Self {
        Self {
            suite: suite.to_owned(),
            arch: arch.to_owned(),
            output: output.to_owned(),
            mirror: None,
            components: "main".to_owned(),
            slim: false,
            left_out: &[],
            quiet: false,
            hooks: Vec::new(),
        }
    }
}

/// Makes a chroot tarball.
///
/// # Errors
/// [`Interrupted`]; a file name, suite or architecture that cannot be; programs that are missing or fail.
pub async fn make(recipe: &Recipe, interrupted: impl Future<Output = ()>) -> anyhow::Result<()> {
    tokio::pin!(interrupted);
    let Some(compression) = Compression::of(&recipe.output) else {
        bail!(
            "{}: the suffix chooses the compression, and this one is not known; use .tar.zst, .tar.gz, .tar.xz or .tar",
            recipe.output.display()
        );
    };
    check_word("--suite", &recipe.suite)?;
    check_word("--arch", &recipe.arch)?;
    let tools = Tools {
        mmdebstrap: programs::find("mmdebstrap", "mmdebstrap")?,
        setpriv: programs::find("setpriv", "util-linux")?,
        temporary: std::env::temp_dir(),
        limits: Limits::default(),
    };
    binfmt::check(&recipe.arch)?;
    let tries = tries(&recipe.suite, recipe.mirror.as_deref())?;
    let mut packer = Packer::begin(&recipe.output, compression)?;
    let mut result = Ok(());
    for (number, attempt) in tries.iter().enumerate() {
        if number > 0 {
            eprintln!("pandabuildd: {}", attempt.saying);
        }
        let mut arguments = arguments(recipe);
        arguments.extend(attempt.mirrors.iter().map(OsString::from));
        let bootstrap = Bootstrap::start(&tools, arguments, packer)?;
        let Some(ended) = bootstrap.end(&mut interrupted).await? else {
            return Err(Interrupted.into());
        };
        (packer, result) = ended;
        if result.is_ok() {
            break;
        }
    }
    result?;
    packer.publish()?;
    Ok(())
}

/// One call of mmdebstrap.
#[derive(Debug, Clone)]
pub(crate) struct Try {
    /// Its sources, each a URL or a `deb …` line.
    pub(crate) mirrors: Vec<String>,
    /// Said before it, when it is not the first.
    pub(crate) saying: String,
}

/// All sources first; then, should that fail, without the pockets that a mirror may have out of step.
/// `mirror` is what `--mirror` says.
///
/// # Errors
/// A mirror that is none; a machine whose apt has no source for `suite`.
pub(crate) fn tries(suite: &str, mirror: Option<&str>) -> anyhow::Result<Vec<Try>> {
    let entries = match mirror {
        Some(line) if line.starts_with("deb ") => {
            return Ok(vec![Try {
                mirrors: vec![line.to_owned()],
                saying: String::new(),
            }]);
        }
        Some(uri) => {
            if !uri.contains("://") {
                bail!(
                    "--mirror {uri}: expected a URL such as http://…/debian, or a line that begins with `deb `"
                );
            }
            // A bare URL: mmdebstrap knows the distributions' keys.
            return Ok(vec![Try {
                mirrors: vec![uri.to_owned()],
                saying: String::new(),
            }]);
        }
        None => host_sources(suite)?,
    };
    Ok(plan(&entries, suite))
}

fn plan(entries: &[Entry], suite: &str) -> Vec<Try> {
    let lines = |keep: &dyn Fn(&Entry) -> bool| -> Vec<String> {
        entries
            .iter()
            .filter(|entry| keep(entry))
            .map(Entry::line)
            .collect()
    };
    let security =
        |entry: &Entry| entry.suite != format!("{suite}-updates") && entry.is_optional(suite);
    let mut tries = vec![Try {
        mirrors: lines(&|_| true),
        saying: String::new(),
    }];
    for (mirrors, left_out) in [
        (lines(&|entry| !security(entry)), "the security suite"),
        (
            lines(&|entry| !entry.is_optional(suite)),
            "the security and updates suites",
        ),
    ] {
        if tries
            .last()
            .is_some_and(|last| last.mirrors.len() > mirrors.len())
        {
            tries.push(Try {
                mirrors,
                saying: format!(
                    "that failed; going on without {left_out}, which a mirror may have out of step: what is \
                     made will lack those updates"
                ),
            });
        }
    }
    tries
}

fn host_sources(suite: &str) -> anyhow::Result<Vec<Entry>> {
    let apt = programs::find("apt-get", "apt").context("give the archive with --mirror URL")?;
    let output = Command::new(apt)
        .args([
            "indextargets",
            "--format",
            sources::FORMAT,
            "Created-By: Packages",
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("apt-get indextargets")?;
    if !output.status.success() {
        bail!(
            "apt-get indextargets ended with {}; give the archive with --mirror URL",
            output.status
        );
    }
    let listing = String::from_utf8_lossy(&output.stdout);
    Ok(sources::from_apt(&listing, suite, |path| {
        std::fs::read_to_string(path).ok()
    })?)
}

fn arguments(recipe: &Recipe) -> Vec<OsString> {
    let mut arguments = vec![
        "--variant=buildd".to_owned(),
        format!("--architectures={}", recipe.arch),
        format!("--components={}", recipe.components),
        format!("--include={INCLUDE}"),
        "--format=tar".to_owned(),
    ];
    if recipe.quiet {
        arguments.push("--quiet".to_owned());
    }
    if recipe.slim {
        for name in ["doc", "man", "info", "locale"] {
            arguments.push(format!("--dpkgopt=path-exclude=/usr/share/{name}/*"));
        }
    }
    for pattern in recipe.left_out {
        arguments.push(format!("--dpkgopt=path-exclude={pattern}"));
    }
    for hook in &recipe.hooks {
        arguments.push(format!("--customize-hook={hook}"));
    }
    arguments.extend([recipe.suite.clone(), "-".to_owned()]);
    arguments.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(suite: &str) -> Entry {
        Entry {
            uri: "http://m.example/".into(),
            suite: suite.into(),
            components: vec!["main".into()],
            signed_by: None,
        }
    }

    #[test]
    fn a_security_suite_out_of_step_is_left_out_and_said_so() {
        let tries = plan(
            &[entry("sid"), entry("sid-security"), entry("sid-updates")],
            "sid",
        );
        let counts: Vec<_> = tries.iter().map(|attempt| attempt.mirrors.len()).collect();
        assert_eq!(counts, [3, 2, 1]);
        assert!(tries[1].saying.contains("without the security suite"));
        assert!(
            !tries[1]
                .mirrors
                .iter()
                .any(|line| line.contains("security"))
        );
        assert_eq!(tries[2].mirrors, ["deb http://m.example/ sid main"]);
    }

    #[test]
    fn a_suite_without_pockets_is_tried_once() {
        assert_eq!(plan(&[entry("sid")], "sid").len(), 1);
    }
}
