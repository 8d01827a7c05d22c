//! The effects of a slot on the world, as a trait: the slot's task knows no board and no HTTP.

use panda_slot::{AttemptNo, BootNo, Event};
use tokio::sync::mpsc;

/// Where an activity sends what happened.
pub type Events = mpsc::UnboundedSender<Event>;

/// Starts activities. Each method returns at once with the task it started; the slot's task aborts it
/// when a later effect cancels it. An activity that ends without its event would hang the slot, so each
/// bounds its own time and always reports.
pub trait Hands: Send + Sync + 'static {
    /// Cuts power and gathers evidence; ends with `CutSeen`, `CutWeak` or `CutFailed`.
    fn cut(&self, boot: BootNo, events: Events) -> tokio::task::JoinHandle<()>;
    /// Boots only so that the next cut can be evidenced; ends with `Prepared`, `BootFailed` or `WrongChip`.
    fn prepare(&self, boot: BootNo, events: Events) -> tokio::task::JoinHandle<()>;
    /// Boots; ends with `Proved`, `BootFailed` or `WrongChip`.
    fn boot(&self, boot: BootNo, events: Events) -> tokio::task::JoinHandle<()>;
    /// Asks the board to prove itself, at once and then every few seconds until aborted. The first proof
    /// sends `Proved` (dropped by the machine unless Rejoining); a missing one `Lost`.
    fn prove(&self, boot: BootNo, events: Events) -> tokio::task::JoinHandle<()>;
    /// Gives the worker attempt's build (`acknowledged` false) or follows the one it has; sends
    /// `Acknowledged`, then `Finished` or `Lost`. After a restart of the daemon a worker may have a build
    /// that is not known to be acknowledged: so it is asked first, and one that builds it already has
    /// acknowledged it.
    fn guest(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
        acknowledged: bool,
        events: Events,
    ) -> tokio::task::JoinHandle<()>;
    /// Brings the results and the rest of the log here; ends with `Collected` or `Lost`.
    fn collect(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
        events: Events,
    ) -> tokio::task::JoinHandle<()>;
    /// Tells the worker to abort, takes its log; ends with `AbortEnded` within its time.
    fn abort(
        &self,
        boot: BootNo,
        attempt: AttemptNo,
        events: Events,
    ) -> tokio::task::JoinHandle<()>;
    /// Runs the self-test build of a new image; ends with `TrialEnded`. Until images are tried, nothing
    /// starts it, and it says that the trial went badly.
    fn trial(&self, boot: BootNo, events: Events) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            if events
                .send(Event::TrialEnded { boot, good: false })
                .is_err()
            {
                tracing::debug!(boot, "the slot has ended");
            }
        })
    }
    /// Tells the image store how a trial went.
    fn report_trial(&self, good: bool) {
        tracing::warn!(good, "a trial ended that no image store had asked for");
    }
    /// Cuts power and leaves it off.
    fn power_off(&self) -> tokio::task::JoinHandle<()>;
    /// Drops the kept results of an attempt.
    fn drop_kept(&self, attempt: AttemptNo);
    /// The attempt has ended: unpins its inputs and forgets its arguments.
    fn build_ended(&self, attempt: AttemptNo);
    /// Tells the operators.
    fn alert(&self, reason: &str);
}
