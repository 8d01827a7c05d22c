//! The boards outside: a `panda-twin` of its own, each board with its sockets and, once it runs, the agent as a
//! process of this host.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A twin that runs; dropping it ends it.
pub(crate) struct Boards {
    child: Child,
    log: PathBuf,
    /// The boards' directories.
    pub(crate) directories: Vec<PathBuf>,
}

/// A boot image as it arrived at a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// Which board.
    pub(crate) board: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its SHA-256.
    pub(crate) sha256: String,
}

impl Boards {
    /// Starts `count` boards in `state`; the twin's `options` say what else.
    pub(crate) fn start(
        twin: &Path,
        state: &Path,
        count: usize,
        options: &[String],
    ) -> Result<Self> {
        fs::create_dir_all(state)?;
        let log = state.with_extension("log");
        let mut child = Command::new(twin)
            .arg("--state")
            .arg(state)
            .args(["--boards", &count.to_string(), "--usbredir"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .context("panda-twin")?;
        let output = child.stdout.take().context("the twin's output")?;
        // A line for each board, once all are there.
        let lines = BufReader::new(output).lines().take(count).count();
        let boards = Self {
            child,
            log,
            directories: (1..=count)
                .map(|number| state.join(format!("boards/panda{number:02}")))
                .collect(),
        };
        ensure!(
            lines == count,
            "panda-twin does not start: {}",
            boards.log()?
        );
        Ok(boards)
    }

    /// All that it said.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// The boot images that have arrived, in order.
    pub(crate) fn arrived(&self) -> Result<Vec<Arrived>> {
        let log = self.log()?;
        let field = |line: &str, name: &str| {
            let (_, rest) = line.split_once(&format!("{name}="))?;
            Some(rest.split([' ', ',']).next()?.trim_matches('"').to_owned())
        };
        log.lines()
            .filter(|line| line.contains("a boot image has arrived"))
            .map(|line| {
                let get = |name| field(line, name).with_context(|| format!("{name} in {line}"));
                Ok(Arrived {
                    board: get("board")?,
                    bytes: get("bytes")?.parse()?,
                    sha256: get("sha256")?,
                })
            })
            .collect()
    }
}

impl Drop for Boards {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
        self.child.wait().ok();
    }
}
