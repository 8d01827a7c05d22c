//! What the board and the timers report, and the start of the daemon. A report that does not fit the
//! board's state is late or doubled, and changes nothing.

use crate::AttemptNo;
use panda_protocol::launchpad::{BuildStatus, Outcome};

use super::{Step, for_people};
use crate::board::{Board, Build, Errand, FailureKind, Phase, Rejoin};
use crate::event::{Effect, Lost};

impl Step<'_> {
    pub(super) fn handle_cut_seen(&mut self) {
        match self.slot.board.clone() {
            Board::Cutting {
                errand: Errand::Nothing | Errand::Trial,
                ..
            } if self.slot.held.is_some() => {
                self.slot.board = Board::Off;
            }
            Board::Cutting { n, errand, .. } => {
                let (boot, trial) = (self.slot.boot, errand == Errand::Trial);
                self.slot.board = Board::Booting { n, errand };
                self.emit(Effect::StartBoot { boot, trial });
            }
            Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    /// What has to be seen to leave the port was not there. A boot brings it up, and the cut after that boot
    /// is judged alone; once an attempt. A held board is to have no power, and of one that is off nothing is
    /// believed.
    pub(super) fn handle_cut_weak(&mut self, reason: &str) {
        match self.slot.board.clone() {
            Board::Cutting {
                errand: Errand::Nothing | Errand::Trial,
                ..
            } if self.slot.held.is_some() => {
                self.slot.board = Board::Off;
                self.emit(Effect::PowerOff);
            }
            Board::Cutting {
                n,
                errand,
                prepared: true,
            } => self.retry(n, errand, FailureKind::Power, reason),
            Board::Cutting {
                n,
                errand,
                prepared: false,
            } => {
                self.slot.board = Board::Preparing { n, errand };
                self.emit(Effect::StartPreparing {
                    boot: self.slot.boot,
                });
            }
            Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    /// The next cut belongs to the same attempt.
    pub(super) fn handle_prepared(&mut self) {
        match self.slot.board.clone() {
            Board::Preparing { n, errand } => self.cut_prepared(n, errand),
            Board::Cutting { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_cut_failed(&mut self, reason: &str) {
        match self.slot.board.clone() {
            Board::Cutting { n, errand, .. } => {
                self.retry(n, errand, FailureKind::Power, reason);
            }
            Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_boot_failed(&mut self, reason: &str) {
        match self.slot.board.clone() {
            Board::Preparing { n, errand } | Board::Booting { n, errand } => {
                self.retry(n, errand, FailureKind::Boot, reason);
            }
            Board::Cutting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_wrong_chip(&mut self, reason: &str) {
        match self.slot.board.clone() {
            Board::Preparing { errand, .. } | Board::Booting { errand, .. } => {
                self.fail(errand, FailureKind::Chip, reason);
            }
            Board::Cutting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_proved(&mut self) {
        let boot = self.slot.boot;
        match self.slot.board.clone() {
            Board::Booting {
                n,
                errand: Errand::Nothing,
            } => {
                self.slot.board = Board::Fresh { n };
                self.emit(Effect::StartProving { boot });
            }
            Board::Booting {
                n,
                errand: Errand::Trial,
            } => {
                self.slot.board = Board::Trial { n };
                self.emit(Effect::StartTrial { boot });
            }
            Board::Booting {
                errand: Errand::Build(build),
                ..
            }
            | Board::Rejoining(Rejoin::Running(build)) => {
                let Build {
                    attempt,
                    acknowledged,
                    ..
                } = build;
                self.slot.board = Board::Used {
                    build,
                    phase: Phase::Running,
                };
                self.emit(Effect::StartGuest {
                    boot,
                    attempt,
                    acknowledged,
                });
            }
            Board::Rejoining(Rejoin::Collecting(build)) => {
                let attempt = build.attempt;
                self.slot.board = Board::Used {
                    build,
                    phase: Phase::Collecting,
                };
                self.emit(Effect::StartCollecting { boot, attempt });
            }
            // The proving that has just succeeded goes on.
            Board::Rejoining(Rejoin::Fresh { n }) => self.slot.board = Board::Fresh { n },
            Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_trial_ended(&mut self, good: bool) {
        match self.slot.board {
            Board::Trial { .. } => {
                self.emit(Effect::ReportTrial { good });
                self.cut(1, Errand::Nothing);
            }
            Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Fresh { .. }
            | Board::Used { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_lost(&mut self, why: &Lost) {
        match self.slot.board.clone() {
            Board::Fresh { n } | Board::Rejoining(Rejoin::Fresh { n }) => {
                let reason = format!("the board was lost while it was ready: {why}");
                self.retry(n, Errand::Nothing, FailureKind::Flap, &reason);
            }
            Board::Used {
                build,
                phase: Phase::Running,
            }
            | Board::Rejoining(Rejoin::Running(build)) => self.lose_running(build, why),
            Board::Used {
                build,
                phase: Phase::Aborting,
            } => {
                self.cut(1, Errand::Nothing);
                self.keep_aborted(build);
            }
            Board::Used {
                build,
                phase: Phase::Collecting,
            }
            | Board::Rejoining(Rejoin::Collecting(build)) => self.lose_build(build, why),
            Board::Trial { .. } => self.handle_trial_ended(false),
            Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    /// Until the worker is known to have acknowledged a build, it moves to a new boot, unseen by
    /// Launchpad, a bounded number of times.
    fn lose_running(&mut self, build: Build, why: &Lost) {
        if build.acknowledged || build.moves >= self.limits.moves {
            return self.lose_build(build, why);
        }
        let moves = build.moves + 1;
        self.cut(1, Errand::Build(Build { moves, ..build }));
    }

    fn lose_build(&mut self, build: Build, why: &Lost) {
        let reason = format!("the board was lost with build {}: {why}", build.build_id);
        let reason = for_people(&reason);
        self.cut(1, Errand::Nothing);
        self.keep(build, Outcome::bare(BuildStatus::BuilderFail));
        self.emit(Effect::Alert { reason });
    }

    pub(super) fn handle_acknowledged(&mut self) {
        match &mut self.slot.board {
            Board::Used {
                build,
                phase: Phase::Running,
            } => build.acknowledged = true,
            Board::Used {
                phase: Phase::Collecting | Phase::Aborting,
                ..
            }
            | Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_finished(&mut self) {
        match self.slot.board.clone() {
            Board::Used {
                build,
                phase: Phase::Running,
            } => {
                let (boot, attempt) = (self.slot.boot, build.attempt);
                let build = Build {
                    acknowledged: true,
                    ..build
                };
                self.slot.board = Board::Used {
                    build,
                    phase: Phase::Collecting,
                };
                self.emit(Effect::StartCollecting { boot, attempt });
            }
            Board::Used {
                phase: Phase::Aborting,
                ..
            } => self.handle_abort_ended(),
            Board::Used {
                phase: Phase::Collecting,
                ..
            }
            | Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    /// The eager reset: the master has everything, so the board loses power while Launchpad fetches.
    pub(super) fn handle_collected(&mut self, outcome: Outcome) {
        match self.slot.board.clone() {
            Board::Used {
                build,
                phase: Phase::Collecting,
            } => {
                self.slot.pauses = 0;
                self.cut(1, Errand::Nothing);
                self.keep(build, outcome);
            }
            Board::Used {
                phase: Phase::Running | Phase::Aborting,
                ..
            }
            | Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_abort_ended(&mut self) {
        match self.slot.board.clone() {
            Board::Used {
                build,
                phase: Phase::Aborting,
            } => {
                self.cut(1, Errand::Nothing);
                self.keep_aborted(build);
            }
            Board::Used {
                phase: Phase::Running | Phase::Collecting,
                ..
            }
            | Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Rejoining(_)
            | Board::Failed { .. }
            | Board::Off => {}
        }
    }

    pub(super) fn handle_retry_due(&mut self) {
        match self.slot.board {
            Board::Failed { kind, .. } if kind.is_retried() && self.slot.held.is_none() => {
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

    /// Nothing runs, no timer is armed, and of the last transition's effects any may have been lost.
    pub(super) fn handle_recover(&mut self) {
        // Whoever waited for an answer has gone with the old daemon.
        let _gone = self.take_cleaner();
        self.repeat_lost_effects();
        match self.slot.board.clone() {
            Board::Fresh { n } => self.rejoin(Rejoin::Fresh { n }),
            Board::Used {
                build,
                phase: Phase::Running,
            } => self.rejoin(Rejoin::Running(build)),
            Board::Used {
                build,
                phase: Phase::Collecting,
            } => {
                self.rejoin(Rejoin::Collecting(build));
            }
            Board::Rejoining(was) => self.rejoin(was),
            Board::Used {
                build,
                phase: Phase::Aborting,
            } => {
                self.cut(1, Errand::Nothing);
                self.keep_aborted(build);
            }
            // What was up on the port need not be any more.
            Board::Cutting {
                n,
                errand: errand @ (Errand::Nothing | Errand::Build(_)),
                ..
            }
            | Board::Preparing {
                n,
                errand: errand @ (Errand::Nothing | Errand::Build(_)),
            }
            | Board::Booting {
                n,
                errand: errand @ (Errand::Nothing | Errand::Build(_)),
            } => {
                self.cut(n, errand);
            }
            Board::Cutting {
                n,
                errand: Errand::Trial,
                ..
            }
            | Board::Preparing {
                n,
                errand: Errand::Trial,
            }
            | Board::Booting {
                n,
                errand: Errand::Trial,
            }
            | Board::Trial { n } => self.cut(n, Errand::Nothing),
            Board::Failed { kind, .. } => {
                self.emit(Effect::ReleaseInputs);
                self.emit(Effect::PowerOff);
                self.arm_retry(kind);
            }
            Board::Off => {
                self.emit(Effect::ReleaseInputs);
                self.emit(Effect::PowerOff);
            }
        }
    }

    fn rejoin(&mut self, was: Rejoin) {
        self.slot.board = Board::Rejoining(was);
        self.emit(Effect::StartProving {
            boot: self.slot.boot,
        });
    }

    /// The end of the last build, once more: doing it twice harms nobody. On a board that was Fresh the
    /// slot's leases may be those of the next build already, and the last one's end is long done: it came
    /// with a cut, and a start since would have repeated it.
    fn repeat_lost_effects(&mut self) {
        let attempt = self.slot.attempt;
        if attempt == AttemptNo::NONE || self.slot.live().is_some() {
            return;
        }
        match self.slot.board {
            Board::Fresh { .. } | Board::Rejoining(_) => {}
            Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Used { .. }
            | Board::Failed { .. }
            | Board::Off => self.emit(Effect::BuildEnded { attempt }),
        }
        if self.slot.kept.is_none() {
            self.emit(Effect::DropKept { attempt });
        }
    }
}
