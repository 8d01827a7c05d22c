//! The drills: a rack in which almost every board is broken or hostile, all at once, on one kernel's USB with one good
//! board beside them. What becomes of each is told by the evidence that the rack can have of a cut.
//!
//! | column | power | grade |
//! | --- | --- | --- |
//! | hub port | the hub that the board's OTG is on | `readback` |
//! | relay | a relay outside, read back; the hub's ports keep theirs | `readback` |
//! | gadget | the same relay; at the beginning every board runs, with its image's gadget up | `presence` |
//! | sense | the same relay, and an independent sense of the rail | `sensed` |
//!
//! A slot has its verdict once it has failed as expected. It may fail in other ways besides: the kernel deals with a
//! hub's ports one after the other, so that a device that takes its time holds up those beside it. What must never
//! happen is that one proves a boot.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::stat::Mode;
use panda_tests::rack::json_items;
use serde_json::{Value, json};

use crate::boards::Boards;
use crate::cast::{Drill, GRADES, Grade, LOST_HUB, drills, fits};
use crate::device::GADGET;
use crate::guest::Guest;
use crate::qmp::Qmp;
use crate::rack::{self, Slot};
use crate::switchboard::{Behind, Supply, Switchboard};

/// The slots must have their verdicts within this.
const VERDICTS_LIMIT: Duration = Duration::from_secs(130);

#[test]
#[ignore = "boots a kernel in QEMU and needs a package mirror: scripts/usb-truth-test"]
fn what_broken_and_hostile_boards_do_over_usb_is_refused_or_survived() -> Result<()> {
    let programs = rack::programs()?;
    let mut columns = Vec::new();
    // One column alone: PANDA_USB_DRILLS=gadget.
    let only = std::env::var("PANDA_USB_DRILLS").unwrap_or_default();
    let wanted = |grade: Grade| only.is_empty() || only.eq_ignore_ascii_case(&format!("{grade:?}"));
    for grade in GRADES.into_iter().filter(|grade| wanted(*grade)) {
        match column(grade, &programs).with_context(|| format!("{grade:?}"))? {
            Some(column) => columns.push(column),
            None => return Ok(()),
        }
    }
    let heads: Vec<&str> = GRADES
        .into_iter()
        .filter(|grade| wanted(*grade))
        .map(Grade::head)
        .collect();
    println!("\n| drill | {} |", heads.join(" | "));
    println!("| --- |{}", " --- |".repeat(heads.len()));
    for (index, drill) in drills().iter().enumerate() {
        let cells: Vec<&str> = columns
            .iter()
            .map(|column| column.cells[index].as_str())
            .collect();
        println!(
            "| {} ({}) | {} |",
            drill.what,
            drill.port,
            cells.join(" | ")
        );
    }
    let wrong: Vec<&String> = columns.iter().flat_map(|column| &column.wrong).collect();
    ensure!(wrong.is_empty(), "not as expected: {wrong:#?}");
    Ok(())
}

/// What became of every drill at one grade.
struct Column {
    cells: Vec<String>,
    wrong: Vec<String>,
}

fn column(grade: Grade, programs: &Path) -> Result<Option<Column>> {
    println!("\n== {grade:?}");
    let drills = drills();
    let work = tempfile::TempDir::with_prefix_in("usb-", "/tmp")?;
    let path = |name: &str| work.path().join(name);
    rack::image(&path("image"), &programs.join("panda-agent"))?;
    nix::unistd::mkfifo(&path("trace"), Mode::S_IRWXU)?;
    let mut links = rack::free_ports(drills.len() + 1)?;
    let depot = links.pop().context("ports")?;
    let boards = Boards::start(
        &programs.join("panda-twin"),
        &path("twin"),
        drills.len(),
        &[],
    )?;

    let runtime = tokio::runtime::Runtime::new()?;
    let supply = match grade {
        Grade::HubPort => Supply::Hub,
        Grade::Relay | Grade::Sense => Supply::Relays,
        Grade::Gadget => Supply::RunningRelays,
    };
    let ports: Vec<_> = drills
        .iter()
        .map(|drill| drill.port.to_owned())
        .zip(boards.directories.clone())
        .collect();
    let switchboard = Switchboard::start(
        runtime.handle(),
        work.path(),
        &ports,
        supply,
        &path("trace"),
    )?;
    for (index, drill) in drills.iter().enumerate() {
        switchboard.put(index, drill.behind.clone())?;
    }
    let slots = slots(&drills, &links, grade, switchboard.relays());
    let boot = match grade {
        // The kernel takes its time over a hub with hostile devices (docs/usb.md).
        Grade::HubPort => "power_ms = 30000".to_owned(),
        Grade::Relay => String::new(),
        Grade::Gadget => format!(
            "gadget = {{ vendor = {}, product = {} }}\ngadget_leaves_ms = 4000",
            GADGET.0, GADGET.1
        ),
        Grade::Sense => "require_cut = \"sensed\"".to_owned(),
    };
    let boot = format!("handshake_ms = 20000\n{boot}");
    std::fs::write(path("rack.toml"), rack::toml(&slots, depot, &boot)?)?;
    let mut options = switchboard.options();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/usb");
    for (option, value) in [
        ("--limit", "600".into()),
        ("--trace", path("trace")),
        ("--qmp", path("qmp")),
        ("--add", path("image")),
        ("--add", path("rack.toml")),
        ("--add", here.join("relay.sh")),
        ("--add", programs.join("pandabuildd")),
        ("--forward", format!("{depot}:{}", rack::DEPOT).into()),
    ] {
        options.extend([option.to_owned(), value.display().to_string()]);
    }
    let Some(mut guest) = Guest::start(&options)? else {
        return Ok(None);
    };
    let result = run(&mut guest, &drills, grade, &switchboard, &path("qmp"));
    if let Some(directory) = std::env::var_os("PANDA_USB_LOGS") {
        let said = guest.run(
            "cat /tmp/log; dmesg; ./pandabuildd boots --limit 200 --socket /tmp/state/control.sock || true",
        )?;
        let file = Path::new(&directory).join(format!("{grade:?}.log"));
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(&file, said))
            .with_context(|| file.display().to_string())?;
    } else if result.is_err() {
        println!("{}", guest.run("tail -n 40 /tmp/log; dmesg | tail -n 20")?);
    }
    result.map(Some)
}

fn slots(drills: &[Drill], links: &[u16], grade: Grade, relays: u16) -> Vec<Slot> {
    drills
        .iter()
        .zip(links)
        .map(|(drill, &link)| {
            let (hub, port) = drill.port.split_once('.').unwrap_or(("1", drill.port));
            let relay = |state: &str| {
                format!(
                    "[\"/job/relay.sh\", \"{relays}\", \"{}\", \"{state}\"]",
                    drill.port
                )
            };
            let power = match grade {
                Grade::HubPort => {
                    format!("{{ driver = \"hub-port\", hub = \"1-{hub}\", port = {port} }}")
                }
                Grade::Relay | Grade::Gadget | Grade::Sense => {
                    format!(
                        "{{ driver = \"command\", argv = {}, reads = true }}",
                        relay("{state}")
                    )
                }
            };
            let mut more = String::new();
            if grade == Grade::Sense {
                more += &format!(
                    "sense = {{ driver = \"command\", argv = {} }}\n",
                    relay("sense")
                );
            }
            more += "[slot.board]\nchip = \"omap4430\"\n";
            if let Some(expects) = drill.expects {
                more += &format!("public_id = \"{}\"\n", format!("{expects:02x}").repeat(20));
            }
            Slot {
                name: name(drill),
                port: format!("1-{}", drill.port),
                power,
                more,
                link,
            }
        })
        .collect()
}

fn name(drill: &Drill) -> String {
    format!("slot-{}", drill.port.replace('.', "-"))
}

fn run(
    guest: &mut Guest,
    drills: &[Drill],
    grade: Grade,
    switchboard: &Switchboard,
    qmp: &Path,
) -> Result<Column> {
    for hub in 1..=3 {
        let port = format!("/sys/bus/usb/devices/1-{hub}/1-{hub}:1.0/1-{hub}-port1");
        guest.run(&format!("until [ -e {port} ]; do sleep 0.1; done"))?;
    }
    if grade == Grade::Gadget {
        for drill in drills {
            let device = format!("/sys/bus/usb/devices/1-{}", drill.port);
            guest.run(&format!("until [ -e {device} ]; do sleep 0.1; done"))?;
        }
    }
    guest.run("RUST_LOG=info ./pandabuildd serve --config rack.toml >/tmp/log 2>&1 & n=0; until ./pandabuildd slots --socket /tmp/state/control.sock >/dev/null 2>&1 || [ $n = 60 ]; do sleep 1; n=$((n+1)); done")?;
    // All at once, until each has failed often enough and the good ones are proven.
    let deadline = Instant::now() + VERDICTS_LIMIT;
    let (mut history, mut states);
    loop {
        history = boots(guest)?;
        states = slots_now(guest)?;
        let waiting: Vec<String> = drills
            .iter()
            .filter(|drill| !is_settled(drill, &history, &states))
            .map(name)
            .collect();
        if waiting.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            println!("still without a verdict: {waiting:?}");
            break;
        }
        guest.run("sleep 2")?;
    }
    println!("{:.0} s after the guest's start", guest.age().as_secs_f64());
    let before = good_boot(drills, &history)?;

    let lost = lose_hub(guest, drills, switchboard, qmp)?;
    println!("{lost}");

    // The good one has noticed nothing of it all.
    let history = boots(guest)?;
    let states = slots_now(guest)?;
    ensure!(
        good_boot(drills, &history)? == before && states[&name(&drills[0])] == "fresh",
        "the good board was disturbed: {} {:?}",
        states[&name(&drills[0])],
        history[&name(&drills[0])]
    );
    // No keyboard got in, in whatever disguise.
    let hid = guest.run("ls /sys/bus/hid/devices")?;
    ensure!(hid.is_empty(), "a keyboard has a driver: {hid}");
    let storage = guest.run("ls /sys/bus/usb/drivers/usb-storage | grep : || true")?;
    ensure!(storage.is_empty(), "a disk has a driver: {storage}");

    let mut column = Column {
        cells: Vec::new(),
        wrong: Vec::new(),
    };
    for drill in drills {
        let slot = name(drill);
        let failures = failures(&history, &slot);
        let cell = match failures.iter().find(|(step, _)| fits(drill.expected, step)) {
            _ if drill.port.starts_with(LOST_HUB) => lost.clone(),
            _ if states[&slot] == "fresh" => "booted, undisturbed".to_owned(),
            Some((step, error)) => format!("{step}: {}", first_words(error)),
            None => format!("no verdict ({})", states[&slot]),
        };
        let grades = grades(&history[&slot]);
        println!("{slot:10} {:8} {cell} {grades:?}", states[&slot]);
        if grade == Grade::Gadget && matches!(drill.behind, Behind::Board) {
            let seen = grades.iter().any(|grade| grade == "presence");
            if !seen {
                column.wrong.push(format!(
                    "{slot}: its gadget was not seen to leave: {grades:?}"
                ));
            }
        }
        for (step, error) in &failures {
            println!("    {step}: {}", first_words(error));
        }
        if !is_as_expected(drill, &history[&slot], &failures, &states[&slot]) {
            column
                .wrong
                .push(format!("{grade:?} {slot} ({}): {cell}", drill.what));
        }
        column.cells.push(cell);
    }
    Ok(column)
}

/// What was found, without what to do about it.
fn first_words(error: &str) -> &str {
    let ends = [": it is fed by", "; if the board was"];
    let end = ends.iter().filter_map(|end| error.find(end)).min();
    &error[..end.unwrap_or(error.len())]
}

fn is_settled(
    drill: &Drill,
    history: &BTreeMap<String, Vec<Value>>,
    states: &BTreeMap<String, String>,
) -> bool {
    let slot = name(drill);
    let fresh = states.get(&slot).is_some_and(|state| state == "fresh");
    let failed = failures(history, &slot)
        .iter()
        .any(|(step, _)| fits(drill.expected, step));
    match &drill.behind {
        Behind::Board => fresh,
        Behind::Device(_) => failed,
    }
}

fn is_as_expected(
    drill: &Drill,
    boots: &[Value],
    failures: &[(String, String)],
    state: &str,
) -> bool {
    let proven = boots.iter().filter(|boot| is_proven(boot)).count();
    let failed = failures.iter().any(|(step, _)| fits(drill.expected, step));
    match &drill.behind {
        Behind::Board => state == "fresh",
        Behind::Device(_) => proven == 0 && failed,
    }
}

/// The evidence of each cut, as it was recorded.
fn grades(boots: &[Value]) -> Vec<String> {
    boots
        .iter()
        .filter_map(|boot| {
            boot["steps"]
                .as_array()?
                .iter()
                .find_map(|step| step["grade"].as_str().map(str::to_owned))
        })
        .collect()
}

/// Whether a boot went through its whole chain.
fn is_proven(boot: &Value) -> bool {
    boot["steps"].as_array().is_some_and(|steps| {
        steps
            .iter()
            .any(|step| step["name"] == "proof" && step["error"].is_null())
    })
}

/// Pulls the supply of a hub with a good board on it, and gives it back.
fn lose_hub(
    guest: &mut Guest,
    drills: &[Drill],
    switchboard: &Switchboard,
    qmp: &Path,
) -> Result<String> {
    let (index, drill) = drills
        .iter()
        .enumerate()
        .find(|(_, drill)| drill.port.starts_with(LOST_HUB))
        .context("no drill on that hub")?;
    let slot = name(drill);
    let mut qmp = Qmp::connect(qmp)?;
    qmp.ask("device_del", &json!({ "id": format!("hub{LOST_HUB}") }))?;
    switchboard.starve(index)?;
    let began = Instant::now();
    let noticed = until(guest, &slot, |state| state != "fresh")?;
    let noticed = format!(
        "noticed after {:.0} s ({noticed})",
        began.elapsed().as_secs_f64()
    );
    let hub = json!({ "driver": "usb-hub", "id": "again", "bus": "xhci.0", "port": LOST_HUB,
                      "port-power": true });
    qmp.ask("device_add", &hub)?;
    // QEMU takes a device's socket away with it.
    let socket = json!({ "type": "unix", "data": { "path": switchboard.socket(index)? } });
    let data = json!({ "addr": socket, "server": false, "reconnect": 1 });
    let backend = json!({ "type": "socket", "data": data });
    qmp.ask(
        "chardev-add",
        &json!({ "id": "plug-again", "backend": backend }),
    )?;
    let device = json!({ "driver": "usb-redir", "id": "board-again", "bus": "xhci.0",
                         "port": drill.port, "chardev": "plug-again" });
    qmp.ask("device_add", &device)?;
    let began = Instant::now();
    until(guest, &slot, |state| state == "fresh")?;
    Ok(format!(
        "{noticed}; proven again {:.0} s after the hub was back",
        began.elapsed().as_secs_f64()
    ))
}

/// Waits for a slot's state to be so.
fn until(guest: &mut Guest, slot: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let states = slots_now(guest)?;
        let state = states.get(slot).context("no such slot")?;
        if wanted(state) {
            return Ok(state.clone());
        }
        if Instant::now() > deadline {
            bail!("{slot} is still {state}: {:?}", boots(guest)?[slot].last());
        }
        guest.run("sleep 1")?;
    }
}

fn slots_now(guest: &mut Guest) -> Result<BTreeMap<String, String>> {
    let written = guest.run("./pandabuildd slots --json --socket /tmp/state/control.sock")?;
    json_items(&written)?
        .iter()
        .map(|slot| {
            let text = |key: &str| {
                slot[key]
                    .as_str()
                    .map(str::to_owned)
                    .with_context(|| format!("{key} of {slot}"))
            };
            Ok((text("slot")?, text("state")?.to_lowercase()))
        })
        .collect()
}

/// The boots of each slot, the oldest first.
fn boots(guest: &mut Guest) -> Result<BTreeMap<String, Vec<Value>>> {
    let written =
        guest.run("./pandabuildd boots --json --limit 200 --socket /tmp/state/control.sock")?;
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for boot in json_items(&written)? {
        let slot = boot["slot"].as_str().context("a boot's slot")?.to_owned();
        found.entry(slot).or_default().push(boot);
    }
    for boots in found.values_mut() {
        boots.sort_by_key(|boot| boot["boot"].as_u64());
    }
    Ok(found)
}

/// The step at which each failed boot of a slot failed, and why.
fn failures(history: &BTreeMap<String, Vec<Value>>, slot: &str) -> Vec<(String, String)> {
    let boots = history.get(slot).map_or(&[][..], Vec::as_slice);
    boots
        .iter()
        .filter_map(|boot| {
            boot["steps"]
                .as_array()?
                .iter()
                .find(|step| !step["error"].is_null())
        })
        .map(|step| {
            let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("error"))
        })
        .collect()
}

/// How many boots the good board has had.
fn good_boot(drills: &[Drill], history: &BTreeMap<String, Vec<Value>>) -> Result<usize> {
    let good = name(drills.first().context("drills")?);
    Ok(history
        .get(&good)
        .context("the good board has not booted")?
        .len())
}
