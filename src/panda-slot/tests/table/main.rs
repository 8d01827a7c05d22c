//! The slot machine's table, row by row: what each event does to the board, to what is kept, and to who
//! asked. Where the exploration says what must never happen, this says what must.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside their functions"
)]

mod failing;
mod images;
mod inputs;
mod launchpad;
mod life;
mod presence;
mod resets;
mod restart;

use panda_protocol::launchpad::{BuildId, BuildStatus, Dialect, Outcome};
use panda_slot::{
    Answer, AttemptNo, Board, BootNo, Build, CallId, Effect, Errand, Event, FailureKind, Kept,
    Limits, Lost, Phase, Refusal, Slot, Transition, step,
};

const LIMITS: Limits = Limits {
    attempts: 3,
    moves: 2,
    dialect: Dialect::Current,
};
const IN_2011: Limits = Limits {
    dialect: Dialect::Y2011,
    ..LIMITS
};

fn id() -> BuildId {
    BuildId::try_from("PACKAGEBUILD-7".to_owned()).unwrap()
}

fn build() -> Build {
    Build {
        attempt: AttemptNo::new(4),
        build_id: id(),
        acknowledged: true,
        moves: 0,
    }
}

fn fresh_build() -> Build {
    Build {
        acknowledged: false,
        ..build()
    }
}

fn slot(board: Board) -> Slot {
    Slot {
        boot: BootNo::new(9),
        attempt: AttemptNo::new(4),
        pauses: 1,
        board,
        kept: None,
        held: None,
    }
}

fn used(phase: Phase) -> Slot {
    slot(Board::Used {
        build: build(),
        phase,
    })
}

fn kept(build_status: BuildStatus) -> Kept {
    Kept {
        attempt: AttemptNo::new(4),
        build_id: id(),
        outcome: Outcome::bare(build_status),
        cleaning: None,
    }
}

fn keeping(board: Board) -> Slot {
    Slot {
        kept: Some(kept(BuildStatus::Ok)),
        ..slot(board)
    }
}

fn held(slot: Slot) -> Slot {
    Slot {
        held: Some("dusting".to_owned()),
        ..slot
    }
}

fn failed(kind: FailureKind) -> Board {
    Board::Failed {
        kind,
        reason: "no ROM".to_owned(),
    }
}

fn cutting(n: u32) -> Board {
    Board::Cutting {
        n,
        errand: Errand::Nothing,
        prepared: false,
    }
}

fn booting(n: u32) -> Board {
    Board::Booting {
        n,
        errand: Errand::Nothing,
    }
}

/// The step, without the release of inputs: `inputs` has the rows for that.
fn go(slot: &Slot, event: Event) -> Transition {
    go_in(&LIMITS, slot, event)
}

fn go_in(limits: &Limits, slot: &Slot, event: Event) -> Transition {
    let mut transition = step(slot, event, limits);
    transition
        .effects
        .retain(|effect| *effect != Effect::ReleaseInputs);
    transition
}

fn lost() -> Event {
    Event::Lost {
        boot: BootNo::new(9),
        why: Lost::Silent,
    }
}

fn cut(boot: BootNo) -> Effect {
    Effect::StartCut { boot, trial: false }
}

fn answer(answer: Answer) -> Effect {
    Effect::Answer {
        call: CallId::new(1),
        answer,
    }
}

fn refused(refusal: Refusal) -> Effect {
    answer(Answer::Refused(refusal))
}

const ENDED: Effect = Effect::BuildEnded {
    attempt: AttemptNo::new(4),
};
const DROPPED: Effect = Effect::DropKept {
    attempt: AttemptNo::new(4),
};

/// What a transition did: the board, the status of what is kept, the effects.
fn told(transition: Transition) -> (Board, Option<BuildStatus>, Vec<Effect>) {
    let kept = transition.next.kept.map(|kept| kept.outcome.build_status);
    (transition.next.board, kept, transition.effects)
}
