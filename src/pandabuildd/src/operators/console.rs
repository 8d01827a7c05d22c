//! A slot's console over the operators' interface: what it has said, and what is typed on it.

use std::io;
use std::time::Duration;

use panda_protocol::ids::BootNo;
use panda_protocol::operators::{
    ActionKind, Asker, ConsoleText, Place, Problem, ProblemKind, ReadConsole, TypeKeys, Typed,
};
use tokio::time::timeout;

use super::desk::Desk;
use super::orders::order;
use crate::console::ConsoleLog;

impl Desk {
    pub(super) async fn read_console(&self, asked: &ReadConsole) -> Result<ConsoleText, Problem> {
        let ReadConsole {
            slot,
            boot,
            from,
            wait_seconds,
        } = asked;
        let log = self.console(slot)?;
        let limit = Duration::from_secs(wait_seconds.unwrap_or_default());
        match look(log.clone(), *boot, *from, limit).await {
            Ok(Some((text, next))) => Ok(ConsoleText { text, next }),
            Ok(None) => {
                let kept = log.boots().await.unwrap_or_default();
                let kept: Vec<u64> = kept.into_iter().map(BootNo::get).collect();
                Err(Problem::new(
                    ProblemKind::NothingThere,
                    format!(
                        "slot {slot}: no log of that boot's console is kept; there are those of {kept:?}"
                    ),
                ))
            }
            Err(error) => Err(Problem::new(
                ProblemKind::Failed,
                format!("slot {slot}: the console's log: {error}"),
            )),
        }
    }

    pub(super) async fn type_keys(&self, typed: TypeKeys, asker: Asker) -> Result<Typed, Problem> {
        let TypeKeys { slot, keys } = typed;
        let log = self.console(&slot)?.clone();
        let bytes = keys.len();
        let refused = {
            let slot = slot.clone();
            move |why| Problem::new(ProblemKind::Refused, format!("slot {slot}: {why}"))
        };
        let work = async move { log.type_keys(keys).await.map_err(refused) };
        if self.types_anew(&slot, asker.pid) {
            let operated = self.named(&slot)?;
            let order = order(ActionKind::Type, operated, "", asker);
            self.carry_out(order, work).await?;
        } else {
            work.await?;
        }
        Ok(Typed { bytes })
    }

    fn console(&self, slot: &str) -> Result<&ConsoleLog, Problem> {
        self.named(slot)?;
        self.consoles.get(slot).ok_or_else(|| {
            let detail = format!("slot {slot} has no [slot.console] in rack.toml");
            Problem::new(ProblemKind::NothingThere, detail)
        })
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
    use panda_board::twin::TwinSettings;
    use panda_protocol::launchpad::Dialect;
    use panda_protocol::operators::MAX_KEYS;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::console::{Consoles, Current, Recorder};
    use crate::ledger::Ledger;
    use crate::operators::client::{AskError, Daemon};
    use crate::operators::{Operated, OperatorsSettings, Rpc, SOCKET, bind, serve};
    use crate::testing::ScriptedActivities;

    fn console(
        boot: Option<BootNo>,
        from: Option<Place>,
        wait_seconds: Option<u64>,
    ) -> ReadConsole {
        ReadConsole {
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
        let (recorder, log) = Recorder::new(
            std::sync::Arc::new(twin),
            &state.path().join("console"),
            watch,
        )
        .unwrap();
        let stop = CancellationToken::new();
        let _stopped = stop.clone().drop_guard();
        drop(tokio::spawn(recorder.run(stop.clone())));
        let ledger = Ledger::open(&state.path().join("ledger")).unwrap();
        let slot = crate::slot::spawn(
            "panda01",
            None,
            ledger.clone(),
            std::sync::Arc::new(ScriptedActivities::default()),
            crate::slot::Settings::default(),
        );
        let nobody = ([127, 0, 0, 1], 1).into();
        let tls = panda_http::pinned::public_client_config().unwrap();
        let desk = Desk {
            slots: vec![Operated {
                handle: slot,
                hosts: Vec::new(),
                rpc: Rpc::new("panda01.example", nobody, tls).unwrap(),
                duty: None,
            }],
            consoles: Consoles::from([("panda01".to_owned(), log)]),
            ledger,
            dialect: Dialect::Current,
            virtualized: true,
            typists: Default::default(),
        };
        let settings = OperatorsSettings {
            socket: Some(state.path().join(SOCKET)),
            group: None,
        };
        let sockets = bind(&settings, state.path()).unwrap();
        tokio::spawn(serve(sockets, desk, stop));
        let daemon = Daemon::at(state.path().join(SOCKET));
        let asked = async |read: ReadConsole| daemon.ask(&read, Duration::from_secs(60)).await;

        let nothing = asked(console(None, None, None)).await.unwrap();
        let none = ConsoleText {
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
        let ConsoleText { text, next } = waited.unwrap();
        assert!(text.ends_with("Z one\n"), "{text}");
        board.write_all(b"two\n").await.unwrap();
        let ConsoleText { text, next } = asked(console(None, next, Some(60))).await.unwrap();
        assert!(text.ends_with("Z two\n") && !text.contains("one"), "{text}");
        let ConsoleText { text, .. } = asked(console(Some(BootNo::new(3)), None, None))
            .await
            .unwrap();
        assert!(text.contains("one") && text.contains("two"), "{text}");
        // What is typed reaches the board, byte for byte.
        let keys = |keys: &[u8]| TypeKeys {
            slot: "panda01".into(),
            keys: keys.to_vec(),
        };
        let limit = Duration::from_secs(60);
        let typed = daemon.ask(&keys(b"ls\r\x03"), limit).await.unwrap();
        assert_eq!(typed.bytes, 4);
        let mut heard = [0; 4];
        board.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ls\r\x03");
        let too_much = daemon.ask(&keys(&[0; MAX_KEYS + 1]), limit).await;
        assert_eq!(problem(too_much).kind, ProblemKind::Malformed);
        assert_eq!(next.unwrap().boot, BootNo::new(3));
        let absent = problem(asked(console(Some(BootNo::new(9)), None, None)).await);
        assert_eq!(absent.kind, ProblemKind::NothingThere);
        assert!(absent.detail.contains("those of [3]"), "{absent}");
    }

    fn problem<T: std::fmt::Debug>(answer: Result<T, AskError>) -> Problem {
        match answer {
            Err(AskError::Problem(problem)) => problem,
            other => panic!("{other:?}"),
        }
    }
}
