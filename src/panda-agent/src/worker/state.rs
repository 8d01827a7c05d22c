//! What a worker may be asked when: a plain value, without lock or I/O. A refused question changes
//! nothing.
//!
//! ```text
//!          begin            finish(outcome)           clean
//! Idle ───────────▶ Building ───────────▶ Waiting ───────────▶ Idle
//!                      │ abort               ▲
//!                      ▼                     │ finish(anything): ABORTED
//!                   Aborting ────────────────┘       (abort again: accepted)
//! ```

use panda_protocol::launchpad::{BuildId, BuildStatus, Outcome};

/// Where a worker is; `R` is what belongs to one build while it is there.
#[derive(Debug)]
pub(crate) enum State<R> {
    /// Ready for a build.
    Idle,
    /// A build runs.
    Building {
        /// The job's cookie.
        build_id: BuildId,
        /// The run.
        run: R,
    },
    /// A build is being ended.
    Aborting {
        /// The job's cookie.
        build_id: BuildId,
        /// The run.
        run: R,
    },
    /// A build has ended and waits for `clean`.
    Waiting {
        /// The job's cookie.
        build_id: BuildId,
        /// How it ended.
        outcome: Outcome,
        /// The run.
        run: R,
    },
}

/// A question that is refused in the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// `build` while a build is there.
    #[error("build: the builder is not idle")]
    Busy,
    /// `abort` without a running build.
    #[error("abort: no build is running")]
    NothingRuns,
    /// `clean` without a finished build.
    #[error("clean: no finished build is waiting")]
    NothingWaits,
}

impl<R: Clone> State<R> {
    /// Whether a build may begin.
    pub(crate) fn may_begin(&self) -> Result<(), Refusal> {
        match self {
            Self::Idle => Ok(()),
            Self::Building { .. } | Self::Aborting { .. } | Self::Waiting { .. } => {
                Err(Refusal::Busy)
            }
        }
    }

    /// A build begins.
    pub(crate) fn begin(&mut self, build_id: BuildId, run: R) -> Result<(), Refusal> {
        self.may_begin()?;
        *self = Self::Building { build_id, run };
        Ok(())
    }

    /// The running build is to end; returns its run.
    pub(crate) fn abort(&mut self) -> Result<R, Refusal> {
        match self {
            Self::Building { build_id, run } => {
                let run = run.clone();
                *self = Self::Aborting {
                    build_id: build_id.clone(),
                    run: run.clone(),
                };
                Ok(run)
            }
            Self::Aborting { run, .. } => Ok(run.clone()),
            Self::Idle | Self::Waiting { .. } => Err(Refusal::NothingRuns),
        }
    }

    /// The build has ended. One that was being aborted has been aborted, however it ended.
    pub(crate) fn finish(&mut self, outcome: Outcome) {
        match self {
            Self::Building { build_id, run } => {
                let (build_id, run) = (build_id.clone(), run.clone());
                *self = Self::Waiting {
                    build_id,
                    outcome,
                    run,
                };
            }
            Self::Aborting { build_id, run } => {
                let (build_id, run) = (build_id.clone(), run.clone());
                let outcome = Outcome::bare(BuildStatus::Aborted);
                *self = Self::Waiting {
                    build_id,
                    outcome,
                    run,
                };
            }
            Self::Idle | Self::Waiting { .. } => {}
        }
    }

    /// The finished build is forgotten; returns its run.
    pub(crate) fn clean(&mut self) -> Result<R, Refusal> {
        match self {
            Self::Waiting { run, .. } => {
                let run = run.clone();
                *self = Self::Idle;
                Ok(run)
            }
            Self::Idle | Self::Building { .. } | Self::Aborting { .. } => {
                Err(Refusal::NothingWaits)
            }
        }
    }

    /// The run of the build that is there.
    pub(crate) fn run(&self) -> Option<&R> {
        match self {
            Self::Idle => None,
            Self::Building { run, .. } | Self::Aborting { run, .. } | Self::Waiting { run, .. } => {
                Some(run)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> BuildId {
        BuildId::try_from(text.to_owned()).unwrap()
    }

    fn ok() -> Outcome {
        Outcome::bare(BuildStatus::Ok)
    }

    #[test]
    fn a_build_that_ends_while_it_is_aborted_was_aborted() {
        let mut state = State::Idle;
        state.begin(id("a"), ()).unwrap();
        state.abort().unwrap();
        state.abort().unwrap();
        state.finish(ok());
        assert!(matches!(
            &state,
            State::Waiting { outcome, .. } if *outcome == Outcome::bare(BuildStatus::Aborted)
        ));
        assert_eq!(state.abort(), Err(Refusal::NothingRuns));
        state.clean().unwrap();
        assert!(matches!(state, State::Idle));
    }

    #[derive(Debug, Clone, Copy)]
    enum Question {
        Begin,
        Abort,
        Finish,
        Clean,
    }

    proptest! {
        /// Whatever is asked in whatever order: a refusal leaves the state as it was, and what is
        /// accepted leads only along the drawn arrows.
        #[test]
        fn refused_questions_change_nothing(questions in prop::collection::vec(
            prop_oneof![
                Just(Question::Begin), Just(Question::Abort), Just(Question::Finish), Just(Question::Clean),
            ],
            0..40,
        )) {
            let mut state = State::Idle;
            for (number, question) in questions.into_iter().enumerate() {
                let before = format!("{state:?}");
                let accepted = match question {
                    Question::Begin => state.begin(id(&number.to_string()), number).is_ok(),
                    Question::Abort => state.abort().is_ok(),
                    Question::Finish => { state.finish(ok()); true }
                    Question::Clean => state.clean().is_ok(),
                };
                let after = format!("{state:?}");
                prop_assert!(accepted || before == after);
                let name = |text: &str| text.split(' ').next().unwrap_or_default().to_owned();
                let step = (name(&before), name(&after));
                let (from, to) = (step.0.as_str(), step.1.as_str());
                let drawn = from == to || matches!(
                    (from, to),
                    ("Idle", "Building") | ("Building", "Aborting" | "Waiting")
                        | ("Aborting", "Waiting") | ("Waiting", "Idle")
                );
                prop_assert!(drawn, "{from} -> {to}");
            }
        }
    }
}
