//! `pandabuildd slots`: how the slots are.

use std::time::Duration;

use clap::ValueEnum;
use panda_protocol::operators::{GetSlots, SlotInfo};

use super::{Exit, Socket, say};

/// Show how the slots are.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: Socket,
    /// One JSON object a slot, a line each
    #[arg(long)]
    json: bool,
    /// Wait until the daemon is there and every slot is so; ends with code 4 when that takes longer than --timeout
    #[arg(long, value_name = "STATE")]
    wait: Option<Wanted>,
    /// How long to wait, in seconds
    #[arg(long, value_name = "S", default_value_t = 600, requires = "wait",
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    timeout: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Proven, and has run nothing
    Fresh,
}

impl Args {
    /// The same, asked of another daemon or for somebody else.
    pub(super) fn over(self, socket: Socket) -> Self {
        Self { socket, ..self }
    }
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let wait = args.wait.map(|Wanted::Fresh| args.timeout);
    let request = |left: Duration| GetSlots {
        fresh_within_seconds: wait.map(|_| left.as_secs()),
    };
    let daemon = args.socket.daemon();
    let waits = Duration::from_secs(wait.unwrap_or_default());
    let answer = tokio::select! {
        answer = daemon.ask_when_there(request, waits) => match answer {
            Err(error) if wait.is_some() && error.is_absence() => {
                eprintln!("pandabuildd: {error}");
                return Ok(Exit::TimeOut);
            }
            answer => answer?,
        },
        () = super::interrupted() => return Ok(Exit::Interrupted),
    };
    if args.json {
        for slot in &answer.slots {
            say(&serde_json::to_string(slot)?)?;
        }
    } else {
        for line in table(&answer.slots) {
            say(line.trim_end())?;
        }
    }
    Ok(if answer.in_time {
        Exit::Done
    } else {
        Exit::TimeOut
    })
}

fn table(slots: &[SlotInfo]) -> Vec<String> {
    let mut rows =
        vec![["SLOT", "STATE", "BOOT", "LAUNCHPAD IS TOLD", "DETAIL"].map(str::to_owned)];
    rows.extend(slots.iter().map(|slot| {
        let mut detail = vec![slot.detail.clone()];
        detail.extend(
            slot.kept
                .as_ref()
                .map(|kept| format!("kept: {} {}", kept.build_id, kept.build_status)),
        );
        detail.extend(slot.held.as_ref().map(|reason| format!("held: {reason}")));
        detail.retain(|text| !text.is_empty());
        [
            slot.slot.clone(),
            slot.state.clone(),
            slot.boot.to_string(),
            slot.told.clone(),
            detail.join("; "),
        ]
        .map(|text| one_line(&text))
    }));
    align(&rows)
}

/// Some of it (a build id, a board's reason) comes from outside: no control characters reach a terminal.
pub(super) fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Columns as wide as their widest cell.
pub(super) fn align<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    });
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use panda_protocol::ids::BootNo;
    use panda_protocol::operators::KeptInfo;

    use super::*;

    #[tokio::test]
    async fn a_daemon_that_never_comes_is_a_wait_that_ran_out() {
        let directory = tempfile::tempdir().unwrap();
        let args = |wait| Args {
            socket: Socket {
                socket: Some(directory.path().join("control.sock")),
                ..Socket::default()
            },
            json: false,
            wait,
            timeout: 1,
        };
        assert_eq!(run(args(Some(Wanted::Fresh))).await.unwrap(), Exit::TimeOut);
        let error = run(args(None)).await.unwrap_err().to_string();
        assert!(error.contains("no daemon runs there"), "{error}");
    }

    #[test]
    fn a_slot_is_one_line_whatever_its_build_id_holds() {
        let slot = SlotInfo {
            slot: "panda01".into(),
            hosts: vec![],
            state: "cutting".into(),
            detail: "attempt 1".into(),
            boot: BootNo::new(7),
            build_id: None,
            kept: Some(KeptInfo {
                build_id: "a\x1b[2J\nb".into(),
                build_status: "BuildStatus.OK".into(),
            }),
            held: None,
            told: "BuilderStatus.WAITING".into(),
        };
        let lines = table(&[slot]);
        assert_eq!(
            lines,
            [
                "SLOT     STATE    BOOT  LAUNCHPAD IS TOLD      DETAIL",
                "panda01  cutting  7     BuilderStatus.WAITING  attempt 1; kept: a\u{fffd}[2J\u{fffd}b BuildStatus.OK",
            ]
        );
    }
}
