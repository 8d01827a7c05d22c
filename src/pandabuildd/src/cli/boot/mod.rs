//! `pandabuildd boot`: boots one board, or each that appears, over USB, without a daemon, a rack or an image: anybody
//! with a PandaBoard and a laptop. The board's power is the user's own business; a boot ROM that comes is sent what the
//! command line names.
//!
//! ```text
//! files, checked ─▶ ROM on the port ─▶ who is it ─▶ the family hands it over ─▶ the port is left ─▶ console, if there is one
//! ```
//!
//! That the port is left is all that USB tells: it does not say that anything was started.

mod console;
mod payload;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use panda_board::family::{EndedStep, Families, MemoryPayload, Session, Steps};
use panda_board::usb::{PortPath, Sysfs, Usb};
use panda_board::{Device, Port, Presence};
use panda_protocol::operators::HandOver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::console::Watch;
use self::payload::Files;
use super::{Exit, interrupted, say};
use crate::boot::{BootSettings, describe};

/// Between two looks for new ports.
const LOOK: Duration = Duration::from_millis(500);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// Boot a board over USB, without a daemon.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Plug the board's OTG port in, run this, then give the board power: its boot ROM listens for some seconds only. Ports are \
named as `pandabuildd usb list` shows them. A line on standard output tells of each board that was booted.")]
pub(crate) struct Args {
    /// The USB port that the board is on, such as 1-2.3; every port, where it is left out with --monitor
    #[arg(long, value_name = "PATH", required_unless_present = "monitor")]
    port: Option<PortPath>,
    #[command(flatten)]
    files: Files,
    /// Boot each board that appears, until Ctrl-C
    #[arg(long)]
    monitor: bool,
    /// How long to wait for a board, in seconds; with --monitor there is no end
    #[arg(long, value_name = "S", default_value_t = 120, conflicts_with = "monitor",
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
    /// A pause before each write, in milliseconds: boot ROMs stall when data comes too fast
    #[arg(long, value_name = "MS", default_value_t = BootSettings::default().write_pause_ms)]
    write_pause_ms: u64,
    /// A pause before each read
    #[arg(long, value_name = "MS", default_value_t = BootSettings::default().read_pause_ms)]
    read_pause_ms: u64,
    /// The most bytes of one transfer, a multiple of 512
    #[arg(long, value_name = "N", default_value_t = BootSettings::default().transfer_bytes)]
    transfer_bytes: usize,
    /// How long the image may take, in seconds; without it, as long as its size and the pauses allow
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    image_limit: Option<u64>,
    /// The board's serial console, watched for what a second stage says that cannot start its image: a device, or HOST:PORT
    #[arg(
        long,
        value_name = "PLACE",
        requires = "port",
        conflicts_with = "monitor"
    )]
    console: Option<String>,
}

/// A second stage that cannot start what it was sent says so within this.
const CONSOLE: Duration = Duration::from_secs(5);

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let settings = BootSettings {
        write_pause_ms: args.write_pause_ms,
        read_pause_ms: args.read_pause_ms,
        transfer_bytes: args.transfer_bytes,
        boot_image_ms: args.image_limit.map(|seconds| seconds * 1_000),
        ..BootSettings::default()
    };
    settings.check()?;
    let files = args.files.clone();
    let payload = Arc::new(tokio::task::spawn_blocking(move || files.load()).await??);
    let usb = Usb::start(Sysfs::default()).context("USB cannot be watched")?;
    if let Some(port) = &args.port {
        usb.has_port(port).map_err(anyhow::Error::msg)?;
    } else {
        usb.ports().context("this machine has no USB")?;
    }
    let console = match &args.console {
        Some(place) => Some(console::open(place).await?),
        None => None,
    };
    let loader = Loader {
        payload,
        families: settings.families(),
        settings: Arc::new(settings),
    };
    loader.warn();
    let ended = async {
        match (args.port, args.monitor) {
            (Some(port), false) => {
                let limit = Duration::from_secs(args.timeout);
                loader
                    .one(&usb.port(&port), &port, limit, console.map(Watch::new))
                    .await
            }
            (port, _) => loader.monitor(&usb, port).await,
        }
    };
    tokio::select! {
        ended = ended => ended,
        () = interrupted() => Ok(Exit::Interrupted),
    }
}

/// What every board gets. Cheap to clone.
#[derive(Clone)]
struct Loader {
    payload: Arc<MemoryPayload>,
    families: Families,
    settings: Arc<BootSettings>,
}

impl Loader {
    /// Says what is known to fail.
    fn warn(&self) {
        let parts = self.payload.parts();
        for warning in parts.flat_map(|(name, bytes)| self.families.warnings(name, bytes)) {
            eprintln!("pandabuildd: warning: {warning}");
        }
    }

    async fn one(
        &self,
        port: &dyn Port,
        path: &PortPath,
        limit: Duration,
        console: Option<Watch>,
    ) -> anyhow::Result<Exit> {
        eprintln!("{path}: waiting for a boot ROM; give the board power now");
        let mut presence = port.watch();
        let Ok(device) = timeout(limit, next_rom(&self.families, &mut presence, None)).await else {
            eprintln!(
                "pandabuildd: no boot ROM on port {path} within {limit:?}; was the board given power while this \
                 was running, without a card in its slot?"
            );
            return Ok(Exit::TimeOut);
        };
        let device = device?;
        let Some(mut console) = console else {
            self.boot(port, path, device).await?;
            return Ok(Exit::Done);
        };
        let forever = Duration::from_secs(3_600);
        let mut told = tokio::select! {
            booted = self.boot(port, path, device) => { booted?; None }
            told = console.failure(forever) => told,
        };
        if told.is_none() {
            told = console.failure(CONSOLE).await;
        }
        if let Some(text) = told {
            bail!("the board's console says \"{text}\": what was sent is not started");
        }
        eprintln!("{path}: its console says of no failure within {CONSOLE:?}");
        Ok(Exit::Done)
    }

    /// Boots whatever comes, on one port or on all, those of hubs that come later too.
    async fn monitor(&self, usb: &Usb, only: Option<PortPath>) -> anyhow::Result<Exit> {
        eprintln!("waiting for boot ROMs; Ctrl-C ends it");
        let mut known = HashSet::new();
        let mut watching = JoinSet::new();
        loop {
            let ports = match &only {
                Some(port) => vec![port.clone()],
                None => usb.ports().unwrap_or_default(),
            };
            for path in ports {
                if known.insert(path.clone()) {
                    let (loader, port) = (self.clone(), usb.port(&path));
                    watching.spawn(async move { loader.follow(&port, &path).await });
                }
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                Some(ended) = watching.join_next() => {
                    ended.context("a port's watch has ended badly")??;
                }
            }
        }
    }

    async fn follow(&self, port: &dyn Port, path: &PortPath) -> anyhow::Result<()> {
        let mut presence = port.watch();
        let mut last = None;
        loop {
            let device = next_rom(&self.families, &mut presence, last).await?;
            last = Some(device.arrival);
            if let Err(error) = self.boot(port, path, device).await {
                eprintln!("{path}: {error:#}; the board needs another power cycle");
            }
        }
    }

    async fn boot(&self, port: &dyn Port, path: &PortPath, device: Device) -> anyhow::Result<()> {
        let settings = &self.settings;
        let begun = Instant::now();
        let family = self.families.of_rom(device).context("no boot ROM")?;
        let mut pipe = port.open(device.arrival).await?;
        let progress = Progress::of(path);
        let mut arrival = device.arrival;
        let mut session = Session {
            pipe: &mut pipe,
            deadline: Instant::now() + Duration::from_millis(settings.identify_ms()),
            steps: &progress,
            port,
            arrival: &mut arrival,
        };
        let asked = timeout_at(session.deadline, family.identify(&mut session)).await;
        let id = describe(&asked.context("the boot ROM does not tell who it is")??);
        eprintln!("{path}: {id}");
        let bytes = self
            .payload
            .parts()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum();
        session.deadline = Instant::now() + family.hand_over_limit(bytes);
        let sent = family.hand_over(&mut session, &*self.payload).await?;
        let released = Duration::from_millis(settings.port_released_ms);
        let mut presence = port.watch();
        let leaves = presence.wait_for(|seen| !is_there(seen, arrival));
        if timeout(released, leaves).await.is_err() {
            bail!(
                "the board has all that was sent, and is still on the port after {released:?}: it does not start it"
            );
        }
        // Once it has left: closing a device makes the kernel talk to it.
        drop(pipe);
        say(&format!(
            "{path}: {id}: sent, and the board has left the port after {:.1} s; {}; SHA-256 {}",
            begun.elapsed().as_secs_f64(),
            progress.end(sent.bytes),
            sent.sha256
        ))
    }
}

/// Shows how far a board is.
struct Progress {
    path: String,
    step: Mutex<(Instant, Instant, Duration)>,
}

impl Progress {
    fn of(path: &PortPath) -> Self {
        let now = Instant::now();
        Self {
            path: path.to_string(),
            step: Mutex::new((now, now, Duration::ZERO)),
        }
    }

    /// What the last step has moved.
    fn end(&self, bytes: u64) -> String {
        let (_, _, took) = *self.step.lock().unwrap_or_else(PoisonError::into_inner);
        rate(bytes, bytes, took)
    }
}

#[async_trait]
impl Steps for Progress {
    fn begins(&self, _: HandOver) {
        let now = Instant::now();
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = (now, now, Duration::ZERO);
    }

    async fn ended(&self, step: EndedStep) -> Result<(), String> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner).2 = step.elapsed;
        if step.error.is_none() {
            let bytes = step.sent.map_or(0, |sent| sent.bytes);
            eprintln!(
                "{}: {}, {bytes} bytes, is sent",
                self.path,
                step.name.as_str()
            );
        }
        Ok(())
    }

    fn sent(&self, bytes: u64, of: u64) {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        if step.1.elapsed() >= PROGRESS {
            step.1 = Instant::now();
            eprintln!("{}: {}", self.path, rate(bytes, of, step.0.elapsed()));
        }
    }
}

fn is_there(seen: &Presence, arrival: u64) -> bool {
    matches!(seen, Presence::Device(device) if device.arrival == arrival)
}

/// The next boot ROM that is not the arrival `last`. Anything else that comes is not talked to.
async fn next_rom(
    families: &Families,
    presence: &mut watch::Receiver<Presence>,
    last: Option<u64>,
) -> anyhow::Result<Device> {
    loop {
        if let Presence::Device(device) = *presence.borrow_and_update()
            && families.of_rom(device).is_some()
            && last != Some(device.arrival)
        {
            return Ok(device);
        }
        presence
            .changed()
            .await
            .context("the port is no longer watched")?;
    }
}

/// `3.1 of 9.4 MB, 12.5 MB/s`.
fn rate(sent: u64, whole: u64, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let rate = mb(sent) / took.as_secs_f64().max(0.001);
    format!("{:.1} of {:.1} MB, {rate:.1} MB/s", mb(sent), mb(whole))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use panda_protocol::manifest::Machine;
    use panda_protocol::omap4::asic_id::Chip;

    use super::*;
    use crate::boot::board_in_memory::{Script, TestBoard, asic_id, device, rom};

    fn loader() -> Loader {
        let mut payload = MemoryPayload::new(Machine::Panda, "", 2048);
        payload.add("second_stage", vec![1; 14_000]);
        payload.add("raw", vec![2; 204_800]);
        let settings = BootSettings::default();
        Loader {
            payload: Arc::new(payload),
            families: settings.families(),
            settings: Arc::new(settings),
        }
    }

    fn path() -> PortPath {
        "1-2.3".parse().unwrap()
    }

    /// Whether it has come to wait for something: the clock goes on only when nobody has anything left to do.
    async fn waits(activity: impl Future) -> bool {
        timeout(Duration::from_millis(1), activity).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_board_that_comes_is_sent_second_stage_and_image() {
        let board = TestBoard::new(Script::default());
        let seconds = Duration::from_secs(60);
        let (loader, path) = (loader(), path());
        // A keyboard is none of ours.
        board.put(device(0x0627, 1, 3, 1));
        let mut one = pin!(loader.one(&board, &path, seconds, None));
        assert!(waits(&mut one).await);
        board.put(rom(2));
        assert_eq!(one.await.unwrap(), Exit::Done);
        assert_eq!(board.second_stage()[..14_000], [1; 14_000]);
        assert_eq!(board.boot_image(), [2; 204_800]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_comes_or_the_board_is_silent_or_stays() {
        let board = TestBoard::new(Script::default());
        let second = Duration::from_secs(1);
        let ended = loader().one(&board, &path(), second, None).await.unwrap();
        assert_eq!(ended, Exit::TimeOut);
        for (script, says) in [
            (
                Script {
                    asic_id: None,
                    ..Script::default()
                },
                "reading the ASIC ID",
            ),
            (
                Script {
                    greeting: Some(vec![0; 4]),
                    ..Script::default()
                },
                "not its magic",
            ),
            (
                Script {
                    releases: false,
                    asic_id: Some(asic_id(Chip::Omap4460)),
                    ..Script::default()
                },
                "still on the port",
            ),
        ] {
            let board = TestBoard::new(script);
            board.put(rom(1));
            let error = loader()
                .one(&board, &path(), second, None)
                .await
                .unwrap_err();
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_arrival_is_booted_once() {
        let board = TestBoard::new(Script::default());
        let mut presence = board.watch();
        let families = BootSettings::default().families();
        board.put(rom(1));
        assert_eq!(
            next_rom(&families, &mut presence, None)
                .await
                .unwrap()
                .arrival,
            1
        );
        let mut next = pin!(next_rom(&families, &mut presence, Some(1)));
        assert!(waits(&mut next).await);
        board.put(rom(2));
        assert_eq!(next.await.unwrap().arrival, 2);
    }

    #[test]
    fn progress_has_its_rate() {
        let text = rate(3_100_000, 9_400_000, Duration::from_millis(500));
        assert_eq!(text, "3.1 of 9.4 MB, 6.2 MB/s");
    }
}
