//! Who is behind a port of the guest's hub, and whether it has power: the twin's own board, or a device that lies.
//! QEMU connects to the switchboard's socket of a port; when somebody else is put there, it is cut off and
//! connects again, as when a plug is pulled and another put in.
//!
//! ```text
//! QEMU usb-redir ─── port socket ─┬─ Behind::Board:  bytes as they come to and from the twin's usbredir.sock
//!                                 └─ Behind::Device: a script (see `device`)
//! hub's trace, or relays (TCP) ──── power of the port ──▶ the twin's power.sock, the script
//! ```

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use panda_twin::usbredir::hub::{Event, Trace};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::device::{self, Life, Script};

/// Who is behind a port.
#[derive(Debug, Clone)]
pub(crate) enum Behind {
    /// The twin's board.
    Board,
    /// A device of the drills.
    Device(Script),
}

impl Behind {
    /// Whether it is what its power lets it be: neither its own supply nor its own will keeps it on the port.
    fn lives_on_power(&self) -> bool {
        match self {
            Self::Board => true,
            Self::Device(script) => matches!(script.life, Life::Powered),
        }
    }
}

/// What switches the boards' power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Supply {
    /// The hub's ports.
    Hub,
    /// Relays, which the guest reaches over its network.
    Relays,
    /// The same, and at the beginning every board runs, with its gadget up.
    RunningRelays,
}

/// A port of the guest's hub.
#[derive(Debug)]
pub(crate) struct Port {
    /// As QEMU names it: `1.2`.
    pub(crate) path: String,
    socket: PathBuf,
    behind: watch::Sender<Behind>,
    power: watch::Sender<bool>,
}

/// All ports.
#[derive(Debug)]
pub(crate) struct Switchboard {
    /// In order.
    pub(crate) ports: Vec<Port>,
    relays: u16,
}

impl Switchboard {
    /// Serves a port for each of the twin's boards, which are in these directories; power is switched by `supply`:
    /// the hub's trace comes on the named pipe `trace`.
    pub(crate) fn start(
        runtime: &Handle,
        directory: &Path,
        boards: &[(String, PathBuf)],
        supply: Supply,
        trace: &Path,
    ) -> Result<Self> {
        let _context = runtime.enter();
        let mut ports = Vec::new();
        let mut powers = HashMap::new();
        let mut wires = HashMap::new();
        for (path, board) in boards {
            let socket = directory.join(format!("{path}.sock"));
            let listener = UnixListener::bind(&socket)?;
            let (power, powered) = watch::channel(supply == Supply::RunningRelays);
            let (behind, who) = watch::channel(Behind::Board);
            runtime.spawn(port(
                listener,
                board.join("usbredir.sock"),
                who,
                powered.clone(),
                supply == Supply::RunningRelays,
            ));
            runtime.spawn(feed(board.join("power.sock"), powered));
            powers.insert(path.clone(), power.clone());
            wires.insert(
                path.clone(),
                Wire {
                    power: power.clone(),
                    behind: behind.subscribe(),
                },
            );
            ports.push(Port {
                path: path.clone(),
                socket,
                behind,
                power,
            });
        }
        let trace = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(trace)?;
        runtime.spawn(follow(trace, (supply == Supply::Hub).then_some(powers)));
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let relays = listener.local_addr()?.port();
        let listener = TcpListener::from_std(listener)?;
        runtime.spawn(serve_relays(listener, wires));
        Ok(Self { ports, relays })
    }

    /// Options of `scripts/usb-guest` for these ports.
    pub(crate) fn options(&self) -> Vec<String> {
        self.ports
            .iter()
            .flat_map(|port| {
                let socket = port.socket.display();
                ["--port".to_owned(), format!("{}={socket}", port.path)]
            })
            .collect()
    }

    /// The socket of a port, from 0.
    pub(crate) fn socket(&self, port: usize) -> Result<&Path> {
        Ok(&self.ports.get(port).context("no such port")?.socket)
    }

    /// The TCP port of the host's loopback that takes the relays' orders.
    pub(crate) fn relays(&self) -> u16 {
        self.relays
    }

    /// Puts somebody behind a port, from 0.
    pub(crate) fn put(&self, port: usize, who: Behind) -> Result<()> {
        let port = self.ports.get(port).context("no such port")?;
        port.behind.send_replace(who);
        Ok(())
    }

    /// Takes the power of a port from outside, as when a hub's own supply is pulled.
    pub(crate) fn starve(&self, port: usize) -> Result<()> {
        let port = self.ports.get(port).context("no such port")?;
        port.power.send_replace(false);
        Ok(())
    }
}

/// Serves one port's socket for ever; a board that `runs` has its gadget up until it is cut for the first time.
async fn port(
    listener: UnixListener,
    board: PathBuf,
    mut who: watch::Receiver<Behind>,
    power: watch::Receiver<bool>,
    mut runs: bool,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let behind = who.borrow_and_update().clone();
        runs &= *power.borrow() && behind.lives_on_power();
        if runs {
            tokio::select! {
                ended = device::serve_gadget(stream, power.clone()) => {
                    if let Err(error) = ended {
                        eprintln!("{}: {error}", board.display());
                    }
                }
                _ = who.changed() => {}
            }
            runs = *power.borrow();
            continue;
        }
        tokio::select! {
            ended = serve(behind, stream, &board, power.clone()) => {
                if let Err(error) = ended {
                    eprintln!("{}: {error}", board.display());
                }
            }
            _ = who.changed() => {}
        }
    }
}

async fn serve(
    behind: Behind,
    mut stream: UnixStream,
    board: &Path,
    power: watch::Receiver<bool>,
) -> io::Result<()> {
    match behind {
        Behind::Board => {
            let mut board = UnixStream::connect(board).await?;
            tokio::io::copy_bidirectional(&mut stream, &mut board).await?;
            Ok(())
        }
        Behind::Device(script) => device::serve(script, stream, power).await,
    }
}

/// Tells the twin's board what its power is, in order.
async fn feed(socket: PathBuf, mut power: watch::Receiver<bool>) {
    loop {
        let on = *power.borrow_and_update();
        if let Err(error) = order(&socket, on).await {
            eprintln!("{}: {error}", socket.display());
        }
        if power.changed().await.is_err() {
            return;
        }
    }
}

async fn order(socket: &Path, on: bool) -> Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    let word: &[u8] = if on { b"on\n" } else { b"off\n" };
    stream.write_all(word).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    ensure!(answer == "ok\n", "the twin says {answer:?}");
    Ok(())
}

/// Follows the hubs' trace; with `powers` it switches the boards.
async fn follow(reader: pipe::Receiver, powers: Option<HashMap<String, watch::Sender<bool>>>) {
    let mut lines = BufReader::new(reader).lines();
    let mut trace = Trace::default();
    // One after the other: a board that was off for a moment was off.
    let (events, mut to_switch) = mpsc::unbounded_channel();
    let switch = async move {
        while let Some((path, on)) = to_switch.recv().await {
            if let Some(power) = powers.as_ref().and_then(|powers| powers.get(&path)) {
                power.send_replace(on);
                // So that both the twin and a script see each change.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let read = async move {
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(Event::Port { path, on }) = trace.line(&line)
                && events.send((path, on)).is_err()
            {
                return;
            }
        }
    };
    tokio::join!(switch, read);
}

/// What the relay of a port switches.
struct Wire {
    power: watch::Sender<bool>,
    behind: watch::Receiver<Behind>,
}

impl Wire {
    fn order(&self, word: &str) -> &'static str {
        match word {
            "on" | "off" => {
                self.power.send_replace(word == "on");
                "ok\n"
            }
            "read" if *self.power.borrow() => "on\n",
            "read" => "off\n",
            "sense" if self.is_live() => "live\n",
            "sense" => "dark\n",
            _ => "error\n",
        }
    }

    /// What somebody with a meter would find: a device with a supply of its own is never dark.
    fn is_live(&self) -> bool {
        !self.behind.borrow().lives_on_power() || *self.power.borrow()
    }
}

/// The relays: each connection is one order, `PATH on|off|read|sense`, answered by one line.
async fn serve_relays(listener: TcpListener, wires: HashMap<String, Wire>) {
    let wires = Arc::new(wires);
    while let Ok((stream, _)) = listener.accept().await {
        let wires = Arc::clone(&wires);
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            if stream.read_line(&mut line).await.is_err() {
                return;
            }
            let answer = line
                .trim()
                .split_once(' ')
                .and_then(|(path, word)| Some(wires.get(path)?.order(word)))
                .unwrap_or("error\n");
            stream.write_all(answer.as_bytes()).await.ok();
        });
    }
}
