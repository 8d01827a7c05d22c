//! What drivers claim, and whether all of a rack's claims can be met: two slots on one relay would cut each other's power.
//! Claims are values, and one rule compares all of them, so that a new driver brings only its own.
//!
//! ```text
//! rack.toml read ── claims, by the names that are written ──────────▶ clashes, each with the later one's key
//! rack starts ───── claims, as found on this machine (found) ───────▶ the same: two names of one device hide nothing
//! ```

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::port_path::PortPath;

/// Something that a driver uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Thing {
    /// A Unix socket.
    Socket(PathBuf),
    /// What listens on a network address.
    Address(SocketAddr),
    /// A serial line, by the path of its device.
    Line(PathBuf),
    /// A character device, by its number, which all its names share.
    Device(u64),
    /// One output of something that switches several: a relay of a relay board, an outlet.
    Output {
        /// What it is an output of.
        of: Box<Self>,
        /// Which, for people too: `relay 1 of bank 2`.
        output: String,
    },
    /// The USB port that a board is on.
    Port(PortPath),
    /// The power of a USB port, and of every port behind it.
    PortPower(PortPath),
}

impl Thing {
    /// As it is found on this machine: a serial line by its device's number.
    ///
    /// # Errors
    /// There is no such device.
    pub fn found(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Line(path) => Self::Device(crate::device::identify(path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?),
            Self::Output { of, output } => Self::Output {
                of: Box::new(of.found()?),
                output: output.clone(),
            },
            Self::Socket(_)
            | Self::Address(_)
            | Self::Device(_)
            | Self::Port(_)
            | Self::PortPower(_) => self.clone(),
        })
    }

    /// Whether it is a port's power: what leaves that port then shows nothing of the board's supply.
    #[must_use]
    pub const fn is_port_power(&self) -> bool {
        matches!(self, Self::PortPower(_))
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) | Self::Line(path) => path.display().fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Device(number) => write!(f, "device {number:#x}"),
            Self::Output { of, output } => write!(f, "{output} at {of}"),
            Self::Port(path) | Self::PortPower(path) => path.fmt(f),
        }
    }
}

/// Who else may have a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Share {
    /// Nobody.
    Alone,
    /// Whoever uses it in the same way: one task speaks to it for all of them, one after the other.
    Turns {
        /// How it is spoken to (its speed, its times): all must agree.
        way: Vec<u64>,
    },
}

/// A thing that a driver claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key of the driver's table that names it.
    pub key: &'static str,
    /// What is claimed.
    pub thing: Thing,
    /// What the thing is for: `a console`, `a relay board`.
    pub usage: &'static str,
    /// Who else may have it.
    pub share: Share,
}

impl Claim {
    /// Of something that nobody else may have.
    #[must_use]
    pub const fn alone(key: &'static str, thing: Thing, usage: &'static str) -> Self {
        Self {
            key,
            thing,
            usage,
            share: Share::Alone,
        }
    }

    /// Of something that several use in turns, in one `way`.
    #[must_use]
    pub const fn turns(
        key: &'static str,
        thing: Thing,
        usage: &'static str,
        way: Vec<u64>,
    ) -> Self {
        Self {
            key,
            thing,
            usage,
            share: Share::Turns { way },
        }
    }
}

/// All claims of a rack; `P` says where each is written.
#[derive(Debug)]
pub struct Claims<P> {
    held: Vec<Held<P>>,
}

#[derive(Debug)]
struct Held<P> {
    slot: String,
    claim: Claim,
    place: P,
}

/// Two claims that cannot both be met.
#[derive(Debug, PartialEq, Eq)]
pub struct Clash<P> {
    /// Where the claim is written that is refused.
    pub place: P,
    /// Its key; none where the whole table is meant.
    pub key: Option<&'static str>,
    /// What is wrong, and with which slot.
    pub text: String,
}

impl<P> Default for Claims<P> {
    fn default() -> Self {
        Self { held: Vec::new() }
    }
}

impl<P: Clone> Claims<P> {
    /// Adds a claim of `slot`.
    pub fn add(&mut self, slot: &str, claim: Claim, place: P) {
        self.held.push(Held {
            slot: slot.to_owned(),
            claim,
            place,
        });
    }

    /// Every claim that cannot be met beside another, once each: mostly the later of two.
    #[must_use]
    pub fn clashes(&self) -> Vec<Clash<P>> {
        let clash = |held: &Held<P>, key, text| Clash {
            place: held.place.clone(),
            key,
            text,
        };
        let mut clashes = Vec::new();
        for (at, later) in self.held.iter().enumerate() {
            let earlier = self.held.get(..at).unwrap_or_default();
            let found = earlier.iter().find_map(|earlier| refused(earlier, later));
            // A port whose power is switched is refused by whichever board is on it, and wherever that is written.
            let behind = || self.held.iter().find_map(|board| cut_off(board, later));
            if let Some((key, text)) = found.or_else(behind) {
                clashes.push(clash(later, key, text));
            }
        }
        clashes
    }
}

/// Why `later` cannot be met beside `earlier`, and its key.
fn refused<P>(earlier: &Held<P>, later: &Held<P>) -> Option<(Option<&'static str>, String)> {
    let (slot, one, two) = (&earlier.slot, &earlier.claim, &later.claim);
    let key = Some(two.key);
    let taken =
        |what: String| format!("{what}: slot {slot} has it already; no two slots may share one");
    match (&one.thing, &two.thing) {
        (Thing::Port(there), Thing::Port(path)) => {
            let text = if there == path {
                taken(path.to_string())
            } else if there.meets(path) {
                format!("{path}: slot {slot} is on {there}, and no board is behind another's port")
            } else {
                return None;
            };
            Some((key, text))
        }
        (Thing::PortPower(there), Thing::PortPower(path)) => there
            .meets(path)
            .then(|| (key, format!("{path}: slot {slot} switches {there} already"))),
        (there, thing) if there != thing => None,
        (_, thing) if one.usage != two.usage => {
            let text = format!(
                "{:?}: this is {} already, of slot {slot}; it has one use",
                thing.to_string(),
                one.usage
            );
            Some((key, text))
        }
        (_, thing) => match (&one.share, &two.share) {
            (Share::Turns { way: known }, Share::Turns { way }) => (known != way).then(|| {
                let text = format!(
                    "slot {slot} is on the same {}; expected its speed and times here too",
                    two.usage.trim_start_matches("a ")
                );
                (None, text)
            }),
            (Share::Alone, _) | (_, Share::Alone) => {
                Some((key, taken(format!("{:?}", thing.to_string()))))
            }
        },
    }
}

/// Why the power that `switched` claims cannot be switched: the board of another slot is on that port.
fn cut_off<P>(board: &Held<P>, switched: &Held<P>) -> Option<(Option<&'static str>, String)> {
    let (Thing::Port(there), Thing::PortPower(path)) = (&board.claim.thing, &switched.claim.thing)
    else {
        return None;
    };
    (board.slot != switched.slot && there.meets(path)).then(|| {
        let text = format!(
            "{path}: the board of slot {} is on {there}, and would lose its port with it",
            board.slot
        );
        (Some(switched.claim.key), text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str) -> Thing {
        Thing::Line(path.into())
    }

    fn clashes(claims: &[(&str, Claim)]) -> Vec<(usize, String)> {
        let mut all = Claims::default();
        for (at, (slot, claim)) in claims.iter().enumerate() {
            all.add(slot, claim.clone(), at);
        }
        let clashes = all.clashes().into_iter();
        clashes.map(|clash| (clash.place, clash.text)).collect()
    }

    #[test]
    fn a_thing_is_one_slots_alone_or_taken_in_turns_in_one_way() {
        let turns = |way| Claim::turns("device", line("/dev/r"), "a relay board", vec![way]);
        let output = |output: &str| {
            let thing = Thing::Output {
                of: Box::new(line("/dev/r")),
                output: output.to_owned(),
            };
            Claim::alone("relay", thing, "a relay")
        };
        assert_eq!(
            clashes(&[
                ("a", turns(1)),
                ("a", output("relay 1")),
                ("b", turns(1)),
                ("b", output("relay 2")),
            ]),
            []
        );
        let told = clashes(&[
            ("a", turns(1)),
            ("a", output("relay 1")),
            ("b", turns(2)),
            ("b", output("relay 1")),
            ("c", Claim::alone("device", line("/dev/r"), "a console")),
            ("c", Claim::alone("device", line("/dev/s"), "a console")),
        ]);
        let places: Vec<_> = told.iter().map(|(at, _)| *at).collect();
        assert_eq!(places, [2, 3, 4], "{told:?}");
        assert!(told[0].1.contains("slot a is on the same relay board"));
        assert!(told[1].1.contains("\"relay 1 at /dev/r\": slot a has it"));
        assert!(told[2].1.contains("\"/dev/r\": this is a relay board"));
    }

    #[test]
    fn no_port_is_switched_that_another_slots_board_is_on_wherever_that_is_written() {
        let port = |path: &str| Claim::alone("port", Thing::Port(path.parse().unwrap()), "a board");
        let power =
            |path: &str| Claim::alone("port", Thing::PortPower(path.parse().unwrap()), "power");
        assert_eq!(clashes(&[("a", port("1-2.1")), ("a", power("1-2.1"))]), []);
        let told = clashes(&[
            ("a", power("1-2.1")),
            ("b", port("1-2.1")),
            ("c", port("1-2.1.3")),
        ]);
        let places: Vec<_> = told.iter().map(|(at, _)| *at).collect();
        assert_eq!(places, [0, 2], "{told:?}");
    }
}
