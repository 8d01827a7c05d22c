//! Follows a running build: asks the worker for its status every few seconds and pulls its log, until it
//! has finished. A board may be slow under load, so silence is borne for a while; an answer that cannot be
//! is not.

use std::time::Duration;

use panda_http::ClientError;
use panda_protocol::launchpad::{BuildStatus, Status};
use panda_slot::Lost;
use tokio::time::{Instant, sleep};

use super::extras::{ExtrasKeeper, Fields};
use super::log::{LogError, LogPuller};
use super::{GONE, Guest, disk, gone, lost, wrong_build};

/// Pieces of log that are pulled between two looks at the status.
const PIECES_A_ROUND: u32 = 16;

/// Returns when the worker has finished.
///
/// # Errors
/// The board is lost.
pub(crate) async fn follow(guest: &Guest) -> Result<(), Lost> {
    let directory = guest
        .results
        .prepare(guest.attempt)
        .map_err(|error| disk("the results", &error))?;
    let mut log = LogPuller::resume(&directory, &guest.settings)
        .await
        .map_err(|error| disk("the build log", &error))?;
    let mut extras = ExtrasKeeper::resume(&directory).await;
    let began = Instant::now();
    let mut last_answer = began;
    loop {
        let mut answered = false;
        match look(guest).await {
            Ok(Look::Finished) => return Ok(()),
            Ok(Look::Building { further }) => {
                last_answer = Instant::now();
                answered = true;
                extras.take_status(further).await;
            }
            Ok(Look::Gone) => return Err(gone()),
            Err(lie @ Lost::Lied(_)) => return Err(lie),
            Err(why) => {
                let patience = Duration::from_millis(guest.settings.follow_silent_ms);
                if last_answer.elapsed() >= patience {
                    return Err(why);
                }
                tracing::debug!(?why, "the worker does not answer; asking again");
            }
        }
        // The log first: a lie about anything else must not cost what there is of it.
        pull(guest, &mut log).await?;
        if answered {
            let asked = extras.ask_proxy(guest.link.worker()).await;
            asked.map_err(|error| lost(&error))?;
        }
        if began.elapsed() >= Duration::from_millis(guest.settings.build_ms) {
            return Err(Lost::OverTime);
        }
        sleep(Duration::from_millis(guest.settings.poll_ms)).await;
    }
}

enum Look {
    /// With what else the worker says of its build.
    Building {
        further: Fields,
    },
    Finished,
    /// No answer will come any more.
    Gone,
}

async fn look(guest: &Guest) -> Result<Look, Lost> {
    let report = match guest.link.worker().status().await {
        Ok(report) => report,
        Err(ClientError::Status(GONE)) => return Ok(Look::Gone),
        Err(error) => return Err(lost(&error)),
    };
    match report.status {
        Status::Building { build_id, .. } if build_id == guest.build_id => Ok(Look::Building {
            further: report.extra,
        }),
        Status::Waiting { build_id, outcome } if build_id == guest.build_id => {
            if outcome.build_status == BuildStatus::Aborted {
                return Err(unasked());
            }
            Ok(Look::Finished)
        }
        Status::Building { .. } | Status::Waiting { .. } => Err(wrong_build()),
        Status::Aborting { .. } | Status::Aborted { .. } => Err(unasked()),
        Status::Idle => Err(Lost::Lied("the worker has forgotten its build".to_owned())),
    }
}

pub(super) fn unasked() -> Lost {
    Lost::Lied("the worker says that its build was aborted, and nobody asked for that".to_owned())
}

/// Pulls what there is of the log. A board that does not answer is the status's business, and a disk that
/// is full may have room again before the build has ended: the log is taken up where it stands.
async fn pull(guest: &Guest, log: &mut LogPuller) -> Result<(), Lost> {
    for _ in 0..PIECES_A_ROUND {
        match log.pull(guest.link.worker()).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(LogError::Client(error)) => match lost(&error) {
                lie @ Lost::Lied(_) => return Err(lie),
                why => {
                    tracing::debug!(?why, "the build log was not had; asking again");
                    break;
                }
            },
            Err(LogError::Io(error)) => {
                tracing::error!(attempt = %guest.attempt, %error, "the build log cannot be written");
                let directory = guest.results.attempt(guest.attempt);
                if let Ok(again) = LogPuller::resume(&directory, &guest.settings).await {
                    *log = again;
                }
                break;
            }
        }
    }
    Ok(())
}
