//! `pandabuildd usb list`: every hub and port of this machine, and the ASIC ID of each boot ROM that may be asked. A
//! port that a daemon guards is shown, never touched.

use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use panda_board::Port as _;
use panda_board::family::{EndedStep, Session, Steps};
use panda_board::usb::{
    Authorized, ListedDevice, ListedHub, ListedPort, PortPath, Sysfs, Usb, list,
};
use panda_protocol::family::chip_name;
use panda_protocol::hub_power::Switching;
use panda_protocol::operators::Identity;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use crate::boot::BootSettings;
use crate::cli::{Exit, say};

/// A ROM must have told its ID within this.
const ASK: Duration = Duration::from_secs(3);
/// What is said of a part without a public ID, which worries people.
const NO_PUBLIC_ID: &str =
    "all zeros, which is normal on general-purpose parts; the slot is then its port";

/// Show hubs, their ports and what is on them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON object a hub, a line each
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Hub {
    hub: String,
    name: String,
    usb_id: String,
    speed_mbit: String,
    /// `individual`, `ganged`, `none`, or null.
    power_switching: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    ports: Vec<Line>,
}

#[derive(Debug, Default, Serialize)]
struct Line {
    port: String,
    power: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Device {
    usb_id: String,
    name: String,
    is: &'static str,
    authorized: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chip: Option<&'static str>,
    /// Programs know it by this name.
    #[serde(rename = "asic", skip_serializing_if = "Option::is_none")]
    rom: Option<Rom>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Rom {
    chip: String,
    rom_version: u32,
    /// None where it is all zeros.
    public_id: Option<String>,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let sysfs = Sysfs::default();
    let looked = {
        let sysfs = sysfs.clone();
        tokio::task::spawn_blocking(move || list(&sysfs)).await?
    };
    let found = looked.with_context(|| {
        let root = sysfs.root().display();
        format!("{root}: this machine has no USB, or its kernel no driver for it")
    })?;
    let usb = Usb::start(sysfs).context("USB cannot be watched")?;
    for hub in found {
        let mut hub = shown(&hub);
        for line in &mut hub.ports {
            ask(&usb, line).await;
        }
        if args.json {
            say(&serde_json::to_string(&hub)?)?;
        } else {
            for line in told(&hub) {
                say(&line)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Asks a boot ROM that nobody guards for its ID.
async fn ask(usb: &Usb, line: &mut Line) {
    let Some(device) = line.device.as_mut() else {
        return;
    };
    if device.is != "boot ROM" || device.problem.is_some() {
        return;
    }
    if device.authorized == Some(false) {
        device.problem = Some("not asked for its ID: a daemon guards the port".to_owned());
        return;
    }
    let Ok(path) = line.port.parse() else { return };
    match identity(usb, &path).await {
        Ok(told) => {
            device.rom = Some(Rom {
                chip: chip_name(told.chip.as_str()).to_owned(),
                rom_version: told.rom_version.unwrap_or_default(),
                public_id: told.public_id.map(|id| id.to_string()),
            });
        }
        Err(error) => device.problem = Some(error),
    }
}

async fn identity(usb: &Usb, path: &PortPath) -> Result<Identity, String> {
    let port = usb.port(path);
    let panda_board::Presence::Device(device) = *port.watch().borrow() else {
        return Err("it has just left".to_owned());
    };
    let families = BootSettings::default().families();
    let family = families.of_rom(device).ok_or("it is no boot ROM")?;
    let opened = port.open(device.arrival).await;
    let mut pipe = opened.map_err(|error| error.to_string())?;
    let mut arrival = device.arrival;
    let mut session = Session {
        pipe: &mut pipe,
        deadline: Instant::now() + ASK,
        steps: &NoSteps,
        port: &port,
        arrival: &mut arrival,
    };
    let asked = timeout(ASK, family.identify(&mut session)).await;
    let asked = asked.map_err(|_| format!("it does not tell who it is within {ASK:?}"))?;
    asked.map_err(|error| error.to_string())
}

/// Nothing is handed over.
struct NoSteps;

#[async_trait]
impl Steps for NoSteps {
    async fn ended(&self, _: EndedStep) -> Result<(), String> {
        Ok(())
    }
}

fn shown(hub: &ListedHub) -> Hub {
    Hub {
        hub: hub.path.to_string(),
        name: hub.name.clone(),
        usb_id: format!("{:04x}:{:04x}", hub.vendor, hub.product),
        speed_mbit: hub.speed.clone(),
        power_switching: hub
            .switching
            .as_ref()
            .ok()
            .map(|switching| match switching {
                Switching::Individual => "individual",
                Switching::Ganged => "ganged",
                Switching::None => "none",
            }),
        problem: hub.switching.as_ref().err().cloned(),
        ports: hub.ports.iter().map(line).collect(),
    }
}

fn line(port: &ListedPort) -> Line {
    let (device, problem) = match &port.device {
        Ok(device) => (device.as_ref().map(described), None),
        Err(why) => (None, Some(why.clone())),
    };
    Line {
        port: port.path.to_string(),
        power: if port.disabled { "off" } else { "on" },
        device,
        problem,
    }
}

fn described(device: &ListedDevice) -> Device {
    Device {
        usb_id: format!("{:04x}:{:04x}", device.vendor, device.product),
        name: device.name.clone(),
        is: match (device.chip, device.hub) {
            (Some(_), _) => "boot ROM",
            (None, true) => "hub",
            (None, false) => "device",
        },
        authorized: match device.authorized {
            Authorized::Yes => Some(true),
            Authorized::No => Some(false),
            Authorized::Unknown => None,
        },
        chip: device.chip,
        rom: None,
        problem: device
            .not_rom
            .as_ref()
            .map(|why| format!("no boot ROM: {why}")),
    }
}

fn told(hub: &Hub) -> Vec<String> {
    let power = match (hub.power_switching, &hub.problem) {
        (Some("individual"), _) => "switches the power of each port".to_owned(),
        (Some("ganged"), _) => "switches the power of all its ports together only".to_owned(),
        (Some(_), _) => "does not switch power".to_owned(),
        (None, problem) => format!(
            "its power switching is not known: {}",
            problem.as_deref().unwrap_or("not asked")
        ),
    };
    let mut lines = vec![format!(
        "hub {}: {} {}, {} Mb/s; {power}",
        hub.hub, hub.usb_id, hub.name, hub.speed_mbit
    )];
    lines.extend(hub.ports.iter().map(|line| {
        let power = if line.power == "off" {
            " (power off)"
        } else {
            ""
        };
        let what = match (&line.device, &line.problem) {
            (Some(device), _) => device_told(device),
            (None, Some(problem)) => problem.clone(),
            (None, None) => "empty".to_owned(),
        };
        format!("  {}{power}: {what}", line.port)
    }));
    lines
}

fn device_told(device: &Device) -> String {
    let mut text = match device.chip {
        Some(chip) => format!("boot ROM of an {chip} ({})", device.usb_id),
        None => format!("{} {} {}", device.is, device.usb_id, device.name),
    };
    if device.authorized == Some(false) {
        text += ", not authorised";
    }
    if let Some(rom) = &device.rom {
        let id = rom.public_id.as_deref().unwrap_or(NO_PUBLIC_ID);
        text += &format!(
            "; chip {}, ROM version {}, public ID {id}",
            rom.chip, rom.rom_version
        );
    }
    if let Some(problem) = &device.problem {
        text += &format!("; {problem}");
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> Hub {
        let rom = ListedDevice {
            name: "Texas Instruments OMAP4430".into(),
            vendor: 0x0451,
            product: 0xd00f,
            chip: Some("OMAP4430"),
            not_rom: None,
            hub: false,
            authorized: Authorized::Yes,
        };
        let port = |number: u8, disabled, device| ListedPort {
            path: format!("1-2.{number}").parse().unwrap(),
            disabled,
            device,
        };
        let keyboard = ListedDevice {
            vendor: 0x0627,
            product: 1,
            chip: None,
            name: "QEMU".into(),
            authorized: Authorized::No,
            ..rom.clone()
        };
        shown(&ListedHub {
            path: "1-2".parse().unwrap(),
            name: "Hub".into(),
            vendor: 0x0409,
            product: 0x55aa,
            speed: "12".into(),
            switching: Ok(Switching::Individual),
            ports: vec![
                port(1, false, Ok(Some(rom))),
                port(2, false, Ok(Some(keyboard))),
                port(3, true, Ok(None)),
                port(4, false, Err("cannot be read".into())),
            ],
        })
    }

    #[test]
    fn people_see_every_port_with_what_is_on_it_and_what_could_not_be_asked() {
        let mut hub = hub();
        hub.ports[0].device.as_mut().unwrap().rom = Some(Rom {
            chip: "OMAP4430".into(),
            rom_version: 4,
            public_id: None,
        });
        assert_eq!(
            told(&hub),
            [
                "hub 1-2: 0409:55aa Hub, 12 Mb/s; switches the power of each port",
                "  1-2.1: boot ROM of an OMAP4430 (0451:d00f); chip OMAP4430, ROM version 4, public ID all zeros, \
                 which is normal on general-purpose parts; the slot is then its port",
                "  1-2.2: device 0627:0001 QEMU, not authorised",
                "  1-2.3 (power off): empty",
                "  1-2.4: cannot be read",
            ]
        );
        hub.power_switching = None;
        hub.problem = Some("permission denied".into());
        assert!(told(&hub)[0].ends_with("its power switching is not known: permission denied"));
    }

    #[test]
    fn programs_get_the_same() {
        let json = serde_json::to_value(hub()).unwrap();
        assert_eq!(json["power_switching"], "individual");
        assert_eq!(json["ports"][0]["device"]["is"], "boot ROM");
        assert_eq!(json["ports"][1]["device"]["authorized"], false);
        assert_eq!(json["ports"][2]["power"], "off");
        assert_eq!(json["ports"][3]["problem"], "cannot be read");
    }
}
