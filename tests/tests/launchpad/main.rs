//! What Launchpad sees of a rack when things go wrong, and when the worker on the boards is not ours: whole racks of
//! virtual Pandas, driven by our own client over HTTP.
//!
//! # Layout
//! - `racks`: racks with settings, dialects and workers of a test's own; `builder`: one slot, as a manager has it
//! - `foreign`: a worker that is not ours
//! - `launchpad_buildd`: Launchpad's own, by hand
//! - `deaths`: boards that die before and after the worker has taken the build
//! - `aborts`: builds that resist, in every state in which an abort is accepted
//! - `inputs`: `ensurepresent` under trouble
//! - `exchanges`: recorded exchanges, replayed as bytes
//! - `calls`: calls that are wrong, and every state in both dialects

mod aborts;
mod builder;
mod calls;
mod deaths;
mod exchanges;
mod foreign;
mod inputs;
mod launchpad_buildd;
mod racks;
