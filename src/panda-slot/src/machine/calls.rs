//! What Launchpad and operators ask. Every call is answered by the step that takes it, but for a `clean`
//! that waits for its board.

use panda_protocol::launchpad::{BuildId, BuildStatus, Dialect, Outcome};

use super::{Step, for_people};
use crate::BootNo;
use crate::board::{Board, Build, Errand, Phase, Rejoin};
use crate::event::{Answer, CallId, Effect, Refusal};

impl Step<'_> {
    pub(super) fn handle_build(&mut self, call: CallId, build_id: BuildId) {
        if let Some(refusal) = self.why_not_idle() {
            return self.refuse(call, refusal);
        }
        self.slot.attempt = self.slot.attempt.next();
        let (boot, attempt) = (self.slot.boot, self.slot.attempt);
        let build = Build {
            attempt,
            build_id,
            acknowledged: false,
            moves: 0,
        };
        self.slot.board = Board::Used {
            build,
            phase: Phase::Running,
        };
        self.answer(call, Answer::Building { attempt });
        self.emit(Effect::StartGuest {
            boot,
            attempt,
            acknowledged: false,
        });
    }

    /// None when a build is accepted, which is exactly when IDLE is told.
    fn why_not_idle(&self) -> Option<Refusal> {
        if let Some(reason) = &self.slot.held {
            return Some(Refusal::Held(reason.clone()));
        }
        match &self.slot.board {
            Board::Fresh { .. } if self.slot.kept.is_none() => None,
            Board::Failed { reason, .. } => Some(Refusal::Failed(reason.clone())),
            Board::Off => Some(Refusal::Off),
            Board::Fresh { .. }
            | Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Used { .. }
            | Board::Rejoining(_) => Some(Refusal::NotIdle),
        }
    }

    pub(super) fn handle_abort(&mut self, call: CallId) {
        match self.slot.board.clone() {
            Board::Used {
                build,
                phase: Phase::Running | Phase::Collecting,
            } => {
                let (boot, attempt) = (self.slot.boot, build.attempt);
                self.slot.board = Board::Used {
                    build,
                    phase: Phase::Aborting,
                };
                self.answer(call, Answer::Aborting);
                self.emit(Effect::StartAbort { boot, attempt });
            }
            Board::Used {
                phase: Phase::Aborting,
                ..
            } => self.answer(call, Answer::Aborting),
            Board::Rejoining(Rejoin::Running(build) | Rejoin::Collecting(build)) => {
                self.answer(call, Answer::Aborting);
                self.cut(1, Errand::Nothing);
                self.keep_aborted(build);
            }
            Board::Cutting {
                n,
                errand: Errand::Build(build),
                prepared,
            } => {
                self.answer(call, Answer::Aborting);
                self.slot.board = Board::Cutting {
                    n,
                    errand: Errand::Nothing,
                    prepared,
                };
                self.keep_aborted(build);
            }
            Board::Preparing {
                n,
                errand: Errand::Build(build),
            } => {
                self.answer(call, Answer::Aborting);
                self.slot.board = Board::Preparing {
                    n,
                    errand: Errand::Nothing,
                };
                self.keep_aborted(build);
            }
            Board::Booting {
                n,
                errand: Errand::Build(build),
            } => {
                self.answer(call, Answer::Aborting);
                self.slot.board = Board::Booting {
                    n,
                    errand: Errand::Nothing,
                };
                self.keep_aborted(build);
            }
            Board::Cutting {
                errand: Errand::Nothing | Errand::Trial,
                ..
            }
            | Board::Preparing {
                errand: Errand::Nothing | Errand::Trial,
                ..
            }
            | Board::Booting {
                errand: Errand::Nothing | Errand::Trial,
                ..
            }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Rejoining(Rejoin::Fresh { .. })
            | Board::Failed { .. }
            | Board::Off => self.abort_kept(call),
        }
    }

    /// The manager cancelled while the build was ending: ABORTED is the only end it then accepts.
    fn abort_kept(&mut self, call: CallId) {
        match &mut self.slot.kept {
            Some(kept) => {
                kept.outcome = Outcome::bare(BuildStatus::Aborted);
                self.answer(call, Answer::Aborting);
            }
            None => self.refuse(call, Refusal::NotBuilding),
        }
    }

    pub(super) fn handle_clean(&mut self, call: CallId) {
        if self.slot.kept.is_none() {
            return self.refuse(call, Refusal::NothingKept);
        }
        match (self.limits.dialect, &self.slot.held) {
            (Dialect::Y2011, _) => {
                self.drop_kept();
                self.answer(call, Answer::Idle);
            }
            (Dialect::Current, Some(reason)) => {
                let refusal = Refusal::Held(reason.clone());
                return self.refuse(call, refusal);
            }
            (Dialect::Current, None) => {
                // A manager that asks again has given the earlier call up.
                self.refuse_cleaner();
                if let Some(kept) = &mut self.slot.kept {
                    kept.cleaning = Some(call);
                }
                self.emit(Effect::ArmCleanDue { call });
            }
        }
        self.try_failed_board_again();
    }

    /// A Failed board that Launchpad wants is tried at once, not only when its pause is over; but not for
    /// ever: a manager that asks at every scan would have a broken board boot day and night.
    fn try_failed_board_again(&mut self) {
        match self.slot.board {
            Board::Failed { kind, .. }
                if kind.is_retried()
                    && self.slot.held.is_none()
                    && self.slot.pauses < self.limits.attempts =>
            {
                self.try_again();
            }
            Board::Failed { .. }
            | Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Off => {}
        }
    }

    /// Cuts a Failed board, and counts that: the next pause is longer.
    pub(super) fn try_again(&mut self) {
        self.slot.pauses = self.slot.pauses.saturating_add(1);
        self.cut(1, Errand::Nothing);
    }

    pub(super) fn handle_clean_due(&mut self, call: CallId) {
        if self
            .slot
            .kept
            .as_ref()
            .is_some_and(|kept| kept.cleaning == Some(call))
        {
            self.refuse_cleaner();
        }
    }

    pub(super) fn handle_reset(&mut self, call: CallId) {
        self.drop_build();
        self.drop_kept();
        self.try_failed_board_again();
        self.answer_reset(call);
    }

    /// Where a reset stands that was just asked for.
    fn answer_reset(&mut self, call: CallId) {
        let answer = match (&self.slot.held, &self.slot.board) {
            (Some(reason), _) => Answer::Refused(Refusal::Held(reason.clone())),
            (None, Board::Failed { reason, .. }) => {
                Answer::Refused(Refusal::Failed(reason.clone()))
            }
            (None, Board::Off) => Answer::Refused(Refusal::Off),
            (None, Board::Fresh { .. }) => Answer::Ready,
            (
                None,
                Board::Cutting { .. }
                | Board::Preparing { .. }
                | Board::Booting { .. }
                | Board::Trial { .. }
                | Board::Used { .. }
                | Board::Rejoining(_),
            ) => Answer::Joined,
        };
        self.answer(call, answer);
    }

    /// Drops the build that the slot has, with its board's boot; a build that was only moving to a new
    /// boot leaves that boot to become Fresh.
    fn drop_build(&mut self) {
        let Some(attempt) = self.slot.live().map(|build| build.attempt) else {
            return;
        };
        match self.slot.board {
            Board::Cutting { n, prepared, .. } => {
                self.slot.board = Board::Cutting {
                    n,
                    errand: Errand::Nothing,
                    prepared,
                };
            }
            Board::Preparing { n, .. } => {
                self.slot.board = Board::Preparing {
                    n,
                    errand: Errand::Nothing,
                };
            }
            Board::Booting { n, .. } => {
                self.slot.board = Board::Booting {
                    n,
                    errand: Errand::Nothing,
                };
            }
            Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Failed { .. }
            | Board::Off => self.cut(1, Errand::Nothing),
        }
        self.emit(Effect::BuildEnded { attempt });
        self.emit(Effect::DropKept { attempt });
    }

    /// An operator's reset always cuts: a Fresh board is to lose power too, for a new image or in doubt.
    /// What is on its way to a boot is joined.
    pub(super) fn handle_operator_reset(&mut self, call: CallId, forced: bool) {
        if !forced && (self.slot.live().is_some() || self.slot.kept.is_some()) {
            return self.refuse(call, Refusal::HasBuild);
        }
        self.slot.pauses = 0;
        self.drop_build();
        self.drop_kept();
        if self.slot.held.is_none() {
            match self.slot.board {
                Board::Fresh { .. } | Board::Rejoining(_) => self.cut(1, Errand::Nothing),
                Board::Failed { kind, .. } if kind.is_retried() => self.cut(1, Errand::Nothing),
                Board::Failed { .. }
                | Board::Cutting { .. }
                | Board::Preparing { .. }
                | Board::Booting { .. }
                | Board::Trial { .. }
                | Board::Used { .. }
                | Board::Off => {}
            }
        }
        self.answer_reset(call);
    }

    /// Only a board that waits for a build is reset for a new image; every other one comes to its next cut
    /// by itself, and its next boot is made from the current image.
    pub(super) fn handle_image_outdated(&mut self, call: CallId, boot: BootNo) {
        self.answer(call, Answer::Done);
        match self.slot.board {
            Board::Fresh { .. } if boot == self.slot.boot => self.cut(1, Errand::Nothing),
            Board::Fresh { .. }
            | Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    /// Settling then takes the power of a slot that has no build.
    pub(super) fn handle_hold(&mut self, call: CallId, reason: &str) {
        self.refuse_cleaner();
        self.slot.held = Some(for_people(reason));
        self.answer(call, Answer::Done);
    }

    pub(super) fn handle_release(&mut self, call: CallId) {
        self.slot.held = None;
        self.slot.pauses = 0;
        self.answer(call, Answer::Done);
        match self.slot.board {
            Board::Off | Board::Failed { .. } => self.cut(1, Errand::Nothing),
            Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_) => {}
        }
    }
}
