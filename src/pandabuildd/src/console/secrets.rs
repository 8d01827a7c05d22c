//! What a slot's console must not tell: the key of its boot, and the passwords that its build was given. Boards are
//! not meant to print them; a build, or a kernel in distress, may.

use panda_protocol::launchpad::BuildCall;
use panda_slot::{AttemptNo, BootNo};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clean::Secrets;
use crate::ledger::Ledger;
use crate::slot::{SlotHandle, View};

/// A line of a key that is shorter tells nothing.
const KEY_LINE: usize = 16;

/// The boot that a slot's console is recorded for, and what its log must not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Current {
    /// The boot's number.
    pub(crate) boot: BootNo,
    /// What must not be shown.
    pub(crate) secrets: Secrets,
}

/// Keeps `told` in step with the slot until `stop`.
pub(crate) async fn follow(
    slot: SlotHandle,
    ledger: Ledger,
    told: watch::Sender<Current>,
    stop: CancellationToken,
) {
    let mut watch = slot.watch();
    let mut last = None;
    // Bytes of the last boot and build may still be on their way.
    let (mut earlier, mut known): (Vec<String>, Vec<String>) = Default::default();
    loop {
        let now = Sight::of(&watch.borrow_and_update());
        if last.as_ref() != Some(&now) {
            let secrets = gather(&slot, &ledger, &now).await;
            if secrets != known {
                earlier = std::mem::replace(&mut known, secrets);
            }
            told.send_replace(Current {
                boot: now.boot,
                secrets: Secrets::new(earlier.iter().chain(&known).cloned()),
            });
            last = Some(now);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = watch.changed() => if changed.is_err() { return },
        }
    }
}

/// What of a slot decides its secrets.
#[derive(PartialEq)]
struct Sight {
    boot: BootNo,
    attempt: Option<AttemptNo>,
    /// A boot's key is made while the state already is that of the boot.
    state: String,
}

impl Sight {
    fn of(view: &View) -> Self {
        Self {
            boot: view.slot.boot,
            attempt: view.slot.live().map(|build| build.attempt),
            state: view.slot.board.name().to_owned(),
        }
    }
}

async fn gather(slot: &SlotHandle, ledger: &Ledger, now: &Sight) -> Vec<String> {
    let mut found = Vec::new();
    match ledger.boot_secrets(slot.name(), now.boot).await {
        Ok(secrets) => {
            let key = secrets.map(|secrets| secrets.key_pem).unwrap_or_default();
            let lines = key.lines().map(str::trim);
            let body = lines.filter(|line| line.len() >= KEY_LINE && !line.starts_with("-----"));
            found.extend(body.map(str::to_owned));
        }
        Err(error) => tracing::warn!(%error, "a boot's key is not known to its console's log"),
    }
    if let Some(attempt) = now.attempt {
        match ledger.attempt(slot.name(), attempt).await {
            Ok(record) => {
                let call = record.and_then(|record| record.call);
                found.extend(call.iter().flat_map(passwords));
            }
            Err(error) => {
                tracing::warn!(%error, "a build's passwords are not known to its console's log");
            }
        }
    }
    found
}

/// Every password, or token, in a URL of the build's arguments: as it is written, and as it is meant.
fn passwords(call: &BuildCall) -> Vec<String> {
    let mut found = Vec::new();
    let mut values: Vec<_> = call.args.values().collect();
    while let Some(value) = values.pop() {
        match value {
            dxr::Value::String(text) => of_text(text, &mut found),
            dxr::Value::Array(array) => values.extend(array.iter()),
            dxr::Value::Struct(members) => values.extend(members.values()),
            _ => {}
        }
    }
    found
}

fn of_text(text: &str, found: &mut Vec<String>) {
    for word in text.split_whitespace() {
        let Some((_, rest)) = word.split_once("://") else {
            continue;
        };
        let Some((user, _)) = rest.rsplit_once('@') else {
            continue;
        };
        let secret = user.split_once(':').map_or(user, |(_, password)| password);
        let meant = percent_decode_str(secret).decode_utf8_lossy();
        if meant != secret {
            found.push(meant.into_owned());
        }
        found.push(secret.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_tokens_of_urls_are_found_as_written_and_as_meant() {
        let mut found = Vec::new();
        of_text(
            "deb [trusted=yes] http://buildd:p%40ss@ppa/x noble main\nhttps://token@git/ http://plain/",
            &mut found,
        );
        assert_eq!(found, ["p@ss", "p%40ss", "token"]);
    }
}
