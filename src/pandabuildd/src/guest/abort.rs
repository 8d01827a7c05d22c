//! Aborts a build: tells the worker, gives it seconds to end and hand its log over, and returns whatever
//! happens. Then power goes, so no build is too stuck to abort.

use std::time::Duration;

use panda_protocol::launchpad::Status;
use tokio::time::{Instant, sleep, timeout};

use super::log::LogPuller;
use super::{Guest, lost};
use crate::failpoint::{self, Point};

/// How often the worker is asked whether it has ended.
const POLL: Duration = Duration::from_millis(500);

/// Aborts, within its time.
pub(crate) async fn abort(guest: &Guest) {
    let directory = match guest.results.prepare(guest.attempt) {
        Ok(directory) => directory,
        Err(error) => {
            tracing::error!(attempt = %guest.attempt, %error, "the results cannot be opened");
            return;
        }
    };
    let limit = Duration::from_millis(guest.settings.abort_ms);
    if timeout(limit, end(guest)).await.is_err() {
        tracing::info!(
            attempt = %guest.attempt,
            "the worker has not ended its build in time"
        );
    }
    let last_words = async {
        let mut log = LogPuller::resume(&directory, &guest.settings).await?;
        // Whatever there is, even of a worker that has not ended, for as long again.
        let until = Instant::now() + limit;
        while Instant::now() < until {
            match log.pull(guest.link.worker()).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::info!(attempt = %guest.attempt, %error, "the log ends here");
                    break;
                }
            }
        }
        log.close().await
    };
    if let Err(error) = last_words.await {
        tracing::error!(attempt = %guest.attempt, %error, "the build log cannot be written");
    }
}

/// Returns when the worker has ended its build, or cannot be asked.
async fn end(guest: &Guest) {
    let worker = guest.link.worker();
    failpoint::before(Point::GuestAbort);
    let told = worker.abort().await;
    failpoint::after(Point::GuestAbort);
    if let Err(error) = told {
        // Not the error itself: a fault's text is the board's.
        let why = lost(&error);
        tracing::info!(
            attempt = %guest.attempt,
            ?why,
            "the worker does not take the abort"
        );
    }
    loop {
        match worker.status().await {
            Ok(report) => match report.status {
                Status::Building { .. } | Status::Aborting { .. } => {}
                Status::Idle | Status::Waiting { .. } | Status::Aborted { .. } => return,
            },
            Err(error) if error.is_silence() => {}
            Err(_) => return,
        }
        sleep(POLL).await;
    }
}
