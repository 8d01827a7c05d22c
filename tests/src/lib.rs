//! Whole-rack tests: the programs as they are built, driven from outside as their users drive them.
//!
//! # Layout
//! - [`programs`]: finds the built programs, and runs them
//! - [`rack`]: a rack of virtual Pandas in a directory of its own, that leaves nothing behind
//! - [`source`]: source packages and chroots to build
//! - [`manager`]: the managers of `python/`, clients of other makes that do what Launchpad's does
//! - [`manager_model`]: a model of Launchpad's manager, which says what the real one would have counted
//! - [`documents`]: the commands that README and `docs/` show
//!
//! The tests themselves are in `tests/`, one file a subject.

pub mod documents;
pub mod manager;
pub mod manager_model;
pub mod programs;
pub mod rack;
pub mod source;
