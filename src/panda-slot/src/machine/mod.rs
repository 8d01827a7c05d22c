//! One step of the machine: a state and an event become the next state and what is to be done. The
//! slot's task calls [`step`] with every event, commits `next`, and then starts the effects in order.
//!
//! - [`calls`]: what Launchpad and operators ask
//! - [`life`]: what the board and the timers report, and the start of the daemon
//!
//! What both need is here: cutting, failing, keeping a build's end, dropping it, and *settling*: what
//! holds after every transition, whatever the event was.

mod calls;
mod life;

use panda_protocol::launchpad::{BuildStatus, Outcome};

use crate::board::{Board, Build, Errand, FailureKind, Kept, Rejoin, Slot};
use crate::event::{Answer, CallId, Effect, Event, Limits, Refusal, Transition};

/// What `event` makes of `slot`. An event of another boot or attempt than the current one changes
/// nothing; a call is answered by an effect, now or (a waiting `clean`) by a later step.
#[must_use]
pub fn step(slot: &Slot, event: Event, limits: &Limits) -> Transition {
    let mut step = Step {
        slot: slot.clone(),
        effects: Vec::new(),
        limits,
    };
    if is_current(&event, slot) {
        step.handle(event);
        step.settle();
        step.release_inputs(slot);
    }
    Transition {
        next: step.slot,
        effects: step.effects,
    }
}

/// An event that carries a boot or an attempt is current when the slot is still at that one.
fn is_current(event: &Event, slot: &Slot) -> bool {
    match event {
        Event::Build { .. }
        | Event::Abort { .. }
        | Event::Clean { .. }
        | Event::Reset { .. }
        | Event::OperatorReset { .. }
        | Event::Hold { .. }
        | Event::Release { .. }
        | Event::ImageOutdated { .. }
        | Event::CleanDue { .. }
        | Event::Recover => true,
        Event::CutSeen { boot }
        | Event::CutWeak { boot, .. }
        | Event::CutFailed { boot, .. }
        | Event::Prepared { boot }
        | Event::BootFailed { boot, .. }
        | Event::WrongChip { boot, .. }
        | Event::Proved { boot }
        | Event::TrialEnded { boot, .. }
        | Event::Lost { boot, .. }
        | Event::RetryDue { boot } => *boot == slot.boot,
        Event::Acknowledged { attempt, boot }
        | Event::Finished { attempt, boot }
        | Event::Collected { attempt, boot, .. }
        | Event::AbortEnded { attempt, boot } => *boot == slot.boot && *attempt == slot.attempt,
    }
}

/// A step being made.
struct Step<'a> {
    slot: Slot,
    effects: Vec<Effect>,
    limits: &'a Limits,
}

impl Step<'_> {
    fn handle(&mut self, event: Event) {
        match event {
            Event::Build { call, build_id } => self.handle_build(call, build_id),
            Event::Abort { call } => self.handle_abort(call),
            Event::Clean { call } => self.handle_clean(call),
            Event::Reset { call } => self.handle_reset(call),
            Event::OperatorReset { call, forced } => self.handle_operator_reset(call, forced),
            Event::Hold { call, reason } => self.handle_hold(call, &reason),
            Event::Release { call } => self.handle_release(call),
            Event::ImageOutdated { call, boot } => self.handle_image_outdated(call, boot),
            Event::CleanDue { call } => self.handle_clean_due(call),
            Event::CutSeen { .. } => self.handle_cut_seen(),
            Event::CutWeak { reason, .. } => self.handle_cut_weak(&reason),
            Event::CutFailed { reason, .. } => self.handle_cut_failed(&reason),
            Event::Prepared { .. } => self.handle_prepared(),
            Event::BootFailed { reason, .. } => self.handle_boot_failed(&reason),
            Event::WrongChip { reason, .. } => self.handle_wrong_chip(&reason),
            Event::Proved { .. } => self.handle_proved(),
            Event::TrialEnded { good, .. } => self.handle_trial_ended(good),
            Event::Lost { why, .. } => self.handle_lost(&why),
            Event::Acknowledged { .. } => self.handle_acknowledged(),
            Event::Finished { .. } => self.handle_finished(),
            Event::Collected { outcome, .. } => self.handle_collected(outcome),
            Event::AbortEnded { .. } => self.handle_abort_ended(),
            Event::RetryDue { .. } => self.handle_retry_due(),
            Event::Recover => self.handle_recover(),
        }
    }

    /// What holds after every transition: a held slot without a build loses its power, and a `clean`
    /// that waits is answered as soon as the board is Fresh, or will not be without help.
    fn settle(&mut self) {
        if self.slot.held.is_some() && self.slot.live().is_none() {
            match self.slot.board {
                Board::Preparing { .. }
                | Board::Booting { .. }
                | Board::Trial { .. }
                | Board::Fresh { .. }
                | Board::Rejoining(Rejoin::Fresh { .. }) => self.cut(1, Errand::Nothing),
                Board::Cutting { .. }
                | Board::Used { .. }
                | Board::Rejoining(Rejoin::Running(_) | Rejoin::Collecting(_))
                | Board::Failed { .. }
                | Board::Off => {}
            }
        }
        match self.slot.board {
            Board::Fresh { .. } => {
                if let Some(call) = self.take_cleaner() {
                    self.drop_kept();
                    self.answer(call, Answer::Idle);
                }
            }
            Board::Failed { .. } | Board::Off => self.refuse_cleaner(),
            Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Trial { .. }
            | Board::Used { .. }
            | Board::Rejoining(_) => {}
        }
    }

    /// Inputs are leased to a slot for its next or present build. They go when that build ends, and when a
    /// slot without one is reset or fails; one that moves to a new boot takes them along.
    fn release_inputs(&mut self, before: &Slot) {
        let ended = may_have_inputs(before) && !may_have_inputs(&self.slot);
        let reset = self.slot.boot != before.boot && self.slot.live().is_none();
        if ended || reset {
            self.emit(Effect::ReleaseInputs);
        }
    }

    /// Begins a new boot, at attempt `n` of its reset.
    fn cut(&mut self, n: u32, errand: Errand) {
        self.begin(n, errand, false);
    }

    /// The same, where the board was booted for the evidence of this cut.
    fn cut_prepared(&mut self, n: u32, errand: Errand) {
        self.begin(n, errand, true);
    }

    fn begin(&mut self, n: u32, errand: Errand, prepared: bool) {
        self.slot.boot = self.slot.boot.next();
        let trial = errand == Errand::Trial;
        self.slot.board = Board::Cutting {
            n,
            errand,
            prepared,
        };
        self.emit(Effect::StartCut {
            boot: self.slot.boot,
            trial,
        });
    }

    /// After attempt `n` came to nothing: the next one, or no more.
    fn retry(&mut self, n: u32, errand: Errand, kind: FailureKind, reason: &str) {
        if n < self.limits.attempts {
            self.cut(n + 1, errand);
        } else {
            self.fail(errand, kind, reason);
        }
    }

    fn fail(&mut self, errand: Errand, kind: FailureKind, reason: &str) {
        let mut reason = for_people(reason);
        if self.slot.pauses >= self.limits.attempts {
            reason.push_str(NEEDS_HELP);
        }
        self.slot.board = Board::Failed {
            kind,
            reason: reason.clone(),
        };
        self.emit(Effect::PowerOff);
        match errand {
            Errand::Nothing => {}
            Errand::Trial => self.emit(Effect::ReportTrial { good: false }),
            Errand::Build(build) => self.keep(build, Outcome::bare(BuildStatus::BuilderFail)),
        }
        self.emit(Effect::Alert { reason });
        self.arm_retry(kind);
    }

    /// A board that has failed is tried again after a pause, unless it is another board, or held:
    /// a release tries it at once.
    fn arm_retry(&mut self, kind: FailureKind) {
        if kind.is_retried() && self.slot.held.is_none() {
            self.emit(Effect::ArmRetry {
                boot: self.slot.boot,
                pauses: self.slot.pauses,
            });
        }
    }

    /// A build has ended, and Launchpad is to hear how.
    fn keep(&mut self, build: Build, outcome: Outcome) {
        let Build {
            attempt, build_id, ..
        } = build;
        self.slot.kept = Some(Kept {
            attempt,
            build_id,
            outcome,
            cleaning: None,
        });
        self.emit(Effect::BuildEnded { attempt });
    }

    fn keep_aborted(&mut self, build: Build) {
        self.keep(build, Outcome::bare(BuildStatus::Aborted));
    }

    fn drop_kept(&mut self) {
        self.refuse_cleaner();
        if let Some(kept) = self.slot.kept.take() {
            self.emit(Effect::DropKept {
                attempt: kept.attempt,
            });
        }
    }

    fn take_cleaner(&mut self) -> Option<CallId> {
        self.slot
            .kept
            .as_mut()
            .and_then(|kept| kept.cleaning.take())
    }

    fn refuse_cleaner(&mut self) {
        if let Some(call) = self.take_cleaner() {
            self.refuse(call, Refusal::NotReady);
        }
    }

    fn refuse(&mut self, call: CallId, refusal: Refusal) {
        self.answer(call, Answer::Refused(refusal));
    }

    fn answer(&mut self, call: CallId, answer: Answer) {
        self.emit(Effect::Answer { call, answer });
    }

    fn emit(&mut self, effect: Effect) {
        self.effects.push(effect);
    }
}

/// The slot has a build, or is about to get one: Launchpad brings its inputs first.
fn may_have_inputs(slot: &Slot) -> bool {
    match &slot.board {
        Board::Fresh { .. } | Board::Rejoining(_) | Board::Used { .. } => true,
        Board::Cutting { .. }
        | Board::Preparing { .. }
        | Board::Booting { .. }
        | Board::Trial { .. }
        | Board::Failed { .. }
        | Board::Off => slot.live().is_some(),
    }
}

/// What an operator must do about a board that goes on failing.
const NEEDS_HELP: &str = "; it fails again and again, and is tried only after ever longer pauses: see the \
    slot's boots and console, mend what is broken, then reset the slot";

/// The most characters of a reason: a board may have had a hand in it.
const MAX_REASON: usize = 500;

/// A reason as it is kept and shown: bounded, in one line, without what a terminal would obey.
fn for_people(reason: &str) -> String {
    reason
        .chars()
        .take(MAX_REASON)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

impl FailureKind {
    /// A board that failed so is tried again by itself.
    fn is_retried(self) -> bool {
        match self {
            Self::Power | Self::Boot | Self::Flap => true,
            Self::Chip => false,
        }
    }
}
