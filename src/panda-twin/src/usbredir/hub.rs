//! The boards' power from QEMU's own account of its hubs. A `usb-redir` device is not told when the hub cuts its
//! port: QEMU takes it off the guest's bus and leaves it as it is. What the hub did is in QEMU's trace, so that is
//! where a board learns that its port has lost power, or has it again.
//!
//! ```text
//! usb_xhci_slot_address slotid 1, port 1                       address 1 is what is on port 1: a hub
//! usb_hub_clear_port_feature dev 1, port 2, feature power      port 1.2 is off
//! usb_hub_set_port_feature dev 1, port 2, feature power        port 1.2 is on
//! usb_hub_reset dev 1                                          all its ports are off: a reset hub feeds none
//! ```
//! QEMU writes its trace to a named pipe (`-D`, `-trace`), which [`Follower`] reads. Addresses are those of one
//! xHCI controller; a machine must not have two. Every line that is none of these is passed over.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use panda_board::twin::wire::{PowerAnswer, PowerOrder};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::board::Message;

/// Orders that may wait for one board.
const QUEUE: usize = 64;
/// The longest line of a trace that is looked at.
const MAX_LINE: usize = 4096;

/// What a hub did to its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// One port was switched.
    Port {
        /// Its path: `1.2`.
        path: String,
        /// Whether it has power now.
        on: bool,
    },
    /// The hub with this path was reset: none of its ports has power.
    Reset(String),
}

/// Reads a trace, line by line.
#[derive(Debug, Default)]
pub struct Trace {
    /// What the controller gave which address to, by its port's path.
    addresses: HashMap<u8, String>,
}

impl Trace {
    /// What this line says of a hub.
    pub fn line(&mut self, line: &str) -> Option<Event> {
        // QEMU may put its process id and a time before it.
        let line = &line[line.find("usb_")?..];
        let (what, rest) = line.trim_end().split_once(' ')?;
        let fields: Vec<&str> = rest.split(", ").collect();
        let number = |field: &str, name: &str| field.strip_prefix(name)?.parse::<u8>().ok();
        match (what, &*fields) {
            ("usb_xhci_slot_address", [slot, port]) => {
                let path = port.strip_prefix("port ")?.to_owned();
                self.addresses.insert(number(slot, "slotid ")?, path);
                None
            }
            ("usb_hub_reset", [hub]) => {
                let hub = self.addresses.get(&number(hub, "dev ")?)?;
                Some(Event::Reset(hub.clone()))
            }
            (
                "usb_hub_set_port_feature" | "usb_hub_clear_port_feature",
                [hub, port, "feature power"],
            ) => {
                let hub = self.addresses.get(&number(hub, "dev ")?)?;
                Some(Event::Port {
                    path: format!("{hub}.{}", number(port, "port ")?),
                    on: what == "usb_hub_set_port_feature",
                })
            }
            _ => None,
        }
    }
}

/// Follows a trace for as long as it is there; dropping it ends that.
#[derive(Debug)]
pub struct Follower {
    _tasks: JoinSet<()>,
}

impl Follower {
    /// Starts reading the named pipe `trace`; each board is given with the path of its port.
    ///
    /// # Errors
    /// The pipe cannot be opened, or is none.
    pub fn start(
        trace: &Path,
        boards: Vec<(String, mpsc::Sender<Message>)>,
    ) -> Result<Self, HubError> {
        // Open for writing too, so that it does not end with the QEMU that writes it.
        let reader = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(trace)
            .map_err(|source| HubError {
                trace: trace.to_owned(),
                source,
            })?;
        let mut tasks = JoinSet::new();
        let mut ports = HashMap::new();
        for (path, board) in boards {
            let (orders, to_board) = mpsc::channel(QUEUE);
            tasks.spawn(switch(path.clone(), board, to_board));
            ports.insert(path, orders);
        }
        tasks.spawn(follow(reader, ports));
        Ok(Self { _tasks: tasks })
    }
}

/// A trace that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the hub's trace {trace}: {source}; make it with mkfifo before, and have QEMU write it with -D",
    trace = trace.display()
)]
pub struct HubError {
    trace: PathBuf,
    source: std::io::Error,
}

async fn follow(reader: pipe::Receiver, ports: HashMap<String, mpsc::Sender<PowerOrder>>) {
    let mut reader = BufReader::new(reader);
    let mut trace = Trace::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(count) if count > 0 => {}
            ended => {
                tracing::warn!(
                    ?ended,
                    "the hub's trace ended; boards keep the power they have"
                );
                return;
            }
        }
        if line.len() > MAX_LINE {
            continue;
        }
        match trace.line(&String::from_utf8_lossy(&line)) {
            Some(Event::Port { path, on }) => {
                let order = if on { PowerOrder::On } else { PowerOrder::Off };
                if let Some(orders) = ports.get(&path) {
                    give(&path, orders, order);
                }
            }
            Some(Event::Reset(hub)) => {
                for (path, orders) in &ports {
                    if path.rsplit_once('.').is_some_and(|(own, _)| own == hub) {
                        give(path, orders, PowerOrder::Off);
                    }
                }
            }
            None => {}
        }
    }
}

fn give(path: &str, orders: &mpsc::Sender<PowerOrder>, order: PowerOrder) {
    if orders.try_send(order).is_err() {
        tracing::error!(
            path,
            ?order,
            "a board is too slow: it missed what its port did"
        );
    }
}

/// Switches one board, one order after the other, so that a slow one holds up no other board.
async fn switch(
    path: String,
    board: mpsc::Sender<Message>,
    mut orders: mpsc::Receiver<PowerOrder>,
) {
    while let Some(order) = orders.recv().await {
        let (answer, answered) = oneshot::channel();
        if board.send(Message::Power { order, answer }).await.is_err() {
            return;
        }
        match answered.await {
            Ok(PowerAnswer::Error(error)) => {
                tracing::error!(path, ?order, error, "a board does not follow its port");
            }
            Ok(_) => tracing::info!(path, ?order, "the hub's port"),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str) -> Vec<Event> {
        let mut trace = Trace::default();
        text.lines().filter_map(|line| trace.line(line)).collect()
    }

    fn port(path: &str, on: bool) -> Event {
        Event::Port {
            path: path.to_owned(),
            on,
        }
    }

    #[test]
    fn ports_are_named_by_the_path_that_their_hub_had_last() {
        let found = events(
            "usb_xhci_slot_address slotid 1, port 1\n\
             usb_hub_set_port_feature dev 1, port 2, feature power\n\
             usb_hub_set_port_feature dev 1, port 2, feature reset\n\
             77@1700000000.5:usb_hub_clear_port_feature dev 1, port 2, feature power\n\
             usb_xhci_slot_address slotid 1, port 3.4\n\
             usb_hub_set_port_feature dev 1, port 8, feature power\n",
        );
        assert_eq!(
            found,
            [port("1.2", true), port("1.2", false), port("3.4.8", true)]
        );
    }

    #[test]
    fn a_reset_hub_feeds_no_port_and_one_without_an_address_says_nothing() {
        let found = events(
            "usb_hub_reset dev 0\n\
             usb_hub_set_port_feature dev 1, port 2, feature power\n\
             usb_xhci_slot_address slotid 1, port 1\n\
             usb_hub_reset dev 1\n",
        );
        assert_eq!(found, [Event::Reset("1".to_owned())]);
    }

    #[test]
    fn what_is_none_of_ours_is_passed_over() {
        let text = "usb_\nusb_hub_reset\nusb_hub_reset dev\nusb_hub_reset dev 999\nfoo\n\
                    usb_hub_set_port_feature dev 1, port , feature power\nusb_hub_attach dev 1, port 2";
        assert_eq!(events(text), []);
    }
}
