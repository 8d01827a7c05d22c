//! What is done to a slot's board, one file an activity. The slot's task starts activities, as the
//! machine's effects say, and hears of them by events; each activity bounds its own time and ends with one
//! event. Nothing here decides what comes next.
//!
//! ```text
//! slot task ──cut──▶ order ▶ evidence ──CutSeen──▶ (dark board kept) ──boot──▶ … ──Proved
//!                                     ──CutWeak──▶ (dark board kept) ──prepare──▶ … ──Prepared
//!           ──prove──▶ every few seconds     ──dispatch──▶ ──follow──▶ ──collect──▶     ──abort──▶
//! ```
//!
//! One activity at a time has the board: a cut waits until a boot that it cancels has let go of it.
//! A boot ROM on the port while none is awaited ends proofs and builds alike.
//!
//! # Layout
//! - [`Activities`]: what the slot's task uses; [`BoardActivities`]: the real ones of one slot
//! - `cut`, `prepare`, `boot`, `power_off`: power and the boot chain
//! - `prove`, `dispatch`, `follow`, `collect`, `abort`: the worker on the board
//! - `common`: what they stand on: the board's drivers, a boot's secrets, the way to its agent
//! - `parts`: what all of it is put together from

mod abort;
mod boot;
mod collect;
mod common;
mod cut;
mod dispatch;
mod error;
mod follow;
mod parts;
mod power_off;
mod prepare;
mod prove;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use panda_http::pinned::PinnedError;
use panda_protocol::link::Report;
use panda_slot::{AttemptNo, BootNo, Event, Lost};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::common::Common;
pub(crate) use self::parts::Parts;

/// Where an activity sends what happened.
pub(crate) type Events = mpsc::UnboundedSender<Event>;

/// Something that is done to a slot's board. At most one runs at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Activity {
    /// Cuts power and gathers evidence; ends with `CutSeen`, `CutWeak` or `CutFailed`.
    Cut {
        /// The boot that begins with this cut.
        boot: BootNo,
    },
    /// Boots only so that the next cut can be evidenced; ends with `Prepared`, `BootFailed` or
    /// `WrongChip`.
    Prepare {
        /// The boot.
        boot: BootNo,
    },
    /// Boots; ends with `Proved`, `BootFailed` or `WrongChip`.
    Boot {
        /// The boot.
        boot: BootNo,
    },
    /// Asks the board to prove itself, at once and then every few seconds until it is aborted. The first
    /// proof sends `Proved` (dropped by the machine unless the slot rejoins); a missing one ends it with
    /// `Lost`.
    Prove {
        /// The boot.
        boot: BootNo,
    },
    /// Gives the worker the attempt's build (`acknowledged` false) or follows the one it has; sends
    /// `Acknowledged`, then ends with `Finished` or `Lost`. After a restart of the daemon a worker may
    /// have a build that is not known to be acknowledged: so it is asked first, and one that builds it
    /// already has acknowledged it.
    Guest {
        /// The boot.
        boot: BootNo,
        /// The build.
        attempt: AttemptNo,
        /// The worker is known to have it.
        acknowledged: bool,
    },
    /// Brings the results and the rest of the log here; ends with `Collected` or `Lost`.
    Collect {
        /// The boot.
        boot: BootNo,
        /// The build.
        attempt: AttemptNo,
    },
    /// Tells the worker to abort, takes its log; ends with `AbortEnded`.
    Abort {
        /// The boot.
        boot: BootNo,
        /// The build.
        attempt: AttemptNo,
    },
    /// Runs the self-test build of a new image; ends with `TrialEnded`.
    Trial {
        /// The boot.
        boot: BootNo,
    },
    /// Cuts power and leaves it off; ends without an event.
    PowerOff,
}

impl Activity {
    /// What is reported in its stead should it end without a report: a bug, or a panic, must not hang
    /// the slot.
    #[must_use]
    pub(crate) fn unreported(&self) -> Option<Event> {
        let broken = |what: &str| {
            format!(
                "an internal error of the daemon: {what} ended without a report; its log says more"
            )
        };
        match *self {
            Self::Cut { boot } => Some(Event::CutFailed {
                boot,
                reason: broken("the cut"),
            }),
            Self::Prepare { boot } | Self::Boot { boot } => Some(Event::BootFailed {
                boot,
                reason: broken("the boot"),
            }),
            Self::Prove { boot } => Some(lost(boot, Lost::Refused(broken("the proving")))),
            Self::Guest { boot, .. } => Some(lost(boot, Lost::Refused(broken("the build")))),
            Self::Collect { boot, .. } => Some(lost(boot, Lost::Refused(broken("the collecting")))),
            Self::Abort { boot, attempt } => Some(Event::AbortEnded { attempt, boot }),
            Self::Trial { boot } => Some(Event::TrialEnded { boot, good: false }),
            Self::PowerOff => None,
        }
    }
}

/// What the slot's task needs of the world: the activities of its board, and what is let go beside them.
pub(crate) trait Activities: Send + Sync + 'static {
    /// Starts an activity and returns at once with its task, which the slot's task aborts when a later
    /// effect cancels it.
    fn start(&self, activity: Activity, events: Events) -> JoinHandle<()>;
    /// Drops the kept results of an attempt.
    fn drop_kept(&self, attempt: AttemptNo);
    /// The slot's build has ended, or the slot is reset: the inputs that are leased to it are let go.
    fn release_inputs(&self);
    /// The attempt has ended: forgets its arguments.
    fn build_ended(&self, attempt: AttemptNo);
    /// Tells the operators.
    fn alert(&self, reason: &str);
}

/// The activities of one slot's board. Cheap to clone.
#[derive(Clone)]
pub(crate) struct BoardActivities {
    common: Arc<Common>,
}

impl fmt::Debug for BoardActivities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoardActivities")
            .field("slot", &self.common.parts.slot)
            .finish_non_exhaustive()
    }
}

impl BoardActivities {
    /// Those of the slot that `parts` describe.
    ///
    /// # Errors
    /// A master's certificate that cannot be used.
    pub(crate) fn new(parts: Parts) -> Result<Self, PinnedError> {
        let common = Arc::new(Common::new(parts)?);
        Ok(Self { common })
    }

    /// What the agent of the last proven boot said of itself: architecture and build types.
    #[must_use]
    pub(crate) fn report(&self) -> Option<Report> {
        self.common.report()
    }
}

impl Activities for BoardActivities {
    fn start(&self, activity: Activity, events: Events) -> JoinHandle<()> {
        let common = self.common.clone();
        tokio::spawn(async move {
            let event = match activity {
                Activity::Cut { boot } => cut::cut(&common, boot).await,
                Activity::Prepare { boot } => prepare::prepare(&common, boot).await,
                Activity::Boot { boot } => boot::boot(&common, boot).await,
                Activity::Prove { boot } => prove::prove(&common, boot, &events).await,
                Activity::Guest {
                    boot,
                    attempt,
                    acknowledged,
                } => {
                    let given = if acknowledged {
                        Ok(())
                    } else {
                        dispatch::dispatch(&common, boot, attempt, &events).await
                    };
                    match given {
                        Ok(()) => follow::follow(&common, boot, attempt).await,
                        Err(why) => lost(boot, why),
                    }
                }
                Activity::Collect { boot, attempt } => {
                    collect::collect(&common, boot, attempt).await
                }
                Activity::Abort { boot, attempt } => abort::abort(&common, boot, attempt).await,
                // Nothing tries an image yet.
                Activity::Trial { boot } => Event::TrialEnded { boot, good: false },
                Activity::PowerOff => return power_off::power_off(&common).await,
            };
            send(&events, event);
        })
    }

    fn drop_kept(&self, attempt: AttemptNo) {
        self.common.parts.results.drop_attempt(attempt);
    }

    fn release_inputs(&self) {
        let Parts { slot, inputs, .. } = &self.common.parts;
        inputs.release(slot);
    }

    fn build_ended(&self, attempt: AttemptNo) {
        let common = self.common.clone();
        drop(tokio::spawn(async move {
            let Parts { slot, ledger, .. } = &common.parts;
            if let Err(error) = ledger.end_attempt(slot, attempt).await {
                tracing::error!(slot, %attempt, %error, "a build's arguments cannot be forgotten");
            }
        }));
    }

    fn alert(&self, reason: &str) {
        let slot = &self.common.parts.slot;
        tracing::error!(slot, reason, "the slot needs an operator");
    }
}

fn lost(boot: BootNo, why: Lost) -> Event {
    Event::Lost { boot, why }
}

fn send(events: &Events, event: Event) {
    if events.send(event).is_err() {
        tracing::debug!("the slot's task has ended; an event of its board is dropped");
    }
}
