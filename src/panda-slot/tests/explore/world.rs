//! A slot with what is true outside it. Numbers are abstracted, so that there are finitely many: the
//! present boot is always [`NOW`], the present attempt [`NOW_BUILT`], older ones [`OLD`] and [`OLD_BUILT`]; a waiting caller is [`WAITING`], a new
//! one [`NEW`].

use panda_protocol::launchpad::{BuildId, BuildStatus, Outcome};
use panda_slot::{
    Answer, AttemptNo, Board, BootNo, Build, CallId, Effect, Errand, Event, Lost, Rejoin, Slot,
};

pub(crate) const NOW: BootNo = BootNo::new(10);
pub(crate) const OLD: BootNo = BootNo::new(9);
pub(crate) const NOW_BUILT: AttemptNo = AttemptNo::new(10);
pub(crate) const OLD_BUILT: AttemptNo = AttemptNo::new(9);
pub(crate) const WAITING: CallId = CallId::new(1);
pub(crate) const NEW: CallId = CallId::new(2);
pub(crate) const GONE: CallId = CallId::new(3);

/// What the hands are doing to the board, as far as the effects have told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Activity {
    Nothing,
    Cut,
    Prepare,
    Boot,
    Prove,
    Guest,
    Collect,
    Abort,
    Trial,
}

/// A slot and the truth around it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) slot: Slot,
    pub(crate) truth: Truth,
}

/// What is true, by the events that were delivered and the effects that were carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Truth {
    /// The daemon is dead; the next event is `Recover`.
    pub(crate) dead: bool,
    /// The present boot's cut was seen.
    pub(crate) cut: bool,
    /// Its cut showed less than is demanded.
    pub(crate) weak: bool,
    /// It was proved, after its cut was seen.
    pub(crate) proved: bool,
    /// It was proved to the daemon that runs now.
    pub(crate) proved_to_this_daemon: bool,
    /// Something was given to the worker in the present boot.
    pub(crate) ran: bool,
    /// The board has power.
    pub(crate) powered: bool,
    /// What is being done to the board.
    pub(crate) activity: Activity,
    /// The timer of the waiting `clean` is armed.
    pub(crate) clean_armed: bool,
    /// The timer of the failed board is armed.
    pub(crate) retry_armed: bool,
    /// An `abort` of the present attempt was accepted.
    pub(crate) aborted: bool,
    /// The present attempt's arguments are held.
    pub(crate) arguments_held: bool,
    /// Inputs may be leased to the slot: for a build that it has, or for one that it is about to get.
    pub(crate) leased: bool,
    /// The present attempt's log and results are held.
    pub(crate) results_held: bool,
}

impl World {
    /// Before the daemon's first start with `slot`: nothing is known but that the board may have power
    /// and may have run anything.
    pub(crate) fn before_first_start(slot: Slot) -> Self {
        let truth = Truth {
            dead: true,
            cut: false,
            weak: false,
            proved: false,
            proved_to_this_daemon: false,
            ran: true,
            powered: true,
            activity: Activity::Nothing,
            clean_armed: false,
            retry_armed: false,
            aborted: false,
            arguments_held: false,
            leased: true,
            results_held: false,
        };
        Self { slot, truth }.renumbered()
    }

    /// The daemon dies here.
    pub(crate) fn crashed(&self) -> Self {
        let json = serde_json::to_string(&self.slot).expect("a slot is written as JSON");
        Self {
            slot: serde_json::from_str(&json).expect("a slot is read back"),
            truth: Truth {
                dead: true,
                proved_to_this_daemon: false,
                activity: Activity::Nothing,
                clean_armed: false,
                retry_armed: false,
                ..self.truth.clone()
            },
        }
    }

    /// The commit of `next`, after `event` was delivered.
    pub(crate) fn committed(&self, event: &Event, next: &Slot) -> Self {
        let mut truth = self.truth.clone();
        if *event == Event::Recover {
            truth.dead = false;
        }
        if truth.activity != Activity::Prove && reports(self).contains(&(event.clone(), true)) {
            // Its last report is made; the effects must start what comes next.
            truth.activity = Activity::Nothing;
        }
        if *event == (Event::CutSeen { boot: NOW }) && self.truth.activity == Activity::Cut {
            truth.cut = true;
            truth.powered = false;
        }
        if matches!(event, Event::CutWeak { boot: NOW, .. }) && self.truth.activity == Activity::Cut
        {
            truth.weak = true;
            truth.powered = false;
        }
        if *event == (Event::Proved { boot: NOW }) && truth.cut {
            truth.proved = true;
            truth.proved_to_this_daemon = true;
        }
        if next.boot != self.slot.boot {
            truth.cut = false;
            truth.weak = false;
            truth.proved = false;
            truth.proved_to_this_daemon = false;
            truth.ran = false;
            truth.retry_armed = false;
        }
        if next.attempt != self.slot.attempt {
            truth.aborted = false;
            truth.arguments_held = true;
            truth.results_held = true;
        }
        if matches!(next.board, Board::Fresh { .. }) {
            // Launchpad may bring the next build's inputs at any time from now on.
            truth.leased = true;
        }
        if cleaner(next) != cleaner(&self.slot) {
            truth.clean_armed = false;
        }
        Self {
            slot: next.clone(),
            truth,
        }
    }

    /// One effect is carried out.
    pub(crate) fn perform(&mut self, effect: &Effect) {
        let truth = &mut self.truth;
        match effect {
            Effect::StartCut { .. } => truth.activity = Activity::Cut,
            Effect::StartPreparing { .. } => {
                truth.activity = Activity::Prepare;
                truth.powered = true;
            }
            Effect::StartBoot { .. } => {
                truth.activity = Activity::Boot;
                truth.powered = true;
            }
            Effect::StartProving { .. } => truth.activity = Activity::Prove,
            Effect::StartGuest { .. } => {
                truth.activity = Activity::Guest;
                truth.ran = true;
            }
            Effect::StartCollecting { .. } => truth.activity = Activity::Collect,
            Effect::StartAbort { .. } => truth.activity = Activity::Abort,
            Effect::StartTrial { .. } => {
                truth.activity = Activity::Trial;
                truth.ran = true;
            }
            Effect::PowerOff => {
                truth.activity = Activity::Nothing;
                truth.powered = false;
            }
            Effect::DropKept { .. } => truth.results_held = false,
            Effect::BuildEnded { .. } => truth.arguments_held = false,
            Effect::ReleaseInputs => truth.leased = false,
            Effect::ArmCleanDue { call } => {
                truth.clean_armed = cleaner(&self.slot) == Some(*call);
            }
            Effect::ArmRetry { .. } => truth.retry_armed = true,
            Effect::Answer {
                answer: Answer::Aborting,
                ..
            } => truth.aborted = true,
            Effect::Answer { .. } | Effect::Alert { .. } | Effect::ReportTrial { .. } => {}
        }
    }

    /// The same world with its numbers abstracted.
    pub(crate) fn renumbered(mut self) -> Self {
        let now = self.slot.attempt;
        let attempt = |number: AttemptNo| match number {
            AttemptNo::NONE => AttemptNo::NONE,
            number if number == now => NOW_BUILT,
            _ => OLD_BUILT,
        };
        let renumber = |build: &mut Build| build.attempt = attempt(build.attempt);
        match &mut self.slot.board {
            Board::Used { build, .. }
            | Board::Rejoining(Rejoin::Running(build) | Rejoin::Collecting(build))
            | Board::Cutting {
                errand: Errand::Build(build),
                ..
            }
            | Board::Preparing {
                errand: Errand::Build(build),
                ..
            }
            | Board::Booting {
                errand: Errand::Build(build),
                ..
            } => renumber(build),
            Board::Cutting { .. }
            | Board::Preparing { .. }
            | Board::Booting { .. }
            | Board::Rejoining(Rejoin::Fresh { .. })
            | Board::Trial { .. }
            | Board::Fresh { .. }
            | Board::Failed { .. }
            | Board::Off => {}
        }
        if let Some(kept) = &mut self.slot.kept {
            kept.attempt = attempt(kept.attempt);
            kept.cleaning = kept.cleaning.map(|_| WAITING);
        }
        self.slot.boot = NOW;
        self.slot.attempt = attempt(now);
        self.slot.pauses = self.slot.pauses.min(3);
        if let Board::Failed { reason, .. } = &mut self.slot.board {
            *reason = "broken".to_owned();
        }
        self
    }
}

/// The `clean` that waits.
pub(crate) fn cleaner(slot: &Slot) -> Option<CallId> {
    slot.kept.as_ref().and_then(|kept| kept.cleaning)
}

/// What happens without anyone outside: the activity's reports and the armed timers, `RetryDue` apart,
/// which its growing pause bounds. `true`: it must move the slot on.
pub(crate) fn internal(world: &World) -> Vec<(Event, bool)> {
    let mut events = reports(world);
    if world.truth.clean_armed {
        events.push((Event::CleanDue { call: WAITING }, true));
    }
    events
}

/// What the present activity may report by itself. `true`: the report is its last.
fn reports(world: &World) -> Vec<(Event, bool)> {
    let (boot, attempt, reason) = (NOW, world.slot.attempt, || "broken".to_owned());
    let lost = (
        Event::Lost {
            boot,
            why: Lost::Silent,
        },
        true,
    );
    let rejoining = matches!(world.slot.board, Board::Rejoining(_));
    match world.truth.activity {
        Activity::Nothing => vec![],
        Activity::Cut => vec![
            (Event::CutSeen { boot }, true),
            (
                Event::CutWeak {
                    boot,
                    reason: reason(),
                },
                true,
            ),
            (
                Event::CutFailed {
                    boot,
                    reason: reason(),
                },
                true,
            ),
        ],
        Activity::Prepare | Activity::Boot => vec![
            if world.truth.activity == Activity::Prepare {
                (Event::Prepared { boot }, true)
            } else {
                (Event::Proved { boot }, true)
            },
            (
                Event::BootFailed {
                    boot,
                    reason: reason(),
                },
                true,
            ),
            (
                Event::WrongChip {
                    boot,
                    reason: reason(),
                },
                true,
            ),
        ],
        Activity::Prove => vec![(Event::Proved { boot }, rejoining), lost],
        Activity::Guest => vec![
            (Event::Acknowledged { attempt, boot }, false),
            (Event::Finished { attempt, boot }, true),
            lost,
        ],
        Activity::Collect => {
            vec![
                (
                    Event::Collected {
                        attempt,
                        boot,
                        outcome: good(),
                    },
                    true,
                ),
                lost,
            ]
        }
        Activity::Abort => vec![(Event::AbortEnded { attempt, boot }, true)],
        Activity::Trial => vec![
            (Event::TrialEnded { boot, good: true }, true),
            (Event::TrialEnded { boot, good: false }, true),
        ],
    }
}

/// Every event there is, with present and older numbers, whether or not anything could report it now.
pub(crate) fn all_events() -> Vec<Event> {
    let call = NEW;
    let reason = || "broken".to_owned();
    let mut events = vec![
        Event::Build {
            call,
            build_id: build_id(),
        },
        Event::Abort { call },
        Event::Clean { call },
        Event::Reset { call },
        Event::OperatorReset {
            call,
            forced: false,
        },
        Event::OperatorReset { call, forced: true },
        Event::Hold {
            call,
            reason: "dusting".to_owned(),
        },
        Event::Release { call },
        Event::ImageOutdated { call, boot: NOW },
        Event::ImageOutdated { call, boot: OLD },
        Event::CleanDue { call: WAITING },
        Event::CleanDue { call: GONE },
    ];
    for boot in [NOW, OLD] {
        events.extend([
            Event::CutSeen { boot },
            Event::CutWeak {
                boot,
                reason: reason(),
            },
            Event::CutFailed {
                boot,
                reason: reason(),
            },
            Event::Prepared { boot },
            Event::BootFailed {
                boot,
                reason: reason(),
            },
            Event::WrongChip {
                boot,
                reason: reason(),
            },
            Event::Proved { boot },
            Event::TrialEnded { boot, good: true },
            Event::TrialEnded { boot, good: false },
            Event::Lost {
                boot,
                why: Lost::Silent,
            },
            Event::RetryDue { boot },
        ]);
        for attempt in [NOW_BUILT, OLD_BUILT] {
            events.extend([
                Event::Acknowledged { attempt, boot },
                Event::Finished { attempt, boot },
                Event::Collected {
                    attempt,
                    boot,
                    outcome: good(),
                },
                Event::AbortEnded { attempt, boot },
            ]);
        }
    }
    events
}

/// The event carries a number of the past.
pub(crate) fn is_late(event: &Event) -> bool {
    match event {
        Event::Build { .. }
        | Event::Abort { .. }
        | Event::Clean { .. }
        | Event::Reset { .. }
        | Event::OperatorReset { .. }
        | Event::Hold { .. }
        | Event::Release { .. }
        | Event::ImageOutdated { .. }
        | Event::Recover => false,
        Event::CleanDue { call } => *call == GONE,
        Event::CutSeen { boot }
        | Event::CutWeak { boot, .. }
        | Event::CutFailed { boot, .. }
        | Event::Prepared { boot }
        | Event::BootFailed { boot, .. }
        | Event::WrongChip { boot, .. }
        | Event::Proved { boot }
        | Event::TrialEnded { boot, .. }
        | Event::Lost { boot, .. }
        | Event::RetryDue { boot } => *boot == OLD,
        Event::Acknowledged { attempt, boot }
        | Event::Finished { attempt, boot }
        | Event::Collected { attempt, boot, .. }
        | Event::AbortEnded { attempt, boot } => *boot == OLD || *attempt == OLD_BUILT,
    }
}

/// Who asks, where the event is a call.
pub(crate) fn caller(event: &Event) -> Option<CallId> {
    match event {
        Event::Build { call, .. }
        | Event::Abort { call }
        | Event::Clean { call }
        | Event::Reset { call }
        | Event::OperatorReset { call, .. }
        | Event::Hold { call, .. }
        | Event::Release { call }
        | Event::ImageOutdated { call, .. } => Some(*call),
        Event::CleanDue { .. }
        | Event::Recover
        | Event::CutSeen { .. }
        | Event::CutWeak { .. }
        | Event::CutFailed { .. }
        | Event::Prepared { .. }
        | Event::BootFailed { .. }
        | Event::WrongChip { .. }
        | Event::Proved { .. }
        | Event::TrialEnded { .. }
        | Event::Lost { .. }
        | Event::RetryDue { .. }
        | Event::Acknowledged { .. }
        | Event::Finished { .. }
        | Event::Collected { .. }
        | Event::AbortEnded { .. } => None,
    }
}

fn build_id() -> BuildId {
    BuildId::try_from("PACKAGEBUILD-7".to_owned()).expect("it is not empty")
}

fn good() -> Outcome {
    Outcome::bare(BuildStatus::Ok)
}
