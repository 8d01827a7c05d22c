//! The cache over loopback, with a ledger on a real disk.

mod trouble;

use panda_http::body::{Body, bytes_response, text_response};
use panda_http::{ServerSettings, serve};
use panda_protocol::launchpad::Sum;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

/// Serves `DATA` at `/good` to who knows the password, other bytes at `/bad`.
async fn librarian() -> (String, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let handler =
        |request: http::Request<hyper::body::Incoming>, _| async move { answer(&request) };
    tokio::spawn(serve(
        listener,
        None,
        ServerSettings::default(),
        stop.clone(),
        handler,
    ));
    (base, stop.drop_guard())
}

fn answer(request: &http::Request<hyper::body::Incoming>) -> http::Response<Body> {
    // Base64 of `:secret`.
    let known = request
        .headers()
        .get("authorization")
        .is_some_and(|value| value == "Basic OnNlY3JldA==");
    match request.uri().path() {
        "/good" if known => bytes_response(http::StatusCode::OK, "text/plain", DATA),
        "/large" => bytes_response(http::StatusCode::OK, "text/plain", LARGE),
        "/bad" => bytes_response(http::StatusCode::OK, "text/plain", "other bytes"),
        _ => text_response(http::StatusCode::UNAUTHORIZED, "no"),
    }
}

const DATA: &str = "an input\n";
const LARGE: &str = "a larger one\n";

fn call(url: Option<String>, password: &str) -> EnsurePresent {
    EnsurePresent {
        sum: Sha1::of(DATA.as_bytes()).into(),
        url,
        username: String::new(),
        password: password.into(),
    }
}

/// What does not come is given up soon.
fn settings() -> FilecacheSettings {
    FilecacheSettings {
        wait_ms: 5_000,
        retry_first_ms: 1,
        ..FilecacheSettings::default()
    }
}

async fn open(state: &Path) -> (Filecache, Ledger) {
    open_with(state, &settings()).await
}

async fn open_with(state: &Path, settings: &FilecacheSettings) -> (Filecache, Ledger) {
    let ledger = Ledger::open(&state.join("ledger.sqlite")).unwrap();
    let cache = Filecache::open(&state.join(DIRECTORY), settings, ledger.clone())
        .await
        .unwrap();
    (cache, ledger)
}

/// A cache that holds these files, leased to nobody.
pub(crate) async fn holding(state: &Path, ledger: Ledger, files: &[&[u8]]) -> Filecache {
    let directory = state.join(DIRECTORY);
    std::fs::create_dir_all(&directory).unwrap();
    for bytes in files {
        std::fs::write(directory.join(Sha1::of(bytes).to_string()), bytes).unwrap();
    }
    Filecache::open(&directory, &settings(), ledger)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_board_may_have_what_its_slots_build_names_until_the_lease_ends() {
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&state.path().join("ledger.sqlite")).unwrap();
    let cache = holding(state.path(), ledger.clone(), &[b"mine", b"another's"]).await;
    let [mine, another] = [Sha1::of(b"mine"), Sha1::of(b"another's")];
    let may = async |slot: &str, sha1| cache.open_for(slot, sha1).await.unwrap().is_some();
    // Kept for the slot, but not of a build that it has.
    assert!(cache.hold("panda01", mine).await.unwrap());
    assert!(!may("panda01", mine).await);
    cache.allow("panda01", [mine, Sha1::of(b"not there")].into());
    assert!(may("panda01", mine).await);
    assert!(!may("panda01", another).await && !may("panda02", mine).await);
    assert!(!may("panda01", Sha1::of(b"not there")).await);
    cache.release("panda01");
    assert!(!may("panda01", mine).await);
}

#[tokio::test]
async fn each_way_to_be_present_or_not_is_told_in_the_protocols_words() {
    let (base, _librarian) = librarian().await;
    let state = tempfile::tempdir().unwrap();
    let (cache, _) = open(state.path()).await;
    let told = async |call: EnsurePresent| {
        let Presence { present, info } = cache.ensure_present("panda01", call).await;
        (present, info)
    };
    let good = Some(format!("{base}/good"));
    assert_eq!(told(call(None, "")).await, (false, "No URL".into()));
    let (present, info) = told(call(good.clone(), "wrong-secret")).await;
    assert!(
        !present && info.starts_with("Error accessing Librarian: ") && info.contains("401"),
        "{info}"
    );
    assert!(!info.contains("wrong-secret"), "{info}");
    let mismatch = "Digests did not match, removing again!";
    assert_eq!(
        told(call(Some(format!("{base}/bad")), "")).await,
        (false, mismatch.into())
    );
    assert_eq!(
        told(call(good.clone(), "secret")).await,
        (true, "Download".into())
    );
    assert_eq!(told(call(good.clone(), "")).await, (true, "Cache".into()));
    assert_eq!(told(call(None, "")).await, (true, "No URL".into()));
    let no_sum = EnsurePresent {
        sum: Sum("../../etc/passwd".into()),
        ..call(good, "")
    };
    assert_eq!(told(no_sum).await, (false, mismatch.into()));
    let (present, info) = told(call(Some("file:///etc/passwd".into()), "")).await;
    assert!(!present || info == "Cache", "{info}");
}

#[tokio::test]
async fn pins_survive_a_restart_and_go_with_the_build() {
    let (base, _librarian) = librarian().await;
    let state = tempfile::tempdir().unwrap();
    let sha1 = Sha1::of(DATA.as_bytes());
    {
        let (cache, ledger) = open(state.path()).await;
        let present = cache
            .ensure_present("panda01", call(Some(format!("{base}/good")), "secret"))
            .await;
        assert!(present.present);
        assert_eq!(ledger.pins().await.unwrap(), [("panda01".to_owned(), sha1)]);
    }
    let (cache, ledger) = open(state.path()).await;
    assert!(cache.store.file(sha1).await.unwrap().is_some());
    assert!(cache.hold("panda02", sha1).await.unwrap());
    cache.release("panda01");
    // A pin written after the release shows that the release was written before it.
    assert!(cache.hold("panda03", sha1).await.unwrap());
    let mut owners: Vec<_> = ledger
        .pins()
        .await
        .unwrap()
        .into_iter()
        .map(|(slot, _)| slot)
        .collect();
    owners.sort();
    assert_eq!(owners, ["panda02", "panda03"]);
}

#[tokio::test]
async fn after_a_restart_what_is_pinned_is_not_evicted_until_it_is_let_go() {
    let (base, _librarian) = librarian().await;
    let state = tempfile::tempdir().unwrap();
    // Room for either file, not for both.
    let settings = FilecacheSettings {
        max_bytes: 20,
        wait_ms: 100,
        ..settings()
    };
    let (cache, _) = open_with(state.path(), &settings).await;
    let good = call(Some(format!("{base}/good")), "secret");
    assert!(cache.ensure_present("panda01", good).await.present);

    let (cache, _) = open_with(state.path(), &settings).await;
    let large = EnsurePresent {
        sum: Sha1::of(LARGE.as_bytes()).into(),
        ..call(Some(format!("{base}/large")), "")
    };
    let answer = cache.ensure_present("panda02", large.clone()).await;
    assert!(
        !answer.present && answer.info.contains("full"),
        "{}",
        answer.info
    );
    assert!(
        cache
            .store
            .file(Sha1::of(DATA.as_bytes()))
            .await
            .unwrap()
            .is_some()
    );
    cache.release("panda01");
    assert!(cache.ensure_present("panda02", large).await.present);
    assert!(
        cache
            .store
            .file(Sha1::of(DATA.as_bytes()))
            .await
            .unwrap()
            .is_none()
    );
}
