//! `pandabuildd boots`: the last resets, each with its chain of steps.

use std::time::Duration;

use panda_protocol::operators::{BootHistory, GetBoots, MAX_BOOTS};

use super::slots::one_line;
use super::{Exit, Socket, say};

/// Show the last resets: each step of the chain, with its time and the evidence of the cut.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: Socket,
    /// Of this slot only
    slot: Option<String>,
    /// One JSON object a reset, a line each
    #[arg(long)]
    json: bool,
    /// At most so many, the latest
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = limit)]
    limit: u32,
}

fn limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(limit) if (1..=MAX_BOOTS).contains(&limit) => Ok(limit),
        _ => Err(format!("expected 1 to {MAX_BOOTS}")),
    }
}

impl Args {
    /// The same, asked of another daemon or for somebody else.
    pub(super) fn over(self, socket: Socket) -> Self {
        Self { socket, ..self }
    }
}

/// Runs it.
pub(super) async fn run(args: Args) -> anyhow::Result<Exit> {
    let request = GetBoots {
        slot: args.slot,
        limit: args.limit,
    };
    let answer = args.socket.daemon().ask(&request, Duration::ZERO).await?;
    for boot in &answer.boots {
        if args.json {
            say(&serde_json::to_string(boot)?)?;
        } else {
            for line in lines(boot) {
                say(&line)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// A reset's chain, for people.
pub(super) fn lines(boot: &BootHistory) -> Vec<String> {
    let mut lines = vec![format!(
        "{} boot {}  {}  id {}  image {}",
        boot.slot,
        boot.boot,
        time(boot.began_unix_ms),
        boot.id,
        boot.image
    )];
    for step in &boot.steps {
        let mut line = format!(
            "  {:14} {:>9.3} s  {}",
            step.name,
            seconds(step.elapsed_ms),
            step.detail
        );
        if let Some(grade) = step.grade {
            line += &format!("  [evidence: {grade}]");
        }
        if let Some(error) = &step.error {
            line += &format!("  FAILED: {error}");
        }
        lines.push(line);
    }
    for attempt in &boot.attempts {
        lines.push(format!("  then built attempt {attempt}"));
    }
    lines.iter().map(|line| one_line(line)).collect()
}

/// For people: the rounding of a 53-bit number of milliseconds is of no concern.
fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

fn time(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(
        |_| "at no known time".to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use panda_protocol::ids::{AttemptNo, BootNo};
    use panda_protocol::operators::{Grade, Step};

    use super::*;

    #[test]
    fn a_chain_shows_each_step_with_time_evidence_and_failure() {
        let step = |name: &str, elapsed_ms, grade, error: Option<&str>| Step {
            name: name.parse().unwrap(),
            at_unix_ms: 0,
            elapsed_ms,
            detail: "seen".into(),
            grade,
            fact: None,
            error: error.map(str::to_owned),
        };
        let boot = BootHistory {
            slot: "panda01".parse().unwrap(),
            boot: BootNo::new(3),
            id: "ab".repeat(16).parse().unwrap(),
            image: panda_protocol::digest::Sha256::of(b""),
            began_unix_ms: 1_000,
            attempts: vec![AttemptNo::new(5)],
            builds: Vec::new(),
            steps: vec![
                step("cut", 5_020, Some(Grade::Readback), None),
                step("rom", 3_000, None, Some("no ROM\nin its window")),
            ],
        };
        let lines = lines(&boot);
        assert!(
            lines[0].starts_with("panda01 boot 3  1970-01-01 00:00:01 UTC"),
            "{}",
            lines[0]
        );
        assert_eq!(
            lines[1],
            "  cut                5.020 s  seen  [evidence: readback]"
        );
        assert_eq!(
            lines[2],
            "  rom                3.000 s  seen  FAILED: no ROM\u{fffd}in its window"
        );
        assert_eq!(lines[3], "  then built attempt 5");
    }
}
