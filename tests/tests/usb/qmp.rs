//! QEMU's control socket: takes devices off the guest's bus and puts them there.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A connection; QEMU serves one at a time.
pub(crate) struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the socket.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("QEMU's control socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut qmp = Self {
            lines: BufReader::new(stream),
        };
        qmp.next()?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Gives an order and waits for its answer.
    pub(crate) fn ask(&mut self, order: &str, arguments: &Value) -> Result<()> {
        let line = json!({ "execute": order, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{line}")?;
        loop {
            let answer = self.next()?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                bail!("{order}: {error}");
            }
        }
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("QEMU says {line:?}"))
    }
}
