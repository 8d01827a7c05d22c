//! The root file system as a squashfs: the kept tar archive streams by, gets the agent, and is packed.
//!
//! ```text
//! root.tar ──▶ usr/bin/panda-agent ──▶ mksquashfs ──▶ rootfs
//! ```

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;

use crate::draft::Draft;
use crate::qemu;
use crate::steps::Steps;

/// How long packing may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Packs `root` with `agent` in it into `draft`'s root file system; its files are dated `unix_seconds` where they were
/// not dated before.
///
/// # Errors
/// It was interrupted; mksquashfs fails, or a file cannot be read or written.
pub(crate) async fn pack(
    mksquashfs: &Path,
    root: &Path,
    agent: &Path,
    unix_seconds: u64,
    draft: &Draft,
    steps: &Steps,
) -> anyhow::Result<()> {
    steps.begin("packing the root file system");
    let output = draft.path(qemu::ROOTFS);
    let (archive, into) = std::io::pipe().context("a pipe for mksquashfs")?;
    let mut command = Command::new(mksquashfs);
    command
        .arg("-")
        .arg(&output)
        .args(["-tar", "-noappend", "-quiet", "-no-progress"])
        // Read on every boot by an emulated processor, written rarely: little compression is the fastest.
        .args(["-comp", "zstd", "-Xcompression-level", "3", "-b", "256K"])
        .args(["-root-mode", "0755", "-root-uid", "0", "-root-gid", "0"])
        // The only way to date a root directory that is not in the archive; -root-time is not heeded here.
        .env("SOURCE_DATE_EPOCH", unix_seconds.to_string())
        .stdin(archive)
        .stdout(Stdio::null());
    let running = steps.start("mksquashfs", &mut command)?;
    // The command holds the pipe's other end: it must be gone before mksquashfs can end.
    drop(command);
    let tar = File::open(root).with_context(|| root.display().to_string())?;
    let agent = agent.to_owned();
    let streaming =
        tokio::task::spawn_blocking(move || qemu::with_agent(tar, &agent, unix_seconds, into));
    let packed = running.end(steps, LIMIT).await;
    let streamed = streaming.await.context("the packing thread")?;
    match (packed, streamed) {
        (Err(error), _) => Err(error),
        (Ok(()), Err(error)) => Err(error).with_context(|| root.display().to_string()),
        (Ok(()), Ok(())) if !output.exists() => {
            bail!("mksquashfs has ended well and left no {}", output.display())
        }
        (Ok(()), Ok(())) => Ok(()),
    }
}
