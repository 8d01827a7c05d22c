//! What QEMU tells of a machine on its monitor (QMP: JSON, one value a line, on a socket that it connects to): that
//! the machine has reset itself, and that its disk fails for want of room. Nothing is asked of it.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::console::Console;

/// The most bytes of a line.
const MAX_LINE: u64 = 64 * 1024;
/// What brings the monitor from its greeting to its events.
const HELLO: &[u8] = b"{\"execute\": \"qmp_capabilities\"}\n";
/// A pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// The part of a line that matters here; everything else is some other event, or an answer.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(default)]
    event: String,
    #[serde(default)]
    data: Data,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    /// Of SHUTDOWN: why.
    #[serde(default)]
    reason: String,
    /// Of BLOCK_IO_ERROR: for want of room.
    #[serde(default)]
    nospace: bool,
}

/// Listens until QEMU has ended, or never connected (`ended` says so). Says whether the machine has reset itself.
pub(super) async fn listen(
    listener: UnixListener,
    console: Console,
    mut ended: oneshot::Receiver<()>,
) -> bool {
    let stream = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "QEMU's monitor cannot be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            _ = &mut ended => return false,
        }
    };
    let (reader, mut writer) = stream.into_split();
    if let Err(error) = writer.write_all(HELLO).await {
        tracing::debug!(%error, "QEMU's monitor has gone");
    }
    hear(reader, &console).await
}

async fn hear(reader: impl AsyncRead + Unpin, console: &Console) -> bool {
    let mut reader = BufReader::new(reader);
    let (mut reset, mut full) = (false, false);
    loop {
        let mut line = Vec::new();
        match (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) => return reset,
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "QEMU's monitor has gone");
                return reset;
            }
        }
        let Ok(Line { event, data }) = serde_json::from_slice(&line) else {
            continue;
        };
        match event.as_str() {
            "SHUTDOWN" => reset = data.reason == "guest-reset",
            "BLOCK_IO_ERROR" if data.nospace && !full => {
                full = true;
                console.note(
                    "the scratch disk: no room is left on this host's file system; the machine's writes fail",
                );
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(lines: &str) -> (bool, Console) {
        let console = Console::new();
        (hear(lines.as_bytes(), &console).await, console)
    }

    #[tokio::test]
    async fn a_reset_is_told_from_a_shutdown() {
        let shutdown = |reason| {
            format!(
                "{{\"QMP\": {{\"version\": {{}}}}}}\n{{\"return\": {{}}}}\nnot JSON\n\
                 {{\"event\": \"SHUTDOWN\", \"data\": {{\"guest\": true, \"reason\": \"{reason}\"}}}}\n"
            )
        };
        assert!(said(&shutdown("guest-reset")).await.0);
        assert!(!said(&shutdown("guest-shutdown")).await.0);
        assert!(!said("").await.0);
    }

    #[tokio::test]
    async fn a_full_host_is_said_once() {
        let error = "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"device\": \"\", \"nospace\": true, \
                     \"operation\": \"write\"}}\n";
        let (reset, console) = said(&error.repeat(3)).await;
        assert!(!reset);
        let kept = console.kept();
        let kept = String::from_utf8_lossy(&kept);
        assert_eq!(kept.matches("no room is left").count(), 1, "{kept}");
    }
}
