//! Follows a build until it has ended, and leaves the builder clean.
//!
//! ```text
//!            Ctrl-C ──▶ abort ──┐
//! BUILDING ──▶ … ──▶ ABORTING ──┴─▶ WAITING / ABORTED ──▶ clean ──▶ IDLE
//!    └── another build's id, IDLE: the build is lost
//! ```

use std::time::Duration;

use anyhow::{Context as _, bail};
use panda_http::BuilderClient;
use panda_http::endpoint::ClientError;
use panda_protocol::launchpad::{BuildId, BuildStatus, Outcome, Status};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::Show;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a builder may be silent, or answer with faults, before its build is given up.
const SILENCE: Duration = Duration::from_secs(300);
/// How long an abort may take: what Launchpad grants.
const ABORT: Duration = Duration::from_secs(180);
/// How long a builder may take to become clean.
const CLEAN: Duration = Duration::from_secs(600);
/// The most bytes of the log taken at one look.
const LOG_PIECE: u64 = 4 << 20;

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The builder keeps its results.
    Waiting(Outcome),
    /// We were told to stop, and it was aborted.
    Aborted,
    /// We were told to stop before the builder had it.
    NotBegun,
}

/// What `status` means for our build.
#[derive(Debug)]
enum Ours {
    Building {
        logtail: Vec<u8>,
    },
    Aborting,
    Ended(Outcome),
    /// Another build's, or none.
    Gone,
}

/// Follows one build.
#[allow(missing_debug_implementations)]
pub(crate) struct Follower<'a> {
    client: &'a BuilderClient,
    build_id: BuildId,
    show: &'a mut dyn Show,
    stop: CancellationToken,
    /// Bytes of the log shown so far.
    shown: u64,
}

impl<'a> Follower<'a> {
    /// Follows the build `build_id` until `stop`.
    #[must_use]
    pub(crate) fn new(
        client: &'a BuilderClient,
        build_id: BuildId,
        show: &'a mut dyn Show,
        stop: CancellationToken,
    ) -> Self {
        Self {
            client,
            build_id,
            show,
            stop,
            shown: 0,
        }
    }

    /// Shows the log until the build has ended, or is aborted because we were told to stop.
    ///
    /// # Errors
    /// The builder has lost it, or is silent for too long.
    pub(crate) async fn until_end(&mut self) -> anyhow::Result<Ended> {
        let mut silent_since: Option<Instant> = None;
        loop {
            let looked = tokio::select! {
                looked = self.look() => looked,
                // A builder that is silent does not keep us from aborting.
                () = self.stop.cancelled() => return self.interrupted().await,
            };
            match looked {
                Ok(Ours::Building { logtail }) => {
                    silent_since = None;
                    self.grow(&logtail).await;
                }
                Ok(Ours::Aborting) => silent_since = None,
                Ok(Ours::Ended(outcome)) => return Ok(Ended::Waiting(outcome)),
                Ok(Ours::Gone) => {
                    bail!("the builder has lost the build: it was reset, or somebody else uses it")
                }
                Err(error) => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > SILENCE {
                        return Err(error).context("the builder does not answer any more");
                    }
                    self.show
                        .progress(&format!("the builder does not answer: {error}"));
                }
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = self.stop.cancelled() => return self.interrupted().await,
            }
        }
    }

    async fn interrupted(&mut self) -> anyhow::Result<Ended> {
        self.show.progress("aborting the build");
        self.abort().await?;
        Ok(Ended::Aborted)
    }

    /// Shows what the log has beyond what was shown; the build has ended.
    pub(crate) async fn rest_of_log(&mut self) {
        while self.pull().await {}
    }

    /// Leaves the builder clean, whatever it does now; a build of ours that still runs is aborted.
    ///
    /// # Errors
    /// It does not become clean in time.
    pub(crate) async fn clean(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + CLEAN;
        let mut said = None;
        while Instant::now() < until {
            match self.look().await {
                Ok(Ours::Gone) => return Ok(()),
                Ok(Ours::Building { .. }) => self.abort().await?,
                Ok(Ours::Aborting) => {}
                Ok(Ours::Ended(_)) => {
                    self.show.progress("cleaning the builder");
                    match self.client.clean().await {
                        Ok(()) => return Ok(()),
                        Err(error) => said = Some(error),
                    }
                }
                // Between boots: it keeps nothing of ours any more.
                Err(ClientError::Fault { .. }) => return Ok(()),
                Err(error) => said = Some(error),
            }
            sleep(PAUSE).await;
        }
        let said = said.map_or_else(
            || "it is still aborting".to_owned(),
            |error| error.to_string(),
        );
        bail!("not within {} s: {said}", CLEAN.as_secs())
    }

    async fn abort(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + ABORT;
        let mut asked = false;
        while Instant::now() < until {
            match self.look().await {
                Ok(Ours::Building { .. }) if !asked => {
                    asked = self.client.abort().await.is_ok();
                }
                Ok(Ours::Building { .. } | Ours::Aborting) => {}
                Ok(Ours::Ended(_) | Ours::Gone) | Err(ClientError::Fault { .. }) => return Ok(()),
                Err(error) => self
                    .show
                    .progress(&format!("the builder does not answer: {error}")),
            }
            sleep(PAUSE).await;
        }
        bail!(
            "the builder has not aborted the build within {} s; reset it",
            ABORT.as_secs()
        )
    }

    async fn look(&self) -> Result<Ours, ClientError> {
        let ours = |build_id: &BuildId| *build_id == self.build_id;
        Ok(match self.client.status().await?.status {
            Status::Building { build_id, logtail } if ours(&build_id) => Ours::Building { logtail },
            Status::Aborting {
                build_id: Some(build_id),
            } if ours(&build_id) => Ours::Aborting,
            Status::Aborted { build_id } if ours(&build_id) => {
                Ours::Ended(Outcome::bare(BuildStatus::Aborted))
            }
            Status::Waiting { build_id, outcome } if ours(&build_id) => Ours::Ended(outcome),
            _ => Ours::Gone,
        })
    }

    async fn grow(&mut self, logtail: &[u8]) {
        let more = self.pull().await;
        // Not served yet, or never while it grows: then its tail is the progress line.
        if !more
            && self.shown == 0
            && let Some(last) = String::from_utf8_lossy(logtail).lines().last()
        {
            self.show.progress(last);
        }
    }

    /// Shows the next piece of the log; whether there was one. The log is for people: that it cannot be had
    /// does not change how the build ends.
    async fn pull(&mut self) -> bool {
        let part = self.client.file_part("buildlog", self.shown, LOG_PIECE);
        let Ok(Some(mut pieces)) = part.await else {
            return false;
        };
        let before = self.shown;
        while let Ok(Some(piece)) = pieces.next().await {
            self.shown += piece.len() as u64;
            self.show.log(&piece);
        }
        self.shown > before
    }
}
