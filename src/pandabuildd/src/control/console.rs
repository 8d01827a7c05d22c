//! The daemon's answers to [`super::wire::Ask::Console`] and [`super::wire::Ask::Type`].

use panda_slot::BootNo;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::server::{Desk, wait};
use super::wire::{Answer, MAX_KEYS};
use crate::console::{ConsoleLog, Place};

impl Desk {
    pub(super) async fn console(
        &self,
        slot: &str,
        boot: Option<BootNo>,
        from: Option<Place>,
        wait_seconds: Option<u64>,
    ) -> Answer {
        let refused = |reason: String| Answer::Refused { reason };
        let Some(log) = self.consoles.get(slot) else {
            return self.no_console(slot);
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

    pub(super) async fn type_keys(&self, slot: &str, keys: Vec<u8>) -> Answer {
        let Some(log) = self.consoles.get(slot) else {
            return self.no_console(slot);
        };
        if keys.len() > MAX_KEYS {
            let reason = format!("at most {MAX_KEYS} bytes are typed at once");
            return Answer::Refused { reason };
        }
        match log.type_keys(keys).await {
            Ok(()) => Answer::Typed,
            Err(why) => Answer::Refused {
                reason: format!("slot {slot}: {why}"),
            },
        }
    }

    fn no_console(&self, slot: &str) -> Answer {
        let known = self.slots.iter().any(|known| known.handle.name() == slot);
        Answer::Refused {
            reason: if known {
                format!("slot {slot} has no [slot.console] in rack.toml")
            } else {
                self.unknown(slot)
            },
        }
    }
}

/// What there is, or what comes within `limit`; nothing where there is no such boot.
async fn look(
    mut log: ConsoleLog,
    boot: Option<BootNo>,
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
    boot: Option<BootNo>,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use panda_board::twin::TwinSettings;
    use panda_protocol::launchpad::Dialect;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::console::{Consoles, Current, Recorder};
    use crate::control::client::{ControlError, ask};
    use crate::control::wire::Ask;
    use crate::control::{SOCKET, bind, serve};
    use crate::ledger::Ledger;

    fn console(boot: Option<BootNo>, from: Option<Place>, wait_seconds: Option<u64>) -> Ask {
        Ask::Console {
            slot: "panda01".into(),
            boot,
            from,
            wait_seconds,
        }
    }

    #[tokio::test]
    async fn a_console_is_read_on_from_where_it_was_and_waited_for() {
        let state = tempfile::tempdir().unwrap();
        let twin = TwinSettings {
            socket: state.path().join("console.sock"),
        };
        let listener = UnixListener::bind(&twin.socket).unwrap();
        let (current, watch) = watch::channel(Current::default());
        let (recorder, log) =
            Recorder::new(Arc::new(twin), &state.path().join("console"), watch).unwrap();
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        drop(tokio::spawn(recorder.run(stop.clone())));
        let desk = Desk {
            slots: Vec::new(),
            consoles: Consoles::from([("panda01".to_owned(), log)]),
            ledger: Ledger::open(&state.path().join("ledger")).unwrap(),
            dialect: Dialect::Current,
            virtualized: true,
        };
        let socket = state.path().join(SOCKET);
        drop(serve(bind(&socket).unwrap(), desk, stop));
        let asked = async |question| ask(&socket, question, Duration::from_secs(60)).await;

        let nothing = asked(console(None, None, None)).await.unwrap();
        let none = Answer::Console {
            text: String::new(),
            next: None,
        };
        assert_eq!(nothing, none);
        let (mut board, _) = listener.accept().await.unwrap();
        let waiting = asked(console(None, None, Some(60)));
        let (waited, ()) = tokio::join!(waiting, async {
            current.send_modify(|current| current.boot = BootNo::new(3));
            board.write_all(b"one\n").await.unwrap();
        });
        let Answer::Console { text, next } = waited.unwrap() else {
            panic!("console")
        };
        assert!(text.ends_with("Z one\n"), "{text}");
        board.write_all(b"two\n").await.unwrap();
        let Answer::Console { text, next } = asked(console(None, next, Some(60))).await.unwrap()
        else {
            panic!("console")
        };
        assert!(text.ends_with("Z two\n") && !text.contains("one"), "{text}");
        let Answer::Console { text, .. } = asked(console(Some(BootNo::new(3)), None, None))
            .await
            .unwrap()
        else {
            panic!("console")
        };
        assert!(text.contains("one") && text.contains("two"), "{text}");
        // What is typed reaches the board, byte for byte.
        let typed = asked(Ask::Type {
            slot: "panda01".into(),
            keys: b"ls\r\x03".to_vec(),
        });
        assert_eq!(typed.await.unwrap(), Answer::Typed);
        let mut heard = [0; 4];
        board.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ls\r\x03");
        let too_much = asked(Ask::Type {
            slot: "panda01".into(),
            keys: vec![0; MAX_KEYS + 1],
        });
        assert!(matches!(too_much.await, Err(ControlError::Refused(_))));
        assert_eq!(next.unwrap().boot, BootNo::new(3));
        match asked(console(Some(BootNo::new(9)), None, None))
            .await
            .unwrap_err()
        {
            ControlError::Refused(reason) => assert!(reason.contains("those of [3]"), "{reason}"),
            other => panic!("{other}"),
        }
    }
}
