//! The thread that keeps a machine: it prepares what the machine needs, starts it as its own child, and waits for
//! its end. It lives as long as the machine, because the death signal of a child belongs to the *thread* that is its
//! parent. Both kinds of machine are kept by one.
//!
//! ```text
//! Preparing --started--> Running --end ordered--> Ending --reaped--> Gone
//!     |                     |                                        ^
//!     | end ordered         +------------- ended by itself ----------+
//!     +--> Ending: it is not started
//! ```
//!
//! The machine's process is reaped by the thread only after the stage has left `Running`, so a signal never reaches
//! a process that has got its number later.

use std::io;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::MachineError;
use crate::console::Console;

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Preparing,
    /// Its process; the number is not given to another before the thread leaves this stage.
    Running(Pid),
    /// To be ended; the process has got its signal.
    Ending,
    Gone,
}

/// Shared by the thread and who orders the end.
pub(super) type SharedStage = Arc<Mutex<Stage>>;

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// As it was told to.
    Ordered,
    /// By itself; why. The board has power and does nothing any more.
    Halted(String),
    /// It has reset itself, as a chip does: its boot ROM runs again.
    Restarted,
}

/// A machine that is kept. Dropping it orders its end.
#[derive(Debug)]
pub(super) struct Keeper {
    stage: SharedStage,
    gone: watch::Receiver<Option<End>>,
    /// What begins the end of the machine's process.
    signal: Signal,
}

impl Keeper {
    /// Has `live` done on a thread of its own: the whole life of a machine, and how it ended.
    pub(super) fn start(
        console: Console,
        signal: Signal,
        live: impl FnOnce(&SharedStage) -> Result<End, MachineError> + Send + 'static,
    ) -> io::Result<Self> {
        let stage = Arc::new(Mutex::new(Stage::Preparing));
        let (gone_out, gone) = watch::channel(None);
        let shared = Arc::clone(&stage);
        let body = move || {
            let end = match live(&shared) {
                Ok(end) => {
                    if let End::Halted(why) = &end {
                        console.note(&format!(
                            "the machine ended by itself ({why}); the board hangs"
                        ));
                    }
                    end
                }
                Err(error) => {
                    console.note(&format!("the machine cannot run: {error}; the board hangs"));
                    tracing::warn!(%error, "a machine cannot run");
                    End::Halted(error.to_string())
                }
            };
            *lock(&shared) = Stage::Gone;
            gone_out.send_replace(Some(end));
        };
        std::thread::Builder::new()
            .name("machine".to_owned())
            .spawn(body)?;
        Ok(Self {
            stage,
            gone,
            signal,
        })
    }

    /// Tells it to end.
    pub(super) fn order_end(&self) {
        let mut stage = lock(&self.stage);
        match *stage {
            Stage::Running(process) => {
                send(process, self.signal);
                *stage = Stage::Ending;
            }
            Stage::Preparing => *stage = Stage::Ending,
            Stage::Ending | Stage::Gone => {}
        }
    }

    /// Tells it to end, and waits until it is gone.
    pub(super) async fn end(&mut self, limit: Duration) -> Result<(), MachineError> {
        self.order_end();
        // The thread can only go without a word by a panic, and then the machine goes with it.
        let gone = async { drop(self.gone.wait_for(Option::is_some).await) };
        tokio::time::timeout(limit, gone)
            .await
            .map_err(|_| MachineError::Lingers(limit))
    }

    /// How it ends: nothing until it has.
    pub(super) fn watch(&self) -> watch::Receiver<Option<End>> {
        self.gone.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.order_end();
    }
}

/// Starts the machine's process, unless its end has been ordered already.
pub(super) fn started(
    stage: &SharedStage,
    spawn: impl FnOnce() -> Result<Child, MachineError>,
) -> Result<Option<Child>, MachineError> {
    let mut stage = lock(stage);
    if *stage == Stage::Ending {
        return Ok(None);
    }
    let child = spawn()?;
    *stage = Stage::Running(pid(&child));
    Ok(Some(child))
}

/// The machine's process has ended and is not reaped yet: says whether that was ordered.
pub(super) fn was_ordered(stage: &SharedStage) -> bool {
    let mut stage = lock(stage);
    let ordered = *stage == Stage::Ending;
    *stage = Stage::Gone;
    ordered
}

pub(super) fn send(pid: Pid, signal: Signal) {
    if let Err(error) = kill(pid, signal) {
        tracing::debug!(%pid, %signal, %error, "a signal was not taken");
    }
}

pub(super) fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

pub(super) fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}
