//! Today's manager with a builder that does everything right.

use super::super::JobEnd;
use super::super::pool::Cleanness;
use super::*;

#[test]
fn each_way_of_cleaning_leads_to_a_dispatch_and_back_to_dirty() {
    for mode in [Mode::Command, Mode::Trigger, Mode::Plain] {
        let mut bench = Bench::with_job(mode);
        assert_eq!(bench.scan(&[(Ask::Status, building(id()))]), []);
        let ended = [
            (Ask::Status, waiting(id(), BuildStatus::Ok)),
            (fetch(files()), DONE),
        ];
        assert_eq!(
            bench.scan(&ended),
            [What::Collected(BuildStatus::Ok, files())]
        );
        assert_eq!(
            bench.manager.end(J),
            Some(JobEnd::Collected(BuildStatus::Ok))
        );
        assert_eq!(bench.manager.cleanness(B), Cleanness::Dirty);
        assert!(!bench.manager.reports().iter().any(|r| r.what.is_harm()));
    }
}

#[test]
fn a_builder_that_is_not_virtualised_is_cleaned_by_abort_and_clean_alone() {
    let mut bench = Bench::new(Mode::Plain);
    let stopping = [(Ask::Status, building(id())), (Ask::Abort, DONE)];
    assert_eq!(bench.scan(&stopping), []);
    assert_eq!(bench.scan(&[(Ask::Status, aborting(Some(id())))]), []);
    let freeing = [
        (Ask::Status, waiting(id(), BuildStatus::Aborted)),
        (Ask::Clean, DONE),
    ];
    assert_eq!(bench.scan(&freeing), [What::Cleaned]);
}

#[test]
fn a_reset_of_protocol_2_0_waits_until_the_web_service_says_clean() {
    let mut bench = Bench::new(Mode::Trigger);
    bench.manager.submit(id());
    // A word before CLEANING is overwritten by it.
    bench.manager.web_says_clean(B);
    bench.manager.builders[0].cleanness = Cleanness::Dirty;
    assert_eq!(bench.scan(&[(Ask::Reset, DONE)]), [What::Cleaning]);
    for _ in 0..3 {
        assert_eq!(bench.scan(&[]), []);
    }
    bench.manager.web_says_clean(B);
    bench.dispatch(J);
}

#[test]
fn a_clean_builder_without_jobs_is_only_looked_at() {
    let mut bench = Bench::new(Mode::Plain);
    bench.clean();
    for _ in 0..3 {
        assert_eq!(bench.scan(&[(Ask::Status, idle())]), []);
    }
}

#[test]
fn only_the_log_is_fetched_of_a_build_that_failed() {
    for end in [
        BuildStatus::PackageFail,
        BuildStatus::DepFail,
        BuildStatus::ChrootFail,
    ] {
        let mut bench = Bench::with_job(Mode::Command);
        let calls = [
            (Ask::Status, waiting(id(), end)),
            (fetch(FileMap::new()), DONE),
        ];
        assert_eq!(bench.scan(&calls), [What::Collected(end, FileMap::new())]);
    }
}

#[test]
fn a_cancelled_job_is_aborted_and_ends_as_aborted_with_its_log() {
    let mut bench = Bench::with_job(Mode::Command);
    bench.manager.cancel(J);
    let abort = [(Ask::Status, building(id())), (Ask::Abort, DONE)];
    assert_eq!(bench.scan(&abort), []);
    // It is asked once; then the builder is waited for.
    assert_eq!(bench.scan(&[(Ask::Status, aborting(Some(id())))]), []);
    let end = [
        (Ask::Status, waiting(id(), BuildStatus::Aborted)),
        (fetch(FileMap::new()), DONE),
    ];
    assert_eq!(bench.scan(&end), [What::Cancelled]);
    assert_eq!(bench.manager.end(J), Some(JobEnd::Cancelled));
}

#[test]
fn a_build_that_had_ended_when_it_was_cancelled_is_aborted_all_the_same() {
    let mut bench = Bench::with_job(Mode::Command);
    bench.manager.cancel(J);
    let abort = [
        (Ask::Status, waiting(id(), BuildStatus::Ok)),
        (Ask::Abort, DONE),
    ];
    assert_eq!(bench.scan(&abort), []);
    let end = [
        (Ask::Status, waiting(id(), BuildStatus::Aborted)),
        (fetch(FileMap::new()), DONE),
    ];
    assert_eq!(bench.scan(&end), [What::Cancelled]);
}

#[test]
fn a_job_that_still_waits_is_cancelled_without_any_call() {
    let mut bench = Bench::new(Mode::Plain);
    let job = bench.manager.submit(id());
    bench.manager.cancel(job);
    assert_eq!(bench.manager.end(job), Some(JobEnd::Cancelled));
    bench.clean();
    assert_eq!(bench.scan(&[(Ask::Status, idle())]), []);
}

#[test]
fn limits_are_the_managers_own() {
    let limit = |mode, ask: fn(JobNo) -> Ask| {
        let mut manager = Manager::new(mode, Times::of(mode), 1);
        let step = super::super::pool::Step::Resting;
        match manager.ask(B, step, ask(J)) {
            Next::Ask(request) => request.limit.as_secs(),
            Next::Rest(_) => 0,
        }
    };
    for (mode, call, ensure) in [
        (Mode::Command, 30, 600),
        (Mode::Trigger, 30, 600),
        (Mode::Plain, 40, 800),
        (Mode::Virtual2011, 40, 40),
        (Mode::Plain2011, 40, 40),
    ] {
        assert_eq!(limit(mode, |_| Ask::Reset), call);
        assert_eq!(limit(mode, |_| Ask::Status), call);
        assert_eq!(limit(mode, Ask::Files), ensure);
    }
}
