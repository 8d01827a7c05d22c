//! Trouble while a run goes on: the daemon is killed and started again, or boards die. At random moments, spread over
//! the run by how many builds have been handed over.
//!
//! ```text
//!  kill:   daemon ─SIGKILL▶ ─ started again, and now and then killed before it listens ─▶ …; boards go on
//!  death:  power cut behind the daemon's back, or the machine's first process killed: the board hangs
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use panda_tests::manager_model::{BuilderNo, JobNo};
use panda_tests::rack::Rack;

use crate::history::Shared;

/// The longest from a hand-over to the trouble that it brings on.
const WITHIN_MS: u64 = 4_000;
/// How soon after its start a daemon may be killed again.
const AT_START_MS: u64 = 250;
/// Between two looks at how far the run is.
const LOOK: Duration = Duration::from_millis(5);

/// What happens beside the builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    /// The daemon is killed so often.
    Kills(usize),
    /// So many boards die.
    Deaths(usize),
    /// The server of all inputs refuses connections at first, for so long.
    Outage(Duration),
    /// Nothing is done to daemon or boards, but all that they say to each other takes its time.
    SlowLink,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) kills: usize,
    /// Of them, before the daemon listened again.
    pub(crate) at_start: usize,
    pub(crate) cuts: usize,
    pub(crate) crashes: usize,
    /// Of the boards that died, those that had a job.
    pub(crate) with_a_job: usize,
}

impl Made {
    /// Whether there was any at all.
    pub(crate) fn is_any(&self) -> bool {
        self.kills + self.cuts + self.crashes > 0
    }

    pub(crate) fn told(&self) -> String {
        if self.kills > 0 {
            return format!(
                "{} kills of the daemon ({} while it started)",
                self.kills, self.at_start
            );
        }
        format!(
            "{} boards died ({} cut, {} crashed; {} had a job)",
            self.cuts + self.crashes,
            self.cuts,
            self.crashes,
            self.with_a_job
        )
    }
}

/// Makes it, until there was enough, or the run is over. The daemon runs when it returns.
pub(crate) fn make(
    trouble: Trouble,
    seed: u64,
    rack: &mut Rack,
    shared: &Shared,
    cycles: usize,
) -> Result<Made> {
    let mut dice = Dice(seed | 1);
    let mut made = Made::default();
    let mut hit = BTreeSet::new();
    let (Trouble::Kills(count) | Trouble::Deaths(count)) = trouble else {
        return Ok(made);
    };
    for number in 0..count {
        let due = number * cycles / count;
        while shared.lock().dispatched() < due && !shared.lock().is_done() {
            std::thread::park_timeout(LOOK);
        }
        if shared.lock().is_done() {
            break;
        }
        std::thread::park_timeout(dice.below(WITHIN_MS));
        match trouble {
            Trouble::Kills(_) => kill(rack, shared, &mut dice, &mut made)?,
            Trouble::Deaths(_) => death(rack, shared, &mut dice, &mut hit, &mut made)?,
            Trouble::None | Trouble::Outage(_) | Trouble::SlowLink => {}
        }
    }
    Ok(made)
}

fn kill(rack: &mut Rack, shared: &Shared, dice: &mut Dice, made: &mut Made) -> Result<()> {
    kill_once(rack, shared)?;
    made.kills += 1;
    if dice.roll(4) == 0 {
        rack.begin_to_serve()?;
        std::thread::park_timeout(dice.below(AT_START_MS));
        kill_once(rack, shared)?;
        made.kills += 1;
        made.at_start += 1;
    }
    rack.serve()
}

/// At no moment at which a job is being handed over that has cost the manager a hand-over before: it would take that for
/// the job's fault, as with any builder, and here such moments are a hundred times as frequent as they are with it.
fn kill_once(rack: &mut Rack, shared: &Shared) -> Result<()> {
    loop {
        // Nothing is handed over anew meanwhile: for that the lock is needed.
        let history = shared.lock();
        if !history.hands_over_again() {
            return rack.kill();
        }
        drop(history);
        std::thread::park_timeout(LOOK);
    }
}

/// No job meets two dead boards: the manager would take it for the job's fault, as it does with any builder.
fn death(
    rack: &Rack,
    shared: &Shared,
    dice: &mut Dice,
    hit: &mut BTreeSet<JobNo>,
    made: &mut Made,
) -> Result<()> {
    let slots = rack.slots();
    let number = dice.roll(slots.len());
    let job = shared.lock().manager.job_of(BuilderNo(number));
    if let Some(job) = job
        && !hit.insert(job)
    {
        return Ok(());
    }
    let name = &slots.get(number).context("no such slot")?.name;
    if dice.roll(2) == 0 {
        rack.cut_board(name)?;
        made.cuts += 1;
    } else if rack.crash_board(name)? {
        made.crashes += 1;
    } else {
        return Ok(());
    }
    made.with_a_job += usize::from(job.is_some());
    // One that came just then has met it too.
    hit.extend(shared.lock().manager.job_of(BuilderNo(number)));
    Ok(())
}

/// Numbers that are the same for the same seed (xorshift64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn roll(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % sides).unwrap_or_default()
    }

    fn below(&mut self, milliseconds: u64) -> Duration {
        Duration::from_millis(self.next() % milliseconds)
    }
}
