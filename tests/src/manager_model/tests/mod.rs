//! Literal traces: each rule of the protocol's page, and the recorded exchanges.

mod exchanges;
mod laws;
mod today;
mod today_failures;
mod y2011;

use std::time::Duration;

use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{BuildId, BuildStatus, FileMap, FileName, Outcome, Status};

use super::{Answer, Ask, BuilderNo, Failure, JobNo, Manager, Mode, Next, Request, Times, What};

const B: BuilderNo = BuilderNo(0);
const J: JobNo = JobNo(0);
const DONE: Answer = Answer::Done;
const FAULT: Answer = Answer::Failed(Failure::Fault);

/// A manager of one builder, and a clock that only moves between scans.
struct Bench {
    manager: Manager,
    now: Duration,
    seen: usize,
}

impl Bench {
    fn new(mode: Mode) -> Self {
        Self {
            manager: Manager::new(mode, Times::of(mode), 1),
            now: Duration::ZERO,
            seen: 0,
        }
    }

    /// One scan, whose calls must be exactly these; what was decided in it.
    #[track_caller]
    fn scan(&mut self, calls: &[(Ask, Answer)]) -> Vec<What> {
        let mut next = self.manager.scan(B, self.now);
        for (wanted, answer) in calls {
            match next {
                Next::Ask(Request { ask, .. }) => assert_eq!(ask, *wanted),
                Next::Rest(_) => panic!("the scan is over, before {wanted:?}"),
            }
            next = self.manager.answer(B, self.now, answer.clone());
        }
        assert_eq!(next, Next::Rest(self.now + Duration::from_secs(15)));
        self.now += Duration::from_secs(15);
        let new = self.manager.reports()[self.seen..].iter();
        let new = new.map(|report| report.what.clone()).collect();
        self.seen = self.manager.reports().len();
        new
    }

    /// A job with the id of [`id`], on a builder that has just been given it.
    #[track_caller]
    fn with_job(mode: Mode) -> Self {
        let mut bench = Self::new(mode);
        bench.manager.submit(id());
        bench.clean();
        bench.dispatch(J);
        bench
    }

    /// Today: from dirty to clean, in the mode's way.
    #[track_caller]
    fn clean(&mut self) {
        match self.manager.mode {
            Mode::Command => {
                let calls = [(Ask::Reset, DONE), (Ask::Echo, DONE)];
                assert_eq!(self.scan(&calls), [What::Cleaned]);
            }
            Mode::Trigger => {
                assert_eq!(self.scan(&[(Ask::Reset, DONE)]), [What::Cleaning]);
                self.manager.web_says_clean(B);
            }
            Mode::Plain => {
                assert_eq!(self.scan(&[(Ask::Status, idle())]), [What::Cleaned]);
            }
            Mode::Virtual2011 | Mode::Plain2011 => {}
        }
    }

    #[track_caller]
    fn dispatch(&mut self, job: JobNo) {
        let mut calls = vec![(Ask::Status, idle())];
        if self.manager.mode.is_2011() {
            calls.push((Ask::Status, idle()));
        }
        if self.manager.mode == Mode::Virtual2011 {
            calls.extend([(Ask::Reset, DONE), (Ask::Echo, DONE)]);
        }
        calls.extend([(Ask::Files(job), DONE), (Ask::Build(job), DONE)]);
        assert_eq!(self.scan(&calls), [What::Dispatched]);
    }
}

fn id() -> BuildId {
    named("PACKAGEBUILD-1")
}

fn named(text: &str) -> BuildId {
    BuildId::try_from(text.to_owned()).unwrap()
}

fn idle() -> Answer {
    Answer::Status(Status::Idle)
}

fn building(build_id: BuildId) -> Answer {
    Answer::Status(Status::Building {
        build_id,
        logtail: b"tail".to_vec(),
    })
}

fn aborting(build_id: Option<BuildId>) -> Answer {
    Answer::Status(Status::Aborting { build_id })
}

fn aborted(build_id: BuildId) -> Answer {
    Answer::Status(Status::Aborted { build_id })
}

fn waiting(build_id: BuildId, build_status: BuildStatus) -> Answer {
    let filemap = if build_status.has_results() {
        files()
    } else {
        FileMap::new()
    };
    Answer::Status(Status::Waiting {
        build_id,
        outcome: Outcome {
            build_status,
            filemap,
            dependencies: String::new(),
        },
    })
}

fn files() -> FileMap {
    let name = FileName::try_from("hello_1.0_armhf.deb".to_owned()).unwrap();
    [(name, Sha1::of(b"deb"))].into()
}

/// A fetch of the log and of these files, as today's manager asks for it.
fn fetch(files: FileMap) -> Ask {
    Ask::Fetch {
        job: J,
        files,
        tries: 3,
    }
}
