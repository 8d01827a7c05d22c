//! Activities for tests: they do nothing by themselves, and report what the test has them report.

use std::sync::Mutex;

use panda_protocol::launchpad::Outcome;
use panda_slot::{AttemptNo, BootNo, Event};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::activity::{Activities, Activity, Events};

/// What the slot's task has asked for last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Nothing,
    Cut(BootNo),
    Prepare(BootNo),
    Boot(BootNo),
    Prove(BootNo),
    Guest(BootNo, AttemptNo),
    Collect(BootNo, AttemptNo),
    Abort(BootNo, AttemptNo),
}

/// Scripted activities.
#[derive(Debug)]
pub(crate) struct ScriptedActivities {
    asked: watch::Sender<Asked>,
    events: Mutex<Option<Events>>,
}

impl Default for ScriptedActivities {
    fn default() -> Self {
        Self {
            asked: watch::channel(Asked::Nothing).0,
            events: Mutex::default(),
        }
    }
}

impl ScriptedActivities {
    fn ask(&self, asked: Asked, events: Events) -> JoinHandle<()> {
        *self.events.lock().unwrap() = Some(events);
        self.asked.send_replace(asked);
        tokio::spawn(std::future::pending())
    }

    /// Reports to the slot.
    pub(crate) fn report(&self, event: Event) {
        let events = self.events.lock().unwrap();
        events.as_ref().unwrap().send(event).unwrap();
    }

    /// Waits until the slot's task asks for something that `wanted` takes.
    pub(crate) async fn until<T>(&self, wanted: impl Fn(Asked) -> Option<T>) -> T {
        let mut asked = self.asked.subscribe();
        let asked = *asked
            .wait_for(|asked| wanted(*asked).is_some())
            .await
            .unwrap();
        wanted(asked).unwrap()
    }

    /// Walks a reset to its good end.
    pub(crate) async fn reset_well(&self) {
        let boot = self
            .until(|asked| {
                if let Asked::Cut(boot) = asked {
                    Some(boot)
                } else {
                    None
                }
            })
            .await;
        self.report(Event::CutSeen { boot });
        self.until(|asked| (asked == Asked::Boot(boot)).then_some(()))
            .await;
        self.report(Event::Proved { boot });
        self.until(|asked| (asked == Asked::Prove(boot)).then_some(()))
            .await;
    }

    /// Has the worker acknowledge the build that it was given.
    pub(crate) async fn acknowledge(&self) -> (BootNo, AttemptNo) {
        let (boot, attempt) = self
            .until(|asked| {
                if let Asked::Guest(boot, attempt) = asked {
                    Some((boot, attempt))
                } else {
                    None
                }
            })
            .await;
        self.report(Event::Acknowledged { attempt, boot });
        (boot, attempt)
    }

    /// Ends a build that was acknowledged.
    pub(crate) async fn finish(&self, (boot, attempt): (BootNo, AttemptNo), outcome: Outcome) {
        self.report(Event::Finished { attempt, boot });
        self.until(|asked| (asked == Asked::Collect(boot, attempt)).then_some(()))
            .await;
        self.report(Event::Collected {
            attempt,
            boot,
            outcome,
        });
    }
}

impl Activities for ScriptedActivities {
    fn start(&self, activity: Activity, events: Events) -> JoinHandle<()> {
        let asked = match activity {
            Activity::Cut { boot } => Asked::Cut(boot),
            Activity::Prepare { boot } => Asked::Prepare(boot),
            Activity::Boot { boot } => Asked::Boot(boot),
            Activity::Prove { boot } => Asked::Prove(boot),
            Activity::Guest { boot, attempt, .. } => Asked::Guest(boot, attempt),
            Activity::Collect { boot, attempt } => Asked::Collect(boot, attempt),
            Activity::Abort { boot, attempt } => Asked::Abort(boot, attempt),
            Activity::Trial { .. } | Activity::PowerOff => return tokio::spawn(async {}),
        };
        self.ask(asked, events)
    }

    fn drop_kept(&self, _: AttemptNo) {}

    fn release_inputs(&self) {}

    fn build_ended(&self, _: AttemptNo) {}

    fn alert(&self, _: &str) {}
}
