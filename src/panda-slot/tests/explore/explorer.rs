//! The search through all worlds, breadth first, so that the way to a broken law is a shortest one.

use std::fmt;

use panda_slot::{Board, Errand, Event, Limits, Slot, Transition};

use super::laws::{self, Law};
use super::world::{World, all_events, internal};

#[expect(
    clippy::disallowed_types,
    reason = "a set of worlds, of which only the size matters"
)]
type Set<T> = std::collections::HashSet<T>;
#[expect(
    clippy::disallowed_types,
    reason = "looked up only, never walked, so its order is nothing"
)]
type Map<K, V> = std::collections::HashMap<K, V>;

/// A machine: the real one or a broken one.
pub(crate) type Machine<'a> = &'a dyn Fn(&Slot, Event, &Limits) -> Transition;

/// What the search saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Different slots.
    pub(crate) slots: usize,
    /// Different worlds.
    pub(crate) worlds: usize,
    /// Transitions, those that change nothing too.
    pub(crate) transitions: usize,
    /// Transitions that end in a crash.
    pub(crate) crashes: usize,
    /// How far the farthest world is from the first start.
    pub(crate) depth: usize,
    /// The slots before and after each transition by which the board changed.
    pub(crate) board_changes: Vec<(Slot, Event, Slot)>,
}

/// A broken law, and the way there.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The law.
    pub(crate) law: Law,
    way: Vec<String>,
    world: Box<World>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} is broken after", self.law)?;
        for step in &self.way {
            writeln!(f, "  {step}")?;
        }
        write!(f, "in {:#?}", self.world)
    }
}

/// Searches everything that `machine` can reach.
pub(crate) fn explore(machine: Machine<'_>, limits: &Limits) -> Result<Seen, Broken> {
    let mut search = Search::new(machine, limits);
    search.start();
    search.run()?;
    search.find_free_cycle()?;
    search.seen.worlds = search.worlds.len();
    let slots: Set<&Slot> = search.worlds.iter().map(|world| &world.slot).collect();
    search.seen.slots = slots.len();
    Ok(search.seen)
}

struct Search<'a> {
    machine: Machine<'a>,
    limits: &'a Limits,
    worlds: Vec<World>,
    numbers: Map<World, usize>,
    /// From which world, and how, each was reached first.
    parents: Vec<Option<(usize, String)>>,
    depths: Vec<usize>,
    /// Transitions that need nothing from outside.
    free: Vec<Vec<usize>>,
    seen: Seen,
}

impl<'a> Search<'a> {
    fn new(machine: Machine<'a>, limits: &'a Limits) -> Self {
        Self {
            machine,
            limits,
            worlds: Vec::new(),
            numbers: Map::new(),
            parents: Vec::new(),
            depths: Vec::new(),
            free: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// Nothing leads to a trial yet, so the search begins with one as well.
    fn start(&mut self) {
        let trial = Board::Booting {
            n: 1,
            errand: Errand::Trial,
        };
        self.reach(World::before_first_start(Slot::new()), None);
        let begun = World::before_first_start(Slot {
            board: trial,
            ..Slot::new()
        });
        let mut alive = begun.clone();
        alive.truth.dead = false;
        alive.truth.cut = true;
        alive.truth.ran = false;
        alive.truth.leased = false;
        alive.truth.activity = super::world::Activity::Boot;
        self.reach(begun, None);
        self.reach(alive, None);
    }

    fn run(&mut self) -> Result<(), Broken> {
        let events = all_events();
        let mut at = 0;
        while at < self.worlds.len() {
            laws::state(&self.worlds[at], self.limits).map_err(|law| self.broken(law, at, None))?;
            if self.worlds[at].truth.dead {
                self.deliver(at, &Event::Recover)?;
            } else {
                let dies = self.worlds[at].crashed();
                self.crash(at, "the daemon dies", dies);
                for event in &events {
                    self.deliver(at, event)?;
                }
            }
            at += 1;
        }
        Ok(())
    }

    fn deliver(&mut self, at: usize, event: &Event) -> Result<(), Broken> {
        let before = self.worlds[at].clone();
        let Transition { next, effects } = (self.machine)(&before.slot, event.clone(), self.limits);
        laws::transition(&before, event, &next, &effects, self.limits)
            .map_err(|law| self.broken(law, at, Some(event)))?;
        if next.board != before.slot.board || next.boot != before.slot.boot {
            let change = (before.slot.clone(), event.clone(), next.clone());
            self.seen.board_changes.push(change);
        }
        let mut world = before.committed(event, &next);
        for (done, effect) in effects.iter().enumerate() {
            let how = format!("{event:?}, and the daemon dies before effect {}", done + 1);
            self.crash(at, &how, world.crashed().renumbered());
            world.perform(effect);
        }
        self.seen.transitions += 1;
        let free = internal(&before)
            .iter()
            .any(|(internal, _)| internal == event);
        let to = self.reach(world.renumbered(), Some((at, format!("{event:?}"))));
        if free && to != at {
            self.free[at].push(to);
        }
        Ok(())
    }

    fn crash(&mut self, at: usize, how: &str, dead: World) {
        self.seen.transitions += 1;
        self.seen.crashes += 1;
        self.reach(dead, Some((at, how.to_owned())));
    }

    fn reach(&mut self, world: World, parent: Option<(usize, String)>) -> usize {
        if let Some(number) = self.numbers.get(&world) {
            return *number;
        }
        let number = self.worlds.len();
        let depth = parent
            .as_ref()
            .map_or(0, |(from, _)| self.depths[*from] + 1);
        self.seen.depth = self.seen.depth.max(depth);
        self.numbers.insert(world.clone(), number);
        self.worlds.push(world);
        self.parents.push(parent);
        self.depths.push(depth);
        self.free.push(Vec::new());
        number
    }

    /// Follows the transitions that need nothing from outside; coming back to a world on the way is a
    /// cycle that could run for ever.
    fn find_free_cycle(&self) -> Result<(), Broken> {
        #[derive(Clone, Copy, PartialEq)]
        enum Mark {
            New,
            OnTheWay,
            Done,
        }
        let mut marks = vec![Mark::New; self.worlds.len()];
        for root in 0..self.worlds.len() {
            let mut way = vec![(root, 0)];
            while let Some((at, tried)) = way.pop() {
                if tried == 0 && marks[at] == Mark::Done {
                    continue;
                }
                marks[at] = Mark::OnTheWay;
                match self.free[at].get(tried) {
                    None => marks[at] = Mark::Done,
                    Some(&to) => {
                        way.push((at, tried + 1));
                        match marks[to] {
                            Mark::New => way.push((to, 0)),
                            Mark::OnTheWay => return Err(self.broken(Law::NoFreeCycle, to, None)),
                            Mark::Done => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn broken(&self, law: Law, at: usize, event: Option<&Event>) -> Broken {
        let mut way: Vec<String> = event
            .map(|event| format!("{event:?}"))
            .into_iter()
            .collect();
        let mut here = at;
        while let Some((from, how)) = &self.parents[here] {
            way.push(how.clone());
            here = *from;
        }
        way.reverse();
        Broken {
            law,
            way,
            world: Box::new(self.worlds[at].clone()),
        }
    }
}
