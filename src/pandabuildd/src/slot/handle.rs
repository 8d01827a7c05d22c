//! What the rest of the daemon holds of a slot: calls go in, a view comes out. The front and the control
//! socket use it; neither ever sees a board.

use std::time::Duration;

use panda_protocol::launchpad::{BuildCall, Dialect};
use panda_slot::{Answer, Board, BootNo, ManagerStatus, Rejoin, Slot};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// The slot's task has ended; the daemon is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping: try again when it is back")]
pub(crate) struct SlotClosed;

/// What is to be seen of a slot. Its state is the committed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// The committed state.
    pub(crate) slot: Slot,
    /// When the board came into the state it is in, as far as this daemon saw it, in milliseconds since
    /// 1970 UTC; for people only.
    pub(crate) since_unix_ms: i64,
    /// Why the slot is not to be believed Fresh whatever its state says: the daemon is starting or
    /// stopping, or the ledger cannot be written.
    pub(crate) fault: Option<String>,
}

impl View {
    /// What a manager is told of the slot: always use this, never [`panda_slot::manager_status`] on the state,
    /// which does not know of `fault`.
    #[must_use]
    pub(crate) fn manager_status(&self, dialect: Dialect, virtualized: bool) -> ManagerStatus {
        match (
            panda_slot::manager_status(&self.slot, dialect, virtualized),
            &self.fault,
        ) {
            (ManagerStatus::Idle, Some(reason)) => {
                panda_slot::between_boots(dialect, reason.clone())
            }
            (said, _) => said,
        }
    }

    /// The board is Fresh, nothing is kept, and a build would be accepted.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.manager_status(Dialect::Current, true) == ManagerStatus::Idle
    }

    /// The board is proven and has run nothing, whatever else is kept or held.
    #[must_use]
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self.slot.board, Board::Fresh { .. }) && self.fault.is_none()
    }
}

/// What a caller may ask of a slot.
#[derive(Debug)]
pub(super) enum Ask {
    Build(Box<BuildCall>),
    Abort,
    Clean,
    Reset,
    OperatorReset { forced: bool },
    Hold { reason: String },
    Release,
    ImageOutdated { boot: BootNo },
}

/// A message to a slot's task.
#[derive(Debug)]
pub(super) enum Message {
    Ask {
        ask: Ask,
        reply: oneshot::Sender<Answer>,
    },
    /// Say IDLE no more, but go on.
    Quiesce,
    /// End, once everything asked before is answered.
    Close,
}

/// Why a slot is not to be believed before its first commit.
pub(super) const STARTING: &str = "the daemon is starting";

/// A slot, for the rest of the daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SlotHandle {
    pub(super) name: std::sync::Arc<str>,
    pub(super) mailbox: mpsc::Sender<Message>,
    pub(super) view: watch::Receiver<View>,
}

impl SlotHandle {
    /// The slot's name.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The slot as it is now.
    #[must_use]
    pub(crate) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The slot as it is now and as it becomes; closed when the slot's task has ended.
    #[must_use]
    pub(crate) fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Waits while nobody can know whether the board is Fresh: the daemon has only just started, and the board has
    /// not proven itself again. At most `limit`, for a board that has gone meanwhile.
    pub(crate) async fn rejoined(&self, limit: Duration) {
        let mut watch = self.watch();
        let rejoined = watch.wait_for(|view| {
            let proving = matches!(view.slot.board, Board::Rejoining(Rejoin::Fresh { .. }));
            !proving && view.fault.as_deref() != Some(STARTING)
        });
        // Whatever it is then is told.
        if timeout(limit, rejoined).await.is_err() {
            tracing::debug!(slot = &*self.name, "not proven again within {limit:?}");
        }
    }

    /// Launchpad's `build`. Answered once the build is in the ledger; the work goes on behind it.
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn build(&self, call: BuildCall) -> Result<Answer, SlotClosed> {
        self.ask(Ask::Build(Box::new(call))).await
    }

    /// Launchpad's `abort`.
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn abort(&self) -> Result<Answer, SlotClosed> {
        self.ask(Ask::Abort).await
    }

    /// Launchpad's `clean`. Answered when the board is Fresh again, or when it has waited long enough;
    /// in 2011's dialect at once.
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn clean(&self) -> Result<Answer, SlotClosed> {
        self.ask(Ask::Clean).await
    }

    /// Launchpad's reset, through its command. Answered at once: `Ready`, or `Joined` a reset that is
    /// under way (watch the slot for its end).
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn reset(&self) -> Result<Answer, SlotClosed> {
        self.ask(Ask::Reset).await
    }

    /// An operator's reset; `forced` loses a build or its results.
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn operator_reset(&self, forced: bool) -> Result<Answer, SlotClosed> {
        self.ask(Ask::OperatorReset { forced }).await
    }

    /// Holds the slot: a build in it ends normally first, then its power goes and stays off.
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn hold(&self, reason: String) -> Result<Answer, SlotClosed> {
        self.ask(Ask::Hold { reason }).await
    }

    /// Releases a held or failed slot.
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn release(&self) -> Result<Answer, SlotClosed> {
        self.ask(Ask::Release).await
    }

    /// The image of this boot is no longer the current one: a board that waits for a build with it is
    /// reset, any other is left to its next reset.
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn image_outdated(&self, boot: BootNo) -> Result<Answer, SlotClosed> {
        self.ask(Ask::ImageOutdated { boot }).await
    }

    /// The daemon is about to stop: from now on the slot never says IDLE. Calls are answered as ever.
    ///
    /// # Errors
    /// The slot's task has ended.
    pub(crate) async fn quiesce(&self) -> Result<(), SlotClosed> {
        self.mailbox
            .send(Message::Quiesce)
            .await
            .map_err(|_| SlotClosed)
    }

    /// Ends the slot's task: everything asked before is answered (a waiting `clean` with a refusal),
    /// activities on the board are let go, and the board is left as it is for the next daemon.
    pub(crate) async fn close(&self) {
        if self.mailbox.send(Message::Close).await.is_ok() {
            self.mailbox.closed().await;
            let mut view = self.view.clone();
            while view.changed().await.is_ok() {}
        }
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, SlotClosed> {
        let (reply, answer) = oneshot::channel();
        self.mailbox
            .send(Message::Ask { ask, reply })
            .await
            .map_err(|_| SlotClosed)?;
        answer.await.map_err(|_| SlotClosed)
    }
}
