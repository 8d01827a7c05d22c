//! A build on a Panda of the demonstration: `pandabuildd submit` as a process of its own, as anybody would call it, its
//! log shown while it grows.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use panda_image::programs;
use panda_image::steps::Interrupted;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::say;
use super::super::slots::one_line;
use super::Role;
use super::inputs::Inputs;
use super::marks::Marks;
use super::rack::DemoRack;

/// How long a build may take.
const LIMIT: Duration = Duration::from_secs(1800);
/// A line longer than this is cut in two.
const MAX_LINE: u64 = 16 * 1024;

/// A build that went well.
#[derive(Debug)]
pub(crate) struct Built {
    /// Where its results are.
    pub(crate) output: PathBuf,
    /// How long it took; with the power cut and the boot that cleaned its Panda, where another build follows.
    pub(crate) took: Duration,
    /// What it says of marks.
    pub(crate) marks: Marks,
}

/// How a build is shown: the real Panda's log whole, of the control's only what it says of marks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Show {
    role: Role,
    number: u32,
}

impl Show {
    /// Of the build of that number.
    #[must_use]
    pub(crate) const fn new(role: Role, number: u32) -> Self {
        Self { role, number }
    }

    /// Says something of it.
    ///
    /// # Errors
    /// Standard output is gone.
    pub(crate) fn note(self, text: &str) -> anyhow::Result<()> {
        say(&format!("-- {}: {}", self.title(), one_line(text)))
    }

    fn title(self) -> String {
        format!("{} {}", self.role.name(), self.number)
    }

    fn log(self, line: &str) -> anyhow::Result<()> {
        if self.role == Role::Real || line.starts_with(super::marks::WORD) {
            say(&format!("{} | {}", self.title(), one_line(line)))?;
        }
        Ok(())
    }
}

/// Has the package built on `rack`, with its results in `output`. After the `last` build nobody waits for a clean Panda.
///
/// # Errors
/// Interrupted; a build that does not end well.
pub(crate) async fn run(
    rack: &DemoRack,
    inputs: &Inputs,
    output: &Path,
    show: Show,
    last: bool,
    stop: &CancellationToken,
) -> anyhow::Result<Built> {
    let began = Instant::now();
    let us = std::env::current_exe().context("where this program is")?;
    show.note("building")?;
    let mut child = Command::new(programs::find("setpriv", "util-linux")?)
        .args(["--pdeathsig", "TERM", "--"])
        .arg(us)
        .arg("submit")
        .arg(&inputs.dsc)
        .args(["--builder", &rack.url])
        .arg("--chroot")
        .arg(&inputs.chroot)
        .args(["--suite", &inputs.suite, "--arch", &inputs.arch])
        .arg("--output")
        .arg(output)
        .args(last.then_some("--leave"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("`pandabuildd submit` cannot be started")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut marks = Marks::default();
    let both = async {
        let log = each_line(stdout, |line| {
            marks.hear(line);
            show.log(line)
        });
        let words = each_line(stderr, |line| show.note(line));
        let (log, words) = tokio::join!(log, words);
        log.and(words)?;
        child
            .wait()
            .await
            .context("waiting for `pandabuildd submit`")
    };
    let ended = tokio::select! {
        ended = timeout(LIMIT, both) => ended,
        // Killed with the child that is dropped here; its rack, which ends next, needs no goodbye.
        () = stop.cancelled() => return Err(Interrupted.into()),
    };
    let Ok(status) = ended else {
        bail!(
            "{}: the build did not end within {} s",
            show.title(),
            LIMIT.as_secs()
        );
    };
    let status = status?;
    if !status.success() {
        bail!(
            "{}: the build failed ({status}); its log says why",
            show.title()
        );
    }
    let took = began.elapsed();
    let clean = if last {
        ""
    } else {
        ", and its Panda clean again by a power cut and a boot,"
    };
    show.note(&format!("built{clean} after {:.0} s", took.as_secs_f64()))?;
    Ok(Built {
        output: output.to_owned(),
        took,
        marks,
    })
}

async fn each_line(
    from: Option<impl AsyncRead + Unpin>,
    mut hear: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(from) = from else {
        return Ok(());
    };
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut reader).take(MAX_LINE);
        if bounded.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        hear(String::from_utf8_lossy(&line).trim_end())?;
    }
}
