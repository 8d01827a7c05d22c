//! What must always hold of a slot. The laws are written against the truth around the slot, not against
//! the table.

use panda_protocol::launchpad::{BuildStatus, Dialect};
use panda_slot::{
    Answer, Board, CallId, Effect, Event, FailureKind, Limits, ManagerStatus, Phase, Rejoin, Slot,
    manager_status,
};

use super::world::{Activity, NEW, World, caller, cleaner, internal, is_late};

/// A law of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Law {
    /// Every Fresh was preceded by a cut that was seen and then a proof, and has run nothing.
    FreshIsProven,
    /// IDLE is told, and a build accepted, exactly when the board is Fresh, proven to this daemon,
    /// nothing is kept and nobody holds it.
    IdleIsTrue,
    /// Something is given to a worker only on a boot that is proven and has run nothing else.
    GuestOnProvenBoot,
    /// Power comes on only after a cut that was seen; after a weaker one, only to prepare the next.
    PowerAfterCut,
    /// What has failed, is off, or is held without a build, has no power or is losing it.
    DarkWhenUnused,
    /// What is kept goes only by Clean or Reset, and changes only into ABORTED by Abort.
    KeptStays,
    /// Every call is answered once, now or (clean) by the step in which it stops waiting.
    EveryCallAnswered,
    /// IDLE and Ready are answered only when they are true.
    AnswersAreTrue,
    /// An accepted build ends kept, or dropped by a reset, and is never swapped for another.
    BuildEndsKept,
    /// After an accepted abort the build's end is ABORTED.
    AbortedStaysAborted,
    /// The arguments of a build that ended, and results that nobody keeps, are let go.
    NothingLeftBehind,
    /// A report of the past changes nothing.
    LateIsDropped,
    /// Numbers never go back; a cut, and nothing else, gives out the next boot.
    NumbersGrow,
    /// Every state has the activity or the timer that leads out of it.
    SomethingIsUnderWay,
    /// The last report of an activity moves the slot on.
    ReportsMove,
    /// Attempts, moves and what a slot can be at once are bounded.
    Bounded,
    /// 2011's manager never gets a Fault from `status`, nor a BUILDERFAIL.
    Gentle2011,
    /// Inputs are leased to a slot while it has a build or may get one, and only then.
    LeasesEnd,
    /// A Failed board is tried again only with its pause grown, or by an operator; and by Launchpad a
    /// bounded number of times.
    RetriesGrowRarer,
    /// No cycle without an event from outside.
    NoFreeCycle,
}

/// The laws of a state at rest.
pub(crate) fn state(world: &World, limits: &Limits) -> Result<(), Law> {
    let World { slot, truth } = world;
    let proven = truth.cut && truth.proved && !truth.ran;
    let fresh = matches!(slot.board, Board::Fresh { .. });
    hold(!fresh || proven, Law::FreshIsProven)?;
    for dialect in [Dialect::Current, Dialect::Y2011] {
        for virtualized in [false, true] {
            let said = manager_status(slot, dialect, virtualized);
            let ready = fresh && slot.kept.is_none() && slot.held.is_none();
            hold((said == ManagerStatus::Idle) == ready, Law::IdleIsTrue)?;
            if dialect == Dialect::Y2011 {
                hold(is_gentle(&said), Law::Gentle2011)?;
            }
        }
    }
    hold(bounded(slot, limits), Law::Bounded)?;
    if truth.dead {
        return Ok(());
    }
    hold(!fresh || truth.proved_to_this_daemon, Law::IdleIsTrue)?;
    let off = matches!(slot.board, Board::Failed { .. } | Board::Off);
    hold(!off || !truth.powered, Law::DarkWhenUnused)?;
    let losing_power = off || matches!(slot.board, Board::Cutting { .. });
    let held_idle = slot.held.is_some() && slot.live().is_none();
    hold(!held_idle || losing_power, Law::DarkWhenUnused)?;
    hold(
        slot.live().is_some() || !truth.arguments_held,
        Law::NothingLeftBehind,
    )?;
    let may_get_one = matches!(
        slot.board,
        Board::Fresh { .. } | Board::Rejoining(Rejoin::Fresh { .. })
    );
    hold(slot.live().is_none() || truth.leased, Law::LeasesEnd)?;
    hold(
        slot.live().is_some() || may_get_one || !truth.leased,
        Law::LeasesEnd,
    )?;
    let wanted = slot.live().is_some() || slot.kept.is_some();
    hold(wanted == truth.results_held, Law::NothingLeftBehind)?;
    hold(under_way(world), Law::SomethingIsUnderWay)
}

/// The laws of a transition from `before`, at rest, by `event`, with all its effects.
pub(crate) fn transition(
    before: &World,
    event: &Event,
    next: &Slot,
    effects: &[Effect],
    limits: &Limits,
) -> Result<(), Law> {
    let slot = &before.slot;
    if is_late(event) {
        return hold(next == slot && effects.is_empty(), Law::LateIsDropped);
    }
    numbers(slot, next, effects)?;
    kept_stays(slot, event, next)?;
    calls(slot, event, next, effects, limits)?;
    retries(slot, event, next, limits)?;
    build_ends(before, event, next, effects)?;
    let moved = next != slot || !effects.is_empty();
    let must_move = internal(before).contains(&(event.clone(), true));
    hold(moved || !must_move || before.truth.dead, Law::ReportsMove)?;
    guests(before, event, effects)
}

fn hold(holds: bool, law: Law) -> Result<(), Law> {
    if holds { Ok(()) } else { Err(law) }
}

fn is_gentle(said: &ManagerStatus) -> bool {
    match said {
        ManagerStatus::Fault { .. } => false,
        ManagerStatus::Waiting { outcome, .. } => !matches!(
            outcome.build_status,
            BuildStatus::BuilderFail | BuildStatus::Aborted
        ),
        ManagerStatus::Idle
        | ManagerStatus::Building { .. }
        | ManagerStatus::Aborting { .. }
        | ManagerStatus::Aborted { .. } => true,
    }
}

fn bounded(slot: &Slot, limits: &Limits) -> bool {
    let attempts = match slot.board {
        Board::Cutting { n, .. }
        | Board::Preparing { n, .. }
        | Board::Booting { n, .. }
        | Board::Trial { n }
        | Board::Fresh { n } => (1..=limits.attempts).contains(&n),
        Board::Used { .. } | Board::Rejoining(_) | Board::Failed { .. } | Board::Off => true,
    };
    let moves = slot.live().is_none_or(|build| {
        build.moves <= limits.moves && build.attempt == slot.attempt && slot.kept.is_none()
    });
    let kept = slot
        .kept
        .as_ref()
        .is_none_or(|kept| kept.attempt == slot.attempt);
    let waits = limits.dialect == Dialect::Current || cleaner(slot).is_none();
    attempts && moves && kept && waits
}

/// What a slot waits for is being done.
fn under_way(world: &World) -> bool {
    let World { slot, truth } = world;
    let activity = match &slot.board {
        Board::Cutting { .. } => Activity::Cut,
        Board::Preparing { .. } => Activity::Prepare,
        Board::Booting { .. } => Activity::Boot,
        Board::Trial { .. } => Activity::Trial,
        Board::Fresh { .. } | Board::Rejoining(_) => Activity::Prove,
        Board::Used {
            phase: Phase::Running,
            ..
        } => Activity::Guest,
        Board::Used {
            phase: Phase::Collecting,
            ..
        } => Activity::Collect,
        Board::Used {
            phase: Phase::Aborting,
            ..
        } => Activity::Abort,
        Board::Failed { .. } | Board::Off => Activity::Nothing,
    };
    let retried = matches!(&slot.board, Board::Failed { kind, .. } if *kind != FailureKind::Chip)
        && slot.held.is_none();
    truth.activity == activity
        && (!retried || truth.retry_armed)
        && (cleaner(slot).is_none() || truth.clean_armed)
}

fn numbers(slot: &Slot, next: &Slot, effects: &[Effect]) -> Result<(), Law> {
    let cuts = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::StartCut { .. }))
        .count();
    let boots = next.boot.get() == slot.boot.get() + u64::try_from(cuts).unwrap_or(0) && cuts <= 1;
    let attempts = next.attempt == slot.attempt || next.attempt == slot.attempt.next();
    let named = effects.iter().all(|effect| match effect {
        Effect::StartCut { boot, .. }
        | Effect::StartPreparing { boot }
        | Effect::StartBoot { boot, .. }
        | Effect::StartProving { boot }
        | Effect::StartTrial { boot }
        | Effect::ArmRetry { boot, .. } => *boot == next.boot,
        Effect::StartGuest { boot, attempt, .. }
        | Effect::StartCollecting { boot, attempt }
        | Effect::StartAbort { boot, attempt } => *boot == next.boot && *attempt == next.attempt,
        Effect::DropKept { attempt } | Effect::BuildEnded { attempt } => *attempt == next.attempt,
        Effect::PowerOff
        | Effect::Alert { .. }
        | Effect::ReportTrial { .. }
        | Effect::ArmCleanDue { .. }
        | Effect::ReleaseInputs
        | Effect::Answer { .. } => true,
    });
    hold(boots && attempts && named, Law::NumbersGrow)
}

fn kept_stays(slot: &Slot, event: &Event, next: &Slot) -> Result<(), Law> {
    let Some(kept) = &slot.kept else {
        return Ok(());
    };
    let asked = match event {
        Event::Clean { .. } | Event::Reset { .. } => true,
        Event::OperatorReset { forced, .. } => *forced,
        _ => cleaner(slot).is_some(),
    };
    match &next.kept {
        None => hold(asked, Law::KeptStays),
        Some(now) => {
            let same = now.attempt == kept.attempt && now.build_id == kept.build_id;
            let aborted = matches!(event, Event::Abort { .. })
                && now.outcome.build_status == BuildStatus::Aborted;
            hold(
                same && (now.outcome == kept.outcome || aborted),
                Law::KeptStays,
            )
        }
    }
}

fn calls(
    slot: &Slot,
    event: &Event,
    next: &Slot,
    effects: &[Effect],
    limits: &Limits,
) -> Result<(), Law> {
    let answers: Vec<(CallId, &Answer)> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Answer { call, answer } => Some((*call, answer)),
            _ => None,
        })
        .collect();
    let answered = |call| answers.iter().filter(|(to, _)| *to == call).count();
    let mut expected = 0;
    // A caller that the old daemon had is gone with it.
    for call in [
        caller(event),
        cleaner(slot).filter(|_| *event != Event::Recover),
    ] {
        let Some(call) = call else { continue };
        let waits = usize::from(cleaner(next) == Some(call));
        hold(answered(call) + waits == 1, Law::EveryCallAnswered)?;
        expected += answered(call);
    }
    hold(answers.len() == expected, Law::EveryCallAnswered)?;
    hold(
        cleaner(next).is_none() || !matches!(event, Event::Recover),
        Law::EveryCallAnswered,
    )?;
    let fresh = matches!(next.board, Board::Fresh { .. });
    let at_once = limits.dialect == Dialect::Y2011;
    for (call, answer) in answers {
        let holds = match answer {
            Answer::Idle => next.kept.is_none() && (at_once || (fresh && next.held.is_none())),
            Answer::Ready => fresh && next.kept.is_none() && next.held.is_none(),
            Answer::Joined => next.kept.is_none() && next.held.is_none() && !fresh,
            Answer::Building { attempt } => {
                next.live().is_some_and(|build| build.attempt == *attempt)
                    && manager_status(slot, Dialect::Current, true) == ManagerStatus::Idle
                    && call == NEW
            }
            Answer::Aborting | Answer::Done => true,
            // ManagerStatus IDLE, a build is never refused.
            Answer::Refused(_) => {
                !matches!(event, Event::Build { .. })
                    || (manager_status(slot, Dialect::Current, true) != ManagerStatus::Idle
                        && next == slot)
            }
        };
        hold(holds, Law::AnswersAreTrue)?;
    }
    Ok(())
}

fn retries(slot: &Slot, event: &Event, next: &Slot, limits: &Limits) -> Result<(), Law> {
    let by_an_operator = matches!(event, Event::OperatorReset { .. } | Event::Release { .. });
    let brought_results = matches!(event, Event::Collected { .. });
    hold(
        next.pauses >= slot.pauses || by_an_operator || brought_results,
        Law::RetriesGrowRarer,
    )?;
    let again = matches!(slot.board, Board::Failed { .. }) && next.boot != slot.boot;
    if !again || by_an_operator {
        return Ok(());
    }
    let by_launchpad = matches!(event, Event::Clean { .. } | Event::Reset { .. });
    let early = !by_launchpad || slot.pauses < limits.attempts;
    hold(early && next.pauses > slot.pauses, Law::RetriesGrowRarer)
}

fn build_ends(before: &World, event: &Event, next: &Slot, effects: &[Effect]) -> Result<(), Law> {
    let slot = &before.slot;
    let ended = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::BuildEnded { .. }))
        .count();
    let kept = next.kept.as_ref();
    match (slot.live(), next.live()) {
        (Some(build), Some(now)) => {
            let same = build.attempt == now.attempt && build.build_id == now.build_id;
            hold(same && ended == 0, Law::BuildEndsKept)
        }
        (Some(build), None) => {
            let dropped = match event {
                Event::Reset { .. } => true,
                Event::OperatorReset { forced, .. } => *forced,
                _ => false,
            };
            let is_kept = kept.is_some_and(|kept| kept.attempt == build.attempt);
            hold((is_kept || dropped) && ended == 1, Law::BuildEndsKept)?;
            let aborted = kept.is_none_or(|kept| {
                !before.truth.aborted || kept.outcome.build_status == BuildStatus::Aborted
            });
            hold(aborted, Law::AbortedStaysAborted)
        }
        (None, Some(_)) => {
            let asked = matches!(event, Event::Build { .. });
            hold(
                asked && next.attempt == slot.attempt.next(),
                Law::BuildEndsKept,
            )
        }
        (None, None) => hold(kept.is_none() || slot.kept.is_some(), Law::BuildEndsKept),
    }
}

/// What is given to a worker, and when power comes on. `event` was delivered to `before`.
fn guests(before: &World, event: &Event, effects: &[Effect]) -> Result<(), Law> {
    let truth = &before.committed(event, &before.slot).truth;
    let proven = truth.cut && truth.proved && truth.proved_to_this_daemon;
    for effect in effects {
        match effect {
            Effect::StartGuest { .. } => {
                // Only a build that is taken up again may find that the boot has run something: itself.
                let again = matches!(before.slot.board, Board::Rejoining(_));
                hold(proven && (!truth.ran || again), Law::GuestOnProvenBoot)?;
            }
            Effect::StartTrial { .. } => hold(proven && !truth.ran, Law::GuestOnProvenBoot)?,
            Effect::StartPreparing { .. } => {
                hold(truth.weak && !truth.powered, Law::PowerAfterCut)?;
            }
            Effect::StartBoot { .. } => hold(truth.cut && !truth.powered, Law::PowerAfterCut)?,
            Effect::StartCut { .. }
            | Effect::StartProving { .. }
            | Effect::StartCollecting { .. }
            | Effect::StartAbort { .. }
            | Effect::PowerOff
            | Effect::Alert { .. }
            | Effect::ReportTrial { .. }
            | Effect::DropKept { .. }
            | Effect::ReleaseInputs
            | Effect::BuildEnded { .. }
            | Effect::ArmCleanDue { .. }
            | Effect::ArmRetry { .. }
            | Effect::Answer { .. } => {}
        }
    }
    Ok(())
}
