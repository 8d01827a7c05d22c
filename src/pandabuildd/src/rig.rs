//! The real hands of one slot: a board, the depot, the worker on it, the results on disk. The slot's task
//! starts activities here and hears of them by events; each activity bounds its own time and always
//! reports, whatever happens to it.
//!
//! ```text
//! slot task ──cut──▶ order ▶ evidence ──CutSeen──▶ (dark board kept here) ──boot──▶ … ──Proved
//!                                     ──CutWeak──▶ (dark board kept here) ──prepare──▶ … ──Prepared
//!           ──prove──▶ every few seconds            guest ──▶ dispatch ▶ follow      collect, abort
//! ```
//!
//! One activity at a time has the board: a cut waits until a boot that it cancels has let go of it.
//! A boot ROM on the port while none is awaited ends proofs and builds alike.

mod parts;
#[cfg(test)]
mod tests;
mod work;

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use panda_http::pinned::PinnedError;
use panda_protocol::link::Report;
use panda_slot::{AttemptNo, BootNo, Event, Lost};
use tokio::task::JoinHandle;

use crate::boot::FailureCause;
use crate::guest;
use crate::slot::hands::{Events, Hands};

pub use parts::RigParts;
use work::{Work, WorkError};

/// One slot's hands. Cheap to clone.
#[derive(Clone)]
pub struct Rig {
    inner: Arc<Work>,
}

impl fmt::Debug for Rig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rig")
            .field("slot", &self.inner.parts.slot)
            .finish_non_exhaustive()
    }
}

impl Rig {
    /// The hands of the slot that `parts` describe.
    ///
    /// # Errors
    /// A master's certificate that cannot be used.
    pub fn new(parts: RigParts) -> Result<Self, PinnedError> {
        let inner = Arc::new(Work::new(parts)?);
        Ok(Self { inner })
    }

    /// What the agent of the last proven boot said of itself: architecture and build types.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        work::lock(&self.inner.report).clone()
    }

    /// Starts an activity that ends with the event it returns, or with `failed` should it panic.
    fn start<F>(&self, events: Events, failed: Event, activity: F) -> JoinHandle<()>
    where
        F: Future<Output = Event> + Send + 'static,
    {
        let slot = self.inner.parts.slot.clone();
        tokio::spawn(async move {
            let event = match AssertUnwindSafe(activity).catch_unwind().await {
                Ok(event) => event,
                Err(_) => {
                    tracing::error!(slot, "an activity has panicked; see standard error");
                    failed
                }
            };
            send(&events, event);
        })
    }
}

impl Hands for Rig {
    fn cut(&self, boot: BootNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let failed = Event::CutFailed {
            boot,
            reason: INTERNAL.to_owned(),
        };
        self.start(events, failed, async move {
            match inner.cut(boot).await {
                Ok(None) => Event::CutSeen { boot },
                Ok(Some(reason)) => Event::CutWeak { boot, reason },
                Err(error) => Event::CutFailed {
                    boot,
                    reason: error.to_string(),
                },
            }
        })
    }

    fn prepare(&self, boot: BootNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        self.start(events, boot_failed(boot), async move {
            match inner.prepare(boot).await {
                Ok(()) => Event::Prepared { boot },
                Err(error) => not_booted(boot, &error),
            }
        })
    }

    fn boot(&self, boot: BootNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        self.start(events, boot_failed(boot), async move {
            match inner.boot(boot).await {
                Ok(()) => Event::Proved { boot },
                Err(error) => not_booted(boot, &error),
            }
        })
    }

    fn prove(&self, boot: BootNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let proofs = events.clone();
        let failed = Event::Lost {
            boot,
            why: Lost::Refused(INTERNAL.to_owned()),
        };
        self.start(events, failed, async move {
            let mut first = Some(Event::Proved { boot });
            let proved = || {
                if let Some(event) = first.take() {
                    send(&proofs, event);
                }
            };
            let why = inner.prove(boot, proved).await;
            Event::Lost { boot, why }
        })
    }

    fn guest(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
        acknowledged: bool,
        events: Events,
    ) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let acknowledgements = events.clone();
        let failed = Event::Lost {
            boot,
            why: Lost::Refused(INTERNAL.to_owned()),
        };
        self.start(events, failed, async move {
            let acknowledge = || send(&acknowledgements, Event::Acknowledged { attempt, boot });
            let run = inner.run(boot, attempt, acknowledged, acknowledge);
            match inner.unless_rebooted(run).await {
                Ok(()) => Event::Finished { attempt, boot },
                Err(why) => Event::Lost { boot, why },
            }
        })
    }

    fn collect(&self, boot: BootNo, attempt: AttemptNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let failed = Event::Lost {
            boot,
            why: Lost::Refused(INTERNAL.to_owned()),
        };
        self.start(events, failed, async move {
            let collect = async {
                let (guest, _) = inner
                    .guest(boot, attempt)
                    .await
                    .map_err(|error| error.lost())?;
                guest::collect(&guest).await
            };
            match inner.unless_rebooted(collect).await {
                Ok(outcome) => Event::Collected {
                    attempt,
                    boot,
                    outcome,
                },
                Err(why) => Event::Lost { boot, why },
            }
        })
    }

    fn abort(&self, boot: BootNo, attempt: AttemptNo, events: Events) -> JoinHandle<()> {
        let inner = self.inner.clone();
        let ended = Event::AbortEnded { attempt, boot };
        self.start(events, ended.clone(), async move {
            match inner.guest(boot, attempt).await {
                Ok((guest, _)) => guest::abort(&guest).await,
                Err(error) => {
                    let slot = &inner.parts.slot;
                    tracing::warn!(slot, attempt, %error, "the worker cannot be told to abort");
                }
            }
            ended
        })
    }

    fn power_off(&self) -> JoinHandle<()> {
        let inner = self.inner.clone();
        tokio::spawn(async move { inner.power_off().await })
    }

    fn drop_kept(&self, attempt: AttemptNo) {
        self.inner.parts.results.drop_attempt(attempt);
    }

    fn build_ended(&self, attempt: AttemptNo) {
        let inner = self.inner.clone();
        let RigParts {
            slot,
            depot,
            inputs,
            ..
        } = &inner.parts;
        depot.allow(slot, HashSet::new());
        inputs.release(slot);
        let task = inner.clone();
        drop(tokio::spawn(async move {
            let RigParts { slot, ledger, .. } = &task.parts;
            if let Err(error) = ledger.end_attempt(slot, attempt).await {
                tracing::error!(slot, attempt, %error, "a build's arguments cannot be forgotten");
            }
        }));
    }

    fn alert(&self, reason: &str) {
        let slot = &self.inner.parts.slot;
        tracing::error!(slot, reason, "the slot needs an operator");
    }
}

/// What a panic is called towards the slot.
const INTERNAL: &str = "an internal error of the daemon; its log says more";

/// A boot whose activity has panicked.
fn boot_failed(boot: BootNo) -> Event {
    Event::BootFailed {
        boot,
        reason: INTERNAL.to_owned(),
    }
}

/// Why a board is not up.
fn not_booted(boot: BootNo, error: &WorkError) -> Event {
    let reason = error.to_string();
    match error {
        WorkError::Step(step) if step.cause() == FailureCause::WrongChip => {
            Event::WrongChip { boot, reason }
        }
        _ => Event::BootFailed { boot, reason },
    }
}

fn send(events: &Events, event: Event) {
    if events.send(event).is_err() {
        tracing::debug!("the slot's task has ended; an event of its board is dropped");
    }
}
