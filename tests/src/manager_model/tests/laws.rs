//! Whatever builders answer: no job is lost or at two builders, and every count is one that was reported.

use proptest::prelude::*;

use super::super::JobEnd;
use super::*;

fn any_answer() -> impl Strategy<Value = Answer> {
    let cookies = || (1..4_u32).prop_map(|n| named(&format!("PACKAGEBUILD-{n}")));
    let ends = proptest::sample::select(BuildStatus::ALL.to_vec());
    let failures = proptest::sample::select(vec![
        Failure::Fault,
        Failure::Refused,
        Failure::TimedOut,
        Failure::Malformed,
        Failure::Absent,
        Failure::Command,
    ]);
    prop_oneof![
        6 => Just(DONE),
        3 => Just(idle()),
        2 => cookies().prop_map(building),
        1 => cookies().prop_map(|cookie| aborting(Some(cookie))),
        1 => Just(aborting(None)),
        1 => cookies().prop_map(aborted),
        4 => (cookies(), ends).prop_map(|(cookie, end)| waiting(cookie, end)),
        1 => failures.prop_map(Answer::Failed),
    ]
}

proptest! {
    #[test]
    fn no_job_is_lost_and_none_is_at_two_builders(
        mode in proptest::sample::select(Mode::ALL.to_vec()),
        moves in proptest::collection::vec((0..2_usize, any_answer(), 0..20_u8), 1..300),
    ) {
        let mut manager = Manager::new(mode, Times::of(mode), 2);
        for number in 1..4 {
            manager.submit(named(&format!("PACKAGEBUILD-{number}")));
        }
        let mut now = Duration::ZERO;
        let mut waits = [false; 2];
        for (builder, answer, extra) in moves {
            let number = BuilderNo(builder);
            let next = if waits[builder] {
                manager.answer(number, now, answer)
            } else {
                manager.scan(number, now)
            };
            waits[builder] = matches!(next, Next::Ask(_));
            now += Duration::from_secs(5);
            match extra {
                0 => manager.web_says_clean(number),
                1 => manager.cancel(JobNo(builder)),
                _ => {}
            }
            for job in 0..3 {
                let held = (0..2).filter(|b| manager.job_of(BuilderNo(*b)) == Some(JobNo(job)));
                let queued = manager.queue.iter().filter(|other| **other == JobNo(job));
                let over = usize::from(manager.end(JobNo(job)).is_some());
                prop_assert_eq!(held.count() + queued.count() + over, 1, "job {}", job);
            }
        }
        for job in 0..3 {
            let counted = manager.reports().iter().filter(|report| {
                report.job == Some(JobNo(job)) && matches!(report.what, What::Counted { .. })
            });
            prop_assert_eq!(counted.count(), manager.job_failures(JobNo(job)) as usize);
            if manager.end(JobNo(job)) == Some(JobEnd::Failed) {
                let harmed = manager.reports().iter().any(|report| {
                    report.job == Some(JobNo(job)) && matches!(report.what, What::JobFailed(_))
                });
                prop_assert!(harmed, "job {} failed without a report", job);
            }
        }
    }
}
