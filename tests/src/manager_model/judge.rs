//! Whom a counted failure is blamed on. Called by [`super::pool`] after it has counted.

use super::rules::{DISABLE_AT, Mode, REQUEUE_AT};

/// What becomes of the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuilderFate {
    /// Nothing.
    Kept,
    /// It is cleaned before anything else.
    Dirtied,
    /// It is out of service.
    Disabled,
}

/// What becomes of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobFate {
    /// Nothing.
    Kept,
    /// It goes back to the queue.
    Requeued,
    /// It has failed for good.
    Failed,
}

/// Judges by the two counts; no job counts as none. `retry`: whether the failure may pass by itself.
#[must_use]
pub fn judge(mode: Mode, builder: u32, job: u32, retry: bool) -> (BuilderFate, JobFate) {
    if builder == job {
        let patient = retry && !mode.is_2011() && builder < REQUEUE_AT;
        let job = if patient {
            JobFate::Kept
        } else {
            JobFate::Requeued
        };
        (BuilderFate::Kept, job)
    } else if job > builder {
        (BuilderFate::Kept, JobFate::Failed)
    } else if builder >= DISABLE_AT {
        (BuilderFate::Disabled, JobFate::Requeued)
    } else if mode.is_2011() {
        // That manager knows no dirty builders.
        (BuilderFate::Kept, JobFate::Requeued)
    } else {
        (BuilderFate::Dirtied, JobFate::Requeued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use BuilderFate::{Dirtied, Disabled, Kept};

    #[test]
    fn todays_judgement_is_by_comparison() {
        for (builder, job, retry, fate) in [
            (1, 1, true, (Kept, JobFate::Kept)),
            (2, 2, true, (Kept, JobFate::Kept)),
            (3, 3, true, (Kept, JobFate::Requeued)),
            (1, 1, false, (Kept, JobFate::Requeued)),
            (1, 2, true, (Kept, JobFate::Failed)),
            (1, 4, false, (Kept, JobFate::Failed)),
            (2, 1, true, (Dirtied, JobFate::Requeued)),
            (1, 0, false, (Dirtied, JobFate::Requeued)),
            (4, 0, true, (Dirtied, JobFate::Requeued)),
            (5, 0, true, (Disabled, JobFate::Requeued)),
            (5, 4, true, (Disabled, JobFate::Requeued)),
            (5, 5, true, (Kept, JobFate::Requeued)),
        ] {
            for mode in [Mode::Command, Mode::Trigger, Mode::Plain] {
                assert_eq!(
                    judge(mode, builder, job, retry),
                    fate,
                    "{builder} {job} {retry}"
                );
            }
        }
    }

    #[test]
    fn in_2011_equal_counts_requeue_at_once_and_nothing_is_dirtied() {
        for (builder, job, fate) in [
            (1, 1, (Kept, JobFate::Requeued)),
            (2, 1, (Kept, JobFate::Requeued)),
            (1, 2, (Kept, JobFate::Failed)),
            (4, 0, (Kept, JobFate::Requeued)),
            (5, 0, (Disabled, JobFate::Requeued)),
        ] {
            for mode in [Mode::Virtual2011, Mode::Plain2011] {
                assert_eq!(judge(mode, builder, job, true), fate, "{builder} {job}");
            }
        }
    }
}
