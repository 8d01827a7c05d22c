//! What becomes of a slot whose virtual board does wrong, with the real programs: it ends with its reason, as `slots`
//! and `boots` show it, its neighbour does not notice, and when the board is sound again, so is the slot. The times
//! of all faults are tried elsewhere, on a paused clock (`rig::tests::faults`); docs/faults.md has the table.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use panda_tests::manager::{self, Make};
use panda_tests::programs::{program, run_ok};
use panda_tests::rack::{Rack, json_items};
use panda_tests::source::{executor, hello};
use serde_json::Value;

/// The longest that a slot may take to get where it must.
const LIMIT: Duration = Duration::from_secs(120);

/// Faults from power-on, the state they end in, and what `slots` then says.
const FAULTS: [(&str, &str, &str); 10] = [
    (
        "never-appears",
        "failed",
        "rom: no boot ROM on the port within 2s",
    ),
    (
        "late 2500",
        "failed",
        "rom: no boot ROM on the port within 2s",
    ),
    ("stall-at 90", "failed", "second stage: "),
    (
        "stall-at 900000",
        "failed",
        "boot image: sending the boot image: ",
    ),
    ("short-reads 40", "failed", "asic id: ASIC ID: "),
    ("wrong-asic-id", "failed", "asic id: ASIC ID: "),
    ("second-stage-dies", "failed", "the device left the port"),
    (
        "kernel-panics",
        "failed",
        "handshake: no report from the agent within 5s",
    ),
    (
        "old-certificate",
        "failed",
        "handshake: nothing was heard of the board within 5s of its kernel's start, but an agent called with the certificate of the boot before",
    ),
    (
        "stays-on-port",
        "failed",
        "is on the port although the board's power is off",
    ),
];

struct Bench {
    rack: Rack,
}

impl Bench {
    /// Two slots, with shorter limits than a real rack's.
    fn start() -> Result<Self> {
        let bench = Self::start_with("")?;
        bench.rack.wait_fresh()?;
        Ok(bench)
    }

    /// The same, with these settings of `[boot]` too, for a daemon that finds both boards running.
    fn start_with(boot: &str) -> Result<Self> {
        let mut rack = Rack::start(2, &executor("hello.sh", &[]))?;
        rack.wait_fresh()?;
        rack.kill()?;
        let path = rack.state().join("rack.toml");
        let text = fs::read_to_string(&path)?;
        let limits = format!(
            "cut_hold_ms = 200\nrom_window_ms = 2000\nhandshake_ms = 5000\nport_clears_ms = 500\n{boot}"
        );
        let changed = text.replacen("cut_hold_ms = 200\n", &limits, 1).replacen(
            "[slot_task]\n",
            "[slot_task]\nattempts = 2\n",
            1,
        );
        ensure!(changed != text, "no cut_hold_ms in {text}");
        fs::write(&path, changed)?;
        rack.serve()?;
        Ok(Self { rack })
    }

    fn order(&self, fault: &str) -> Result<()> {
        run_ok(
            Command::new(program("panda-twin")?)
                .args(["fault", "--state"])
                .arg(self.rack.state())
                .arg("panda01")
                .args(fault.split(' ')),
        )?;
        Ok(())
    }

    fn slot(&self, name: &str) -> Result<Value> {
        let slots = json_items(&run_ok(&mut self.rack.control(&["slots", "--json"])?)?)?;
        slots
            .into_iter()
            .find(|slot| slot["slot"] == name)
            .with_context(|| format!("no slot {name}"))
    }

    /// Waits until the slot is in this state.
    fn until(&self, state: &str) -> Result<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let slot = self.slot("panda01")?;
            if slot["state"] == state {
                return Ok(slot);
            }
            ensure!(
                Instant::now() < deadline,
                "not {state}: {slot}\n{}",
                self.rack.log()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Has the board lost while it is Fresh: a reset alone would power nothing.
    fn lose(&self) -> Result<()> {
        self.order("rom")
    }

    fn reset(&self) -> Result<()> {
        let mut reset = self
            .rack
            .control(&["reset", "panda01", "--force", "--no-wait"])?;
        run_ok(&mut reset).map(drop)
    }
}

#[test]
fn each_fault_ends_with_its_reason_and_the_neighbour_does_not_notice() -> Result<()> {
    let bench = Bench::start()?;
    let neighbour = bench.slot("panda02")?;
    for (fault, state, reason) in FAULTS {
        bench.order(fault)?;
        bench.lose()?;
        let slot = bench
            .until(state)
            .with_context(|| format!("with {fault}"))?;
        let detail = slot["detail"].as_str().unwrap_or_default();
        ensure!(detail.contains(reason), "{fault}: {detail}");
        let told = slot["told"].as_str().unwrap_or_default();
        ensure!(
            told.starts_with("Fault: "),
            "{fault}: Launchpad is told {told}"
        );
        let boots = bench.rack.boots("panda01")?;
        let last = boots[0].to_string();
        // There the step is named apart.
        let error = reason.split_once(": ").map_or(reason, |(_, error)| error);
        ensure!(last.contains(error), "{fault}: boots: {last}");
        assert_eq!(bench.slot("panda02")?, neighbour, "{fault}");
        if fault == "old-certificate" {
            // It is a real agent that calls, and is not let in.
            let console = run_ok(&mut bench.rack.control(&["console", "panda01"])?)?;
            ensure!(console.contains("; again in "), "nobody calls: {console}");
        }
        bench.order("none")?;
        bench.reset()?;
        bench
            .until("fresh")
            .with_context(|| format!("after {fault}"))?;
    }
    // Of another chip than the slot's nobody thinks that trying again will help.
    bench.order("other-chip")?;
    bench.lose()?;
    let slot = bench.until("failed")?;
    let detail = slot["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains("the board's chip is OMAP4460"), "{detail}");
    assert_eq!(bench.rack.boots("panda01")?[0]["boot"], slot["boot"]);
    Ok(())
}

#[test]
fn a_board_that_restarts_or_shows_a_rom_while_fresh_is_reset_by_itself() -> Result<()> {
    let bench = Bench::start()?;
    let neighbour = bench.slot("panda02")?;
    for fault in ["reboot", "rom"] {
        let before = bench.until("fresh")?["boot"].as_u64();
        bench.order(fault)?;
        let deadline = Instant::now() + LIMIT;
        // A newer boot, and fresh: it was seen, and mended.
        while bench.slot("panda01")?["boot"].as_u64() <= before {
            ensure!(
                Instant::now() < deadline,
                "{fault} was not seen:\n{}",
                bench.rack.log()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
        bench.until("fresh")?;
        assert_eq!(bench.slot("panda02")?, neighbour, "{fault}");
    }
    Ok(())
}

/// What a rack demands whose images keep a gadget up, as the twin's then do.
const PRESENCE: &str = "require_cut = \"presence\"\ngadget = { vendor = 0x1d6b, product = 0x0104 }\n\
                        gadget_comes_ms = 5000\ngadget_leaves_ms = 5000\ncut_delay_max_ms = 100\n";

impl Bench {
    /// Whether the boot's cut had what is demanded; a boot without must be one for evidence, and no build's.
    fn is_evidenced(boot: &Value) -> Result<bool> {
        let steps = boot["steps"].as_array().context("steps")?;
        let step = |name: &str| steps.iter().find(|step| step["name"] == name);
        let evidenced = step("evidence").is_some_and(|step| step["grade"] == "presence");
        let prepares = step("prepare").is_some();
        ensure!(!(evidenced && prepares), "prepared for nothing: {boot}");
        let built = boot["attempts"].as_array().context("attempts")?;
        ensure!(
            evidenced || built.is_empty(),
            "built on a boot without evidence: {boot}"
        );
        ensure!(
            evidenced || prepares || step("power on").is_none(),
            "power on without evidence: {boot}"
        );
        Ok(evidenced)
    }

    /// The boots of `panda01` with the numbers above `since`, the latest first.
    fn boots_since(&self, since: u64) -> Result<Vec<Value>> {
        let boots = self.rack.boots("panda01")?;
        let is_later = |boot: &Value| boot["boot"].as_u64() > Some(since);
        Ok(boots.into_iter().filter(is_later).collect())
    }
}

#[test]
fn where_presence_is_demanded_a_board_that_was_dead_comes_back_by_itself() -> Result<()> {
    let bench = Bench::start_with(PRESENCE)?;
    let first = bench.until("fresh")?["boot"].as_u64().context("a boot")?;
    bench.order("gadget")?;
    // No agent, no kernel, no gadget: neither this cut nor the next one can show anything.
    bench.order("agent-silent")?;
    bench.lose()?;
    let slot = bench.until("failed")?;
    let detail = slot["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("handshake: no report from the agent within 5s"),
        "{detail}"
    );
    for boot in bench.boots_since(first)? {
        ensure!(!Bench::is_evidenced(&boot)?, "{boot}");
    }

    bench.order("none")?;
    let last = bench.until("fresh")?["boot"].as_u64().context("a boot")?;
    let boots = bench.boots_since(first)?;
    ensure!(
        Bench::is_evidenced(&boots[0])? && !Bench::is_evidenced(&boots[1])?,
        "not one boot for evidence and one that is fresh: {boots:#?}"
    );
    let gadget = boots[1]["steps"].as_array().and_then(|steps| steps.last());
    ensure!(
        gadget.is_some_and(|step| step["name"] == "gadget" && step["error"].is_null()),
        "{}",
        boots[1]
    );

    // After a build the gadget is up, and one cut is enough.
    let source = hello(&bench.rack.scratch("source")?)?;
    let output = bench.rack.scratch("results")?;
    let url = bench.rack.slots()[0].url.clone();
    manager::build(Make::Xmlrpc, &url, &source, &output, &[]).with_context(|| bench.rack.log())?;
    bench.until("fresh")?;
    let boots = bench.boots_since(last - 1)?;
    ensure!(boots.len() == 2, "{boots:#?}");
    for boot in &boots {
        ensure!(Bench::is_evidenced(boot)?, "{boot}");
    }
    ensure!(
        boots[1]["attempts"]
            .as_array()
            .is_some_and(|built| built.len() == 1),
        "{}",
        boots[1]
    );
    Ok(())
}

#[test]
fn where_presence_is_demanded_and_no_gadget_comes_the_slot_fails_with_that_reason() -> Result<()> {
    let bench = Bench::start_with(PRESENCE)?;
    let first = bench.until("fresh")?["boot"].as_u64().context("a boot")?;
    bench.lose()?;
    let slot = bench.until("failed")?;
    let detail = slot["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("gadget: the image's gadget is not on the port 5s after its boot"),
        "{detail}"
    );
    let told = slot["told"].as_str().unwrap_or_default();
    ensure!(told.starts_with("Fault: "), "Launchpad is told {told}");
    let boots = bench.boots_since(first)?;
    // The board had been fresh after one of the attempts.
    ensure!(boots.len() == 1, "one boot an attempt: {boots:#?}");
    for boot in &boots {
        ensure!(!Bench::is_evidenced(boot)?, "{boot}");
    }
    bench.order("gadget")?;
    bench.until("fresh").map(drop)
}
