//! The daemon: speaks Launchpad's builder protocol for every slot of a rack, and turns clean and reset
//! requests into power cuts and boots over USB.
//!
//! # Layout
//! - `config`: `rack.toml`, assembled from the rooms' own settings and checked whole
//! - `front`: Launchpad's side: RPC and file cache, a slot chosen by `Host` or port
//! - `slot`: runs a slot: events in, commit, effects out
//! - `activity`: what is done to a slot's board, one file an activity
//! - `boot`: one file a step, from the cut to the agent's report
//! - `guest`: the daemon's view of the worker: client, follow, log, collect
//! - `depot`: what boards may fetch and report, over their boot's certificate
//! - `filecache`: the rack's inputs
//! - `failpoint`: where tests have the daemon die
//! - `ledger`: SQLite: slots, boots, steps, attempts
//! - `rack`: assembles all of it, and runs it until it is told to stop
//! - `console`: what boards say on their serial consoles, recorded
//! - `operators`: HTTP on a Unix socket for operators, and Launchpad's reset
//! - `budget`: what a boot moves, and how long that takes
//! - `webservice`: tells Launchpad's web service what became of a reset
//! - `cli`: one file a subcommand

pub mod activity;
pub mod boot;
pub mod budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod console;
pub mod depot;
pub mod failpoint;
pub mod filecache;
pub mod front;
pub mod guest;
pub mod identity;
pub mod ledger;
pub mod operators;
pub mod rack;
pub mod slot;
pub mod webservice;

#[cfg(test)]
pub(crate) mod testing;
