//! Servers that fail, flap, lie and die, over loopback: what comes is right, what does not is told in time, and
//! whether a dispatch is worth it is known.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// What a server does with a connection, once it has read the request.
#[derive(Clone)]
enum Deed {
    Say(Vec<u8>),
    /// Closes it at once, with a reset.
    Reset,
    Hang,
    /// Never stops.
    Endless,
}

/// A server that does one deed a connection, and the last one for ever.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(deeds: impl IntoIterator<Item = Deed>) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), deeds).await
    }

    async fn at(address: SocketAddr, deeds: impl IntoIterator<Item = Deed>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let deeds = Arc::new(Mutex::new(deeds.into_iter().collect::<VecDeque<_>>()));
        let count = asked.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let deed = {
                    let mut deeds = deeds.lock().unwrap();
                    let last = deeds.len() == 1;
                    if last {
                        deeds[0].clone()
                    } else {
                        deeds.pop_front().unwrap()
                    }
                };
                count.fetch_add(1, Ordering::SeqCst);
                // Who has hung up is not waited for.
                tokio::spawn(async move { perform(stream, deed).await.ok() });
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn call(&self) -> EnsurePresent {
        call(Some(format!("http://{}/input", self.address)), "")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn perform(mut stream: TcpStream, deed: Deed) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    match deed {
        Deed::Say(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        }
        Deed::Reset => stream.set_zero_linger(),
        Deed::Hang => std::future::pending().await,
        Deed::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
    }
}

/// `body`, with any length declared.
fn declared(length: usize, body: &str) -> Deed {
    Deed::Say(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes())
}

fn good() -> Deed {
    declared(DATA.len(), DATA)
}

fn wrong() -> Deed {
    declared(DATA.len(), "AN INPUT\n")
}

fn truncated() -> Deed {
    declared(DATA.len(), "an in")
}

fn status(status: u16) -> Deed {
    Deed::Say(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").into_bytes())
}

/// Patience of a test.
fn quick() -> FilecacheSettings {
    FilecacheSettings {
        wait_ms: 20_000,
        retry_first_ms: 1,
        retry_most_ms: 20,
        look_ms: 20,
        shun_ms: 40_000,
        ..FilecacheSettings::default()
    }
}

fn impatient() -> FilecacheSettings {
    FilecacheSettings {
        wait_ms: 500,
        ..quick()
    }
}

async fn ask(cache: &Filecache, slot: &str, call: EnsurePresent) -> (bool, String) {
    let answer = timeout(LIMIT, cache.ensure_present(slot, call))
        .await
        .unwrap();
    (answer.present, answer.info)
}

/// Nothing is held for anybody.
async fn assert_no_pins(cache: &Filecache, ledger: &Ledger) {
    assert_eq!(cache.store.pinned("panda01"), 0);
    // Written behind everything that was asked for before.
    cache.release("panda99");
    assert_eq!(ledger.pins().await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_flaps_is_asked_until_the_file_is_whole() {
    let state = tempfile::tempdir().unwrap();
    let (cache, ledger) = open_with(state.path(), &quick()).await;
    let deeds = [
        status(503),
        Deed::Reset,
        truncated(),
        status(429),
        wrong(),
        good(),
    ];
    let server = Server::start(deeds).await;
    let answer = ask(&cache, "panda01", server.call()).await;
    assert_eq!(answer, (true, "Download".into()));
    // Once for each deed; where a try met none of them (a connection that was not taken up), once more.
    assert!(server.asked() >= 6, "{}", server.asked());
    let sha1 = Sha1::of(DATA.as_bytes());
    assert_eq!(ledger.pins().await.unwrap(), [("panda01".to_owned(), sha1)]);
    assert_eq!(cache.trouble().await, None);
}

#[tokio::test]
async fn a_server_that_lies_is_found_out_and_nothing_of_it_stays() {
    let state = tempfile::tempdir().unwrap();
    let (cache, ledger) = open_with(state.path(), &impatient()).await;
    let server = Server::start([wrong()]).await;
    let mismatch = "Digests did not match, removing again!";
    assert_eq!(
        ask(&cache, "panda01", server.call()).await,
        (false, mismatch.into())
    );
    assert_eq!(server.asked(), 3);
    // Longer and shorter than it says. What is beyond the length is no part of the file.
    let server = Server::start([truncated()]).await;
    let (present, told) = ask(&cache, "panda01", server.call()).await;
    assert!(
        !present && told.contains("5 bytes came where 9 were promised"),
        "{told}"
    );
    let server = Server::start([declared(5, DATA)]).await;
    assert_eq!(
        ask(&cache, "panda01", server.call()).await,
        (false, mismatch.into())
    );
    assert_no_pins(&cache, &ledger).await;
    // The server answers: other builds may have their inputs.
    assert_eq!(cache.trouble().await, None);
    let left: Vec<_> = std::fs::read_dir(state.path().join(DIRECTORY))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_file_without_end_is_given_up_at_the_bound() {
    let state = tempfile::tempdir().unwrap();
    let settings = FilecacheSettings {
        file_max_bytes: 100_000,
        ..quick()
    };
    let (cache, ledger) = open_with(state.path(), &settings).await;
    let server = Server::start([Deed::Endless]).await;
    let (present, told) = ask(&cache, "panda01", server.call()).await;
    assert!(
        !present && told.contains("more than 100000 bytes"),
        "{told}"
    );
    assert_eq!(server.asked(), 1);
    assert_no_pins(&cache, &ledger).await;
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_no_longer_than_the_manager_waits() {
    let state = tempfile::tempdir().unwrap();
    let (cache, ledger) = open_with(state.path(), &impatient()).await;
    let server = Server::start([Deed::Hang]).await;
    let began = Instant::now();
    let (present, told) = ask(&cache, "panda01", server.call()).await;
    assert!(
        !present && told.contains("Error accessing Librarian: "),
        "{told}"
    );
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_no_pins(&cache, &ledger).await;
    // The dispatch is over: nobody waits for that server.
    assert_eq!(cache.trouble().await, None);
}

#[tokio::test]
async fn twenty_slots_at_once_outlast_a_flapping_server_and_download_once() {
    let state = tempfile::tempdir().unwrap();
    let (cache, ledger) = open_with(state.path(), &quick()).await;
    let server = Server::start([status(500), truncated(), Deed::Reset, good()]).await;
    let slots: Vec<_> = (1..=20).map(|n| format!("panda{n:02}")).collect();
    let calls = slots.iter().map(|slot| ask(&cache, slot, server.call()));
    for (present, told) in futures_util::future::join_all(calls).await {
        assert!(present, "{told}");
    }
    assert_eq!(server.asked(), 4);
    assert_eq!(ledger.pins().await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_dead_server_is_trouble_until_it_answers_again() {
    let state = tempfile::tempdir().unwrap();
    let (cache, _) = open_with(state.path(), &quick()).await;
    let server = Server::start([good()]).await;
    let (address, call) = (server.address, server.call());
    drop(server);
    let waiting = tokio::spawn({
        let (cache, call) = (cache.clone(), call.clone());
        async move { ask(&cache, "panda01", call).await }
    });
    // The others are told before the first one's patience is over.
    let trouble = until(async || cache.trouble().await).await;
    assert!(trouble.contains("inputs cannot be fetched: "), "{trouble}");
    // Not by the name that one caller gave it.
    assert!(!trouble.contains(&address.to_string()), "{trouble}");
    assert!(!trouble.contains("127.0.0.1"), "{trouble}");
    assert!(!waiting.is_finished());
    let server = Server::at(address, [good()]).await;
    assert_eq!(waiting.await.unwrap(), (true, "Download".into()));
    until(async || cache.trouble().await.is_none().then_some(())).await;
    drop(server);
}

/// An address that refuses connections for as long as the socket is held.
fn dead() -> (tokio::net::TcpSocket, String) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}/input", socket.local_addr().unwrap());
    (socket, url)
}

/// A quarter of an hour at a rack's own times, on a paused clock: callers whose servers are dead, each on its own or
/// all on one, and who ask again as soon as they were answered; and slots that the manager looks at every 15 s.
#[tokio::test(start_paused = true)]
async fn a_ready_slot_is_idle_at_least_once_in_any_four_scans_whatever_callers_urls_do() {
    let cases: [(usize, usize); 4] = [(1, 1), (6, 1), (6, 6), (1, 20)];
    for (callers, servers) in cases {
        let state = tempfile::tempdir().unwrap();
        let (cache, _) = open_with(state.path(), &FilecacheSettings::default()).await;
        let dead: Vec<_> = (0..servers).map(|_| dead()).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for caller in 0..callers {
            let urls: Vec<_> = dead.iter().map(|(_, url)| url.clone()).collect();
            let cache = cache.clone();
            tasks.spawn(async move {
                // Retries of the manager's, and many files of one dispatch.
                for round in caller.. {
                    let files = urls
                        .iter()
                        .cycle()
                        .skip(round)
                        .take(servers.div_ceil(callers));
                    let calls = files.map(|url| {
                        let slot = format!("panda{caller:02}");
                        let (cache, call) = (cache.clone(), call(Some(url.clone()), ""));
                        async move { cache.ensure_present(&slot, call).await }
                    });
                    let answers = futures_util::future::join_all(calls).await;
                    assert!(answers.iter().all(|answer| !answer.present));
                }
            });
        }
        let (mut in_a_row, mut shunned) = ([0; 15], 0);
        // Every second some slot is looked at, and each slot every 15 s.
        for second in 0..900 {
            let slot = &mut in_a_row[second % 15];
            if cache.trouble().await.is_some() {
                (*slot, shunned) = (*slot + 1, shunned + 1);
                assert!(
                    *slot < 4,
                    "{callers} callers, {servers} servers: at {second} s"
                );
            } else {
                *slot = 0;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // But while they wait, fewer builds are invited.
        assert!(
            shunned > 150,
            "{callers} callers, {servers} servers: {shunned}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_comes_to_an_end_takes_its_trouble_along() {
    let state = tempfile::tempdir().unwrap();
    let (cache, ledger) = open_with(state.path(), &quick()).await;
    let (_socket, url) = dead();
    let waiting = tokio::spawn({
        let (cache, url) = (cache.clone(), url.clone());
        async move { ask(&cache, "panda01", call(Some(url), "")).await }
    });
    until(async || cache.trouble().await).await;
    // The caller hangs up.
    waiting.abort();
    until(async || cache.trouble().await.is_none().then_some(())).await;
    assert_no_pins(&cache, &ledger).await;
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_at_once_and_is_nobodys_trouble() {
    let state = tempfile::tempdir().unwrap();
    let (cache, ledger) = open_with(state.path(), &FilecacheSettings::default()).await;
    let long = format!("http://127.0.0.1/{}", "x".repeat(70_000));
    for url in [
        "",
        "librarian.example",
        "ftp://librarian.example/x",
        "http://",
        "http://[::1/x",
        "http://127.0.0.1:0/x",
        "http://127.0.0.1:99999/x",
        "http://a b/x",
        &long,
    ] {
        let began = Instant::now();
        let (present, told) = ask(&cache, "panda01", call(Some(url.to_owned()), "")).await;
        assert!(
            !present && told.contains("Error accessing Librarian: "),
            "{told}"
        );
        assert!(told.len() < 500, "{} bytes of {told:.80}", told.len());
        assert!(began.elapsed() < Duration::from_secs(1), "{url:.80}");
        assert_eq!(cache.trouble().await, None, "{url:.80}");
    }
    assert_no_pins(&cache, &ledger).await;
}

/// Asks again and again until there is an answer.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(LIMIT, asked).await.unwrap()
}

#[tokio::test]
async fn a_call_whose_caller_has_gone_holds_nothing() {
    let state = tempfile::tempdir().unwrap();
    let (cache, ledger) = open_with(state.path(), &quick()).await;
    let server = Server::start([Deed::Hang]).await;
    {
        let asked = cache.ensure_present("panda01", server.call());
        let mut asked = std::pin::pin!(asked);
        until(async || {
            tokio::select! {
                biased;
                answer = &mut asked => panic!("{answer:?}"),
                () = std::future::ready(()) => (server.asked() == 1).then_some(()),
            }
        })
        .await;
        assert_eq!(cache.store.pinned("panda01"), 1);
    }
    assert_no_pins(&cache, &ledger).await;
}

#[tokio::test]
async fn one_slot_cannot_hold_inputs_without_bound() {
    let state = tempfile::tempdir().unwrap();
    let (cache, _) = open_with(state.path(), &quick()).await;
    for n in 0..MAX_PINS {
        cache
            .store
            .pin("panda01", Sha1::of(n.to_string().as_bytes()));
    }
    let server = Server::start([good()]).await;
    let (present, told) = ask(&cache, "panda01", server.call()).await;
    assert!(!present && told.contains("10000 inputs at most"), "{told}");
    assert_eq!(server.asked(), 0);
    assert!(ask(&cache, "panda02", server.call()).await.0);
}

#[tokio::test]
async fn a_disk_without_room_is_trouble_once_nothing_may_go() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::start([good()]).await;
    let (cache, _) = open_with(state.path(), &quick()).await;
    assert!(ask(&cache, "panda01", server.call()).await.0);
    assert_eq!(cache.trouble().await, None);
    let settings = FilecacheSettings {
        free_min_bytes: 1 << 60,
        ..impatient()
    };
    let (cache, _) = open_with(state.path(), &settings).await;
    let trouble = cache.trouble().await.unwrap();
    assert!(trouble.contains("disk is full"), "{trouble}");
    let other = EnsurePresent {
        sum: Sha1::of(b"other").into(),
        ..server.call()
    };
    let (present, told) = ask(&cache, "panda02", other).await;
    assert!(!present && told.contains("disk is full"), "{told}");
}
