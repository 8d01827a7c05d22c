//! What a boot does, step by step: each is timed, said on the console and told to the master, good or bad.
//! Times are by the monotonic clock, because the wall clock is set in one of the steps.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use panda_protocol::link::{BootStep, MAX_DETAIL, MAX_REASON, MAX_STEP_MS, MAX_STEPS, line};

/// The name of the first step: from the kernel's start to this program's.
const KERNEL: &str = "kernel";

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step \"{step}\": {reason}")]
pub struct Failed {
    /// Its name.
    pub step: &'static str,
    /// Why, in one line without secrets.
    pub reason: String,
}

/// The steps so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps(Vec<BootStep>);

impl Steps {
    /// A machine's: its kernel has done its part.
    pub(crate) fn after_kernel() -> Self {
        let mut steps = Self::default();
        steps.push(KERNEL, since_kernel(), "");
        steps
    }

    /// Steps that were done before this program took over.
    pub(crate) fn resumed(done: Vec<BootStep>) -> Self {
        Self(done)
    }

    /// Those that are done.
    pub(crate) fn done(&self) -> &[BootStep] {
        &self.0
    }

    /// Does a step; `work` returns what comes of it and a few words on what it did.
    pub(crate) async fn run<T, E: Display>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(T, String), E>>,
    ) -> Result<T, Failed> {
        let started = Instant::now();
        match work.await {
            Ok((value, detail)) => {
                self.push(name, started.elapsed(), &detail);
                Ok(value)
            }
            Err(error) => {
                let reason = line(&error.to_string(), MAX_REASON);
                tracing::error!("boot: {name} FAILED: {reason}");
                Err(Failed { step: name, reason })
            }
        }
    }

    /// Adds a step that has been done.
    pub(crate) fn push(&mut self, name: &'static str, elapsed: Duration, detail: &str) {
        let elapsed_ms = u64::try_from(elapsed.as_millis())
            .unwrap_or(MAX_STEP_MS)
            .min(MAX_STEP_MS);
        let detail = line(detail, MAX_DETAIL);
        tracing::info!("boot: {name} {elapsed_ms} ms {detail}");
        if self.0.len() < MAX_STEPS {
            self.0.push(BootStep {
                name: name.to_owned(),
                elapsed_ms,
                detail,
            });
        }
    }
}

/// How long the kernel has been running.
pub(crate) fn since_kernel() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_kept_in_order_and_a_failure_names_its_step() {
        let mut steps = Steps::after_kernel();
        let value = steps
            .run("one", async { Ok::<_, &str>((7, "did\nit".to_owned())) })
            .await;
        assert_eq!(value, Ok(7));
        let failed = steps
            .run("two", async { Err::<((), String), _>("no\u{1b}disk") })
            .await;
        assert_eq!(
            failed.unwrap_err().to_string(),
            "step \"two\": no disk",
            "one line"
        );
        let names: Vec<_> = steps.done().iter().map(|step| &step.name[..]).collect();
        assert_eq!(names, ["kernel", "one"]);
        assert_eq!(steps.done()[1].detail, "did it");
    }

    #[test]
    fn no_more_steps_are_told_than_a_master_takes() {
        let mut steps = Steps::default();
        for _ in 0..100 {
            steps.push("again", Duration::from_secs(u64::MAX), "");
        }
        assert_eq!(steps.done().len(), MAX_STEPS);
        assert_eq!(steps.done()[0].elapsed_ms, MAX_STEP_MS);
    }
}
