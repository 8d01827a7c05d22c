//! What operators order of a slot: resets, holds, releases.

use std::time::Duration;

use panda_protocol::operators::{
    ActionKind, Asker, Drain, Hold, HoldAnswer, HoldEnd, Problem, ProblemKind, RecordRefusal,
    Recorded, Release, Reset, ResetAnswer, ResetEnd, SlotInfo,
};
use panda_slot::{Answer, Board, Refusal};
use tokio::time::timeout;

use super::actions::Order;
use super::desk::{Desk, Operated};
use crate::slot::{SlotClosed, SlotHandle, View};

impl Desk {
    pub(super) async fn reset(&self, reset: &Reset, asker: Asker) -> Result<ResetAnswer, Problem> {
        let slot = self.named(&reset.slot)?;
        let detail = if reset.force { "by force" } else { "" };
        let order = order(ActionKind::Reset, slot, detail, asker);
        let (handle, force) = (slot.handle.clone(), reset.force);
        let work = async move { begun(&handle, handle.operator_reset(force).await) };
        let begun = self.carry_out(order, work).await?;
        let end = match (begun, reset.wait_seconds) {
            (ResetEnd::UnderWay, Some(seconds)) => {
                let settled = settled(&slot.handle);
                let waited = timeout(Duration::from_secs(seconds), settled).await;
                waited.unwrap_or(Ok(ResetEnd::UnderWay))?
            }
            (begun, _) => begun,
        };
        Ok(ResetAnswer {
            slot: self.describe(slot),
            end,
        })
    }

    pub(super) async fn hold(&self, hold: Hold, asker: Asker) -> Result<HoldAnswer, Problem> {
        let slot = self.named(&hold.slot)?;
        let order = order(ActionKind::Hold, slot, &hold.reason, asker);
        self.hold_for(slot, order, hold.reason, None).await
    }

    pub(super) async fn drain(&self, drain: Drain, asker: Asker) -> Result<HoldAnswer, Problem> {
        let slot = self.named(&drain.slot)?;
        let order = order(ActionKind::Drain, slot, &drain.reason, asker);
        let wait = drain.wait_seconds.map(Duration::from_secs);
        self.hold_for(slot, order, drain.reason, wait).await
    }

    async fn hold_for(
        &self,
        slot: &Operated,
        order: Order,
        reason: String,
        wait: Option<Duration>,
    ) -> Result<HoldAnswer, Problem> {
        let handle = slot.handle.clone();
        let work = async move { done(&handle, handle.hold(reason).await) };
        self.carry_out(order, work).await?;
        if let Some(limit) = wait {
            let mut watch = slot.handle.watch();
            let ended = watch.wait_for(|view| hold_end(view) != HoldEnd::UnderWay);
            if let Ok(ended) = timeout(limit, ended).await {
                ended.map_err(|_closed| Problem::stopping())?;
            }
        }
        Ok(HoldAnswer {
            slot: self.describe(slot),
            end: hold_end(&slot.handle.view()),
        })
    }

    pub(super) async fn release(
        &self,
        release: &Release,
        asker: Asker,
    ) -> Result<SlotInfo, Problem> {
        let slot = self.named(&release.slot)?;
        let order = order(ActionKind::Release, slot, "", asker);
        let handle = slot.handle.clone();
        let work = async move { done(&handle, handle.release().await) };
        self.carry_out(order, work).await?;
        Ok(self.describe(slot))
    }

    /// What sshd's forced command has refused.
    pub(super) async fn record_refusal(&self, refusal: &RecordRefusal, asker: Asker) -> Recorded {
        let RecordRefusal { from, command } = refusal;
        // Shown as Debug does: in one line, without control characters.
        tracing::warn!(?from, ?command, "refused over SSH");
        let order = Order {
            kind: ActionKind::RefusedCommand,
            slot: None,
            detail: format!("{command:?} from {from:?}"),
            asker,
        };
        let recorded = self.carry_out(order, async { Ok(()) }).await;
        if let Err(problem) = recorded {
            tracing::debug!(%problem, "it is in the log only");
        }
        Recorded {}
    }
}

pub(super) fn order(kind: ActionKind, slot: &Operated, detail: &str, asker: Asker) -> Order {
    Order {
        kind,
        slot: Some(slot.handle.name().to_owned()),
        detail: detail.to_owned(),
        asker,
    }
}

/// What a slot's answer to a reset says.
pub(super) fn begun(
    slot: &SlotHandle,
    answer: Result<Answer, SlotClosed>,
) -> Result<ResetEnd, Problem> {
    match answer {
        Ok(Answer::Ready) => Ok(ResetEnd::Fresh),
        Ok(Answer::Joined) => Ok(ResetEnd::UnderWay),
        other => Err(refused(slot, other)),
    }
}

/// What a slot's answer to a hold or a release says.
fn done(slot: &SlotHandle, answer: Result<Answer, SlotClosed>) -> Result<(), Problem> {
    match answer {
        Ok(Answer::Done) => Ok(()),
        other => Err(refused(slot, other)),
    }
}

fn refused(slot: &SlotHandle, answer: Result<Answer, SlotClosed>) -> Problem {
    let name = slot.name();
    match answer {
        Ok(Answer::Refused(refusal)) => {
            let kind = match refusal {
                Refusal::NotRecorded => ProblemKind::Failed,
                Refusal::NotIdle
                | Refusal::NotBuilding
                | Refusal::NothingKept
                | Refusal::HasBuild
                | Refusal::Held(_)
                | Refusal::Failed(_)
                | Refusal::Off
                | Refusal::NotReady => ProblemKind::Refused,
            };
            Problem::new(kind, format!("{name}: {refusal}"))
        }
        Ok(_) => Problem::new(
            ProblemKind::Failed,
            format!("{name}: the order was answered with something else"),
        ),
        Err(_closed) => Problem::stopping(),
    }
}

/// Waits for the end of a reset.
async fn settled(slot: &SlotHandle) -> Result<ResetEnd, Problem> {
    let mut watch = slot.watch();
    let settled = watch
        .wait_for(|view| {
            view.is_fresh() || matches!(view.slot.board, Board::Failed { .. } | Board::Off)
        })
        .await;
    match settled {
        Ok(view) if view.is_fresh() => Ok(ResetEnd::Fresh),
        Ok(_) => Ok(ResetEnd::Failed),
        Err(_closed) => Err(Problem::stopping()),
    }
}

fn hold_end(view: &View) -> HoldEnd {
    match view.slot.board {
        _ if view.slot.held.is_none() => HoldEnd::Released,
        Board::Off | Board::Failed { .. } => HoldEnd::Off,
        Board::Cutting { .. }
        | Board::Preparing { .. }
        | Board::Booting { .. }
        | Board::Trial { .. }
        | Board::Fresh { .. }
        | Board::Used { .. }
        | Board::Rejoining(_) => HoldEnd::UnderWay,
    }
}
