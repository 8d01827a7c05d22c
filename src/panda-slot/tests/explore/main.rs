//! The machine's judge: every state that it can reach, whatever its world does, is visited, and the laws
//! of a slot are checked in each.
//!
//! The world may deliver any event at any time, with the numbers of the present boot and attempt or of
//! older ones: late, twice, out of order, from the wrong state. The daemon may die at any time, also
//! between a commit and any of its effects; the next one then starts with what was committed.
//!
//! - [`world`]: a slot with what is true outside it, and what may happen to it
//! - [`laws`]: what must hold, in every state and over every transition
//! - [`explorer`]: the search, and the search for cycles
//! - [`mutants`]: broken machines, each of which the laws must catch
//! - [`drawing`]: the drawing in the crate's documentation, checked against the exploration
#![expect(
    clippy::expect_used,
    reason = "helpers of tests, outside their functions"
)]

mod drawing;
mod explorer;
mod laws;
mod mutants;
mod world;

use panda_protocol::launchpad::Dialect;
use panda_slot::{Limits, step};

/// Three attempts of a reset, two moves of a build.
fn limits(dialect: Dialect) -> Limits {
    Limits {
        attempts: 3,
        moves: 2,
        dialect,
    }
}

#[test]
fn no_law_is_broken_in_any_reachable_state() {
    for dialect in [Dialect::Current, Dialect::Y2011] {
        match explorer::explore(&step, &limits(dialect)) {
            Ok(seen) => {
                println!(
                    "{dialect:?}: {} slot states, {} with what is true around them, \
                     {} transitions, of which {} are crashes; longest way back {} steps",
                    seen.slots, seen.worlds, seen.transitions, seen.crashes, seen.depth
                );
                // The figures are here so that a search that stops early is noticed.
                assert!(seen.slots > 100 && seen.transitions > 10_000, "{seen:?}");
            }
            Err(broken) => panic!("{dialect:?}: {broken}"),
        }
    }
}
