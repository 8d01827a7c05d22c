//! The daemon's answer to [`super::wire::Ask::Console`].

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::server::{Desk, wait};
use super::wire::Answer;
use crate::console::{ConsoleLog, Place};

impl Desk {
    pub(super) async fn console(
        &self,
        slot: &str,
        boot: Option<u64>,
        from: Option<Place>,
        wait_seconds: Option<u64>,
    ) -> Answer {
        let refused = |reason: String| Answer::Refused { reason };
        let Some(log) = self.consoles.get(slot) else {
            return refused(
                if self.slots.iter().any(|known| known.handle.name() == slot) {
                    format!("slot {slot} has no [slot.console] in rack.toml")
                } else {
                    self.unknown(slot)
                },
            );
        };
        let limit = wait(Duration::from_secs(wait_seconds.unwrap_or_default()));
        match look(log.clone(), boot, from, limit).await {
            Ok(Some((text, next))) => Answer::Console { text, next },
            Ok(None) => {
                let kept = log.boots().await.unwrap_or_default();
                refused(format!(
                    "slot {slot}: no log of that boot's console is kept; there are those of {kept:?}"
                ))
            }
            Err(error) => refused(format!("slot {slot}: the console's log: {error}")),
        }
    }
}

/// What there is, or what comes within `limit`; nothing where there is no such boot.
async fn look(
    mut log: ConsoleLog,
    boot: Option<u64>,
    from: Option<Place>,
    limit: Duration,
) -> io::Result<Option<(String, Option<Place>)>> {
    if limit.is_zero() {
        return once(&log, boot, from).await;
    }
    let waited = timeout(limit, async {
        loop {
            let looked = once(&log, boot, from).await?;
            if looked.as_ref().is_none_or(|(text, _)| !text.is_empty()) {
                return Ok(looked);
            }
            log.grown().await;
        }
    });
    match waited.await {
        Ok(looked) => looked,
        Err(_) => once(&log, boot, from).await,
    }
}

async fn once(
    log: &ConsoleLog,
    boot: Option<u64>,
    from: Option<Place>,
) -> io::Result<Option<(String, Option<Place>)>> {
    let boots = log.boots().await?;
    if let Some(wanted) = boot
        && !boots.contains(&wanted)
    {
        return Ok(None);
    }
    let start = |boot| Place {
        boot,
        part: 0,
        offset: 0,
    };
    let from = from.or_else(|| boot.or(boots.last().copied()).map(start));
    Ok(Some(match from {
        Some(place) => {
            let (text, next) = log.read(place, boot.is_some()).await?;
            (text, Some(next))
        }
        None => (String::new(), None),
    }))
}
