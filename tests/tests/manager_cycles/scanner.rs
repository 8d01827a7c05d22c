//! One builder's scans: asks the model what to do, does it at the rack, and tells the model what came of it. It is also
//! the people who cancel jobs, and have them built after all.

use std::sync::Arc;
use std::time::Duration;

use dxr::Value;
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{Call, FileMap, Status};
use panda_tests::manager_model::{Answer, Ask, BuilderNo, Failure, JobNo, Next, Request};
use tokio::time::sleep_until;

use crate::caller::{Caller, Failed};
use crate::history::Shared;
use crate::plan::{Kind, Planned, When};

/// One builder's scans.
pub(crate) struct Scanner {
    pub(crate) builder: BuilderNo,
    pub(crate) caller: Caller,
    pub(crate) shared: Arc<Shared>,
}

impl Scanner {
    /// Scans until the run is over for this builder.
    pub(crate) async fn run(self) {
        loop {
            let mut next = self
                .shared
                .lock()
                .manager
                .scan(self.builder, self.shared.now());
            let until = loop {
                let request = match next {
                    Next::Rest(until) => break until,
                    Next::Ask(request) => request,
                };
                let job = self.shared.lock().manager.job_of(self.builder);
                let answer = self.ask(&request).await;
                let now = self.shared.now();
                let answer = answer.unwrap_or_else(|(failure, seen)| {
                    let mut history = self.shared.lock();
                    history
                        .notes
                        .push(format!("{now:?} {:?} {seen}", self.builder));
                    Answer::Failed(failure)
                });
                self.cancel_before(job, &answer);
                next = self.shared.lock().manager.answer(self.builder, now, answer);
                self.act_after(job, &request);
            };
            if self.shared.lock().is_over(self.builder) {
                return;
            }
            sleep_until(self.shared.begun + until).await;
        }
    }

    /// Somebody cancels the job just before the manager learns this.
    fn cancel_before(&self, job: Option<JobNo>, answer: &Answer) {
        let (Some(job), Answer::Status(status)) = (job, answer) else {
            return;
        };
        let mut history = self.shared.lock();
        let now = match status {
            // Its own words are in the log: what has arrived must not be lost.
            Status::Building { logtail, .. }
                if logtail.windows(6).any(|part| part == b"cycle:") =>
            {
                Kind::Endless(When::Building)
            }
            Status::Waiting { .. } => Kind::TooLate,
            Status::Building { .. }
            | Status::Idle
            | Status::Aborting { .. }
            | Status::Aborted { .. } => return,
        };
        if history.planned[job.0].kind == now {
            history.manager.cancel(job);
        }
    }

    /// Somebody cancels a job that was just handed over, or has one that is cancelled built after all.
    fn act_after(&self, job: Option<JobNo>, request: &Request) {
        let mut history = self.shared.lock();
        if let Ask::Build(job) = request.ask
            && history.planned[job.0].kind == Kind::Endless(When::Dispatched)
        {
            history.manager.cancel(job);
        }
        let Some(job) = job.filter(|job| history.manager.end(*job).is_some()) else {
            return;
        };
        let id = history.planned[job.0].call.build_id.as_str().to_owned();
        if let Some(again) = history.retries.remove(&id) {
            history.submit(again);
        }
    }

    async fn ask(&self, Request { ask, limit }: &Request) -> Result<Answer, Failed> {
        let limit = *limit;
        let text = |text: &str| Value::String(text.to_owned());
        let planned = |job: &JobNo| self.shared.lock().planned[job.0].clone();
        match ask {
            Ask::Status => self.caller.status(limit).await,
            Ask::Echo => {
                let same = Value::Array(vec![text("ping")]);
                let echo = Call::Echo(vec![text("ping")]);
                self.caller.expect(echo, same, limit).await
            }
            Ask::Abort => {
                let wanted = text("BuilderStatus.ABORTING");
                self.caller.expect(Call::Abort, wanted, limit).await
            }
            Ask::Clean => {
                let wanted = text("BuilderStatus.IDLE");
                self.caller.expect(Call::Clean, wanted, limit).await
            }
            Ask::Reset => self.caller.reset(limit).await,
            Ask::Files(job) => self.caller.ensure(&planned(job).files, limit).await,
            Ask::Build(job) => {
                let call = planned(job).call;
                let id = text(call.build_id.as_str());
                let wanted = Value::Array(vec![text("BuilderStatus.BUILDING"), id]);
                let build = Call::Build(Box::new(call));
                self.caller.expect(build, wanted, limit).await
            }
            Ask::Fetch { job, files, tries } => {
                let mut fetched = self.fetch(&planned(job), files, limit).await;
                for _ in 1..*tries {
                    if fetched.is_err() {
                        fetched = self.fetch(&planned(job), files, limit).await;
                    }
                }
                fetched.map(|()| Answer::Done)
            }
        }
    }

    /// Fetches log and results, and looks whether they are this build's.
    async fn fetch(&self, job: &Planned, files: &FileMap, limit: Duration) -> Result<(), Failed> {
        let wrong = |what: String| {
            let what = format!("{}: {what}", job.call.build_id);
            self.shared.lock().wrong.push(what.clone());
            Err((Failure::Malformed, what))
        };
        let log = self.caller.file("buildlog", limit).await?;
        let log = String::from_utf8_lossy(&log).into_owned();
        // A build that is aborted before its board has it, or whose board is dead, has what had come until then.
        let begun = format!("cycle: build {}\n", job.call.build_id);
        let may_be_short = matches!(job.kind, Kind::Endless(_)) && !log.contains("cycle: build ");
        if !log.contains(&begun) && !may_be_short {
            return wrong(format!("another build's log, or none: {log:?}"));
        }
        if job.kind == Kind::Builds && files.len() != 2 {
            return wrong(format!("the results are {files:?}"));
        }
        for (name, sum) in files {
            let bytes = self.caller.file(&sum.to_string(), limit).await?;
            if Sha1::of(&bytes) != *sum {
                return wrong(format!("{name} is not of the sum {sum}"));
            }
            let line = format!("built {}\n", job.call.build_id);
            let source = job.call.filemap.keys().next().map(ToString::to_string);
            let number = source
                .as_deref()
                .and_then(|name| name.strip_prefix("panda-cycle_"));
            let number = number
                .and_then(|name| name.strip_suffix(".dsc"))
                .unwrap_or_default();
            let own = format!("Source: panda-cycle {number}\n");
            let text = String::from_utf8_lossy(&bytes);
            if name.as_str().ends_with(".txt") && !(text.ends_with(&line) && text.starts_with(&own))
            {
                return wrong(format!("{name} is another build's: {text:?}"));
            }
            self.shared.lock().fetched += 1;
        }
        Ok(())
    }
}
