//! How fast the pipe is beside a plain libusb loop that writes the same bytes in the same pieces, in turns on one
//! board: each time its port is switched off and on, the ROM and second stage are served, and an image is timed from
//! its first byte to its last. Run by `scripts/usb-rate` in a guest; needs root, and a board that may lose power.
//!
//! ```text
//! usb_rate PORT MIB ROUNDS     one line a run, then the medians and their ratios
//! ```

use std::io;
use std::time::{Duration, Instant};

use panda_board::usb::{HubPortSettings, HubPower, PortPath, Sysfs, Usb};
use panda_board::{Pipe, Port as _, Power as _, Presence};
use panda_protocol::manifest::Machine;
use panda_protocol::omap4::aboot;
use panda_protocol::omap4::bootimg::{self, PageSize, Spec};
use panda_protocol::omap4::{asic_id, rom};
use rusb::UsbContext as _;

const LIMIT: Duration = Duration::from_secs(60);
const SECOND_STAGE: [u8; 14_000] = [7; 14_000];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// libusb, in a loop.
    Plain,
    /// The driver's pipe.
    Pipe,
    /// The same with the pause before each write that boot ROMs need.
    Paced,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: usb_rate PORT MIB ROUNDS");
    let port: PortPath = next()?.parse()?;
    let bytes = next()?.parse::<usize>()? << 20;
    let rounds: usize = next()?.parse()?;
    // What is no boot image is taken to its last byte, and that one is never acknowledged.
    let ramdisk: Vec<u8> = (0..=255).cycle().take(bytes).collect();
    let spec = Spec {
        machine: Machine::Process,
        page_size: PageSize::try_from(2048)?,
        cmdline: "",
    };
    let image = bootimg::compose(&spec, &[7; 4096], &[&ramdisk])?;

    let sysfs = Sysfs::default();
    let settings = HubPortSettings {
        hub: port.hub(),
        port: port.number(),
    };
    let power = HubPower::find(&settings, &sysfs)?;
    let usb = Usb::start(sysfs)?;
    let mut rates: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        for (way, rates) in [Way::Plain, Way::Pipe, Way::Paced]
            .into_iter()
            .zip(&mut rates)
        {
            let took = run(&usb, &port, &power, way, &image).await?;
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let rate = image.len() as f64 / 1e6 / took.as_secs_f64();
            println!("round {round}, {}: {rate:.2} MB/s", name(way));
            rates.push(rate);
        }
    }
    let [plain, pipe, paced] = &rates;
    println!(
        "medians: plain libusb {:.2} MB/s, pipe {:.2} MB/s, paced pipe {:.2} MB/s",
        median(plain.clone()),
        median(pipe.clone()),
        median(paced.clone())
    );
    // Each beside its neighbour of the same round: the guest's own speed changes from one to the next.
    println!(
        "medians of the rounds' ratios: pipe / plain = {:.3}, paced / plain = {:.3}",
        median(ratios(pipe, plain)),
        median(ratios(paced, plain))
    );
    Ok(())
}

const fn name(way: Way) -> &'static str {
    match way {
        Way::Plain => "plain libusb",
        Way::Pipe => "pipe",
        Way::Paced => "pipe, 1 ms before each write",
    }
}

fn ratios(rates: &[f64], reference: &[f64]) -> Vec<f64> {
    rates.iter().zip(reference).map(|(a, b)| a / b).collect()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

/// One power cycle: how long the image took.
async fn run(
    usb: &Usb,
    path: &PortPath,
    power: &HubPower,
    way: Way,
    image: &[u8],
) -> Result<Duration> {
    power.off().await?;
    let port = usb.port(path);
    let mut presence = port.watch();
    presence.wait_for(|seen| *seen == Presence::Empty).await?;
    power.on().await?;
    let arrives = presence.wait_for(
        |seen| matches!(seen, Presence::Device(device) if device.interface_class == 0xff),
    );
    let Presence::Device(device) = *tokio::time::timeout(LIMIT, arrives).await?? else {
        return Err("no ROM".into());
    };
    if way == Way::Plain {
        let (path, image) = (path.clone(), image.to_vec());
        return Ok(tokio::task::spawn_blocking(move || plain(&path, &image)).await??);
    }
    let mut pipe = port.open(device.arrival).await?;
    pipe.write(&rom::word(rom::GET_ASIC_ID), LIMIT).await?;
    pipe.read(asic_id::BYTES, LIMIT).await?;
    for message in opening() {
        pipe.write(&message, LIMIT).await?;
        greet(&mut *pipe, &message).await?;
    }
    pipe.write(&aboot::size_word(image.len())?, LIMIT).await?;
    let begun = Instant::now();
    for piece in image.chunks(aboot::PIECE) {
        if way == Way::Paced {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        pipe.write(piece, LIMIT).await?;
    }
    Ok(begun.elapsed())
}

/// What is written before the image: each message, in its turn.
fn opening() -> [Vec<u8>; 3] {
    let size = u32::try_from(SECOND_STAGE.len()).unwrap_or(u32::MAX);
    [
        rom::word(rom::PERIPHERAL_BOOT).to_vec(),
        rom::word(size).to_vec(),
        SECOND_STAGE.to_vec(),
    ]
}

/// After the second stage its greeting is read.
async fn greet(pipe: &mut dyn Pipe, message: &[u8]) -> Result<()> {
    if message.len() == SECOND_STAGE.len() {
        let greeting = pipe.read(4, LIMIT).await?;
        if !aboot::is_greeting(&greeting) {
            return Err("no greeting".into());
        }
    }
    Ok(())
}

fn plain(path: &PortPath, image: &[u8]) -> io::Result<Duration> {
    let failed = |error: rusb::Error| io::Error::other(error.to_string());
    let context = rusb::Context::new().map_err(failed)?;
    let devices = context.devices().map_err(failed)?;
    // `1-2.3` as libusb has it: a bus, and the ports on the way.
    let text = path.to_string();
    let way = text.split_once('-').map_or("", |(_, way)| way);
    let device = devices.iter().find(|device| {
        let ports = device.port_numbers().unwrap_or_default();
        let ports: Vec<String> = ports.iter().map(u8::to_string).collect();
        u16::from(device.bus_number()) == path.bus() && ports.join(".") == way
    });
    let device = device.ok_or_else(|| io::Error::other("libusb does not see the ROM"))?;
    let handle = device.open().map_err(failed)?;
    handle.claim_interface(0).map_err(failed)?;
    let write = |bytes: &[u8]| {
        let count = handle
            .write_bulk(rom::ENDPOINT_OUT, bytes, LIMIT)
            .map_err(failed)?;
        if count == bytes.len() {
            Ok(())
        } else {
            Err(io::Error::other("a short write"))
        }
    };
    let mut id = [0; 512];
    write(&rom::word(rom::GET_ASIC_ID))?;
    handle
        .read_bulk(rom::ENDPOINT_IN, &mut id, LIMIT)
        .map_err(failed)?;
    for message in opening() {
        write(&message)?;
    }
    let mut greeting = [0; 512];
    handle
        .read_bulk(rom::ENDPOINT_IN, &mut greeting, LIMIT)
        .map_err(failed)?;
    let size = aboot::size_word(image.len()).map_err(io::Error::other)?;
    write(&size)?;
    let begun = Instant::now();
    for piece in image.chunks(aboot::PIECE) {
        write(piece)?;
    }
    Ok(begun.elapsed())
}
