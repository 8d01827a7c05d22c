//! June 2011's manager.

use super::super::JobEnd;
use super::super::report::Why;
use super::*;

const MODES: [Mode; 2] = [Mode::Virtual2011, Mode::Plain2011];

fn fetch_once(files: FileMap) -> Ask {
    Ask::Fetch {
        job: J,
        files,
        tries: 1,
    }
}

fn twice(answer: Answer) -> Vec<(Ask, Answer)> {
    vec![(Ask::Status, answer.clone()), (Ask::Status, answer)]
}

#[test]
fn a_build_is_collected_with_a_single_try_and_then_cleaned() {
    for mode in MODES {
        let mut bench = Bench::with_job(mode);
        assert_eq!(bench.scan(&twice(building(id()))), []);
        let mut calls = twice(waiting(id(), BuildStatus::Ok));
        calls.extend([(fetch_once(files()), DONE), (Ask::Clean, DONE)]);
        assert_eq!(
            bench.scan(&calls),
            [What::Collected(BuildStatus::Ok, files())]
        );
        assert_eq!(
            bench.manager.end(J),
            Some(JobEnd::Collected(BuildStatus::Ok))
        );
    }
}

#[test]
fn a_jobless_builder_that_says_aborting_is_skipped_for_ever() {
    for mode in MODES {
        let mut bench = Bench::new(mode);
        bench.manager.submit(id());
        for _ in 0..20 {
            assert_eq!(bench.scan(&[(Ask::Status, aborting(None))]), []);
        }
        bench.dispatch(J);
    }
}

#[test]
fn five_faults_in_a_row_disable_a_jobless_builder() {
    let why = Why::Call("status", Failure::Fault);
    for mode in MODES {
        let mut bench = Bench::new(mode);
        for count in 1..5 {
            let counted = What::Counted {
                builder: count,
                job: None,
                why,
            };
            assert_eq!(
                bench.scan(&[(Ask::Status, FAULT)]),
                [What::FailedScan(why), counted]
            );
        }
        let reports = bench.scan(&[(Ask::Status, FAULT)]);
        assert_eq!(reports.last(), Some(&What::Disabled(why)));
        assert_eq!(bench.now, Duration::from_secs(75));
    }
}

#[test]
fn a_fault_with_a_job_requeues_it_at_once() {
    let why = Why::Call("status", Failure::TimedOut);
    let mut bench = Bench::with_job(Mode::Plain2011);
    let reports = bench.scan(&[(Ask::Status, Answer::Failed(Failure::TimedOut))]);
    assert_eq!(reports.last(), Some(&What::Requeued(why)));
}

#[test]
fn builderfail_disables_at_once_and_given_back_requeues_cleanly() {
    for mode in MODES {
        let mut bench = Bench::with_job(mode);
        let why = Why::Unexpected(BuildStatus::BuilderFail);
        assert_eq!(
            bench.scan(&twice(waiting(id(), BuildStatus::BuilderFail))),
            [What::Disabled(why), What::Requeued(why)]
        );

        let mut bench = Bench::with_job(mode);
        let mut calls = twice(waiting(id(), BuildStatus::GivenBack));
        calls.push((Ask::Clean, DONE));
        assert_eq!(bench.scan(&calls), [What::Requeued(Why::GivenBack)]);
        assert_eq!(bench.manager.builder_failures(B), 0);
    }
}

#[test]
fn aborted_as_a_build_status_does_not_exist() {
    let mut bench = Bench::with_job(Mode::Virtual2011);
    let why = Why::Unexpected(BuildStatus::Aborted);
    let reports = bench.scan(&twice(waiting(id(), BuildStatus::Aborted)));
    assert_eq!(reports.first(), Some(&What::FailedScan(why)));
    assert_eq!(reports.last(), Some(&What::Requeued(why)));
}

#[test]
fn a_fault_from_clean_requeues_a_build_that_was_already_fetched() {
    let why = Why::Call("clean", Failure::Fault);
    let mut bench = Bench::with_job(Mode::Plain2011);
    let mut calls = twice(waiting(id(), BuildStatus::Ok));
    calls.extend([(fetch_once(files()), DONE), (Ask::Clean, FAULT)]);
    let reports = bench.scan(&calls);
    assert_eq!(reports.last(), Some(&What::Requeued(why)));
}

#[test]
fn the_reset_command_runs_with_a_job_taken_and_its_failure_counts_against_both() {
    let mut bench = Bench::new(Mode::Virtual2011);
    bench.manager.submit(id());
    let mut calls = twice(idle());
    calls.push((Ask::Reset, Answer::Failed(Failure::Command)));
    let why = Why::Call("reset command", Failure::Command);
    let counted = What::Counted {
        builder: 1,
        job: Some(1),
        why,
    };
    assert_eq!(
        bench.scan(&calls),
        [What::FailedScan(why), counted, What::Requeued(why)]
    );
}

#[test]
fn aborted_without_a_job_is_cleaned_if_virtualised_and_else_disables() {
    let mut bench = Bench::new(Mode::Virtual2011);
    let cleaned = [
        (Ask::Status, aborted(id())),
        (Ask::Clean, DONE),
        (Ask::Status, aborting(None)),
    ];
    assert_eq!(bench.scan(&cleaned), []);

    let mut bench = Bench::new(Mode::Plain2011);
    assert_eq!(
        bench.scan(&[(Ask::Status, aborted(id()))]),
        [What::Disabled(Why::Aborted)]
    );
}

#[test]
fn what_nobody_knows_is_cleaned_or_aborted() {
    let unknown = named("PACKAGEBUILD-9");
    for mode in MODES {
        let mut bench = Bench::new(mode);
        let cleaned = [
            (Ask::Status, waiting(unknown.clone(), BuildStatus::Ok)),
            (Ask::Clean, DONE),
            (Ask::Status, idle()),
        ];
        assert_eq!(bench.scan(&cleaned), []);
        let aborted = [
            (Ask::Status, building(unknown.clone())),
            (Ask::Abort, DONE),
            (Ask::Status, aborting(Some(unknown.clone()))),
        ];
        assert_eq!(bench.scan(&aborted), []);
    }
}

#[test]
fn a_builder_that_forgot_its_job_gives_it_back() {
    let mut bench = Bench::with_job(Mode::Virtual2011);
    assert_eq!(bench.scan(&twice(idle())), [What::Requeued(Why::Lost)]);
}

#[test]
fn there_is_no_cancelling() {
    let mut bench = Bench::with_job(Mode::Virtual2011);
    bench.manager.cancel(J);
    assert_eq!(bench.scan(&twice(building(id()))), []);
}
