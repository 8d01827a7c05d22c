//! What every step of a boot stands on: the slot's board, its settings, and the journal that each step
//! is written into, good or bad, before the next one starts.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub(crate) use panda_board::Sense;
use panda_board::family::{EndedStep, Families, Steps};
use panda_board::{Port, Power, PowerError};
use panda_protocol::family::FamilyName;
use panda_protocol::operators::HandOver;
use panda_slot::BootNo;
use tokio::time::{Instant, timeout};

use super::error::{Failure, StepError};
use super::settings::{BootSettings, ms};
use crate::failpoint::{self, Point};
use crate::ledger::{Grade, Step};

/// One slot's board and how it is to be treated.
pub(crate) struct BoardParts {
    /// Its supply.
    pub(crate) power: Arc<dyn Power>,
    /// The port that its OTG is on.
    pub(crate) port: Arc<dyn Port>,
    /// An independent sense of its supply rail, where the rack has one.
    pub(crate) sense: Option<Arc<dyn Sense>>,
    /// The families of boards that this rack knows.
    pub(crate) families: Families,
    /// The one that the slot's image is for; none where any will do, as nothing is handed over.
    pub(crate) family: Option<FamilyName>,
    /// Limits.
    pub(crate) settings: BootSettings,
    /// Where steps are recorded.
    pub(crate) journal: Arc<dyn Journal>,
}

impl fmt::Debug for BoardParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoardParts")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Where steps are recorded: the ledger, for one slot.
#[async_trait]
pub(crate) trait Journal: Send + Sync {
    /// Records a step of a boot. An error's text must hold no secret.
    async fn record(&self, boot: BootNo, step: Step) -> Result<(), String>;
}

/// One boot's walk through the steps.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The board.
    pub(super) board: Arc<BoardParts>,
    boot: BootNo,
}

/// What a step has to say for the record.
#[derive(Debug, Default)]
pub(super) struct Note {
    pub(super) detail: String,
    pub(super) grade: Option<Grade>,
}

impl From<String> for Note {
    fn from(detail: String) -> Self {
        Self {
            detail,
            grade: None,
        }
    }
}

impl Chain {
    /// A walk of boot `boot` of `board`.
    #[must_use]
    pub(crate) fn new(board: Arc<BoardParts>, boot: BootNo) -> Self {
        Self { board, boot }
    }

    /// The limits.
    pub(super) fn settings(&self) -> &BootSettings {
        &self.board.settings
    }

    /// Runs a step: bounds its time and records it with its time, good or bad. A step that cannot be
    /// recorded has failed, since nobody could check the chain afterwards.
    pub(super) async fn step<T>(
        &self,
        name: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<(T, Note), StepError>>,
    ) -> Result<T, Failure> {
        let at_unix_ms = crate::clock::now_unix_ms();
        let started = Instant::now();
        let outcome = match failpoint::step(name, timeout(limit, work)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(StepError::TimedOut { limit }),
        };
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (result, note, error) = match outcome {
            Ok((value, note)) => (Ok(value), note, None),
            Err(error) => {
                let text = error.to_string();
                (Err(Failure::new(name, error)), Note::default(), Some(text))
            }
        };
        let step = Step {
            name: name.to_owned(),
            at_unix_ms,
            elapsed_ms,
            detail: note.detail,
            grade: note.grade,
            error,
        };
        let recorded = self.board.journal.record(self.boot, step).await;
        let value = result?;
        recorded.map_err(|problem| Failure::new(name, StepError::Journal(problem)))?;
        Ok(value)
    }

    /// Records something that the board has told of itself: its words, cleaned.
    pub(super) async fn told(
        &self,
        name: &str,
        at_unix_ms: i64,
        elapsed_ms: u64,
        detail: &str,
    ) -> Result<(), StepError> {
        let step = Step {
            name: panda_http::client::clean_text(name),
            at_unix_ms,
            elapsed_ms,
            detail: panda_http::client::clean_text(detail),
            grade: None,
            error: None,
        };
        let recorded = self.board.journal.record(self.boot, step).await;
        recorded.map_err(StepError::Journal)
    }

    /// Asks the power driver something, within its own limit.
    pub(super) async fn power<T>(
        &self,
        what: &'static str,
        question: impl Future<Output = Result<T, PowerError>>,
    ) -> Result<T, StepError> {
        let limit = ms(self.settings().power_ms);
        match timeout(limit, question).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(PowerError::TimedOut {
                what: what.to_owned(),
                limit,
            }
            .into()),
        }
    }
}

/// The family's own steps stand in the chain as the others do.
#[async_trait]
impl Steps for Chain {
    fn begins(&self, name: HandOver) {
        if let Some(point) = Point::of_step(name.as_str()) {
            failpoint::before(point);
        }
    }

    async fn ended(&self, step: EndedStep) -> Result<(), String> {
        if let Some(point) = Point::of_step(step.name.as_str()) {
            failpoint::after(point);
        }
        let elapsed_ms = u64::try_from(step.elapsed.as_millis()).unwrap_or(u64::MAX);
        let began = i64::try_from(elapsed_ms).unwrap_or(i64::MAX);
        let step = Step {
            name: step.name.as_str().to_owned(),
            at_unix_ms: crate::clock::now_unix_ms().saturating_sub(began),
            elapsed_ms,
            detail: step.detail,
            grade: None,
            error: step.error,
        };
        self.board.journal.record(self.boot, step).await
    }
}
