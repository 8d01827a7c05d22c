//! A rack that runs: what it consists of, and how it stops.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::StateLock;
use crate::slot::SlotHandle;

/// A rack that runs.
#[derive(Debug)]
pub(crate) struct Rack {
    pub(super) slots: Vec<SlotHandle>,
    pub(super) urls: Vec<(String, String)>,
    /// What answers Launchpad.
    pub(super) fronts: JoinSet<()>,
    /// Everything else.
    pub(super) others: JoinSet<()>,
    pub(super) stop_fronts: CancellationToken,
    pub(super) stop_others: CancellationToken,
    /// How long calls in flight are waited for.
    pub(super) drain: Duration,
    pub(super) _lock: StateLock,
}

impl Rack {
    /// Each slot's name, and the URL that Launchpad may know it by.
    #[must_use]
    pub(crate) fn urls(&self) -> &[(String, String)] {
        &self.urls
    }

    /// Stops: no slot says IDLE any more, calls in flight end, and the boards go on as they are for the next
    /// daemon.
    pub(crate) async fn stop(mut self) {
        for slot in &self.slots {
            if slot.quiesce().await.is_err() {
                tracing::debug!(slot = slot.name(), "had ended already");
            }
        }
        self.stop_fronts.cancel();
        // A `clean` may wait longer than callers are waited for: it is answered when its slot closes.
        if timeout(self.drain / 2, join(&mut self.fronts))
            .await
            .is_err()
        {
            tracing::info!("calls still wait for their boards; they are told to come again");
        }
        for slot in &self.slots {
            slot.close().await;
        }
        join(&mut self.fronts).await;
        self.stop_others.cancel();
        join(&mut self.others).await;
    }
}

async fn join(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        finish("a listener", ended);
    }
}

/// Says so where a task did not end as it should.
pub(super) fn finish(what: &str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(what, %error, "ended badly");
    }
}
