//! `pandabuildd usb learn`: records in `rack.toml` which board is on a slot's port, as far as its ASIC ID tells; from
//! the next start of the daemon another one is refused. That file is where the check reads it, so there is one place to
//! look at, and to change when a board is exchanged.
//!
//! ```text
//! a daemon runs ──▶ what the ROM said at the slot's last boot (ledger)     ┐
//! none runs ──────▶ power cut ▶ evidence ▶ power ▶ ROM ▶ ASIC ID ▶ cut     ┴─▶ [slot.board] of rack.toml
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use panda_board::driver::Machine;
use panda_protocol::family::chip_name;
use panda_protocol::operators::{GetBoots, Identity, PublicId, StepName};
use panda_slot::BootNo;
use toml_edit::{DocumentMut, Item, Table, value};

use crate::boot::{
    BoardParts, BootSettings, Chain, Evidence, ExpectedBoard, Journal, describe, order, read_back,
};
use crate::cli::{Exit, interrupted, say};
use crate::config::{Config, SlotSettings};
use crate::ledger::{Grade, Step};
use crate::operators::client::Daemon;
use crate::rack::{RackError, StateLock, drivers};

/// So many of a slot's last boots are looked at.
const BOOTS: u32 = 20;

/// Record which board is on a slot's port.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With a daemon running, what its last boot was told is recorded; without one, the board is cut from power, asked, and cut \
again. The daemon checks it from its next start on.")]
pub(crate) struct Args {
    /// The slot
    slot: String,
    /// The rack's configuration; its [slot.board] is written
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Put this board in the place of another that is recorded
    #[arg(long)]
    replace: bool,
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config)?;
    let slot = config
        .slots
        .iter()
        .find(|slot| *slot.name.get_ref() == args.slot);
    let slot = slot.with_context(|| {
        let known: Vec<&str> = config
            .slots
            .iter()
            .map(|slot| slot.name.get_ref().as_str())
            .collect();
        format!(
            "no slot {:?}; this rack has {}",
            args.slot,
            known.join(", ")
        )
    })?;
    let asked = tokio::select! {
        asked = told(&config, slot) => asked?,
        () = interrupted() => return Ok(Exit::Interrupted),
    };
    let outcome = agree(&slot.board, &asked, args.replace)?;
    if outcome == Recorded::Already {
        say(&format!(
            "{}: {}: recorded already",
            args.slot,
            describe(&asked)
        ))?;
        return Ok(Exit::Done);
    }
    let text =
        std::fs::read_to_string(&args.config).with_context(|| args.config.display().to_string())?;
    let text = with_board(&text, &args.slot, &asked)?;
    // What is written must be read again.
    Config::parse(&text, &args.config).context("the changed configuration")?;
    replace_file(&args.config, &text)?;
    say(&format!(
        "{}: {}: recorded in {}",
        args.slot,
        describe(&asked),
        args.config.display()
    ))?;
    if asked.public_id.is_none() {
        eprintln!(
            "its public ID is all zeros, which is normal on general-purpose parts: only the chip can be checked, and the \
             slot is its port"
        );
    }
    eprintln!("the daemon checks it from its next start on");
    Ok(Exit::Done)
}

/// What the board's ROM says, or has said at its last boot.
async fn told(config: &Config, slot: &SlotSettings) -> anyhow::Result<Identity> {
    let lock = match StateLock::take(&config.rack.state_dir) {
        Ok(lock) => lock,
        Err(RackError::InUse { .. }) => return from_daemon(config, slot.name.get_ref()).await,
        Err(error) => return Err(error.into()),
    };
    let told = from_board(config, slot).await;
    drop(lock);
    told
}

async fn from_daemon(config: &Config, slot: &str) -> anyhow::Result<Identity> {
    let daemon = Daemon::at(config.operators.socket_of(&config.rack.state_dir));
    let request = GetBoots {
        slot: Some(slot.to_owned()),
        limit: BOOTS,
    };
    let answer = daemon.ask(&request, Duration::ZERO).await?;
    let steps = answer.boots.iter().flat_map(|boot| &boot.steps);
    let mut ids = steps.filter(|step| step.name == StepName::Identity && step.error.is_none());
    ids.find_map(|step| read_back(&step.detail)).with_context(|| {
        format!(
            "no boot ROM of slot {slot} has told its ID to this daemon yet; have it reset (`pandabuildd reset {slot}`), or \
             stop the daemon and run this again"
        )
    })
}

/// Cuts the board's power, and asks it as a reset would.
async fn from_board(config: &Config, slot: &SlotSettings) -> anyhow::Result<Identity> {
    let alone = Config {
        slots: vec![slot.clone()],
        ..config.clone()
    };
    let mut made = drivers::make(&alone, Machine::default()).await?;
    let made = made.pop().context("the slot has no drivers")?;
    let power = made.power.clone();
    let drivers = Arc::new(BoardParts {
        power: made.power,
        port: made.port,
        sense: made.sense,
        families: config.boot.families(),
        family: None,
        settings: BootSettings {
            // Nothing is built on it, and a board that was off has no gadget to see leaving.
            require_cut: Grade::Readback,
            ..config.boot.clone()
        },
        journal: Arc::new(Shown),
    });
    let asked = async {
        let dark = match order(Chain::new(drivers, BootNo::new(0)))
            .await?
            .evidence()
            .await?
        {
            Evidence::Enough(dark) => dark,
            Evidence::Weak(weak) => return Err(weak.into_failure()),
        };
        let rom = dark.power_on().await?.rom().await?;
        rom.identify(&ExpectedBoard::default()).await
    };
    let identified = asked.await;
    power.off().await.context("the board still has power")?;
    Ok(identified?.identity().clone())
}

/// Shows each step.
struct Shown;

#[async_trait]
impl Journal for Shown {
    async fn record(&self, _: BootNo, step: Step) -> Result<(), String> {
        if step.error.is_none() {
            eprintln!("{}: {}", step.name, step.detail);
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Recorded {
    Already,
    New,
}

/// Whether the board is what is recorded of the slot; another is refused, unless it shall take its place.
fn agree(known: &ExpectedBoard, told: &Identity, replace: bool) -> anyhow::Result<Recorded> {
    let chip = known
        .chip
        .is_none_or(|chip| chip.as_str() == told.chip.as_str());
    let id = known.public_id.is_none() || known.public_id == told.public_id;
    if known.chip.is_some() && chip && known.public_id == told.public_id {
        return Ok(Recorded::Already);
    }
    ensure!(
        (chip && id) || replace,
        "the board on the slot's port is another than the recorded one: it is {}, {}, and recorded is {}, {}; if it was \
         exchanged on purpose, give --replace",
        chip_name(told.chip.as_str()),
        public_id(told.public_id.as_ref()),
        known
            .chip
            .map_or("any chip", |chip| chip_name(chip.as_str())),
        public_id(known.public_id.as_ref()),
    );
    Ok(Recorded::New)
}

fn public_id(id: Option<&PublicId>) -> String {
    id.map_or_else(|| "no public ID".to_owned(), |id| format!("public ID {id}"))
}

/// The text of `rack.toml` with the board in the slot's table; everything else stays as it is.
fn with_board(text: &str, slot: &str, told: &Identity) -> anyhow::Result<String> {
    let mut document: DocumentMut = text.parse()?;
    let slots = document
        .get_mut("slot")
        .and_then(Item::as_array_of_tables_mut)
        .context("the slots are not written as [[slot]] tables; write [slot.board] by hand")?;
    let table = slots
        .iter_mut()
        .find(|table| table.get("name").and_then(Item::as_str) == Some(slot))
        .context("the slot's table has gone meanwhile")?;
    let board = table
        .entry("board")
        .or_insert_with(|| Item::Table(Table::new()));
    let board = board
        .as_table_like_mut()
        .context("slot.board is no table")?;
    board.insert("chip", value(told.chip.as_str()));
    match &told.public_id {
        Some(id) => {
            board.insert("public_id", value(id.to_string()));
        }
        None => {
            board.remove("public_id");
        }
    }
    Ok(document.to_string())
}

/// Written beside, with the mode that it has, and moved.
fn replace_file(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let failed = || format!("{} cannot be written", path.display());
    // Through a link, so that it stays one.
    let target = std::fs::canonicalize(path).with_context(failed)?;
    let directory = target.parent().unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(directory).with_context(failed)?;
    beside.write_all(text.as_bytes()).with_context(failed)?;
    let mode = std::fs::metadata(&target)
        .with_context(failed)?
        .permissions();
    beside
        .as_file()
        .set_permissions(mode)
        .with_context(failed)?;
    beside.as_file().sync_all().with_context(failed)?;
    beside.persist(&target).with_context(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> PublicId {
        PublicId::from_bytes(&[byte; 20]).unwrap()
    }

    fn told(public_id: Option<u8>) -> Identity {
        Identity {
            family: "omap4".parse().unwrap(),
            chip: "omap4430".parse().unwrap(),
            rom_version: Some(4),
            public_id: public_id.map(id),
        }
    }

    const RACK: &str = "# My rack.\n[[slot]]\nname = \"panda01\" # left\n\n[[slot]]\nname = \"panda02\"\n\
                        pipe = { driver = \"usb\", port = \"1-2.3\" }\n";

    #[test]
    fn the_board_is_written_into_its_slot_and_nothing_else_changes() {
        let text = with_board(RACK, "panda02", &told(Some(7))).unwrap();
        let added = format!(
            "\n[slot.board]\nchip = \"omap4430\"\npublic_id = \"{}\"\n",
            "07".repeat(20)
        );
        assert_eq!(text, format!("{RACK}{added}"));
        let general = with_board(&text, "panda02", &told(None)).unwrap();
        assert_eq!(
            general,
            format!("{RACK}\n[slot.board]\nchip = \"omap4430\"\n")
        );
        let first = with_board(RACK, "panda01", &told(None)).unwrap();
        assert!(
            first.contains(
                "name = \"panda01\" # left\n\n[slot.board]\nchip = \"omap4430\"\n\n[[slot]]\n"
            ),
            "{first}"
        );
        assert!(with_board(RACK, "panda03", &told(None)).is_err());
        let inline = RACK.replace("pipe", "board = { chip = \"omap4460\" }\npipe");
        let inline = with_board(&inline, "panda02", &told(None)).unwrap();
        assert!(
            inline.contains("board = { chip = \"omap4430\" }\n"),
            "{inline}"
        );
    }

    #[test]
    fn another_board_than_the_recorded_one_is_refused_with_both_shown() {
        let known = |chip, public_id: Option<u8>| ExpectedBoard {
            chip,
            public_id: public_id.map(id),
        };
        let (four, six) = ("omap4430".parse().ok(), "omap4460".parse().ok());
        assert_eq!(
            agree(&known(None, None), &told(None), false).unwrap(),
            Recorded::New
        );
        assert_eq!(
            agree(&known(four, None), &told(None), false).unwrap(),
            Recorded::Already
        );
        assert_eq!(
            agree(&known(four, None), &told(Some(7)), false).unwrap(),
            Recorded::New
        );
        let error = agree(&known(six, None), &told(None), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("it is OMAP4430, no public ID, and recorded is OMAP4460"),
            "{error}"
        );
        let error = agree(&known(four, Some(9)), &told(Some(7)), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&"07".repeat(20)) && error.contains(&"09".repeat(20)),
            "{error}"
        );
        assert!(agree(&known(four, Some(9)), &told(None), false).is_err());
        assert_eq!(
            agree(&known(six, Some(9)), &told(None), true).unwrap(),
            Recorded::New
        );
    }

    #[test]
    fn the_file_keeps_its_mode_and_its_link() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("f"), directory.path().join("l"));
        std::fs::write(&file, RACK).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace_file(&link, "new").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
