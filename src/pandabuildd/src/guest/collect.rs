//! Brings a finished build's results here: each file bounded, hashed while it is written, and there only
//! when its hash is the one that the worker named; then the rest of the log. Everything is on the disk
//! before the slot hears of it, because the board loses power right after.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use panda_http::ClientError;
use panda_http::draft::{Draft, DraftError};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildStatus, Outcome, Status};
use panda_slot::Lost;
use tokio::time::{sleep, timeout};

use super::extras::{ExtrasKeeper, Fields};
use super::follow::unasked;
use super::log::{LogError, LogPuller};
use super::{Guest, disk, lost, wrong_build};

/// How often one thing is asked for before silence counts.
const TRIES: u32 = 3;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// Collects, and returns how the build ended.
///
/// # Errors
/// The board is lost.
pub(crate) async fn collect(guest: &Guest) -> Result<Outcome, Lost> {
    let limit = Duration::from_millis(guest.settings.collect_ms);
    timeout(limit, bring(guest))
        .await
        .unwrap_or(Err(Lost::OverTime))
}

async fn bring(guest: &Guest) -> Result<Outcome, Lost> {
    let (outcome, further) = again(|| outcome(guest)).await?;
    let directory = guest
        .results
        .prepare(guest.attempt)
        .map_err(|error| disk("the results", &error))?;
    let mut extras = ExtrasKeeper::resume(&directory).await;
    extras.take_status(further).await;
    extras
        .ask_proxy(guest.link.worker())
        .await
        .map_err(|error| lost(&error))?;
    let mut room = guest.settings.results_max_bytes;
    let files: BTreeSet<Sha1> = outcome.filemap.values().copied().collect();
    for sha1 in files {
        room -= again(|| fetch(guest, &directory, sha1, room)).await?;
    }
    again(|| finish_log(guest, &directory)).await?;
    Ok(outcome)
}

/// Does it again while the board is silent.
async fn again<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, Lost>
where
    F: Future<Output = Result<T, Lost>>,
{
    let mut tries = 1;
    loop {
        match attempt().await {
            Err(Lost::Silent) if tries < TRIES => {
                tries += 1;
                sleep(PAUSE).await;
            }
            ended => return ended,
        }
    }
}

async fn outcome(guest: &Guest) -> Result<(Outcome, Fields), Lost> {
    let report = guest
        .link
        .worker()
        .status()
        .await
        .map_err(|error| lost(&error))?;
    match report.status {
        Status::Waiting { build_id, outcome } if build_id == guest.build_id => {
            if outcome.build_status == BuildStatus::Aborted {
                return Err(unasked());
            }
            Ok((outcome, report.extra))
        }
        Status::Waiting { .. } => Err(wrong_build()),
        _ => Err(Lost::Lied(
            "the worker had finished its build, and says otherwise now".to_owned(),
        )),
    }
}

/// Fetches one result of at most `room` bytes, and returns its size.
async fn fetch(guest: &Guest, directory: &Path, sha1: Sha1, room: u64) -> Result<u64, Lost> {
    let on_disk = |error: std::io::Error| disk("a result", &error);
    let mut pieces = match guest.link.worker().file(&sha1.to_string(), room).await {
        Ok(pieces) => pieces,
        Err(ClientError::Status(404)) => {
            return Err(Lost::Lied(format!(
                "the worker names a result {sha1} that it has not"
            )));
        }
        Err(error) => return Err(size_or(guest, &error)),
    };
    let mut draft = Draft::new(directory).map_err(on_disk)?;
    while let Some(piece) = pieces
        .next()
        .await
        .map_err(|error| size_or(guest, &error))?
    {
        draft.write(&piece).await.map_err(on_disk)?;
    }
    let finished = draft.finish(sha1).await.map_err(|error| match error {
        DraftError::Mismatch => Lost::Lied(format!(
            "what the worker sent as result {sha1} has another SHA-1"
        )),
        DraftError::Io(error) => on_disk(error),
    })?;
    let length = finished.length();
    finished
        .place(&directory.join(sha1.to_string()))
        .map_err(on_disk)?;
    Ok(length)
}

/// Brings the rest of the log.
async fn finish_log(guest: &Guest, directory: &Path) -> Result<(), Lost> {
    let mut log = LogPuller::resume(directory, &guest.settings)
        .await
        .map_err(|error| disk("the build log", &error))?;
    log.finish(guest.link.worker())
        .await
        .map_err(|error| match error {
            LogError::Client(error) => lost(&error),
            LogError::Io(error) => disk("the build log", &error),
        })
}

fn size_or(guest: &Guest, error: &ClientError) -> Lost {
    match error {
        ClientError::TooLong(_) => Lost::Refused(format!(
            "the build's results have more than {} bytes (guest.results_max_bytes)",
            guest.settings.results_max_bytes
        )),
        error => lost(error),
    }
}
