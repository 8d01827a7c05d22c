//! `pandabuildd boot`: boots one board, or each that appears, over USB, without a daemon, a rack or an image: anybody
//! with a PandaBoard and a laptop. The board's power is the user's own business; a boot ROM that comes is sent what the
//! command line names.
//!
//! ```text
//! files, checked ─▶ ROM on the port ─▶ ASIC ID ─▶ second stage ─▶ boot image ─▶ the port is left
//! ```

mod payload;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use panda_board::usb::{PortPath, Sysfs, Usb};
use panda_board::{Device, Port, Presence};
use panda_protocol::omap4::aboot;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::payload::{Files, Payload};
use super::{Exit, interrupted, say};
use crate::boot::paced::Paced;
use crate::boot::{BootSettings, StepError, Told, is_rom, talk};

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
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let settings = BootSettings {
        write_pause_ms: args.write_pause_ms,
        read_pause_ms: args.read_pause_ms,
        transfer_bytes: args.transfer_bytes,
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
    let bench = Bench {
        payload,
        settings: Arc::new(settings),
    };
    let ended = async {
        match (args.port, args.monitor) {
            (Some(port), false) => {
                let limit = Duration::from_secs(args.timeout);
                bench.one(&usb.port(&port), &port, limit).await
            }
            (port, _) => bench.monitor(&usb, port).await,
        }
    };
    tokio::select! {
        ended = ended => ended,
        () = interrupted() => Ok(Exit::Interrupted),
    }
}

/// What every board gets. Cheap to clone.
#[derive(Clone)]
struct Bench {
    payload: Arc<Payload>,
    settings: Arc<BootSettings>,
}

impl Bench {
    async fn one(&self, port: &dyn Port, path: &PortPath, limit: Duration) -> anyhow::Result<Exit> {
        eprintln!("{path}: waiting for a boot ROM; give the board power now");
        let mut presence = port.watch();
        match timeout(limit, next_rom(&mut presence, None)).await {
            Ok(device) => {
                self.boot(port, path, device?).await?;
                Ok(Exit::Done)
            }
            Err(_) => {
                eprintln!(
                    "pandabuildd: no boot ROM on port {path} within {limit:?}; was the board given power while this \
                     was running, without a card in its slot?"
                );
                Ok(Exit::TimeOut)
            }
        }
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
                    let (bench, port) = (self.clone(), usb.port(&path));
                    watching.spawn(async move { bench.follow(&port, &path).await });
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
            let device = next_rom(&mut presence, last).await?;
            last = Some(device.arrival);
            if let Err(error) = self.boot(port, path, device).await {
                eprintln!("{path}: {error:#}; the board needs another power cycle");
            }
        }
    }

    async fn boot(&self, port: &dyn Port, path: &PortPath, device: Device) -> anyhow::Result<()> {
        let settings = &self.settings;
        let begun = Instant::now();
        let pipe = port.open(device.arrival).await?;
        let mut paced = Paced::new(pipe, settings);
        let limit = |ms| Instant::now() + Duration::from_millis(ms);
        let deadline = limit(settings.asic_id_ms);
        let id = Told::from(&talk::ask_asic_id(&mut paced, deadline).await?);
        eprintln!("{path}: {id}");
        let Payload {
            second_stage,
            image,
            digest,
        } = self.payload.as_ref();
        let deadline = limit(settings.second_stage_ms);
        talk::send_second_stage(&mut paced, second_stage, deadline).await?;
        eprintln!("{path}: second stage, {} bytes, is up", second_stage.len());

        let sending = Instant::now();
        let deadline = limit(settings.boot_image_ms);
        talk::announce_image(&mut paced, image.len() as u64, deadline).await?;
        let piece = settings.transfer_bytes.min(aboot::PIECE);
        let mut told = sending;
        let mut sent = 0;
        for piece in image.chunks(piece) {
            let written = paced.write(piece, deadline).await;
            written.map_err(|source| StepError::Pipe {
                what: "sending the boot image",
                source,
            })?;
            sent += piece.len();
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                eprintln!("{path}: {}", progress(sent, image.len(), sending.elapsed()));
            }
        }
        let took = sending.elapsed();
        let released = Duration::from_millis(settings.port_released_ms);
        let mut presence = port.watch();
        let leaves = presence.wait_for(|seen| !is_there(seen, device.arrival));
        if timeout(released, leaves).await.is_err() {
            bail!(
                "the second stage has the whole boot image, and is still on the port after {released:?}: it does not \
                 start it"
            );
        }
        // Once it has left: closing a device makes the kernel talk to it.
        drop(paced);
        say(&format!(
            "{path}: {id}: booted in {:.1} s; {}; SHA-256 {digest}",
            begun.elapsed().as_secs_f64(),
            progress(sent, image.len(), took)
        ))
    }
}

fn is_there(seen: &Presence, arrival: u64) -> bool {
    matches!(seen, Presence::Device(device) if device.arrival == arrival)
}

/// The next boot ROM that is not the arrival `last`. Anything else that comes is not talked to.
async fn next_rom(
    presence: &mut watch::Receiver<Presence>,
    last: Option<u64>,
) -> anyhow::Result<Device> {
    loop {
        if let Presence::Device(device) = *presence.borrow_and_update()
            && is_rom(device)
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
fn progress(sent: usize, whole: usize, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mb = |bytes: usize| bytes as f64 / 1e6;
    let rate = mb(sent) / took.as_secs_f64().max(0.001);
    format!("{:.1} of {:.1} MB, {rate:.1} MB/s", mb(sent), mb(whole))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use panda_protocol::digest::Sha256;
    use panda_protocol::omap4::asic_id::Chip;

    use super::*;
    use crate::boot::bench::{Script, TestBoard, asic_id, device, rom};

    fn bench() -> Bench {
        Bench {
            payload: Arc::new(Payload {
                second_stage: vec![1; 14_000],
                image: vec![2; 200_000],
                digest: Sha256::from_bytes([0; 32]),
            }),
            settings: Arc::new(BootSettings::default()),
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
        let (bench, path) = (bench(), path());
        // A keyboard is none of ours.
        board.put(device(0x0627, 1, 3, 1));
        let mut one = pin!(bench.one(&board, &path, seconds));
        assert!(waits(&mut one).await);
        board.put(rom(2));
        assert_eq!(one.await.unwrap(), Exit::Done);
        assert_eq!(board.second_stage(), [1; 14_000]);
        assert_eq!(board.boot_image(), [2; 200_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_comes_or_the_board_is_silent_or_stays() {
        let board = TestBoard::new(Script::default());
        let second = Duration::from_secs(1);
        let ended = bench().one(&board, &path(), second).await.unwrap();
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
            let error = bench().one(&board, &path(), second).await.unwrap_err();
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_arrival_is_booted_once() {
        let board = TestBoard::new(Script::default());
        let mut presence = board.watch();
        board.put(rom(1));
        assert_eq!(next_rom(&mut presence, None).await.unwrap().arrival, 1);
        let mut next = pin!(next_rom(&mut presence, Some(1)));
        assert!(waits(&mut next).await);
        board.put(rom(2));
        assert_eq!(next.await.unwrap().arrival, 2);
    }

    #[test]
    fn progress_has_its_rate() {
        let text = progress(3_100_000, 9_400_000, Duration::from_millis(500));
        assert_eq!(text, "3.1 of 9.4 MB, 6.2 MB/s");
    }
}
