//! A model of Launchpad's build manager: what it does with each answer of a builder, and whom it blames. Pure: it
//! asks for calls and is told answers, and time is passed in. Tests run it against a rack to learn what the real one
//! would have counted; the facts are those of the project's page on Launchpad's protocol, today's manager and June 2011's.
//!
//! ```text
//!            scan(builder, now)                       answer(builder, now, …)
//! Resting ─────────────────────▶ one step of a scan ─────────────────────▶ next step … ▶ Resting
//!    ▲                            asks for one call                                        │
//!    └──────────────────────── after `times.scan` ◀────────────────────────────────────────┘
//!
//! today                                            2011
//! job?   status ─ cookie ─ cancel? abort           status ─ unknown id? clean/abort
//!          └ WAITING: fetch ─ dirty                job?   status ─ WAITING: fetch ─ clean
//! dirty? command ─ echo │ command │ status ─       none?  status ─ IDLE: take a job
//!          abort/clean            └ CLEANING                └ [command ─ echo] ─ files ─ build
//! clean? status ─ IDLE: files ─ build
//!
//! a scan that fails: today, five in a row (or one at dispatch or reset) count once; 2011, each counts
//! counted: builder = job: the job is requeued │ job more: it fails │ builder more: dirtied, at five disabled
//! ```
//!
//! Where the page leaves something open, the reading that blames more is taken: a fifth failed scan starts the count of
//! scans anew; a scan that has sent an accepted `abort` is over; an end that the manager does not expect is a failed scan.
//!
//! # Layout
//! - [`rules`]: the eras, their ways of cleaning, their times and thresholds
//! - [`ask`]: the calls that are asked for, and their answers
//! - [`report`]: all that the manager decides
//! - [`pool`]: builders and jobs, and what both eras share; `today` and `y2011`: a scan's steps
//! - [`judge`]: whom a counted failure is blamed on

pub mod ask;
pub mod judge;
pub mod pool;
pub mod report;
pub mod rules;
mod today;
mod y2011;

#[cfg(test)]
mod tests;

pub use ask::{Answer, Ask, Failure, Request};
pub use pool::{BuilderNo, JobEnd, JobNo, Manager, Next};
pub use report::{Report, What};
pub use rules::{Mode, Times};
