//! Watches the ports of a rack: one thread for all of them, from before the first board gets power until the last
//! port is let go. It hears of every arrival and departure from the kernel, and looks into sysfs after each and every
//! half second besides, so that neither a lost message nor a quick leave-and-return goes unnoticed:
//!
//! ```text
//! kernel ─ add, remove (netlink) ─▶ counted by the device's number on its bus ─┐
//! sysfs  ─ device's number and inode ─────────────────────────────────────────┴▶ Presence of each port
//! messages lost, hub away, port not to be read ─▶ Unknown
//! ```
//!
//! Whoever is asked trusts no device: all of this is read from the kernel.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::sysfs::{Identity, Seen, Sysfs};
use super::uevent::{Change, Ear, Heard};
use crate::port_path::PortPath;
use crate::{Device, Presence};

/// Between two looks, where the kernel also tells of changes.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks where nobody tells.
const LOOK_ALONE: Duration = Duration::from_millis(50);
/// So many looks at a port may fail, one after the other: a device that comes or leaves makes one fail.
const FAILURES: u32 = 5;

/// The thread's other end; when it is dropped, the thread ends.
pub(super) struct Watcher {
    shared: Arc<Shared>,
}

struct Shared {
    sysfs: Sysfs,
    ports: Mutex<HashMap<PortPath, Watched>>,
    after_look: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Starts the thread; `after_look` is called after each round.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start(
        sysfs: Sysfs,
        after_look: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let ear = match Ear::open(LOOK) {
            Ok(ear) => Some(ear),
            Err(error) => {
                tracing::warn!(%error, "the kernel cannot be listened to; USB is looked at more often instead");
                None
            }
        };
        let shared = Arc::new(Shared {
            sysfs,
            ports: Mutex::default(),
            after_look: Box::new(after_look),
        });
        let thread = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("usb-watch".to_owned())
            .spawn(move || run(&thread, ear))?;
        Ok(Self { shared })
    }

    /// Watches a port from now on, if it is not watched already.
    pub(super) fn port(&self, path: &PortPath) -> watch::Receiver<Presence> {
        let mut ports = self.shared.ports();
        if let Some(watched) = ports.get(path) {
            return watched.presence.subscribe();
        }
        let mut watched = Watched::new(path.clone());
        watched.look(&self.shared.sysfs);
        let presence = watched.presence.subscribe();
        ports.insert(path.clone(), watched);
        presence
    }

    /// Which device the arrival of this number is, if it is still there.
    pub(super) fn identity(&self, path: &PortPath, arrival: u64) -> Option<Identity> {
        let ports = self.shared.ports();
        let watched = ports.get(path)?;
        let current = watched.current?;
        (watched.arrivals == arrival).then_some(Identity {
            devnum: current.devnum,
            inode: current.inode?,
        })
    }
}

impl Shared {
    fn ports(&self) -> MutexGuard<'_, HashMap<PortPath, Watched>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what has been heard, and looks at every port.
    fn round(&self, heard: Vec<Heard>) {
        let mut ports = self.ports();
        for heard in heard {
            match heard {
                Heard::Change(change) => {
                    if let Some(watched) = ports.get_mut(&change.port) {
                        watched.changed(&change);
                    }
                }
                Heard::Lost => {
                    tracing::warn!(
                        "messages of the kernel about USB were lost; every port counts as changed"
                    );
                    for watched in ports.values_mut() {
                        watched.unseen();
                    }
                }
                Heard::Other | Heard::Nothing => {}
            }
        }
        for watched in ports.values_mut() {
            watched.look(&self.sysfs);
        }
        drop(ports);
        (self.after_look)();
    }
}

fn run(shared: &Weak<Shared>, mut ear: Option<Ear>) {
    loop {
        let heard = match &ear {
            Some(open) => match gather(open) {
                Ok(heard) => heard,
                Err(error) => {
                    tracing::warn!(%error, "the kernel can no longer be listened to; USB is looked at more often instead");
                    ear = None;
                    vec![Heard::Lost]
                }
            },
            None => {
                std::thread::sleep(LOOK_ALONE);
                Vec::new()
            }
        };
        let Some(shared) = shared.upgrade() else {
            return;
        };
        shared.round(heard);
    }
}

/// Waits for one message, and takes all that are there then.
fn gather(ear: &Ear) -> io::Result<Vec<Heard>> {
    const MOST: usize = 4096;
    let mut heard = vec![ear.next()?];
    while heard.len() < MOST {
        match ear.more()? {
            Heard::Nothing => break,
            more => heard.push(more),
        }
    }
    Ok(heard)
}

/// A port and what is known of it.
struct Watched {
    path: PortPath,
    presence: watch::Sender<Presence>,
    arrivals: u64,
    current: Option<Current>,
    /// An arrival that was heard of and not looked at yet, so that its class is not known.
    heard: Option<Device>,
    failures: u32,
}

/// The device that is there.
#[derive(Debug, Clone, Copy)]
struct Current {
    devnum: u32,
    /// Not known until sysfs has been looked at.
    inode: Option<u64>,
}

impl Watched {
    fn new(path: PortPath) -> Self {
        Self {
            path,
            presence: watch::Sender::new(Presence::Unknown),
            arrivals: 0,
            current: None,
            heard: None,
            failures: 0,
        }
    }

    /// The kernel has told of a change. One that a look has shown already is not counted twice.
    fn changed(&mut self, change: &Change) {
        let known = self
            .current
            .is_some_and(|current| current.devnum == change.devnum);
        match (change.arrived, known) {
            (true, false) => {
                self.arrivals += 1;
                self.current = Some(Current {
                    devnum: change.devnum,
                    inode: None,
                });
                // Not shown before the look that follows: until then it has no class, and a boot ROM would be
                // taken for something else.
                self.heard = Some(Device {
                    vendor: change.vendor,
                    product: change.product,
                    interface_class: 0,
                    arrival: self.arrivals,
                });
            }
            (false, true) => {
                self.show_heard();
                self.current = None;
                self.presence.send_replace(Presence::Empty);
            }
            (true, true) | (false, false) => {}
        }
    }

    /// Shows an arrival that is gone already: it was there all the same.
    fn show_heard(&mut self) {
        if let Some(device) = self.heard.take() {
            self.presence.send_replace(Presence::Device(device));
        }
    }

    fn look(&mut self, sysfs: &Sysfs) {
        match sysfs.look(&self.path) {
            Ok(seen) => {
                self.failures = 0;
                self.seen(seen);
            }
            Err(error) => {
                self.failures += 1;
                if self.failures == FAILURES {
                    tracing::warn!(port = %self.path, %error, "the port cannot be looked at");
                    self.unseen();
                }
            }
        }
    }

    fn seen(&mut self, seen: Seen) {
        let presence = match seen {
            Seen::NoPort => {
                self.show_heard();
                self.current = None;
                Presence::Unknown
            }
            Seen::Empty => {
                self.show_heard();
                self.current = None;
                Presence::Empty
            }
            Seen::Device(identity, facts) => {
                self.heard = None;
                let same = self.current.is_some_and(|current| {
                    current.devnum == identity.devnum
                        && current.inode.is_none_or(|inode| inode == identity.inode)
                });
                if !same {
                    self.arrivals += 1;
                }
                self.current = Some(Current {
                    devnum: identity.devnum,
                    inode: Some(identity.inode),
                });
                Presence::Device(Device {
                    vendor: facts.vendor,
                    product: facts.product,
                    interface_class: facts.interface_class(),
                    arrival: self.arrivals,
                })
            }
        };
        self.presence.send_if_modified(|known| {
            let differs = *known != presence;
            *known = presence;
            differs
        });
    }

    fn unseen(&mut self) {
        self.presence.send_replace(Presence::Unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{KEYBOARD, Machine, ROM};
    use super::*;

    fn change(devnum: u32, arrived: bool) -> Change {
        Change {
            port: "1-2.3".parse().unwrap(),
            arrived,
            devnum,
            vendor: 0x0451,
            product: 0xd00f,
        }
    }

    fn watched(machine: &Machine) -> (Watched, watch::Receiver<Presence>) {
        let mut watched = Watched::new("1-2.3".parse().unwrap());
        watched.look(&machine.sysfs());
        let mut presence = watched.presence.subscribe();
        presence.mark_unchanged();
        (watched, presence)
    }

    fn rom(arrival: u64) -> Presence {
        Presence::Device(Device {
            vendor: 0x0451,
            product: 0xd00f,
            interface_class: 0xff,
            arrival,
        })
    }

    #[test]
    fn a_port_is_empty_has_a_device_or_is_not_to_be_seen() {
        let machine = Machine::new();
        let (mut watched, presence) = watched(&machine);
        assert_eq!(*presence.borrow(), Presence::Empty);
        machine.plug("1-2.3", &ROM);
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), rom(1));
        machine.unplug("1-2.3");
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), Presence::Empty);
        machine.unplug_hub("1-2");
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), Presence::Unknown);
    }

    #[test]
    fn a_device_that_left_and_returned_between_two_looks_is_another() {
        let machine = Machine::new();
        let (mut watched, presence) = watched(&machine);
        machine.plug("1-2.3", &ROM);
        watched.look(&machine.sysfs());
        machine.unplug("1-2.3");
        machine.plug("1-2.3", &ROM);
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), rom(2));
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), rom(2));
        // The same number on the bus, but another directory: every number has been given since.
        let devnum = machine.read("1-2.3/devnum");
        std::fs::rename(machine.root().join("1-2.3"), machine.root().join(".old")).unwrap();
        machine.plug("1-2.3", &ROM);
        machine.write("1-2.3/devnum", &devnum);
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), rom(3));
    }

    #[test]
    fn one_that_came_and_left_between_two_looks_is_heard_of() {
        let machine = Machine::new();
        let (mut watched, mut presence) = watched(&machine);
        watched.changed(&change(9, true));
        watched.changed(&change(9, false));
        watched.look(&machine.sysfs());
        assert!(presence.has_changed().unwrap());
        assert_eq!(*presence.borrow_and_update(), Presence::Empty);
        watched.look(&machine.sysfs());
        assert!(!presence.has_changed().unwrap());
        machine.plug("1-2.3", &ROM);
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), rom(2));
    }

    #[test]
    fn what_was_seen_before_it_was_heard_of_counts_once() {
        let machine = Machine::new();
        let (mut watched, presence) = watched(&machine);
        let first = machine.plug("1-2.3", &ROM);
        machine.unplug("1-2.3");
        let second = machine.plug("1-2.3", &ROM);
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), rom(1));
        // Late news: of the first one, that it has come and gone; of the second, that it is there.
        watched.changed(&change(second, true));
        assert_eq!(*presence.borrow(), rom(1));
        watched.changed(&change(first, false));
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), rom(1));
        watched.changed(&change(second, false));
        assert_eq!(*presence.borrow(), Presence::Empty);
    }

    #[test]
    fn what_is_heard_of_first_gets_its_class_with_the_look() {
        let machine = Machine::new();
        let (mut watched, presence) = watched(&machine);
        let devnum = machine.plug("1-2.3", &ROM);
        watched.changed(&change(devnum, true));
        // Without its class it would be no boot ROM.
        assert_eq!(*presence.borrow(), Presence::Empty);
        watched.look(&machine.sysfs());
        assert_eq!(*presence.borrow(), rom(1));
    }

    #[test]
    fn lost_messages_change_every_port() {
        let machine = Machine::new();
        let watcher = Watcher::start(machine.sysfs(), || {}).unwrap();
        let mut presence = watcher.port(&"1-2.3".parse().unwrap());
        presence.mark_unchanged();
        watcher.shared.round(vec![Heard::Lost]);
        assert!(presence.has_changed().unwrap());
        assert_eq!(*presence.borrow(), Presence::Empty);
    }

    #[tokio::test]
    async fn the_watcher_sees_by_itself_and_knows_an_arrival_until_it_leaves() {
        let machine = Machine::new();
        let watcher = Watcher::start(machine.sysfs(), || {}).unwrap();
        let path: PortPath = "1-2.1".parse().unwrap();
        let mut presence = watcher.port(&path);
        machine.plug("1-2.1", &KEYBOARD);
        let seen = presence.wait_for(|seen| matches!(seen, Presence::Device(_)));
        let Presence::Device(device) = *seen.await.unwrap() else {
            panic!("a device")
        };
        assert_eq!((device.interface_class, device.arrival), (3, 1));
        assert!(watcher.identity(&path, 1).is_some());
        assert!(watcher.identity(&path, 2).is_none());
        machine.unplug("1-2.1");
        let left = presence.wait_for(|seen| *seen == Presence::Empty).await;
        drop(left.unwrap());
        assert!(watcher.identity(&path, 1).is_none());
    }
}
