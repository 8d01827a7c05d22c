//! Duties against a web service of our own, with slots of scripted activities.

mod service;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use panda_protocol::launchpad::{BuildCall, BuildId, BuildStatus, Outcome, Sum};
use panda_slot::{AttemptNo, Board, Event};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::service::{Fake, Trick};
use super::*;
use crate::ledger::Ledger;
use crate::slot::{self, SlotHandle};
use crate::testing::{Asked, ScriptedActivities};

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_secs(30);
const SECRET: &str = "hush-hush";

struct Bench {
    directory: tempfile::TempDir,
    ledger: Ledger,
    activities: Arc<ScriptedActivities>,
    slot: SlotHandle,
    fake: Fake,
    inputs: Arc<Cache>,
}

/// A file cache that is well, or not.
#[derive(Default)]
struct Cache(std::sync::Mutex<Option<String>>);

#[async_trait::async_trait]
impl Inputs for Cache {
    async fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap().clone()
    }
}

/// A daemon's part in it.
struct Daemon {
    duty: Duty,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Bench {
    async fn new(clean_status: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&directory.path().join("ledger.sqlite")).unwrap();
        let activities = Arc::new(ScriptedActivities::default());
        let settings = slot::Settings::default();
        let slot = slot::spawn(
            "panda01",
            None,
            ledger.clone(),
            activities.clone(),
            settings,
        );
        let fake = Fake::start(slot.clone(), clean_status).await;
        let path = directory.path().join("credentials");
        let text = format!(
            "[1]\nconsumer_key = rack\nconsumer_secret =\naccess_token = token\naccess_secret = {SECRET}\n"
        );
        std::fs::write(&path, text).unwrap();
        private(&path);
        Self {
            directory,
            ledger,
            activities,
            slot,
            fake,
            inputs: Arc::default(),
        }
    }

    fn settings(&self) -> WebServiceSettings {
        let text = format!(
            "url = \"http://{}/devel\"\ncredentials = \"{}\"\nbuilders = {{ panda01 = \"rack1-panda01\" }}\n\
             report_failures = true\nfirst_pause_ms = 1\nmost_pause_ms = 20\ncall_ms = 1000",
            self.fake.address,
            self.directory.path().join("credentials").display()
        );
        let settings: WebServiceSettings = toml::from_str(&text).unwrap();
        settings.check().unwrap();
        settings
    }

    async fn daemon(&self) -> Daemon {
        let service = Arc::new(WebService::new(self.settings()).unwrap());
        let left = self.ledger.duty("panda01").await.unwrap();
        let (slot, inputs) = (self.slot.clone(), self.inputs.clone());
        let (keeper, duty) = Keeper::new(slot, inputs, service, self.ledger.clone(), left);
        let stop = CancellationToken::new();
        let task = tokio::spawn(keeper.run(stop.clone()));
        Daemon { duty, stop, task }
    }

    /// The manager's command, reset protocol 2.0.
    async fn trigger(&self, daemon: &Daemon) {
        let attempt = self.slot.view().slot.attempt;
        daemon.duty.begin(attempt).await.unwrap();
        self.slot.reset().await.unwrap();
    }

    /// Waits until nothing is owed any more.
    async fn settled(&self, daemon: &Daemon) {
        let mut note = daemon.duty.note.clone();
        let settled = note.wait_for(Option::is_none);
        timeout(LIMIT, settled)
            .await
            .expect("the duty never ends")
            .unwrap();
        assert_eq!(self.ledger.duty("panda01").await.unwrap(), None);
    }

    async fn fresh(&self) {
        self.activities.reset_well().await;
        self.slot
            .watch()
            .wait_for(slot::View::is_idle)
            .await
            .unwrap();
    }
}

impl Daemon {
    async fn noted(&self, what: &str) -> String {
        let mut note = self.duty.note.clone();
        let noted = note.wait_for(|note| note.as_ref().is_some_and(|note| note.contains(what)));
        let noted = timeout(LIMIT, noted).await;
        noted
            .unwrap_or_else(|_| panic!("never noted: {what}"))
            .unwrap()
            .clone()
            .unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn private(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn build() -> BuildCall {
    BuildCall {
        build_id: BuildId::try_from("PACKAGEBUILD-1".to_owned()).unwrap(),
        build_type: "binarypackage".into(),
        chroot: Sum("aa".into()),
        filemap: Default::default(),
        args: Default::default(),
    }
}

async fn more(fake: &Fake, count: usize) {
    timeout(LIMIT, fake.more(count))
        .await
        .expect("no more requests come");
}

#[tokio::test]
async fn clean_is_written_when_the_slot_is_fresh_and_the_entry_says_cleaning_and_over_that_entry() {
    let bench = Bench::new("Dirty").await;
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    assert!(daemon.duty.note().unwrap().contains("to be told"));
    bench.fresh().await;
    // The manager has not come to write CLEANING yet: what is written now would be lost.
    more(&bench.fake, 4).await;
    let note = daemon.noted("not yet Cleaning").await;
    assert!(note.contains("Dirty"), "{note}");
    assert_eq!(bench.fake.patches().len(), 0);
    bench.fake.set("Cleaning");
    bench.settled(&daemon).await;

    assert_eq!(bench.fake.clean_status(), "Clean");
    let patches = bench.fake.patches();
    assert_eq!(patches.len(), 1);
    let patch = &patches[0];
    assert_eq!(patch.clean_status, "Cleaning");
    assert_eq!(patch.if_match.as_deref(), Some("\"read-2\""));
    assert_eq!(
        patch.body,
        Some(serde_json::json!({"clean_status": "Clean"}))
    );
    for seen in bench.fake.seen() {
        assert!(
            seen.slot_idle,
            "asked of a slot that was not ready: {seen:?}"
        );
        assert_eq!(seen.path, "/devel/builders/rack1-panda01");
        assert!(seen.authorization.starts_with("OAuth realm="), "{seen:?}");
        assert!(
            seen.authorization
                .contains("oauth_consumer_key=\"rack\", oauth_token=\"token\"")
        );
        assert!(
            seen.authorization
                .contains("oauth_signature=\"%26hush-hush\""),
            "{seen:?}"
        );
    }
    daemon.end().await;
}

#[tokio::test]
async fn clean_is_not_written_while_a_build_would_not_have_its_inputs() {
    let bench = Bench::new("Cleaning").await;
    *bench.inputs.0.lock().unwrap() = Some("the disk is full".to_owned());
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    bench.fresh().await;
    let note = daemon.noted("a build would fail here").await;
    assert!(note.contains("the disk is full"), "{note}");
    more(&bench.fake, 4).await;
    assert_eq!(bench.fake.patches().len(), 0);
    assert_eq!(bench.fake.clean_status(), "Cleaning");
    *bench.inputs.0.lock().unwrap() = None;
    bench.settled(&daemon).await;
    assert_eq!(bench.fake.clean_status(), "Clean");
    daemon.end().await;
}

#[tokio::test]
async fn a_dispatch_voids_the_duty_for_ever() {
    let bench = Bench::new("Dirty").await;
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    bench.fresh().await;
    more(&bench.fake, 1).await;
    bench.slot.build(build()).await.unwrap();
    bench.settled(&daemon).await;
    bench.fake.set("Cleaning");
    // Fresh again, and Launchpad waits: but nobody triggered anything since the dispatch.
    bench.slot.reset().await.unwrap();
    bench.fresh().await;
    let before = bench.fake.seen().len();
    // Only the next command has it written.
    bench.trigger(&daemon).await;
    bench.settled(&daemon).await;
    assert_eq!(bench.fake.patches().len(), 1);
    assert_eq!(
        bench.fake.seen().len(),
        before + 2,
        "one look and one change after the second command"
    );
    daemon.end().await;
}

#[tokio::test]
async fn a_dispatch_between_look_and_change_stops_the_change() {
    let bench = Bench::new("Cleaning").await;
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    bench.fake.trick(
        Method::GET,
        Trick::DispatchFirst(bench.slot.clone(), Box::new(build())),
    );
    bench.fresh().await;
    bench.settled(&daemon).await;
    assert_eq!(bench.fake.patches().len(), 0);
    assert_eq!(bench.fake.clean_status(), "Cleaning");
    daemon.end().await;
}

#[tokio::test]
async fn an_entry_that_changes_meanwhile_is_not_overwritten_but_looked_at_again() {
    let bench = Bench::new("Cleaning").await;
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    bench.fake.trick(Method::PATCH, Trick::ChangeFirst("Dirty"));
    bench.fresh().await;
    daemon.noted("Dirty").await;
    assert_eq!(
        bench.fake.clean_status(),
        "Dirty",
        "the first change was refused with 412"
    );
    bench.fake.set("Cleaning");
    bench.settled(&daemon).await;
    assert_eq!(bench.fake.clean_status(), "Clean");
    daemon.end().await;
}

#[tokio::test]
async fn every_trouble_is_told_without_secrets_and_lived_through() {
    for method in [Method::GET, Method::PATCH] {
        for (trick, told) in [
            (Trick::Status(401), "(401)"),
            (
                Trick::Status(403),
                "rack1-panda01 (403): their account must be one of Launchpad's buildd admins",
            ),
            (Trick::Status(404), "[webservice.builders]"),
            (Trick::Status(412), "(412)"),
            (Trick::Status(500), "HTTP status 500"),
            (Trick::Redirect, "redirects (302)"),
            (Trick::Endless, "262144 bytes"),
        ] {
            let bench = Bench::new("Cleaning").await;
            let daemon = bench.daemon().await;
            bench.trigger(&daemon).await;
            for _ in 0..20 {
                bench.fake.trick(method.clone(), trick.clone());
            }
            bench.fresh().await;
            let note = daemon.noted(told).await;
            assert!(!note.contains("hush"), "{note}");
            assert!(!note.contains('\n'), "{note}");
            bench.settled(&daemon).await;
            assert_eq!(bench.fake.clean_status(), "Clean", "{told}");
            assert!(
                bench
                    .fake
                    .seen()
                    .iter()
                    .all(|seen| seen.path != "/elsewhere")
            );
            daemon.end().await;
        }
    }
}

#[tokio::test]
async fn an_answer_in_html_is_no_entry_and_no_success() {
    let bench = Bench::new("Cleaning").await;
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    bench.fake.trick(Method::GET, Trick::Html);
    bench.fake.trick(Method::PATCH, Trick::Html);
    bench.fresh().await;
    bench.settled(&daemon).await;
    assert_eq!(bench.fake.clean_status(), "Clean");
    assert_eq!(
        bench.fake.patches().len(),
        2,
        "the page was not taken for a success"
    );
    daemon.end().await;
}

#[tokio::test]
async fn a_service_that_hangs_is_given_up_and_asked_again() {
    let bench = Bench::new("Cleaning").await;
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    bench.fake.trick(Method::GET, Trick::Hang);
    bench.fresh().await;
    daemon.noted("no answer").await;
    bench.settled(&daemon).await;
    assert_eq!(bench.fake.clean_status(), "Clean");
    daemon.end().await;
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_looked_at_and_not_made_twice() {
    let bench = Bench::new("Cleaning").await;
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    bench.fake.trick(Method::PATCH, Trick::TakeAndHang);
    bench.fresh().await;
    bench.settled(&daemon).await;
    let methods: Vec<_> = bench
        .fake
        .seen()
        .into_iter()
        .map(|seen| seen.method)
        .collect();
    assert_eq!(methods, [Method::GET, Method::PATCH, Method::GET]);
    daemon.end().await;
}

#[tokio::test]
async fn clean_already_is_believed_the_second_time_and_nothing_is_written() {
    let bench = Bench::new("Clean").await;
    let daemon = bench.daemon().await;
    bench.trigger(&daemon).await;
    bench.fresh().await;
    bench.settled(&daemon).await;
    let methods: Vec<_> = bench
        .fake
        .seen()
        .into_iter()
        .map(|seen| seen.method)
        .collect();
    assert_eq!(methods, [Method::GET, Method::GET]);
    // What was read first may have been old.
    bench.fake.trick(Method::GET, Trick::Status(500));
    bench.fake.trick(Method::GET, Trick::ChangeFirst("Clean"));
    bench.fake.trick(Method::GET, Trick::ChangeFirst("Dirty"));
    bench.trigger(&daemon).await;
    daemon.noted("not yet Cleaning").await;
    bench.fake.set("Cleaning");
    bench.settled(&daemon).await;
    assert_eq!(bench.fake.patches().len(), 1);
    daemon.end().await;
}

#[tokio::test]
async fn a_duty_outlives_the_daemon_even_between_a_change_and_its_answer() {
    let bench = Bench::new("Dirty").await;
    let first = bench.daemon().await;
    bench.trigger(&first).await;
    first.end().await;
    bench.fresh().await;
    assert_eq!(bench.fake.seen().len(), 0);

    // The second daemon dies with its change under way.
    bench.fake.set("Cleaning");
    bench.fake.trick(Method::PATCH, Trick::TakeAndHang);
    let second = bench.daemon().await;
    more(&bench.fake, 2).await;
    while bench.fake.clean_status() != "Clean" {
        tokio::task::yield_now().await;
    }
    second.end().await;
    assert_eq!(
        bench.ledger.duty("panda01").await.unwrap(),
        Some(AttemptNo::NONE)
    );

    let third = bench.daemon().await;
    bench.fake.more(2).await;
    while bench.ledger.duty("panda01").await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.fake.patches().len(), 1, "it looked first");
    third.end().await;
}

#[tokio::test]
async fn a_build_that_came_before_the_restart_has_voided_the_duty() {
    let bench = Bench::new("Cleaning").await;
    bench.fresh().await;
    bench.slot.build(build()).await.unwrap();
    // The first daemon died after the build was accepted, before it forgot the duty.
    bench
        .ledger
        .begin_duty("panda01", AttemptNo::new(0))
        .await
        .unwrap();
    bench.slot.reset().await.unwrap();
    bench.fresh().await;
    let daemon = bench.daemon().await;
    let gone = async {
        while bench.ledger.duty("panda01").await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, gone).await.unwrap();
    assert_eq!(bench.fake.seen().len(), 0);
    daemon.end().await;
}

#[tokio::test]
async fn a_duty_that_cannot_be_recorded_is_refused() {
    let bench = Bench::new("Cleaning").await;
    let daemon = bench.daemon().await;
    bench.ledger.refuse_writes(true);
    let error = daemon.duty.begin(AttemptNo::new(0)).await.unwrap_err();
    assert!(matches!(error, DutyError::Ledger(_)), "{error}");
    daemon.end().await;
}

#[tokio::test]
async fn a_failed_slot_is_disabled_with_its_reason_and_others_words_stay() {
    for disabled_before in [false, true] {
        let bench = Bench::new("Cleaning").await;
        if disabled_before {
            bench.fake.disable("taken out for repair");
        }
        let daemon = bench.daemon().await;
        bench.trigger(&daemon).await;
        let boot = bench
            .activities
            .until(|asked| {
                if let Asked::Cut(boot) = asked {
                    Some(boot)
                } else {
                    None
                }
            })
            .await;
        bench.activities.report(Event::CutSeen { boot });
        bench
            .activities
            .until(|asked| (asked == Asked::Boot(boot)).then_some(()))
            .await;
        let reason = "another chip is on the port".to_owned();
        bench.activities.report(Event::WrongChip { boot, reason });
        let mut note = daemon.duty.note.clone();
        timeout(LIMIT, note.wait_for(Option::is_none))
            .await
            .unwrap()
            .unwrap();
        let (enabled, notes) = bench.fake.failure();
        assert!(!enabled);
        let notes = notes.unwrap();
        if disabled_before {
            assert_eq!(notes, "taken out for repair");
            assert_eq!(bench.fake.patches().len(), 0);
        } else {
            assert!(notes.contains("another chip is on the port"), "{notes}");
            let patches = bench.fake.patches();
            assert_eq!(patches.len(), 1);
            assert!(patches[0].if_match.is_some());
        }
        // It is not clean, and the duty stays.
        assert_eq!(bench.fake.clean_status(), "Cleaning");
        assert_eq!(
            bench.ledger.duty("panda01").await.unwrap(),
            Some(AttemptNo::NONE)
        );
        daemon.end().await;
    }
}

#[tokio::test]
async fn a_failed_slot_that_keeps_results_is_disabled_only_once_they_are_gone() {
    let bench = Bench::new("Clean").await;
    bench.fresh().await;
    let daemon = bench.daemon().await;
    bench.slot.build(build()).await.unwrap();
    let running = bench.activities.acknowledge().await;
    let outcome = Outcome::bare(BuildStatus::PackageFail);
    bench.activities.finish(running, outcome).await;
    // The eager reset behind it finds another board.
    let cut = |asked| match asked {
        Asked::Cut(boot) => Some(boot),
        _ => None,
    };
    let boot = bench.activities.until(cut).await;
    bench.activities.report(Event::CutSeen { boot });
    let booting = |asked| (asked == Asked::Boot(boot)).then_some(());
    bench.activities.until(booting).await;
    let reason = "another chip is on the port".to_owned();
    bench.activities.report(Event::WrongChip { boot, reason });
    let failed = |view: &slot::View| matches!(view.slot.board, Board::Failed { .. });
    let mut views = bench.slot.watch();
    views.wait_for(failed).await.unwrap();
    // Launchpad may be fetching them: nothing is asked, however long that takes.
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
    assert!(bench.slot.view().slot.kept.is_some());
    assert_eq!(bench.fake.seen().len(), 0);
    assert!(bench.fake.failure().0, "it is still enabled");
    // It has them, and resets.
    bench.slot.reset().await.unwrap();
    let disabled = async {
        while bench.fake.failure().0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, disabled).await.unwrap();
    assert_eq!(bench.fake.patches().len(), 1);
    daemon.end().await;
}

#[tokio::test]
async fn credentials_are_checked_at_the_start_and_new_ones_need_no_restart() {
    let bench = Bench::new("Cleaning").await;
    let path = bench.directory.path().join("credentials");
    let daemon = bench.daemon().await;
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = WebService::new(bench.settings()).unwrap_err();
    assert!(matches!(error, WebServiceError::Credentials(_)), "{error}");
    bench.trigger(&daemon).await;
    bench.fresh().await;
    daemon.noted("save_to_path").await;
    std::fs::write(&path, good.replace("token = token", "token = newer")).unwrap();
    daemon.noted("chmod 600").await;
    private(&path);
    bench.settled(&daemon).await;
    let patch = bench.fake.patches().remove(0);
    assert!(
        patch.authorization.contains("oauth_token=\"newer\""),
        "{patch:?}"
    );
    daemon.end().await;
}
