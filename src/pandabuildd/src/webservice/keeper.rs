//! Keeps one slot's duty: a task of its own, started by `rack`. It does one thing at a time, and lets go of it
//! as soon as the slot or the duty is no longer what it was: what a call that was let go has done is seen by
//! the look that comes first the next time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use panda_slot::{AttemptNo, Board, BootNo};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::client::{CleanStatus, WebService, WebServiceError};
use crate::filecache::Filecache;
use crate::ledger::{Ledger, LedgerError};
use crate::slot::{SlotHandle, View};

/// Beginnings that may wait for the task.
const MAILBOX: usize = 8;
/// How often an entry must say Clean before that is believed where we did not ask for it: what is read may be
/// a little older than what was written.
const SIGHTINGS: u32 = 2;
/// What operators see until the slot is ready.
const OWED: &str = "the web service is to be told when the slot is clean";
/// The most characters of a failed slot's reason that Launchpad is told.
const MAX_NOTES: usize = 1000;

/// Why a duty was not begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DutyError {
    /// It could not be written down.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The daemon is stopping.
    #[error("the daemon is stopping: try again when it is back")]
    Stopping,
}

/// Whether builds would have their inputs, as `status` asks before it says IDLE.
#[async_trait]
pub(crate) trait Inputs: Send + Sync {
    /// Why they would not, if so; without secrets.
    async fn trouble(&self) -> Option<String>;
}

#[async_trait]
impl Inputs for Filecache {
    async fn trouble(&self) -> Option<String> {
        Self::trouble(self).await
    }
}

/// A slot's duty, for the rest of the daemon.
#[derive(Debug, Clone)]
pub(crate) struct Duty {
    mailbox: mpsc::Sender<Begin>,
    pub(super) note: watch::Receiver<Option<String>>,
}

#[derive(Debug)]
struct Begin {
    attempt: AttemptNo,
    reply: oneshot::Sender<Result<(), LedgerError>>,
}

impl Duty {
    /// Launchpad is to be told when the slot, which has had `attempt` attempts, is clean again. Answered once
    /// it is in the ledger.
    ///
    /// # Errors
    /// See [`DutyError`].
    pub(crate) async fn begin(&self, attempt: AttemptNo) -> Result<(), DutyError> {
        let (reply, answer) = oneshot::channel();
        let begin = Begin { attempt, reply };
        let sent = self.mailbox.send(begin).await;
        sent.map_err(|_| DutyError::Stopping)?;
        Ok(answer.await.map_err(|_| DutyError::Stopping)??)
    }

    /// Where it stands, for operators; none where there is nothing to say.
    #[must_use]
    pub(crate) fn note(&self) -> Option<String> {
        self.note.borrow().clone()
    }
}

/// The task that keeps it.
pub(crate) struct Keeper {
    slot: SlotHandle,
    inputs: Arc<dyn Inputs>,
    service: Arc<WebService>,
    builder: Arc<str>,
    ledger: Ledger,
    mailbox: mpsc::Receiver<Begin>,
    note: watch::Sender<Option<String>>,
    /// The last attempt before the duty; none where there is none.
    duty: Option<AttemptNo>,
    /// The boot whose failure Launchpad has been told of.
    told: Option<BootNo>,
    pause: Duration,
    /// Clean was asked for since the duty began, so that seeing it is enough.
    asked: bool,
    /// How often in a row it was seen without that.
    seen: u32,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("slot", &self.slot.name())
            .field("duty", &self.duty)
            .finish_non_exhaustive()
    }
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Work {
    Nothing,
    /// The slot is ready: Launchpad is to be told, as long as no later attempt was begun than this.
    Clean(AttemptNo),
    /// The slot has failed and keeps nothing: Launchpad is to be told why.
    Failure(BootNo, String),
}

/// How a try at it ended.
#[derive(Debug)]
enum End {
    /// Launchpad knows.
    Known,
    /// The entry says Clean, perhaps by our own doing.
    SeenClean,
    /// Clean was asked for, and whether it was taken is to be looked at.
    Asked(Result<(), WebServiceError>),
    /// Not yet: what the entry says.
    NotYet(CleanStatus),
    /// Not yet: a build would not have its inputs, and why.
    NoInputs(String),
    /// The slot has changed meanwhile.
    Changed,
    /// No.
    Trouble(WebServiceError),
}

/// What the task does next.
enum Next {
    Stop,
    Begin(Begin),
    Look,
    Ended(End),
}

impl Keeper {
    /// The keeper of `slot`, with the duty that an earlier daemon has left in the ledger.
    #[must_use]
    pub(crate) fn new(
        slot: SlotHandle,
        inputs: Arc<dyn Inputs>,
        service: Arc<WebService>,
        ledger: Ledger,
        duty: Option<AttemptNo>,
    ) -> (Self, Duty) {
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let (note, noted) = watch::channel(duty.map(|_| OWED.to_owned()));
        let builder = service.settings().builder(slot.name()).into();
        let keeper = Self {
            slot,
            inputs,
            service,
            builder,
            ledger,
            mailbox,
            note,
            duty,
            told: None,
            pause: Duration::ZERO,
            asked: false,
            seen: 0,
        };
        let duty = Duty {
            mailbox: sender,
            note: noted,
        };
        (keeper, duty)
    }

    /// Keeps it until `stop`, or until the slot has ended.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut views = self.slot.watch();
        loop {
            let view = views.borrow_and_update().clone();
            self.let_go_of_what_is_void(&view).await;
            let work = self.work(&view);
            let end = attempt(
                self.pause,
                self.service.clone(),
                self.builder.clone(),
                self.slot.clone(),
                self.inputs.clone(),
                work.clone(),
            );
            tokio::pin!(end);
            let next = loop {
                let changed = tokio::select! {
                    biased;
                    () = stop.cancelled() => break Next::Stop,
                    begin = self.mailbox.recv() => {
                        break begin.map_or(Next::Stop, Next::Begin);
                    }
                    changed = views.changed() => changed,
                    end = &mut end => break Next::Ended(end),
                };
                if changed.is_err() {
                    break Next::Stop;
                }
                let view = views.borrow_and_update().clone();
                if self.work(&view) != work || self.is_void(&view) {
                    break Next::Look;
                }
            };
            match next {
                Next::Stop => return,
                Next::Begin(begin) => self.begin(begin).await,
                Next::Look => self.start_over(),
                Next::Ended(end) => self.take(&work, end).await,
            }
        }
    }

    fn work(&self, view: &View) -> Work {
        if let Some(reason) = failure(view)
            && self.service.settings().report_failures
            && self.told != Some(view.slot.boot)
        {
            return Work::Failure(view.slot.boot, reason.to_owned());
        }
        match self.duty {
            Some(attempt) if is_owed(view, attempt) => Work::Clean(attempt),
            _ => Work::Nothing,
        }
    }

    /// A build was dispatched since.
    fn is_void(&self, view: &View) -> bool {
        self.duty.is_some_and(|attempt| view.slot.attempt > attempt)
    }

    async fn let_go_of_what_is_void(&mut self, view: &View) {
        if self.is_void(view) {
            tracing::debug!(
                slot = self.slot.name(),
                "a build came: nothing to tell Launchpad"
            );
            self.end().await;
        }
    }

    async fn begin(&mut self, Begin { attempt, reply }: Begin) {
        let recorded = self.ledger.begin_duty(self.slot.name(), attempt).await;
        if recorded.is_ok() {
            self.duty = Some(attempt);
            self.start_over();
            self.say(OWED.to_owned());
        }
        if reply.send(recorded).is_err() {
            tracing::debug!(slot = self.slot.name(), "who began a duty has gone");
        }
    }

    /// The next look is at once, and takes nothing for granted.
    fn start_over(&mut self) {
        self.pause = Duration::ZERO;
        self.asked = false;
        self.seen = 0;
    }

    async fn take(&mut self, work: &Work, end: End) {
        let slot = self.slot.name().to_owned();
        self.pause = self.service.settings().grown(self.pause);
        let clean_before = std::mem::take(&mut self.seen);
        match (end, work) {
            (End::Known, Work::Failure(boot, _)) => {
                self.told = Some(*boot);
                self.start_over();
                self.note.send_replace(None);
            }
            (End::Known, Work::Clean(_) | Work::Nothing) => self.done().await,
            (End::SeenClean, _) => {
                self.seen = clean_before + 1;
                if self.asked || self.seen >= SIGHTINGS {
                    self.done().await;
                } else {
                    self.say(
                        "the web service says Clean already: it is looked at once more".to_owned(),
                    );
                }
            }
            (End::Asked(how), _) => {
                self.asked = true;
                match how {
                    Ok(()) => self
                        .say("Clean is written: it is looked at whether it was taken".to_owned()),
                    Err(error) => self.trouble(&error),
                }
            }
            (End::NotYet(CleanStatus::Other(status)), _) => {
                self.say(format!(
                    "the web service says {status:?}, which is not known here"
                ));
            }
            (End::NotYet(status), _) => {
                self.say(format!("the web service says {status:?}, not yet Cleaning"));
            }
            (End::NoInputs(why), _) => self.say(format!(
                "the slot is ready, and Launchpad waits, but a build would fail here: {why}"
            )),
            (End::Changed, _) => tracing::debug!(slot, "the slot has changed meanwhile"),
            (End::Trouble(error), _) => self.trouble(&error),
        }
    }

    async fn done(&mut self) {
        tracing::info!(
            slot = self.slot.name(),
            builder = &*self.builder,
            "Launchpad knows that it is clean"
        );
        self.end().await;
    }

    /// A duty that cannot be forgotten is kept and looked at again: its entry says Clean, or a build has come.
    async fn end(&mut self) {
        match self.ledger.end_duty(self.slot.name()).await {
            Ok(()) => {
                self.duty = None;
                self.start_over();
                self.note.send_replace(None);
            }
            Err(error) => {
                tracing::warn!(slot = self.slot.name(), %error, "a duty cannot be forgotten");
            }
        }
    }

    fn trouble(&self, error: &WebServiceError) {
        let text = error.to_string();
        let known = self.note.borrow().as_ref() == Some(&text);
        if !known {
            tracing::warn!(slot = self.slot.name(), builder = &*self.builder, "{text}");
        }
        self.say(text);
    }

    fn say(&self, note: String) {
        self.note.send_replace(Some(note));
    }
}

/// Why the slot has failed, once it keeps nothing: Launchpad fetches no results from a builder that is disabled.
fn failure(view: &View) -> Option<&str> {
    match &view.slot.board {
        Board::Failed { reason, .. } if view.slot.kept.is_none() && view.slot.live().is_none() => {
            Some(reason)
        }
        _ => None,
    }
}

/// The slot is ready for a dispatch, and has had none since.
fn is_owed(view: &View, attempt: AttemptNo) -> bool {
    view.is_idle() && view.slot.attempt == attempt
}

fn still_failed(view: &View, boot: BootNo) -> bool {
    view.slot.boot == boot && failure(view).is_some()
}

/// One try, after a pause.
async fn attempt(
    pause: Duration,
    service: Arc<WebService>,
    builder: Arc<str>,
    slot: SlotHandle,
    inputs: Arc<dyn Inputs>,
    work: Work,
) -> End {
    if work == Work::Nothing {
        return std::future::pending().await;
    }
    sleep(pause).await;
    let entry = match service.look(&builder).await {
        Ok(entry) => entry,
        Err(error) => return End::Trouble(error),
    };
    if let (Work::Clean(_), CleanStatus::Cleaning) = (&work, &entry.clean_status)
        && let Some(why) = inputs.trouble().await
    {
        return End::NoInputs(why);
    }
    match work {
        Work::Nothing => End::Changed,
        Work::Clean(attempt) => match entry.clean_status {
            CleanStatus::Clean => End::SeenClean,
            // Never once anything was dispatched.
            CleanStatus::Cleaning if !is_owed(&slot.view(), attempt) => End::Changed,
            CleanStatus::Cleaning => {
                let clean = json!({"clean_status": "Clean"});
                match service.change(&builder, &entry, &clean).await {
                    Ok(Some(after)) if after.clean_status == CleanStatus::Clean => End::Known,
                    answer => End::Asked(answer.map(drop)),
                }
            }
            status @ (CleanStatus::Dirty | CleanStatus::Other(_)) => End::NotYet(status),
        },
        // An operator, or an earlier daemon, was first: their words stay.
        Work::Failure(..) if !entry.enabled => End::Known,
        Work::Failure(boot, _) if !still_failed(&slot.view(), boot) => End::Changed,
        Work::Failure(_, reason) => {
            let notes: String = reason.chars().take(MAX_NOTES).collect();
            let failed = json!({"builderok": false, "failnotes": notes});
            match service.change(&builder, &entry, &failed).await {
                Ok(Some(after)) if !after.enabled => End::Known,
                Ok(_) => End::Trouble(WebServiceError::NoEntry),
                Err(error) => End::Trouble(error),
            }
        }
    }
}
