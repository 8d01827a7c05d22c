//! The state machine of a slot: what a board may be doing, what is kept for Launchpad, who may ask what
//! when, and what is to be done then. Pure: no socket, file, clock or randomness; the daemon's slot task
//! calls [`step`], commits what it says, and only then carries out the effects.
//!
//! # The machine
//! The daemon starts a slot that it never saw before in Cutting. One boot, one build: nothing leads from
//! Running, Collecting or Aborting back to Fresh but through Cutting.
//!
//! ```text
//!  Cutting ─CutSeen▶ Booting ─Proved▶ Fresh ─Build▶ Running ─Finished▶ Collecting ─Collected▶ Cutting
//!                                                   Running ─Abort▶    Aborting   ─AbortEnded▶ Cutting
//!
//!  an attempt fails:              Booting ─BootFailed▶ Cutting       Booting ─BootFailed▶ Failed
//!  a cut shows too little:        Cutting ─CutWeak▶ Preparing ─Prepared▶ Cutting
//!  another board on the port:     Booting ─WrongChip▶ Failed:Chip
//!  a failed board's pause ends:   Failed ─RetryDue▶ Cutting
//!  a ready board is lost:         Fresh ─Lost▶ Cutting               Fresh ─Lost▶ Failed
//!  a board with a build is lost:  Running ─Lost▶ Cutting             Running ─Lost▶ Cutting+build
//!  an operator holds the slot:    Fresh ─Hold▶ Cutting ─CutSeen▶ Off ─Release▶ Cutting
//!  the daemon restarts:           Fresh ─Recover▶ Rejoining:Fresh ─Proved▶ Fresh
//!                                 Running ─Recover▶ Rejoining:Running ─Proved▶ Running
//! ```
//!
//! A build that the worker has not acknowledged when its board is lost moves to a new boot
//! (`Cutting+build`, `Booting+build`): Launchpad goes on seeing BUILDING. A slot with a build, wherever it
//! is, is *live* ([`Slot::live`]).
//!
//! A rack may demand that something is seen to leave the board's port with the cut. Where it was not there to
//! leave, one boot brings it up (`Preparing`), which nothing is built on and which never becomes Fresh; the cut
//! after it is judged alone. An attempt of a reset prepares once at most.
//!
//! Every way that there is from one state of the board to another, and the events that lead along it
//! (which of several ways an event takes is decided by attempts and moves used up, by an acknowledged
//! build, or by a hold):
//!
//! <!-- ways: checked by tests/explore/drawing.rs -->
//! ```text
//! Cutting              ─▶ Cutting              CutFailed CutWeak Recover
//!                      ─▶ Preparing            CutWeak
//!                      ─▶ Booting              CutSeen
//!                      ─▶ Failed               CutFailed CutWeak
//!                      ─▶ Off                  CutSeen CutWeak
//! Preparing            ─▶ Cutting              BootFailed Hold Prepared Recover
//!                      ─▶ Failed               BootFailed
//!                      ─▶ Failed:Chip          WrongChip
//! Booting              ─▶ Cutting              BootFailed Hold Recover
//!                      ─▶ Fresh                Proved
//!                      ─▶ Trial                Proved
//!                      ─▶ Failed               BootFailed
//!                      ─▶ Failed:Chip          WrongChip
//! Fresh                ─▶ Cutting              Hold ImageOutdated Lost OperatorReset
//!                      ─▶ Running              Build
//!                      ─▶ Rejoining:Fresh      Recover
//!                      ─▶ Failed               Lost
//! Running              ─▶ Cutting              Lost OperatorReset Reset
//!                      ─▶ Running              Acknowledged
//!                      ─▶ Collecting           Finished
//!                      ─▶ Aborting             Abort
//!                      ─▶ Cutting+build        Lost
//!                      ─▶ Rejoining:Running    Recover
//! Collecting           ─▶ Cutting              Collected Lost OperatorReset Reset
//!                      ─▶ Aborting             Abort
//!                      ─▶ Rejoining:Collecting Recover
//! Aborting             ─▶ Cutting              AbortEnded Finished Lost OperatorReset Recover
//!                                              Reset
//! Cutting+build        ─▶ Cutting              Abort OperatorReset Reset
//!                      ─▶ Cutting+build        CutFailed CutWeak Recover
//!                      ─▶ Preparing+build      CutWeak
//!                      ─▶ Booting+build        CutSeen
//!                      ─▶ Failed               CutFailed CutWeak
//! Preparing+build      ─▶ Cutting              Abort OperatorReset Reset
//!                      ─▶ Preparing            Abort OperatorReset Reset
//!                      ─▶ Cutting+build        BootFailed Prepared Recover
//!                      ─▶ Failed               BootFailed
//!                      ─▶ Failed:Chip          WrongChip
//! Booting+build        ─▶ Cutting              Abort OperatorReset Reset
//!                      ─▶ Booting              Abort OperatorReset Reset
//!                      ─▶ Running              Proved
//!                      ─▶ Cutting+build        BootFailed Recover
//!                      ─▶ Failed               BootFailed
//!                      ─▶ Failed:Chip          WrongChip
//! Trial                ─▶ Cutting              Hold Lost Recover TrialEnded
//! Rejoining:Fresh      ─▶ Cutting              Hold Lost OperatorReset
//!                      ─▶ Fresh                Proved
//!                      ─▶ Failed               Lost
//! Rejoining:Running    ─▶ Cutting              Abort Lost OperatorReset Reset
//!                      ─▶ Running              Proved
//!                      ─▶ Cutting+build        Lost
//! Rejoining:Collecting ─▶ Cutting              Abort Lost OperatorReset Reset
//!                      ─▶ Collecting           Proved
//! Failed               ─▶ Cutting              Clean OperatorReset Release Reset RetryDue
//! Failed:Chip          ─▶ Cutting              Release
//! Off                  ─▶ Cutting              Release
//! ```
//!
//! # Resets, holds and drains
//! Launchpad's reset of a Fresh board cuts nothing; an operator's always cuts. A Fresh board whose image is
//! no longer the current one is cut when its turn in the roll-out comes (`ImageOutdated`). A Hold takes the
//! power of a slot without a build at once, and of one with a build when that has ended: it is what other
//! systems call a drain.
//!
//! A Failed board is tried again after a pause that doubles. Launchpad's Clean and Reset try one at once,
//! as often as a reset has attempts, and after that its pause stands, whoever asks but an operator. Only
//! the results of a build, or an operator, start the counting anew.
//!
//! # What is kept
//! A finished build is kept beside the board's life until Launchpad's Clean or Reset, whatever the board
//! does meanwhile. A Clean waits in it until the board is Fresh, or fails, or its time is over.
//!
//! # What decides
//! - `machine`: the steps
//! - [`manager_status()`]: what Launchpad's manager sees of a state, in either dialect
//! - `tests/explore`: visits every reachable state, with late, doubled and reordered events and crashes
//!   between a commit and its effects, and checks the laws there

mod board;
mod event;
mod machine;
mod manager_status;

pub use board::{Board, Build, Errand, FailureKind, Kept, Phase, Rejoin, Slot};
pub use event::{Answer, CallId, Effect, Event, Limits, Lost, Refusal, Transition};
pub use machine::step;
pub use manager_status::{ManagerStatus, between_boots, manager_status};
pub use panda_protocol::ids::{AttemptNo, BootNo};
