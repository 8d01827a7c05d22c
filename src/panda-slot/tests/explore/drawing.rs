//! The drawing in the crate's documentation: the table of ways is generated from the exploration, and the
//! picture above it may show no way that the exploration does not know.

use std::collections::{BTreeMap, BTreeSet};

use panda_protocol::launchpad::Dialect;
use panda_slot::{Board, Errand, Event, FailureKind, Phase, Rejoin, Slot, step};

use super::{explorer, limits};

const DOCUMENTATION: &str = include_str!("../../src/lib.rs");
const BEGIN: &str = "//! <!-- ways: checked by tests/explore/drawing.rs -->\n//! ```text\n";
const END: &str = "//! ```\n";

/// From, to, by.
type Ways = BTreeMap<(Place, Place), BTreeSet<String>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Cutting,
    Preparing,
    Booting,
    Fresh,
    Running,
    Collecting,
    Aborting,
    MovingCutting,
    MovingPreparing,
    MovingBooting,
    Trial,
    RejoiningFresh,
    RejoiningRunning,
    RejoiningCollecting,
    Failed,
    FailedChip,
    Off,
}

impl Place {
    fn of(slot: &Slot) -> Self {
        match &slot.board {
            Board::Cutting {
                errand: Errand::Build(_),
                ..
            } => Self::MovingCutting,
            Board::Cutting { .. } => Self::Cutting,
            Board::Preparing {
                errand: Errand::Build(_),
                ..
            } => Self::MovingPreparing,
            Board::Preparing { .. } => Self::Preparing,
            Board::Booting {
                errand: Errand::Build(_),
                ..
            } => Self::MovingBooting,
            Board::Booting { .. } => Self::Booting,
            Board::Trial { .. } => Self::Trial,
            Board::Fresh { .. } => Self::Fresh,
            Board::Used {
                phase: Phase::Running,
                ..
            } => Self::Running,
            Board::Used {
                phase: Phase::Collecting,
                ..
            } => Self::Collecting,
            Board::Used {
                phase: Phase::Aborting,
                ..
            } => Self::Aborting,
            Board::Rejoining(Rejoin::Fresh { .. }) => Self::RejoiningFresh,
            Board::Rejoining(Rejoin::Running(_)) => Self::RejoiningRunning,
            Board::Rejoining(Rejoin::Collecting(_)) => Self::RejoiningCollecting,
            Board::Failed {
                kind: FailureKind::Chip,
                ..
            } => Self::FailedChip,
            Board::Failed { .. } => Self::Failed,
            Board::Off => Self::Off,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cutting => "Cutting",
            Self::Preparing => "Preparing",
            Self::Booting => "Booting",
            Self::Fresh => "Fresh",
            Self::Running => "Running",
            Self::Collecting => "Collecting",
            Self::Aborting => "Aborting",
            Self::MovingCutting => "Cutting+build",
            Self::MovingPreparing => "Preparing+build",
            Self::MovingBooting => "Booting+build",
            Self::Trial => "Trial",
            Self::RejoiningFresh => "Rejoining:Fresh",
            Self::RejoiningRunning => "Rejoining:Running",
            Self::RejoiningCollecting => "Rejoining:Collecting",
            Self::Failed => "Failed",
            Self::FailedChip => "Failed:Chip",
            Self::Off => "Off",
        }
    }
}

fn ways() -> Ways {
    let mut ways = Ways::new();
    for dialect in [Dialect::Current, Dialect::Y2011] {
        let seen = explorer::explore(&step, &limits(dialect)).expect("no law is broken");
        for (from, event, to) in seen.board_changes {
            ways.entry((Place::of(&from), Place::of(&to)))
                .or_default()
                .insert(name(&event));
        }
    }
    ways
}

fn name(event: &Event) -> String {
    let debug = format!("{event:?}");
    debug
        .split([' ', '{'])
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn table(ways: &Ways) -> String {
    let mut table = String::new();
    let mut last = None;
    for ((from, to), events) in ways {
        let shown = if last == Some(*from) { "" } else { from.name() };
        last = Some(*from);
        let mut line = format!("//! {shown:20} ─▶ {:20}", to.name());
        for event in events {
            if line.chars().count() + event.len() > 98 {
                table.push_str(line.trim_end());
                line = format!("\n//! {:44}", "");
            }
            line.push_str(&format!(" {event}"));
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

#[test]
fn the_table_of_ways_in_the_documentation_is_the_machines() {
    let drawn = DOCUMENTATION
        .split_once(BEGIN)
        .expect("the documentation has the table")
        .1;
    let drawn = drawn.split_once(END).expect("the table ends").0;
    let expected = table(&ways());
    assert!(
        drawn == expected,
        "src/lib.rs is to say, between its marks:\n{expected}"
    );
}

#[test]
fn the_picture_in_the_documentation_shows_only_ways_that_there_are() {
    let known: BTreeSet<(&str, String, &str)> = ways()
        .into_iter()
        .flat_map(|((from, to), events)| {
            events
                .into_iter()
                .map(move |event| (from.name(), event, to.name()))
        })
        .collect();
    let mut shown = 0;
    // An arrow reads `From ─Event▶ To`.
    for line in DOCUMENTATION
        .lines()
        .filter(|line| line.contains('▶') && !line.contains("─▶"))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        for (at, arrow) in words
            .iter()
            .enumerate()
            .filter(|(_, word)| word.ends_with('▶'))
        {
            let event = arrow.trim_matches(['─', '▶']).to_owned();
            let way = (words[at - 1], event, words[at + 1]);
            assert!(known.contains(&way), "{way:?} is drawn, but does not exist");
            shown += 1;
        }
    }
    assert!(shown >= 10, "the picture is gone");
}
