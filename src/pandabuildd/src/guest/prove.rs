//! A board that has no build proves itself every few seconds, so that IDLE is true when it is said: the
//! agent answers over this boot's certificate, and its worker says IDLE. After the daemon's start a board
//! with a build proves only which boot it is in; what its worker says is the follower's business.

use std::time::Duration;

use panda_slot::Lost;
use tokio::time::{Instant, sleep};

use super::link::{Link, LinkError};
use super::settings::GuestSettings;

/// What must be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proving {
    /// This boot, and a worker that is idle.
    Idle,
    /// This boot.
    Boot,
}

/// Asks for proof again and again, and calls `proved` for each; returns only when there is none.
pub(crate) async fn prove(
    link: &Link,
    proving: Proving,
    settings: &GuestSettings,
    mut proved: impl FnMut(),
) -> Lost {
    let patience = Duration::from_millis(settings.prove_silent_ms);
    let mut last_proof = Instant::now();
    loop {
        match once(link, proving).await {
            Ok(()) => {
                last_proof = Instant::now();
                proved();
            }
            Err(error) if error.is_silence() && last_proof.elapsed() < patience => {
                tracing::debug!(%error, "no proof; asking again");
            }
            Err(error) => return error.lost(),
        }
        let pause = Duration::from_millis(settings.prove_ms);
        // A board that was silent is asked again sooner.
        sleep(if last_proof.elapsed() < pause {
            pause
        } else {
            pause / 4
        })
        .await;
    }
}

async fn once(link: &Link, proving: Proving) -> Result<(), LinkError> {
    link.report().await?;
    match proving {
        Proving::Boot => Ok(()),
        Proving::Idle => link.idle().await,
    }
}
