//! The `rack.toml` of a rack of virtual boards. Addresses that boards know (their own, the depot's) are chosen
//! once and kept, so that a later daemon finds boards that are still up. They are on a loopback address of the rack's own:
//! on 127.0.0.1 any connection that this machine makes may be given a board's port while the board is without power, and
//! the board then finds it taken.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use panda_board::twin::qemu;
use serde_json::json;

use crate::config::Config;
use crate::operators::SOCKET;

/// The board's name, from 1: as panda-twin names them.
pub(crate) fn board(number: u16) -> String {
    format!("panda{number:02}")
}

/// Settings of `[boot]` and `[guest]` where processors are emulated, several boards on one host.
const EMULATED: &str = "# An emulated processor may be slow, and busy with other boards.\n\
    handshake_ms = 300000\nfirst_word_ms = 150000\nsilent_ms = 60000\n\n[guest]\nprove_silent_ms = 60000\ncall_ms = 30000\n";

/// Addresses of a rack of virtual boards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    depot: SocketAddr,
    slots: Vec<Slot>,
    /// What the boards boot, where they are QEMU and so have a network of their own.
    image: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    name: String,
    listen: SocketAddr,
    link: SocketAddr,
}

impl Plan {
    /// For `count` slots from `listen` on; what an `earlier` configuration has chosen is kept. With an `image`,
    /// boards are QEMU and boot that one.
    ///
    /// # Errors
    /// Ports run out.
    pub(crate) fn make(
        listen: SocketAddr,
        count: u16,
        image: Option<&Path>,
        earlier: Option<&Config>,
    ) -> anyhow::Result<Self> {
        let mut known: HashMap<&str, SocketAddr> = HashMap::new();
        let mut taken = HashSet::new();
        if let Some(earlier) = earlier {
            taken.insert(earlier.depot.listen.port());
            for slot in &earlier.slots {
                known.insert(slot.name.get_ref(), *slot.link.get_ref());
                taken.insert(slot.link.get_ref().port());
            }
        }
        let mut fronts = Vec::new();
        for index in 0..count {
            let port = match listen.port() {
                0 => free_port(listen.ip(), &mut taken)?,
                first => match first.checked_add(index) {
                    Some(port) => port,
                    None => bail!(
                        "--listen {listen}: {count} ports from there on are more than there are"
                    ),
                },
            };
            taken.insert(port);
            fronts.push(SocketAddr::new(listen.ip(), port));
        }
        let loopback = own_loopback();
        let front_ports: HashSet<u16> = fronts.iter().map(SocketAddr::port).collect();
        let mut fresh = |kept: Option<SocketAddr>, here| -> anyhow::Result<SocketAddr> {
            match kept.filter(|kept| !front_ports.contains(&kept.port())) {
                Some(kept) => Ok(kept),
                None => Ok(SocketAddr::new(here, free_port(here, &mut taken)?)),
            }
        };
        // QEMU's user network shows its guests one address of the host's.
        let seen = image.map_or(loopback, |_| IpAddr::V4(Ipv4Addr::LOCALHOST));
        let depot = fresh(earlier.map(|earlier| earlier.depot.listen), seen)?;
        let mut slots = Vec::new();
        for (number, listen) in (1..).zip(fronts) {
            let name = board(number);
            let link = fresh(known.get(name.as_str()).copied(), loopback)?;
            slots.push(Slot { name, listen, link });
        }
        let image = image.map(Path::to_owned);
        Ok(Self {
            depot,
            slots,
            image,
        })
    }

    /// Where the slots' boards are reached, in their order.
    pub(crate) fn links(&self) -> impl Iterator<Item = SocketAddr> {
        self.slots.iter().map(|slot| slot.link)
    }

    /// Writes it to `path`, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        use std::io::Write as _;
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)
            .with_context(|| directory.display().to_string())?;
        file.write_all(self.text().as_bytes())
            .with_context(|| path.display().to_string())?;
        file.persist(path)
            .with_context(|| path.display().to_string())?;
        Ok(())
    }

    fn text(&self) -> String {
        // JSON strings of plain ASCII are TOML strings too.
        let first = self
            .slots
            .first()
            .map(|slot| slot.listen.to_string())
            .unwrap_or_default();
        let (image, advertise, board) = match &self.image {
            None => ("image".to_owned(), String::new(), String::new()),
            Some(image) => (
                image.to_string_lossy().into_owned(),
                format!(
                    "# The host, as a board sees it.\nadvertise = \"{}:{}\"\n",
                    qemu::HOST,
                    self.depot.port()
                ),
                format!(
                    "link_listen = \"{}:{}\"\nnetwork = {{ address = \"{}/{}\", gateway = \"{}\", nameservers = [\"{}\"] }}\n",
                    qemu::GUEST,
                    qemu::LINK_PORT,
                    qemu::GUEST,
                    qemu::PREFIX,
                    qemu::HOST,
                    qemu::NAMES,
                ),
            ),
        };
        let mut text = format!(
            "# Written by `pandabuildd twin`, again at each start. The ports of [depot] and `link` are kept.\n\
             [rack]\nname = \"twin\"\nstate_dir = \".\"\nimage = {}\n\n\
             [operators]\nsocket = {}\n\n\
             [front]\nlisten = {}\n\n[depot]\nlisten = {}\n{advertise}\n\
             # A virtual supply has no capacitors.\n[boot]\ncut_hold_ms = 200\n{}\n\
             # Nor does a virtual board need a rest.\n[slot_task]\nretry_first_seconds = 5\n",
            toml::Value::String(image),
            json!(SOCKET),
            json!(first),
            json!(self.depot.to_string()),
            if self.image.is_some() { EMULATED } else { "" },
        );
        for Slot { name, listen, link } in &self.slots {
            text += &format!(
                "\n[[slot]]\nname = {}\nlisten = {}\nlink = {}\nboard = {{ chip = \"omap4430\" }}\n{board}",
                json!(name),
                json!(listen.to_string()),
                json!(link.to_string())
            );
            for driver in ["power", "pipe", "console"] {
                let socket = format!("{}/{driver}.sock", super::process::board_directory(name));
                text += &format!(
                    "{driver} = {{ driver = \"twin\", socket = {} }}\n",
                    json!(socket)
                );
            }
        }
        text
    }
}

/// A loopback address that hardly anybody else has: one of four million, 127.64.0.0 to 127.127.255.255.
fn own_loopback() -> IpAddr {
    let random = RandomState::new().build_hasher().finish().to_be_bytes();
    let [a, b, c, ..] = random;
    IpAddr::V4(Ipv4Addr::new(127, 64 | (a & 63), b, c))
}

/// A port that nobody listens on now and that is not `taken`; it becomes so.
fn free_port(address: IpAddr, taken: &mut HashSet<u16>) -> anyhow::Result<u16> {
    for _ in 0..1000 {
        let listener =
            TcpListener::bind((address, 0)).with_context(|| format!("a free port at {address}"))?;
        let port = listener.local_addr()?.port();
        if taken.insert(port) {
            return Ok(port);
        }
    }
    bail!("no free port at {address}")
}

#[cfg(test)]
mod tests {
    use std::any::Any;

    use panda_board::twin::TwinSettings;

    use super::*;

    fn config(plan: &Plan) -> Config {
        Config::parse(&plan.text(), Path::new("/state/rack.toml")).unwrap()
    }

    #[test]
    fn the_plan_is_a_configuration_with_ports_counting_up_and_all_at_the_first() {
        let plan = Plan::make("127.0.0.1:8221".parse().unwrap(), 3, None, None).unwrap();
        let config = config(&plan);
        let listens: Vec<_> = config
            .slots
            .iter()
            .map(|slot| slot.own_address().unwrap().to_string())
            .collect();
        assert_eq!(
            listens,
            ["127.0.0.1:8221", "127.0.0.1:8222", "127.0.0.1:8223"]
        );
        assert_eq!(config.front.listen.unwrap().to_string(), "127.0.0.1:8221");
        assert_eq!(config.rack.state_dir, Path::new("/state"));
        // Where no connection of this machine's can take a port while its board is without power.
        let ours = plan.links().chain([config.depot.listen]);
        for address in ours {
            assert!(address.ip().is_loopback() && address.ip() != Ipv4Addr::LOCALHOST);
        }
        let pipe: &dyn Any = config.slots[1].pipe.as_ref();
        let pipe: &TwinSettings = pipe.downcast_ref().unwrap();
        assert_eq!(
            pipe.socket,
            Path::new("/state/twin/boards/panda02/pipe.sock")
        );
    }

    #[test]
    fn boards_that_are_qemu_are_told_their_own_side_of_its_network() {
        let image = Path::new("/images/my \"qemu\" one");
        let plan = Plan::make("127.0.0.1:0".parse().unwrap(), 2, Some(image), None).unwrap();
        let config = config(&plan);
        assert_eq!(config.rack.image, image);
        assert_eq!(config.depot.listen.ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(
            config.depot.address(),
            format!("10.0.2.2:{}", config.depot.listen.port())
                .parse()
                .unwrap()
        );
        for (slot, link) in config.slots.iter().zip(plan.links()) {
            assert_eq!(*slot.link.get_ref(), link);
            assert!(link.ip().is_loopback());
            assert_eq!(slot.link_listen(), "10.0.2.15:8222".parse().unwrap());
            assert_eq!(slot.network().address.as_deref(), Some("10.0.2.15/24"));
            assert_eq!(slot.network().gateway.as_deref(), Some("10.0.2.2"));
        }
        assert!(config.boot.handshake_ms > crate::boot::BootSettings::default().handshake_ms);
    }

    #[test]
    fn ports_that_boards_know_are_kept_when_slots_come_and_addresses_change() {
        let one = config(&Plan::make("127.0.0.1:0".parse().unwrap(), 1, None, None).unwrap());
        let two = Plan::make("127.0.0.1:0".parse().unwrap(), 2, None, Some(&one)).unwrap();
        assert_eq!(two.depot, one.depot.listen);
        assert_eq!(two.slots[0].link, *one.slots[0].link.get_ref());
        config(&two);
    }

    #[test]
    fn a_kept_port_gives_way_to_one_that_was_asked_for() {
        let one = config(&Plan::make("127.0.0.1:0".parse().unwrap(), 1, None, None).unwrap());
        let wanted = *one.slots[0].link.get_ref();
        let plan = Plan::make(wanted, 1, None, Some(&one)).unwrap();
        assert_ne!(plan.slots[0].link, wanted);
        config(&plan);
    }

    #[test]
    fn ports_that_run_out_are_said() {
        let error = Plan::make("127.0.0.1:65535".parse().unwrap(), 2, None, None).unwrap_err();
        assert!(error.to_string().contains("--listen"), "{error}");
    }
}
