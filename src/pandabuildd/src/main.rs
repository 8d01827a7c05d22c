//! The daemon and its command line: speaks Launchpad's builder protocol for every slot of a rack, and turns clean and reset
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

mod activity;
mod boot;
mod budget;
mod cli;
mod clock;
mod config;
mod console;
mod depot;
mod failpoint;
mod filecache;
mod front;
mod guest;
mod identity;
mod ledger;
mod operators;
mod rack;
mod slot;
mod webservice;

#[cfg(test)]
mod testing;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use self::cli::{Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pandabuildd: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(run(cli));
    // A reader that blocks for ever must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    exit.into()
}
