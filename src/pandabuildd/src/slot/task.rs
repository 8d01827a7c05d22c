//! The task that owns a slot. One message or event at a time: step, commit, effects in order.
//!
//! ```text
//!            ┌─ call ──┐                     ┌─ it cannot be written: the state stays, callers are
//!            │         ▼                     │  refused, reports of the board wait, and it is tried
//!   mailbox ─┘   machine step ──▶ commit ────┤  again and again; the slot is not IDLE meanwhile
//!   activity ── event ─▲                     │
//!   timers ────────────┘                     └─ written ──▶ view, effects in order, answers
//! ```
//!
//! One activity of the board runs at a time; starting another aborts it and waits for its end. An
//! activity that ends, or panics, without a report that moved the slot on is reported in its stead, so
//! that no bug in one can hang a slot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use panda_slot::{Answer, BootNo, CallId, Effect, Event, Limits, Refusal, Slot, step};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::handle::{Ask, Message, STARTING, SlotHandle, View};
use super::settings::Settings;
use crate::activity::{Activities, Activity, Events};
use crate::failpoint::{self, Point};
use crate::ledger::{Ledger, LedgerError, NewAttempt};

/// Calls that may wait for the task; more wait in their own tasks.
const MAILBOX: usize = 32;
/// How long an aborted activity may take to let go of the board.
const LET_GO: Duration = Duration::from_secs(10);
/// How soon a ledger that could not be written is tried again.
const LEDGER_RETRY: Duration = Duration::from_secs(2);

/// Starts the task of the slot `name`, whose committed state is `initial` (none where it was never
/// seen). Its first event is `Recover`. The task ends with [`SlotHandle::close`], or when every handle
/// is gone.
pub(crate) fn spawn(
    name: &str,
    initial: Option<Slot>,
    ledger: Ledger,
    activities: Arc<dyn Activities>,
    settings: Settings,
) -> SlotHandle {
    start(name, initial, ledger, activities, settings).0
}

/// [`spawn`], with the task itself.
pub(super) fn start(
    name: &str,
    initial: Option<Slot>,
    ledger: Ledger,
    activities: Arc<dyn Activities>,
    settings: Settings,
) -> (SlotHandle, JoinHandle<()>) {
    let slot = initial.unwrap_or_default();
    let (mailbox, messages) = mpsc::channel(MAILBOX);
    let (events, reports) = mpsc::unbounded_channel();
    let fault = Some(STARTING.to_owned());
    let first = View {
        slot: slot.clone(),
        since_unix_ms: now_unix_ms(),
        fault,
    };
    let (view, watched) = watch::channel(first);
    let name: Arc<str> = name.into();
    let task = Task {
        name: Arc::clone(&name),
        slot,
        limits: settings.limits(),
        settings,
        ledger,
        activities,
        events,
        view,
        running: None,
        callers: HashMap::new(),
        last_call: CallId::default(),
        clean_due: None,
        retry_due: None,
        cut_waits: None,
        writable: false,
        unwritten: None,
        stopping: false,
    };
    let running = tokio::spawn(task.run(messages, reports));
    (
        SlotHandle {
            name,
            mailbox,
            view: watched,
        },
        running,
    )
}

struct Task {
    name: Arc<str>,
    slot: Slot,
    limits: Limits,
    settings: Settings,
    ledger: Ledger,
    activities: Arc<dyn Activities>,
    events: Events,
    view: watch::Sender<View>,
    running: Option<Running>,
    callers: HashMap<CallId, oneshot::Sender<Answer>>,
    last_call: CallId,
    clean_due: Option<(Instant, CallId)>,
    retry_due: Option<(Instant, BootNo)>,
    /// A cut that waits until Launchpad asks for the reset.
    cut_waits: Option<BootNo>,
    /// The last commit was written. Before the first, nobody knows.
    writable: bool,
    unwritten: Option<Unwritten>,
    stopping: bool,
}

/// What is being done to the board.
struct Running {
    task: JoinHandle<()>,
    /// What is reported if it ends without a report that moved the slot on.
    unreported: Option<Event>,
}

/// The ledger could not be written.
struct Unwritten {
    /// The report of the board that waits; none where only a call was refused.
    event: Option<Event>,
    again: Instant,
    why: String,
}

/// What the task does next.
enum Next {
    Message(Message),
    Event(Event),
    ActivityEnded,
    WriteAgain,
    End,
}

impl Task {
    async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut reports: mpsc::UnboundedReceiver<Event>,
    ) {
        self.take_event(Event::Recover).await;
        loop {
            match self.next(&mut messages, &mut reports).await {
                Next::Message(Message::Ask { ask, reply }) => self.take_call(ask, reply).await,
                Next::Message(Message::Quiesce) => self.quiesce(),
                Next::Message(Message::Close) | Next::End => break,
                Next::Event(event) => self.take_event(event).await,
                Next::ActivityEnded => self.end_activity().await,
                Next::WriteAgain => self.write_again().await,
            }
        }
        self.finish(messages).await;
    }

    /// Reports come before the end of the activity that made them, and both before calls. While a report
    /// waits for the ledger, the later ones wait behind it.
    async fn next(
        &mut self,
        messages: &mut mpsc::Receiver<Message>,
        reports: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Next {
        let blocked = self
            .unwritten
            .as_ref()
            .is_some_and(|unwritten| unwritten.event.is_some());
        let again = self
            .unwritten
            .as_ref()
            .map(|unwritten| (unwritten.again, ()));
        let clean_due = self.clean_due;
        let retry_due = self.retry_due;
        tokio::select! {
            biased;
            () = due(again) => Next::WriteAgain,
            Some(event) = reports.recv(), if !blocked => Next::Event(event),
            () = ended(self.running.as_mut()), if !blocked => Next::ActivityEnded,
            call = due(clean_due), if !blocked => {
                self.clean_due = None;
                Next::Event(Event::CleanDue { call })
            }
            boot = due(retry_due), if !blocked => {
                self.retry_due = None;
                Next::Event(Event::RetryDue { boot })
            }
            message = messages.recv() => message.map_or(Next::End, Next::Message),
        }
    }

    async fn take_call(&mut self, ask: Ask, reply: oneshot::Sender<Answer>) {
        self.last_call = self.last_call.next();
        let call = self.last_call;
        if self.unwritten.is_some() {
            return self.reply(reply, Answer::Refused(Refusal::NotRecorded));
        }
        self.callers.insert(call, reply);
        let (event, accepted) = match ask {
            Ask::Build(build) => (
                Event::Build {
                    call,
                    build_id: build.build_id.clone(),
                },
                Some(*build),
            ),
            Ask::Abort => (Event::Abort { call }, None),
            Ask::Clean => (Event::Clean { call }, None),
            Ask::Reset => (Event::Reset { call }, None),
            Ask::OperatorReset { forced } => (Event::OperatorReset { call, forced }, None),
            Ask::Hold { reason } => (Event::Hold { call, reason }, None),
            Ask::Release => (Event::Release { call }, None),
            Ask::ImageOutdated { boot } => (Event::ImageOutdated { call, boot }, None),
        };
        let transition = step(&self.slot, event, &self.limits);
        let attempt = transition.next.attempt;
        let accepted = accepted
            .filter(|_| attempt != self.slot.attempt)
            .map(|call| NewAttempt { attempt, call });
        match self.commit(&transition.next, accepted).await {
            Ok(()) => self.perform(transition.effects).await,
            Err(error) => {
                // Arguments that cannot be written down say nothing about the ledger.
                if matches!(error, LedgerError::Unwritable(_)) {
                    tracing::warn!(slot = %self.name, "{error}");
                } else {
                    self.cannot_write(None, &error);
                }
                if let Some(reply) = self.callers.remove(&call) {
                    self.reply(reply, Answer::Refused(Refusal::NotRecorded));
                }
            }
        }
    }

    async fn take_event(&mut self, event: Event) {
        let transition = step(&self.slot, event.clone(), &self.limits);
        match self.commit(&transition.next, None).await {
            Ok(()) => self.perform(transition.effects).await,
            Err(error) => self.cannot_write(Some(event), &error),
        }
    }

    /// Writes the new state down and only then takes it over. A state that has not changed is not
    /// written, unless it is to show whether the ledger can be written at all.
    async fn commit(
        &mut self,
        next: &Slot,
        accepted: Option<NewAttempt>,
    ) -> Result<(), LedgerError> {
        if *next != self.slot || !self.writable {
            self.ledger.commit(&self.name, next, accepted).await?;
        }
        self.writable = true;
        self.unwritten = None;
        self.show(next.clone());
        Ok(())
    }

    fn show(&mut self, next: Slot) {
        let moved = self.slot.board.name() != next.board.name() || self.slot.boot != next.boot;
        if moved {
            tracing::info!(slot = %self.name, boot = %next.boot, board = next.board.name());
        }
        self.slot = next;
        let fault = self.fault();
        self.view.send_if_modified(|view| {
            let new = View {
                slot: self.slot.clone(),
                since_unix_ms: if moved {
                    now_unix_ms()
                } else {
                    view.since_unix_ms
                },
                fault,
            };
            let changed = *view != new;
            *view = new;
            changed
        });
    }

    fn fault(&self) -> Option<String> {
        if self.stopping {
            return Some("the daemon is stopping".to_owned());
        }
        self.unwritten
            .as_ref()
            .map(|unwritten| unwritten.why.clone())
    }

    fn cannot_write(&mut self, event: Option<Event>, error: &LedgerError) {
        let why = error.to_string();
        tracing::error!(slot = %self.name, "{why}");
        if self.unwritten.is_none() {
            self.activities.alert(&why);
        }
        self.writable = false;
        self.unwritten = Some(Unwritten {
            event,
            again: Instant::now() + LEDGER_RETRY,
            why,
        });
        self.show(self.slot.clone());
    }

    /// Takes the report that waited once more; where none did, writes the state as it is.
    async fn write_again(&mut self) {
        let Some(unwritten) = &self.unwritten else {
            return;
        };
        match unwritten.event.clone() {
            Some(event) => self.take_event(event).await,
            None => {
                let same = self.slot.clone();
                if let Err(error) = self.commit(&same, None).await {
                    self.cannot_write(None, &error);
                }
            }
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            let point = Point::of_effect(&effect);
            failpoint::before(point);
            self.perform_one(effect).await;
            failpoint::after(point);
        }
        if let Some(boot) = self.cut_waits.take() {
            self.cut(boot).await;
        }
    }

    /// Cuts power; where resets are not eager, only when nothing waits for Launchpad's next word.
    async fn cut(&mut self, boot: BootNo) {
        let kept = self.slot.kept.as_ref();
        let waits = kept.is_some_and(|kept| kept.cleaning.is_none()) && self.slot.held.is_none();
        if boot != self.slot.boot {
            return;
        }
        if waits && !self.settings.eager_reset {
            self.cut_waits = Some(boot);
            return self.stop_activity().await;
        }
        self.start(Activity::Cut { boot }).await;
    }

    async fn perform_one(&mut self, effect: Effect) {
        match effect {
            // Which image a boot gets is the activities' affair; nothing begins a trial of another one yet.
            Effect::StartCut { boot, trial: _ } => self.cut(boot).await,
            Effect::StartPreparing { boot } => self.start(Activity::Prepare { boot }).await,
            Effect::StartBoot { boot, trial: _ } => self.start(Activity::Boot { boot }).await,
            Effect::StartProving { boot } => self.start(Activity::Prove { boot }).await,
            Effect::StartGuest {
                boot,
                attempt,
                acknowledged,
            } => {
                let activity = Activity::Guest {
                    boot,
                    attempt,
                    acknowledged,
                };
                self.start(activity).await;
            }
            Effect::StartCollecting { boot, attempt } => {
                self.start(Activity::Collect { boot, attempt }).await;
            }
            Effect::StartAbort { boot, attempt } => {
                self.start(Activity::Abort { boot, attempt }).await;
            }
            Effect::StartTrial { boot } => self.start(Activity::Trial { boot }).await,
            Effect::PowerOff => self.start(Activity::PowerOff).await,
            Effect::Alert { reason } => self.activities.alert(&reason),
            Effect::ReportTrial { good } => {
                tracing::warn!(slot = %self.name, good, "a trial ended that no image store had asked for");
            }
            Effect::DropKept { attempt } => self.activities.drop_kept(attempt),
            Effect::ReleaseInputs => self.activities.release_inputs(),
            Effect::BuildEnded { attempt } => self.activities.build_ended(attempt),
            Effect::ArmCleanDue { call } => {
                self.clean_due = Some((Instant::now() + self.settings.clean_wait(), call));
            }
            Effect::ArmRetry { boot, pauses } => {
                self.retry_due = Some((Instant::now() + self.settings.retry_pause(pauses), boot));
            }
            Effect::Answer { call, answer } => {
                if let Some(reply) = self.callers.remove(&call) {
                    self.reply(reply, answer);
                }
            }
        }
    }

    /// Starts an activity in the place of the one that runs, which lets go of the board first.
    async fn start(&mut self, activity: Activity) {
        self.stop_activity().await;
        self.running = Some(Running {
            unreported: activity.unreported(),
            task: self.activities.start(activity, self.events.clone()),
        });
    }

    async fn stop_activity(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        running.task.abort();
        if tokio::time::timeout(LET_GO, &mut running.task)
            .await
            .is_err()
        {
            tracing::error!(slot = %self.name, "an activity does not let go of the board; going on");
        }
    }

    async fn end_activity(&mut self) {
        if let Some(Running {
            unreported: Some(event),
            ..
        }) = self.running.take()
        {
            self.take_event(event).await;
        }
    }

    fn quiesce(&mut self) {
        self.stopping = true;
        self.show(self.slot.clone());
    }

    /// Answers what was asked before the end, lets the board go as it is, and ends.
    async fn finish(mut self, mut messages: mpsc::Receiver<Message>) {
        self.quiesce();
        messages.close();
        while let Some(message) = messages.recv().await {
            if let Message::Ask { ask, reply } = message {
                self.take_call(ask, reply).await;
            }
        }
        self.stop_activity().await;
        for (_, reply) in std::mem::take(&mut self.callers) {
            self.reply(reply, Answer::Refused(Refusal::NotReady));
        }
    }

    fn reply(&self, reply: oneshot::Sender<Answer>, answer: Answer) {
        if let Err(answer) = reply.send(answer) {
            tracing::debug!(slot = %self.name, ?answer, "the caller has gone");
        }
    }
}

/// Waits until a timer is due and says whose it is; for ever without one.
async fn due<T>(timer: Option<(Instant, T)>) -> T {
    match timer {
        Some((when, whose)) => {
            tokio::time::sleep_until(when).await;
            whose
        }
        None => std::future::pending().await,
    }
}

/// Waits for the end of an activity; for ever without one.
async fn ended(running: Option<&mut Running>) {
    match running {
        Some(running) => {
            if let Err(error) = (&mut running.task).await {
                tracing::error!("an activity of the board broke: {error}");
            }
        }
        None => std::future::pending().await,
    }
}

fn now_unix_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
