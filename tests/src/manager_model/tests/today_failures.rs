//! Today's manager with builders that do wrong: what it counts, and against whom.

use super::super::JobEnd;
use super::super::pool::Cleanness;
use super::super::report::Why;
use super::*;

const STATUS_FAULT: Why = Why::Call("status", Failure::Fault);

/// Five scans that fail in the same way: four pass, the fifth counts.
#[track_caller]
fn five(bench: &mut Bench, calls: &[(Ask, Answer)], why: Why) -> Vec<What> {
    for _ in 0..4 {
        assert_eq!(bench.scan(calls), [What::FailedScan(why)]);
    }
    let mut fifth = bench.scan(calls);
    assert_eq!(fifth.remove(0), What::FailedScan(why));
    fifth
}

fn counted(builder: u32, job: Option<u32>, why: Why) -> What {
    What::Counted { builder, job, why }
}

#[test]
fn anything_but_idle_from_a_clean_builder_fails_builder_and_job_on_the_spot() {
    for answer in [
        building(id()),
        waiting(id(), BuildStatus::Ok),
        aborting(None),
    ] {
        let mut bench = Bench::new(Mode::Command);
        bench.manager.submit(id());
        bench.clean();
        assert_eq!(
            bench.scan(&[(Ask::Status, answer)]),
            [
                counted(1, None, Why::Isolation),
                What::Disabled(Why::Isolation)
            ]
        );
        // It is never asked for anything again.
        assert_eq!(bench.scan(&[]), []);
    }
}

#[test]
fn a_clean_that_is_written_after_the_dispatch_fails_builder_and_job_on_the_spot() {
    let mut bench = Bench::with_job(Mode::Trigger);
    bench.manager.web_says_clean(B);
    assert_eq!(
        bench.scan(&[]),
        [
            counted(1, Some(1), Why::Isolation),
            What::JobFailed(Why::Isolation),
            What::Disabled(Why::Isolation)
        ]
    );
    assert_eq!(bench.manager.end(J), Some(JobEnd::Failed));
}

#[test]
fn four_faulty_scans_of_a_clean_builder_are_forgiven_and_twenty_five_disable_it() {
    let mut bench = Bench::new(Mode::Plain);
    bench.clean();
    let fault = [(Ask::Status, FAULT)];
    for _ in 0..4 {
        assert_eq!(bench.scan(&fault), [What::FailedScan(STATUS_FAULT)]);
    }
    assert_eq!(bench.scan(&[(Ask::Status, idle())]), []);
    for count in 1..5 {
        assert_eq!(
            five(&mut bench, &fault, STATUS_FAULT),
            [
                counted(count, None, STATUS_FAULT),
                What::Dirtied(STATUS_FAULT)
            ]
        );
    }
    assert_eq!(
        five(&mut bench, &fault, STATUS_FAULT),
        [counted(5, None, STATUS_FAULT), What::Disabled(STATUS_FAULT)]
    );
}

#[test]
fn whatever_fails_after_idle_was_said_counts_at_once_against_both() {
    for (calls, name, failure) in [
        (
            vec![(Ask::Files(J), Answer::Failed(Failure::Absent))],
            "ensurepresent",
            Failure::Absent,
        ),
        (
            vec![(Ask::Files(J), Answer::Failed(Failure::TimedOut))],
            "ensurepresent",
            Failure::TimedOut,
        ),
        (
            vec![(Ask::Files(J), DONE), (Ask::Build(J), FAULT)],
            "build",
            Failure::Fault,
        ),
    ] {
        let mut bench = Bench::new(Mode::Command);
        bench.manager.submit(id());
        bench.clean();
        let mut scan = vec![(Ask::Status, idle())];
        scan.extend(calls);
        let why = Why::Call(name, failure);
        assert_eq!(
            bench.scan(&scan),
            [counted(1, Some(1), why), What::Requeued(why)]
        );
        // It was dirtied before anything was sent.
        assert_eq!(bench.manager.cleanness(B), Cleanness::Dirty);
        // The next dispatch that works clears the builder's count, not the job's.
        bench.clean();
        bench.dispatch(J);
        assert_eq!(bench.manager.builder_failures(B), 0);
        assert_eq!(bench.manager.job_failures(J), 1);
    }
}

#[test]
fn a_reset_command_that_fails_is_a_failure_of_the_builder_at_once_and_five_disable_it() {
    for failure in [Failure::Command, Failure::TimedOut] {
        let mut bench = Bench::new(Mode::Command);
        let why = Why::Call("reset command", failure);
        let failing = [(Ask::Reset, Answer::Failed(failure))];
        for count in 1..5 {
            assert_eq!(
                bench.scan(&failing),
                [counted(count, None, why), What::Dirtied(why)]
            );
        }
        assert_eq!(
            bench.scan(&failing),
            [counted(5, None, why), What::Disabled(why)]
        );
    }
}

#[test]
fn an_answer_to_build_that_starts_nothing_is_noticed_as_a_lost_build() {
    // UNKNOWNSUM is an answer, and the manager does not look at it.
    let mut bench = Bench::with_job(Mode::Plain);
    assert_eq!(
        bench.scan(&[(Ask::Status, idle())]),
        [What::Requeued(Why::Lost)]
    );
    assert_eq!(bench.manager.builder_failures(B), 0);
}

#[test]
fn another_builds_id_requeues_the_job_and_blames_nobody() {
    let mut bench = Bench::with_job(Mode::Command);
    assert_eq!(
        bench.scan(&[(Ask::Status, building(named("PACKAGEBUILD-2")))]),
        [What::Requeued(Why::Lost)]
    );
    bench.clean();
    bench.dispatch(J);
}

#[test]
fn unexpected_ends_requeue_after_some_minutes_and_fail_the_build_at_the_next_builder() {
    for end in [BuildStatus::GivenBack, BuildStatus::BuilderFail] {
        let mut bench = Bench::with_job(Mode::Command);
        let why = Why::Unexpected(end);
        let calls = [(Ask::Status, waiting(id(), end))];
        let begun = bench.now;
        assert_eq!(five(&mut bench, &calls, why), [counted(1, Some(1), why)]);
        assert_eq!(five(&mut bench, &calls, why), [counted(2, Some(2), why)]);
        assert_eq!(
            five(&mut bench, &calls, why),
            [counted(3, Some(3), why), What::Requeued(why)]
        );
        assert_eq!(bench.now - begun, Duration::from_secs(225));
        assert_eq!(bench.manager.builder_failures(B), 3);
        bench.clean();
        bench.dispatch(J);
        assert_eq!(
            five(&mut bench, &calls, why),
            [counted(1, Some(4), why), What::JobFailed(why)]
        );
    }
}

#[test]
fn aborted_is_no_end_for_a_job_that_nobody_cancelled() {
    let mut bench = Bench::with_job(Mode::Plain);
    assert_eq!(
        bench.scan(&[(Ask::Status, waiting(id(), BuildStatus::Aborted))]),
        [What::FailedScan(Why::Unexpected(BuildStatus::Aborted))]
    );
}

#[test]
fn a_fault_from_abort_is_repeated_and_in_the_end_costs_the_builder_a_failure() {
    let mut bench = Bench::with_job(Mode::Command);
    bench.manager.cancel(J);
    let why = Why::Call("abort", Failure::Fault);
    let calls = [(Ask::Status, building(id())), (Ask::Abort, FAULT)];
    assert_eq!(
        five(&mut bench, &calls, why),
        [counted(1, Some(1), why), What::Cancelled]
    );
    assert_eq!(bench.manager.builder_failures(B), 1);
}

#[test]
fn only_aborted_is_a_legal_end_of_a_cancelled_build() {
    for end in [
        BuildStatus::Ok,
        BuildStatus::PackageFail,
        BuildStatus::BuilderFail,
    ] {
        let mut bench = Bench::with_job(Mode::Command);
        bench.manager.cancel(J);
        bench.scan(&[(Ask::Status, building(id())), (Ask::Abort, DONE)]);
        assert_eq!(
            bench.scan(&[(Ask::Status, waiting(id(), end))]),
            [What::FailedScan(Why::NotAborted(end))]
        );
    }
}

#[test]
fn an_abort_has_three_minutes() {
    let mut bench = Bench::with_job(Mode::Command);
    bench.manager.cancel(J);
    bench.scan(&[(Ask::Status, building(id())), (Ask::Abort, DONE)]);
    let still = [(Ask::Status, aborting(Some(id())))];
    for _ in 1..180 / 15 {
        assert_eq!(bench.scan(&still), []);
    }
    assert_eq!(
        five(&mut bench, &still, Why::CancelTimeOut),
        [counted(1, Some(1), Why::CancelTimeOut), What::Cancelled]
    );
}

#[test]
fn results_that_cannot_be_fetched_are_tried_again_in_the_next_scan() {
    let mut bench = Bench::with_job(Mode::Command);
    let status = (Ask::Status, waiting(id(), BuildStatus::Ok));
    let why = Why::Call("filecache", Failure::Refused);
    assert_eq!(
        bench.scan(&[
            status.clone(),
            (fetch(files()), Answer::Failed(Failure::Refused))
        ]),
        [What::FailedScan(why)]
    );
    assert_eq!(
        bench.scan(&[status, (fetch(files()), DONE)]),
        [What::Collected(BuildStatus::Ok, files())]
    );
}

#[test]
fn a_status_that_cannot_be_read_such_as_a_name_that_leaves_its_directory_requeues_in_the_end() {
    let mut bench = Bench::with_job(Mode::Command);
    let why = Why::Call("status", Failure::Malformed);
    let calls = [(Ask::Status, Answer::Failed(Failure::Malformed))];
    assert_eq!(five(&mut bench, &calls, why), [counted(1, Some(1), why)]);
    assert_eq!(five(&mut bench, &calls, why), [counted(2, Some(2), why)]);
    assert_eq!(
        five(&mut bench, &calls, why),
        [counted(3, Some(3), why), What::Requeued(why)]
    );
}

#[test]
fn a_clean_that_faults_is_a_failed_scan_and_the_next_one_looks_anew() {
    let mut bench = Bench::new(Mode::Plain);
    let kept = (Ask::Status, waiting(id(), BuildStatus::Ok));
    let why = Why::Call("clean", Failure::Fault);
    assert_eq!(
        bench.scan(&[kept.clone(), (Ask::Clean, FAULT)]),
        [What::FailedScan(why)]
    );
    assert_eq!(bench.scan(&[kept, (Ask::Clean, DONE)]), [What::Cleaned]);
}
