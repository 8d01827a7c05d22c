//! A slot's task with activities that do nothing by themselves: a test sees each thing that they are told to
//! do, with what the ledger held at that moment, and reports in their stead. The clock is paused.

mod cycle;
mod faults;
mod restart;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildCall, BuildId, BuildStatus, Outcome};
use panda_slot::{Answer, AttemptNo, Board, BootNo, Event, Phase, Slot};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::task::start;
use super::{Settings, SlotHandle, View};
use crate::activity::{Activities, Activity, Events};
use crate::ledger::Ledger;

const NAME: &str = "panda01";

/// What the activities were told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Cut(BootNo),
    Prepare(BootNo),
    Boot(BootNo),
    Prove(BootNo),
    Guest {
        boot: BootNo,
        attempt: AttemptNo,
        acknowledged: bool,
    },
    Collect(BootNo, AttemptNo),
    Abort(BootNo, AttemptNo),
    PowerOff,
    DropKept(AttemptNo),
    BuildEnded(AttemptNo),
    ReleaseInputs,
    Alert,
    /// An activity was let go before its end.
    LetGo(&'static str),
}

/// One thing that the activities were told, and where to report.
struct Told {
    what: What,
    /// What the ledger held when they were told.
    stored: Option<Slot>,
    reports: Option<Events>,
    /// Ends the activity without a report.
    end: Option<tokio::sync::oneshot::Sender<End>>,
}

enum End {
    Quietly,
    InAPanic,
}

impl Told {
    fn report(&self, event: Event) {
        self.reports.as_ref().unwrap().send(event).unwrap();
    }
}

/// Activities that tell the test what they are told.
struct TellingActivities {
    ledger: Ledger,
    tell: mpsc::UnboundedSender<Told>,
}

impl TellingActivities {
    fn told(&self, what: What) {
        let stored = self.ledger.load_slot_now(NAME);
        let told = Told {
            what,
            stored,
            reports: None,
            end: None,
        };
        // A test that has seen enough does not listen any more.
        drop(self.tell.send(told));
    }

    /// An activity that waits to be ended, and says when it is let go.
    fn activity(&self, name: &'static str, what: What, reports: Option<Events>) -> JoinHandle<()> {
        let (end, ended) = tokio::sync::oneshot::channel();
        let stored = self.ledger.load_slot_now(NAME);
        let guard = Guard {
            name,
            tell: Some(self.tell.clone()),
        };
        let task = tokio::spawn(async move {
            let mut guard = guard;
            match ended.await {
                Ok(End::Quietly) => guard.tell = None,
                Ok(End::InAPanic) => {
                    guard.tell = None;
                    panic!("an activity broke, as the test wants it to");
                }
                Err(_) => std::future::pending().await,
            }
        });
        drop(self.tell.send(Told {
            what,
            stored,
            reports,
            end: Some(end),
        }));
        task
    }
}

struct Guard {
    name: &'static str,
    tell: Option<mpsc::UnboundedSender<Told>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(tell) = &self.tell {
            let what = What::LetGo(self.name);
            drop(tell.send(Told {
                what,
                stored: None,
                reports: None,
                end: None,
            }));
        }
    }
}

impl Activities for TellingActivities {
    fn start(&self, activity: Activity, events: Events) -> JoinHandle<()> {
        let (name, what) = match activity {
            Activity::Cut { boot } => ("cut", What::Cut(boot)),
            Activity::Prepare { boot } => ("prepare", What::Prepare(boot)),
            Activity::Boot { boot } => ("boot", What::Boot(boot)),
            Activity::Prove { boot } => ("prove", What::Prove(boot)),
            Activity::Guest {
                boot,
                attempt,
                acknowledged,
            } => {
                let what = What::Guest {
                    boot,
                    attempt,
                    acknowledged,
                };
                ("guest", what)
            }
            Activity::Collect { boot, attempt } => ("collect", What::Collect(boot, attempt)),
            Activity::Abort { boot, attempt } => ("abort", What::Abort(boot, attempt)),
            Activity::Trial { boot } => panic!("nothing begins a trial of boot {boot}"),
            Activity::PowerOff => ("power off", What::PowerOff),
        };
        self.activity(name, what, Some(events))
    }

    fn drop_kept(&self, attempt: AttemptNo) {
        self.told(What::DropKept(attempt));
    }

    fn release_inputs(&self) {
        self.told(What::ReleaseInputs);
    }

    fn build_ended(&self, attempt: AttemptNo) {
        self.told(What::BuildEnded(attempt));
    }

    fn alert(&self, _reason: &str) {
        self.told(What::Alert);
    }
}

/// A slot under test.
struct Bench {
    dir: Arc<tempfile::TempDir>,
    ledger: Ledger,
    slot: SlotHandle,
    task: JoinHandle<()>,
    tells: mpsc::UnboundedReceiver<Told>,
}

impl Bench {
    async fn new() -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), settings).await
    }

    /// A daemon's start on the ledger in `dir`.
    async fn on(dir: Arc<tempfile::TempDir>, settings: Settings) -> Self {
        let ledger = Ledger::open(&dir.path().join("ledger.sqlite")).unwrap();
        let (tell, tells) = mpsc::unbounded_channel();
        let activities = Arc::new(TellingActivities {
            ledger: ledger.clone(),
            tell,
        });
        let initial = ledger.load_slot(NAME).await.unwrap();
        let (slot, task) = start(NAME, initial, ledger.clone(), activities, settings);
        Self {
            dir,
            ledger,
            slot,
            task,
            tells,
        }
    }

    /// `kill -9`, and the next daemon on the same ledger.
    async fn killed(self) -> Self {
        self.task.abort();
        drop(self.task.await);
        drop((self.slot, self.tells));
        // A statement that had begun is over with the process; here it has to be waited for.
        while !self.ledger.is_last() {
            tokio::task::yield_now().await;
        }
        drop(self.ledger);
        Self::on(self.dir, Settings::default()).await
    }

    /// The next thing that the activities are told. The clock goes on by itself while everyone waits, so that a
    /// test in which nothing more happens fails at once.
    async fn told(&mut self) -> Told {
        let told = tokio::time::timeout(Duration::from_secs(1_000_000), self.tells.recv()).await;
        let told = told.expect("the activities are told something").unwrap();
        assert_committed_before(&told);
        told
    }

    /// The next thing that the activities are told is `what`; activities that were let go are passed over.
    async fn expect(&mut self, what: What) -> Told {
        loop {
            let told = self.told().await;
            match told.what {
                What::LetGo(_) | What::ReleaseInputs if told.what != what => {}
                _ => {
                    assert_eq!(told.what, what);
                    return told;
                }
            }
        }
    }

    /// Nothing is told but that activities were let go.
    async fn expect_nothing_for(&mut self, time: Duration) {
        loop {
            match tokio::time::timeout(time, self.tells.recv()).await {
                Ok(Some(Told {
                    what: What::LetGo(_) | What::ReleaseInputs,
                    ..
                })) => {}
                Ok(told) => panic!("the activities were told {:?}", told.map(|told| told.what)),
                Err(_) => return,
            }
        }
    }

    async fn view(&self, wanted: impl FnMut(&View) -> bool) -> View {
        let mut watch = self.slot.watch();
        tokio::time::timeout(Duration::from_secs(1_000_000), watch.wait_for(wanted))
            .await
            .expect("the slot becomes what is waited for")
            .unwrap()
            .clone()
    }

    /// From the next cut to Fresh.
    async fn boots(&mut self, boot: BootNo) -> Told {
        self.expect(What::Cut(boot))
            .await
            .report(Event::CutSeen { boot });
        self.expect(What::Boot(boot))
            .await
            .report(Event::Proved { boot });
        self.expect(What::Prove(boot)).await
    }

    async fn builds(&mut self) -> Answer {
        self.slot.build(build_call()).await.unwrap()
    }
}

/// The state that leads to what the activities are told is in the ledger when they are told.
fn assert_committed_before(told: &Told) {
    let Some(slot) = &told.stored else {
        let early = !matches!(told.what, What::LetGo(_) | What::Alert);
        assert!(!early, "{:?} before the first commit", told.what);
        return;
    };
    let live = slot.live().map(|build| build.attempt);
    let kept = slot.kept.as_ref().map(|kept| kept.attempt);
    let phase = |wanted| matches!(&slot.board, Board::Used { phase, .. } if *phase == wanted);
    let holds = match &told.what {
        What::Cut(boot) => matches!(slot.board, Board::Cutting { .. }) && slot.boot == *boot,
        What::Prepare(boot) => matches!(slot.board, Board::Preparing { .. }) && slot.boot == *boot,
        What::Boot(boot) => matches!(slot.board, Board::Booting { .. }) && slot.boot == *boot,
        What::Prove(boot) => {
            matches!(slot.board, Board::Fresh { .. } | Board::Rejoining(_)) && slot.boot == *boot
        }
        What::Guest { boot, attempt, .. } => {
            phase(Phase::Running) && slot.boot == *boot && live == Some(*attempt)
        }
        What::Collect(boot, attempt) => {
            phase(Phase::Collecting) && slot.boot == *boot && live == Some(*attempt)
        }
        What::Abort(boot, attempt) => {
            phase(Phase::Aborting) && slot.boot == *boot && live == Some(*attempt)
        }
        What::PowerOff => matches!(slot.board, Board::Failed { .. } | Board::Off),
        What::DropKept(attempt) => kept.is_none() && live.is_none() && slot.attempt == *attempt,
        What::BuildEnded(attempt) => live.is_none() && slot.attempt == *attempt,
        What::ReleaseInputs => live.is_none(),
        What::Alert | What::LetGo(_) => true,
    };
    assert!(holds, "{:?} was begun on {slot:?}", told.what);
}

fn build_call() -> BuildCall {
    BuildCall {
        build_id: build_id(),
        build_type: "binarypackage".to_owned(),
        chroot: Sha1::of(b"chroot").into(),
        filemap: BTreeMap::new(),
        args: BTreeMap::new(),
    }
}

fn build_id() -> BuildId {
    BuildId::try_from("PACKAGEBUILD-7".to_owned()).unwrap()
}

fn good() -> Outcome {
    Outcome::bare(BuildStatus::Ok)
}
