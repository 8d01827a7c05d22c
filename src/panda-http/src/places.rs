//! Who may have how many of a listener's connections. [`crate::serve`] asks for a place for every connection
//! that it has accepted; several listeners may share one [`Places`], so that the bound is one in all.
//!
//! ```text
//! accepted ─▶ standing ─ refused ───────────────────────────────▶ closed
//!                │
//!                ├─ a place is free ────────────────────────────▶ taken: unproven ▶ busy ⇄ idle
//!                ├─ somebody shows nothing for it ──────────────▶ that one is given up: the oldest
//!                │                                                unproven, else the oldest idle
//!                └─ every place is busy: a stranger is closed, who is known waits
//! ```
//! A connection is *unproven* until its first byte has come (under TLS, until the handshake is done), *busy* while a
//! request is read or answered, and *idle* between two requests. Strangers never take the places that are kept for
//! those who are known, and never have one of these given up.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How a listener takes a peer, by its address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its connections are closed at once.
    Refused,
    /// It is served as long as nobody who is known needs the place.
    Stranger,
    /// Places are kept for it.
    Known,
}

/// Tells a peer's standing by its address, which is never an IPv4 address in IPv6's clothes.
pub type Policy = Arc<dyn Fn(IpAddr) -> Standing + Send + Sync>;

/// How many connections there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaceLimits {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub per_address: usize,
    /// Of all, those that strangers cannot have.
    pub reserved: usize,
}

/// The connections of one or more listeners. Cheap to clone.
#[derive(Clone)]
pub struct Places {
    shared: Arc<Shared>,
}

struct Shared {
    limits: PlaceLimits,
    policy: Policy,
    taken: Mutex<Taken>,
    /// A place has been given back, or its connection has become idle.
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    /// Of the connection that came last; they are numbered in the order in which they came.
    last: u64,
    connections: BTreeMap<u64, Connection>,
    addresses: HashMap<IpAddr, usize>,
}

struct Connection {
    address: IpAddr,
    standing: Standing,
    phase: Phase,
    give_up: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unproven,
    Idle,
    Busy,
    /// It has been told to end; its place is somebody else's already.
    GivenUp,
}

/// What becomes of a connection that was accepted.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It has a place.
    Taken(Place),
    /// It is closed, for this reason.
    Closed(&'static str),
    /// Every place is busy: ask again after [`Places::freed`].
    Full,
}

/// One connection's place, given back when dropped.
pub(crate) struct Place {
    number: u64,
    standing: Standing,
    give_up: CancellationToken,
    shared: Arc<Shared>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places")
            .field("limits", &self.shared.limits)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("number", &self.number)
            .field("standing", &self.standing)
            .finish_non_exhaustive()
    }
}

impl Places {
    /// Places within `limits` for peers whose standing `policy` tells.
    #[must_use]
    pub fn new(limits: PlaceLimits, policy: Policy) -> Self {
        Self {
            shared: Arc::new(Shared {
                limits,
                policy,
                taken: Mutex::default(),
                freed: Notify::new(),
            }),
        }
    }

    /// Places that everybody is known to: for listeners that only friends reach.
    #[must_use]
    pub fn open(connections: usize, per_address: usize) -> Self {
        let limits = PlaceLimits {
            connections,
            per_address,
            reserved: 0,
        };
        Self::new(limits, Arc::new(|_| Standing::Known))
    }

    /// How many connections there are.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.shared.taken().in_use(Standing::Known)
    }

    /// A place for a connection from `address`.
    pub(crate) fn enter(&self, address: IpAddr) -> Admission {
        let address = address.to_canonical();
        let standing = (self.shared.policy)(address);
        if standing == Standing::Refused {
            return Admission::Closed("its address may not connect here");
        }
        let limits = self.shared.limits;
        let mut taken = self.shared.taken();
        let own = taken.addresses.get(&address).copied().unwrap_or_default();
        if own >= limits.per_address && !taken.give_up_one_of(address) {
            return Admission::Closed("too many connections from its address");
        }
        let strangers = limits.connections.saturating_sub(limits.reserved);
        let full = taken.in_use(Standing::Known) >= limits.connections
            || standing == Standing::Stranger && taken.in_use(standing) >= strangers;
        if full && !taken.give_up_one(standing) {
            return match standing {
                Standing::Known => Admission::Full,
                Standing::Stranger | Standing::Refused => {
                    Admission::Closed("no place is left for strangers")
                }
            };
        }
        Admission::Taken(taken.add(address, standing, self.shared.clone()))
    }

    /// Waits until a place was given back or a connection became idle since the last wait.
    pub(crate) async fn freed(&self) {
        self.shared.freed.notified().await;
    }
}

impl Shared {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// How many have this standing or a lesser one.
    fn in_use(&self, standing: Standing) -> usize {
        let counts = |connection: &&Connection| {
            connection.phase != Phase::GivenUp && connection.standing <= standing
        };
        self.connections.values().filter(counts).count()
    }

    fn add(&mut self, address: IpAddr, standing: Standing, shared: Arc<Shared>) -> Place {
        self.last += 1;
        *self.addresses.entry(address).or_default() += 1;
        let give_up = CancellationToken::new();
        let connection = Connection {
            address,
            standing,
            phase: Phase::Unproven,
            give_up: give_up.clone(),
        };
        self.connections.insert(self.last, connection);
        Place {
            number: self.last,
            standing,
            give_up,
            shared,
        }
    }

    /// Gives up the oldest connection that shows nothing for its place and whose standing is no better than the
    /// newcomer's: whether there was one.
    fn give_up_one(&mut self, newcomer: Standing) -> bool {
        let oldest = |wanted: Phase| {
            self.connections
                .iter()
                .filter(|(_, other)| other.phase == wanted && other.standing <= newcomer)
                .min_by_key(|(number, other)| (other.standing, **number))
                .map(|(number, _)| *number)
        };
        match oldest(Phase::Unproven).or_else(|| oldest(Phase::Idle)) {
            Some(number) => self.give_up(number),
            None => false,
        }
    }

    /// The same among the connections of one address, which has had its share: only an unproven one goes.
    fn give_up_one_of(&mut self, address: IpAddr) -> bool {
        let found = self
            .connections
            .iter()
            .find(|(_, other)| other.address == address && other.phase == Phase::Unproven)
            .map(|(number, _)| *number);
        found.is_some_and(|number| self.give_up(number))
    }

    fn give_up(&mut self, number: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&number) else {
            return false;
        };
        connection.phase = Phase::GivenUp;
        connection.give_up.cancel();
        let address = connection.address;
        self.forget_address(address);
        true
    }

    fn forget_address(&mut self, address: IpAddr) {
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }
}

impl Place {
    /// How its peer is taken.
    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Cancelled when the place is needed for somebody else.
    pub(crate) fn give_up(&self) -> CancellationToken {
        self.give_up.clone()
    }

    /// A request is being read or answered.
    pub(crate) fn busy(&self) {
        self.enter(Phase::Busy);
    }

    /// Nothing is asked now.
    pub(crate) fn idle(&self) {
        self.enter(Phase::Idle);
        self.shared.freed.notify_one();
    }

    fn enter(&self, phase: Phase) {
        if let Some(connection) = self.shared.taken().connections.get_mut(&self.number)
            && connection.phase != Phase::GivenUp
        {
            connection.phase = phase;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shared.taken();
        if let Some(connection) = taken.connections.remove(&self.number)
            && connection.phase != Phase::GivenUp
        {
            taken.forget_address(connection.address);
        }
        drop(taken);
        self.shared.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGER: IpAddr = address(1);

    const fn address(last: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, last))
    }

    fn places(connections: usize, per_address: usize, reserved: usize) -> Places {
        let limits = PlaceLimits {
            connections,
            per_address,
            reserved,
        };
        let standing = |peer: IpAddr| match peer {
            MANAGER => Standing::Known,
            peer if peer == address(99) => Standing::Refused,
            _ => Standing::Stranger,
        };
        Places::new(limits, Arc::new(standing))
    }

    fn taken(places: &Places, from: IpAddr) -> Place {
        match places.enter(from) {
            Admission::Taken(place) => place,
            other => panic!("{from}: {other:?}"),
        }
    }

    fn closed(places: &Places, from: IpAddr) -> bool {
        matches!(places.enter(from), Admission::Closed(_))
    }

    #[test]
    fn the_oldest_that_shows_nothing_makes_room_and_idle_ones_only_after_it() {
        let places = places(3, 3, 0);
        let idle = taken(&places, address(2));
        idle.busy();
        idle.idle();
        let (first, second) = (taken(&places, address(3)), taken(&places, address(4)));
        let newcomers: Vec<_> = (5..8).map(|last| taken(&places, address(last))).collect();
        assert!(first.give_up().is_cancelled() && second.give_up().is_cancelled());
        // The third newcomer found two younger ones that had shown nothing either.
        assert!(newcomers[0].give_up().is_cancelled());
        assert!(!idle.give_up().is_cancelled());
        for place in &newcomers[1..] {
            place.busy();
        }
        let last = taken(&places, address(8));
        assert!(idle.give_up().is_cancelled());
        assert!(!last.give_up().is_cancelled());
        assert_eq!(places.in_use(), 3);
    }

    #[test]
    fn strangers_cannot_have_what_is_kept_for_the_manager() {
        let places = places(4, 4, 2);
        let busy: Vec<_> = (2..4).map(|last| taken(&places, address(last))).collect();
        busy.iter().for_each(Place::busy);
        assert!(closed(&places, address(4)));
        let managers: Vec<_> = (0..2).map(|_| taken(&places, MANAGER)).collect();
        managers.iter().for_each(Place::busy);
        assert!(matches!(places.enter(MANAGER), Admission::Full));
        assert!(closed(&places, address(5)));
        drop(busy);
        taken(&places, MANAGER);
    }

    #[test]
    fn a_stranger_never_has_a_known_peer_given_up() {
        let places = places(2, 2, 0);
        let manager = taken(&places, MANAGER);
        let stranger = taken(&places, address(2));
        let newcomer = taken(&places, address(3));
        assert!(stranger.give_up().is_cancelled() && !manager.give_up().is_cancelled());
        newcomer.busy();
        assert!(closed(&places, address(4)));
        assert!(!manager.give_up().is_cancelled());
        drop(newcomer);
        taken(&places, address(5));
    }

    #[test]
    fn an_address_has_its_share_and_its_unproven_ones_make_room_for_itself() {
        let places = places(8, 2, 0);
        let (first, second) = (taken(&places, address(2)), taken(&places, address(2)));
        let third = taken(&places, address(2));
        assert!(first.give_up().is_cancelled() && !second.give_up().is_cancelled());
        second.busy();
        third.busy();
        third.idle();
        assert!(closed(&places, address(2)));
        drop((first, second, third));
        taken(&places, address(2));
        assert_eq!(places.in_use(), 0);
    }

    #[test]
    fn who_is_refused_is_closed_whatever_form_its_address_has() {
        let places = places(8, 2, 0);
        assert!(closed(&places, address(99)));
        assert!(closed(&places, "::ffff:10.0.0.99".parse().unwrap()));
    }

    #[tokio::test]
    async fn a_place_that_is_given_back_or_becomes_idle_wakes_who_waits() {
        let places = places(1, 1, 0);
        let place = taken(&places, MANAGER);
        place.busy();
        assert!(matches!(places.enter(MANAGER), Admission::Closed(_)));
        place.idle();
        places.freed().await;
        drop(place);
        places.freed().await;
        taken(&places, MANAGER);
    }
}
