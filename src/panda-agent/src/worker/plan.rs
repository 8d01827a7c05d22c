//! What the worker tells the process that runs a build, and what that says in the end.
//!
//! The plan travels as one line of JSON on standard input, which then stays open: its end means that
//! the worker wants the build dead, or is dead itself. It holds archive passwords, so it is never on
//! a command line or in a file. The verdict comes back as a small JSON file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use panda_protocol::launchpad::FileName;
use serde::{Deserialize, Serialize};

use super::args::BuildArgs;

/// The most bytes of a plan.
pub(crate) const MAX_PLAN: u64 = 64 << 20;
/// The most bytes of a verdict.
pub(crate) const MAX_VERDICT: u64 = 1 << 20;

/// One build, ready to run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The job's cookie.
    pub(crate) build_id: String,
    /// The build's own directory.
    pub(crate) work: WorkDir,
    /// The chroot tarball.
    pub(crate) chroot: PathBuf,
    /// The source's `.dsc`, in the work directory's `files`.
    pub(crate) dsc: FileName,
    /// Input files: where they are, by the name they get. Copied before the build begins, so that
    /// no build can change the cache.
    pub(crate) inputs: BTreeMap<FileName, PathBuf>,
    /// The arguments.
    pub(crate) args: BuildArgs,
    /// The whole arguments as JSON, for an executor.
    pub(crate) args_json: String,
    /// The apt proxy to set.
    pub(crate) apt_proxy: Option<String>,
    /// A command that takes the place of chroot and sbuild.
    pub(crate) executor: Option<String>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("build_id", &self.build_id)
            .finish_non_exhaustive()
    }
}

/// A build's own directory and what is where in it.
///
/// ```text
/// files/     the input files, and what the build makes
/// root/      the unpacked chroot tarball: root/chroot-autobuild
/// private/   configuration of sbuild and schroot for this build alone
/// verdict    how it ended
/// before-*   there until that stage of the build begins: a file can be removed when a full disk takes no other
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkDir(PathBuf);

impl WorkDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.0
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    pub(crate) fn private(&self) -> PathBuf {
        self.0.join("private")
    }

    /// Marks a build as not begun.
    pub(crate) fn mark(&self) -> io::Result<()> {
        [Stage::Chroot, Stage::Package]
            .iter()
            .try_for_each(|stage| fs::write(self.before(*stage), ""))
    }

    /// Marks a stage, and those before it, as begun.
    pub(crate) fn begin(&self, stage: Stage) -> io::Result<()> {
        for begun in [Stage::Chroot, Stage::Package] {
            if begun <= stage {
                match fs::remove_file(self.before(begun)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// How far the build has come.
    pub(crate) fn stage(&self) -> Stage {
        if self.before(Stage::Chroot).exists() {
            Stage::Start
        } else if self.before(Stage::Package).exists() {
            Stage::Chroot
        } else {
            Stage::Package
        }
    }

    fn before(&self, stage: Stage) -> PathBuf {
        self.0.join(match stage {
            Stage::Start => "before-start",
            Stage::Chroot => "before-chroot",
            Stage::Package => "before-package",
        })
    }

    pub(crate) fn verdict(&self) -> PathBuf {
        self.0.join("verdict")
    }
}

/// How far a build has come: whose fault it is when its process is gone without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Nothing has run yet but the builder's own program.
    Start,
    /// The chroot is unpacked and brought up to date.
    Chroot,
    /// sbuild runs: what happens from here on, the package and its dependencies have done.
    Package,
}

/// How the process that ran the build says that it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// sbuild was content; the results have yet to be gathered.
    Ok,
    /// The package does not build.
    PackageFail,
    /// These relations are missing.
    DepFail(String),
    /// The builder gives the build back.
    GivenBack,
    /// The chroot does not work.
    ChrootFail,
    /// The builder does not work.
    BuilderFail,
}
