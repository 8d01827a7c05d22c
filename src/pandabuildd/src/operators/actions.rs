//! The record of who did what, in the daemon's log. An order is written down before it is carried out, and carried out to
//! its end even when whoever asked has gone meanwhile.

use std::future::Future;
use std::time::Duration;

use nix::unistd::{Uid, User};
use panda_protocol::operators::{ActionKind, Asker, Problem, ProblemKind};
use tokio::time::Instant;

use super::desk::Desk;
use crate::failpoint::{self, Point};

/// Keys of one process on one console are recorded again after so long.
const TYPING: Duration = Duration::from_secs(60);
/// The most processes whose typing is remembered.
const TYPISTS: usize = 64;

/// An order.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) kind: ActionKind,
    /// The slot, where it is one of ours.
    pub(super) slot: Option<String>,
    /// More of it, without secrets.
    pub(super) detail: String,
    pub(super) asker: Asker,
}

impl Order {
    /// Where tests have the daemon die, on both sides of it.
    const fn point(&self) -> Option<Point> {
        match self.kind {
            ActionKind::Reset => Some(Point::ControlReset),
            ActionKind::LaunchpadReset => Some(Point::ControlPpaReset),
            ActionKind::Hold | ActionKind::Drain => Some(Point::ControlHold),
            ActionKind::Release => Some(Point::ControlRelease),
            // Nothing that lasts changes by these.
            ActionKind::Type | ActionKind::RefusedCommand => None,
        }
    }
}

impl Desk {
    /// Carries an order out, and records it.
    pub(super) async fn carry_out<T: Send + 'static>(
        &self,
        order: Order,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = tokio::spawn(async move {
            let point = order.point();
            point.into_iter().for_each(failpoint::before);
            record(order).await;
            let done = work.await;
            if let Err(problem) = &done {
                tracing::info!("not done: {problem}");
            }
            point.into_iter().for_each(failpoint::after);
            done
        });
        done.await.unwrap_or_else(|error| {
            tracing::error!(%error, "an order was cut short");
            Err(Problem::new(
                ProblemKind::Failed,
                "the order was cut short; look at the daemon's log",
            ))
        })
    }

    /// Whether this typing is to be recorded: not every key of a process is.
    pub(super) fn types_anew(&self, slot: &str, pid: Option<i32>) -> bool {
        let now = Instant::now();
        let mut typists = self
            .typists
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        typists.retain(|_, at| now.duration_since(*at) < TYPING);
        if typists.len() >= TYPISTS {
            typists.clear();
        }
        let typist = (slot.to_owned(), pid);
        if typists.contains_key(&typist) {
            return false;
        }
        typists.insert(typist, now);
        true
    }
}

/// Into the log.
async fn record(order: Order) {
    let Order {
        kind,
        slot,
        detail,
        mut asker,
    } = order;
    asker.user = user(asker.uid).await;
    tracing::info!(
        slot = slot.as_deref(),
        detail,
        user = asker.user.as_deref(),
        uid = asker.uid,
        pid = asker.pid,
        on_behalf_of = asker.on_behalf_of.as_deref(),
        "ordered: {kind}"
    );
}

/// The user's name. Where the system looks it up in a network, that may take a while.
async fn user(uid: u32) -> Option<String> {
    let found = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid)));
    let found = tokio::time::timeout(Duration::from_secs(2), found).await;
    found.ok()?.ok()?.ok()?.map(|user| user.name)
}
