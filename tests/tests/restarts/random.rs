//! The daemon is killed at random moments while a manager builds, aborts and fetches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::job::{Kind, Manager};
use crate::keeper::Keeper;
use crate::number;

/// The longest between two kills, in milliseconds: about as long as a build's cycle takes.
const LONGEST_MS: u64 = 4000;
/// The most kills that a build meets: one with more is not like any that a person would see.
const PER_BUILD: usize = 3;

#[test]
fn nothing_is_lost_while_the_daemon_is_killed_at_random() -> Result<()> {
    let kills = number("PANDA_KILLS", 10)?;
    let seed = number("PANDA_SEED", 20_110_601)?;
    println!("{kills} kills, PANDA_SEED={seed}");
    let mut keeper = Keeper::start(1, "")?;
    let mut manager = Manager::new(&keeper.rack.slots()[0].url)?;
    let (mut builds, mut aborts, mut met) = (0, 0, 0);
    let killer = Killer::start(&keeper, kills, seed as u64);
    while !killer.is_done() {
        let kind = match builds % 4 {
            1 => Kind::Aborted,
            3 => Kind::AbortedLate,
            _ => Kind::Builds,
        };
        let before = keeper.deaths;
        killer.allow(PER_BUILD);
        manager.build(&mut keeper, kind)?;
        builds += 1;
        aborts += usize::from(kind != Kind::Builds);
        met += usize::from(keeper.deaths > before);
    }
    killer.allow(0);
    keeper.check()?;
    ensure!(
        keeper.deaths == kills,
        "{} deaths of {kills} kills",
        keeper.deaths
    );
    println!(
        "{kills} kills during {builds} builds ({aborts} of them aborted; {met} met a kill): {} calls of dispatches lost, \
         which the manager counts once against builder and job alike; nothing else",
        manager.lost_dispatches
    );
    keeper.stop()
}

/// Kills the daemon again and again.
struct Killer {
    left: Arc<AtomicUsize>,
    allowed: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Killer {
    fn start(keeper: &Keeper, kills: usize, seed: u64) -> Self {
        let killer = Self {
            left: Arc::new(AtomicUsize::new(kills)),
            allowed: Arc::default(),
            ended: Arc::default(),
        };
        let (left, allowed, ended) = (
            killer.left.clone(),
            killer.allowed.clone(),
            killer.ended.clone(),
        );
        let pid = keeper.pid.clone();
        std::thread::spawn(move || {
            let mut dice = seed | 1;
            while left.load(Ordering::SeqCst) > 0 {
                // xorshift64
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                std::thread::park_timeout(Duration::from_millis(dice % LONGEST_MS));
                let target = pid.swap(0, Ordering::SeqCst);
                let Ok(target) = i32::try_from(target) else {
                    break;
                };
                if target == 0 {
                    continue;
                }
                if allowed.load(Ordering::SeqCst) == 0 {
                    // It is spared.
                    pid.store(target.unsigned_abs(), Ordering::SeqCst);
                    continue;
                }
                if kill(Pid::from_raw(target), Signal::SIGKILL).is_err() {
                    break;
                }
                allowed.fetch_sub(1, Ordering::SeqCst);
                left.fetch_sub(1, Ordering::SeqCst);
            }
            ended.store(true, Ordering::SeqCst);
        });
        killer
    }

    fn allow(&self, kills: usize) {
        self.allowed.store(kills, Ordering::SeqCst);
    }

    fn is_done(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}
