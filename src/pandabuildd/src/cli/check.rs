//! `pandabuildd check`: whether `serve` would take a configuration, its image and its drivers on this machine, and what
//! booting that image costs. Everything that is wrong is told at once. It touches no board and binds no address, so it may
//! run beside the daemon.

use std::path::PathBuf;
use std::time::Duration;

use panda_protocol::family::{FamilyName, Store};
use panda_protocol::launchpad::Dialect;
use panda_protocol::manifest::Machine;
use serde_json::json;

use super::{Exit, say};
use crate::budget::{Budget, Moved, Rates, Wire};
use crate::config::ConfigError;
use crate::rack::Ready;

/// Check a rack's configuration, its image, every byte of it, and what its drivers need of this machine, and show what
/// a boot moves and how long that takes one slot, and all slots at once. Touches no board. Ends with 0 only where `serve`
/// would find nothing to refuse in them, and else tells everything that is wrong, sorted by line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The rack's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Reckon with a build's inputs too (chroot tarball and sources together), in megabytes
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    inputs_mb: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let (config, Ready { image, .. }) = match Ready::of(&args.config).await {
        Ok(ready) => ready,
        Err(error) => return refuse(error),
    };
    let rates = Rates {
        link_mbit_per_s: config.rack.link_mbit_per_s,
        usb_mbit_per_s: config.rack.usb_mbit_per_s,
    };
    let inputs = args.inputs_mb.map(|megabytes| megabytes * 1_000_000);
    let budget = Budget::of(
        image.manifest(),
        config.slots.len(),
        rates,
        &config.boot,
        &config.guest,
        inputs,
    );
    let summary = Summary {
        rack: config.rack.name.clone(),
        dialect: config.rack.dialect,
        image: image.id().to_string(),
        machine: image.manifest().machine,
        arch: image.manifest().arch.clone(),
        family: image.manifest().family,
    };
    if args.json {
        say(&summary.json(&budget)?)?;
    } else {
        for line in summary.lines(&budget) {
            say(&line)?;
        }
    }
    for warning in config.boot.former_keys().iter().chain(&budget.warnings) {
        eprintln!("pandabuildd: warning: {warning}");
    }
    Ok(Exit::Done)
}

/// Says everything that is wrong, one thing a line and sorted by line, and how many things that is.
pub(super) fn refuse(error: ConfigError) -> anyhow::Result<Exit> {
    let ConfigError::Wrong(problems) = error else {
        return Err(error.into());
    };
    let count = problems.count();
    for problem in problems {
        eprintln!("{problem}");
    }
    let many = if count == 1 { "" } else { "s" };
    eprintln!("pandabuildd: {count} problem{many}");
    Ok(Exit::Error)
}

/// What was checked.
struct Summary {
    rack: String,
    dialect: Dialect,
    image: String,
    machine: Machine,
    arch: String,
    family: FamilyName,
}

impl Summary {
    fn dialect(&self) -> &'static str {
        match self.dialect {
            Dialect::Current => "current",
            Dialect::Y2011 => "2011",
        }
    }

    fn machine(&self) -> &'static str {
        match self.machine {
            Machine::Panda => "panda",
            Machine::Process => "process",
            Machine::Qemu => "qemu",
        }
    }

    fn json(&self, budget: &Budget) -> anyhow::Result<String> {
        Ok(serde_json::to_string(&json!({
            "rack": self.rack,
            "dialect": self.dialect(),
            "image": self.image,
            "machine": self.machine(),
            "arch": self.arch,
            "family": self.family,
            "stores": self.stores(),
            "budget": serde_json::to_value(budget)?,
            "cold_ms": budget.cold_ms(),
        }))?)
    }

    fn lines(&self, budget: &Budget) -> Vec<String> {
        let slots = budget.slots;
        let many = if slots == 1 { "" } else { "s" };
        let mut lines = vec![
            format!(
                "rack {}: {slots} slot{many}, Launchpad's dialect {}",
                self.rack,
                self.dialect()
            ),
            format!(
                "image {}: {} for {}, every part as its manifest says",
                self.image.get(..12).unwrap_or(&self.image),
                self.arch,
                self.machine()
            ),
            String::new(),
            format!(
                "{:34}{:>12}{:>12}{:>16}",
                "what a boot moves",
                "bytes",
                "one slot",
                format!("{slots} at once")
            ),
        ];
        lines.extend(budget.parts.iter().map(part));
        lines.push(wire("over USB", &budget.usb));
        lines.push(wire("over the network", &budget.link));
        if let Some(inputs) = &budget.inputs {
            lines.push(String::new());
            lines.push("a build's inputs, on a rack that has none of them".to_owned());
            lines.push(row(
                "  from Launchpad, once",
                inputs.bytes,
                Some((inputs.in_ms, inputs.in_ms)),
            ));
            lines.push(row(
                "  to the boards",
                inputs.bytes,
                Some((inputs.one_ms, inputs.all_ms)),
            ));
        }
        lines.push(String::new());
        lines.push(format!(
            "all {slots} from cold: {} on the wires",
            seconds(budget.cold_ms())
        ));
        lines.push(String::new());
        lines.push(format!(
            "what survives a power cut on boards of family {}",
            self.family
        ));
        for store in self.stores() {
            lines.push(format!("  {}: {}", store.store, store.state));
            lines.push(format!("    closed by: {}", store.closed_by));
            lines.push(format!("    noticed by: {}", store.noticed_by));
        }
        lines
    }

    /// The family's persistence inventory.
    fn stores(&self) -> &'static [Store] {
        self.family.facts().map_or(&[], |facts| facts.stores)
    }
}

fn part(moved: &Moved) -> String {
    let over = if moved.over_link { "network" } else { "USB" };
    row(&format!("  {} ({over})", moved.part), moved.bytes, None)
}

fn wire(name: &str, wire: &Wire) -> String {
    let name = format!("{name}, at {} Mb/s", wire.mbit_per_s);
    row(&name, wire.bytes, Some((wire.one_ms, wire.all_ms)))
}

fn row(name: &str, bytes: u64, times: Option<(u64, u64)>) -> String {
    let (one, all) = times.map_or_else(Default::default, |(one, all)| (seconds(one), seconds(all)));
    format!("{name:34}{bytes:>12}{one:>12}{all:>16}")
        .trim_end()
        .to_owned()
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", Duration::from_millis(ms).as_secs_f64())
}
