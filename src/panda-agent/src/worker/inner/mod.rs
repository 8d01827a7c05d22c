//! The process that runs one build: `panda-agent run-build`, started by `worker::runner` as the first
//! process of a PID and mount namespace of its own, so that everything the build starts or mounts is
//! gone when this process is.
//!
//! ```text
//! plan on stdin ──▶ copy inputs ──▶ executor ─────────────────────────────┐
//!                              └──▶ unpack ▶ mount ▶ users ▶ apt ▶ update ─┤─▶ sbuild ──▶ verdict file
//! end of stdin  ──▶ exit, at any point (the kernel kills the rest)         └─▶ ChrootFail
//! ```
//! What it and the build print is the build's log. No threads but the watcher of standard input and
//! the log's reader; no runtime.

mod apt;
mod attributes;
mod available;
mod chroot;
mod command;
mod mounts;
mod personality;
mod root;
mod sbuild;
mod unpack;
mod users;

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::Command;

use super::outcome::Reading;
use super::plan::{MAX_PLAN, Plan, Stage, Verdict};
use super::relations;
use command::log;

/// The exit status when the worker no longer wants the build.
const UNWANTED: i32 = 75;

/// Why the process cannot do its work at all.
#[derive(Debug, thiserror::Error)]
pub enum InnerError {
    /// Not started as it must be: it kills every process that it can see.
    #[error("run-build must be the first process of a PID namespace; it is started by the worker")]
    NotFirst,
    /// No plan.
    #[error("no plan on standard input: {0}")]
    Plan(String),
    /// Copying, or writing the verdict.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Runs the build that is planned on standard input.
///
/// # Errors
/// See [`InnerError`]; the build is then a failure of the builder.
pub fn run() -> Result<(), InnerError> {
    if std::process::id() != 1 {
        return Err(InnerError::NotFirst);
    }
    attributes::standard();
    let plan = read_plan()?;
    mounts::own_proc();
    begin(&plan, Stage::Chroot)?;
    copy_inputs(&plan)?;
    let verdict = match &plan.executor {
        Some(executor) => {
            begin(&plan, Stage::Package)?;
            execute(&plan, executor)
        }
        None => chroot::build(&plan).unwrap_or_else(|error| {
            log(&format!("E: {error}"));
            error.verdict()
        }),
    };
    write_verdict(&plan, &verdict)
}

/// Reads the plan, and leaves a watcher behind that ends this process when standard input ends.
fn read_plan() -> Result<Plan, InnerError> {
    let mut input = BufReader::new(io::stdin());
    let mut line = String::new();
    (&mut input)
        .take(MAX_PLAN)
        .read_line(&mut line)
        .map_err(|error| InnerError::Plan(error.kind().to_string()))?;
    let plan = serde_json::from_str(&line)
        .map_err(|error| InnerError::Plan(format!("malformed at column {}", error.column())))?;
    std::thread::spawn(move || {
        let mut rest = [0; 256];
        while !matches!(input.read(&mut rest), Ok(0) | Err(_)) {}
        std::process::exit(UNWANTED);
    });
    Ok(plan)
}

fn begin(plan: &Plan, stage: Stage) -> Result<(), InnerError> {
    plan.work.begin(stage).map_err(|source| InnerError::Io {
        doing: "cannot note the stage of the build in",
        path: plan.work.path().clone(),
        source,
    })
}

fn copy_inputs(plan: &Plan) -> Result<(), InnerError> {
    let files = plan.work.files();
    for (name, from) in &plan.inputs {
        let to = files.join(name.as_str());
        fs::copy(from, &to).map_err(|source| InnerError::Io {
            doing: "cannot copy an input file to",
            path: to,
            source,
        })?;
    }
    Ok(())
}

/// Runs an executor in the place of chroot and sbuild.
fn execute(plan: &Plan, executor: &str) -> Verdict {
    let mut command = Command::new("sh");
    command
        .args(["-c", executor])
        .current_dir(plan.work.files())
        .env("PANDA_BUILD_ID", &plan.build_id)
        .env("PANDA_ARCH", &plan.args.arch_tag)
        .env("PANDA_SUITE", &plan.args.suite)
        .env("PANDA_CHROOT", &plan.chroot)
        .env("PANDA_ARGS", &plan.args_json);
    match command::run_scanned(command) {
        Ok((exit, scan)) => simple_verdict(&scan.finish(exit)),
        Err(error) => {
            log(&format!("E: {error}"));
            Verdict::BuilderFail
        }
    }
}

/// The verdict of a reading, where no archive can be asked what is missing.
fn simple_verdict(reading: &Reading) -> Verdict {
    match reading {
        Reading::Ok => Verdict::Ok,
        Reading::PackageFail => Verdict::PackageFail,
        Reading::BuilderFail => Verdict::BuilderFail,
        Reading::GivenBack => Verdict::GivenBack,
        Reading::Unfetched => Verdict::ChrootFail,
        Reading::Unmet(unmet) => match unmet.told() {
            missing if missing.is_empty() => Verdict::PackageFail,
            missing => Verdict::DepFail(relations::join(&missing)),
        },
    }
}

fn write_verdict(plan: &Plan, verdict: &Verdict) -> Result<(), InnerError> {
    let path = plan.work.verdict();
    let written = serde_json::to_vec(verdict)
        .map_err(io::Error::from)
        .and_then(|json| {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)?;
            file.write_all(&json)
        });
    written.map_err(|source| InnerError::Io {
        doing: "cannot write the verdict to",
        path,
        source,
    })
}
