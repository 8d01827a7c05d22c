//! The content store: bounds, pins, order of use, crashes, and downloads that callers share.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use panda_http::download::DownloadSettings;
use panda_http::draft::PREFIX;
use panda_http::{Downloader, Fetched, Source, Store, StoreError};
use panda_protocol::digest::Sha1;
use proptest::prelude::*;
use tokio::sync::Notify;

use crate::download::downloader;
use crate::peers::{Origin, header, ok};

async fn put(store: &Store, content: &[u8]) -> Result<Sha1, StoreError> {
    let sha1 = Sha1::of(content);
    let mut draft = store.draft()?;
    draft.write(content).await?;
    draft.finish(sha1).await?;
    Ok(sha1)
}

/// The names in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn net() -> Downloader {
    downloader(DownloadSettings::default())
}

fn source(url: &str, password: &str) -> Source {
    Source::new(url, "", password).unwrap()
}

#[tokio::test]
async fn a_file_is_stored_under_its_sha1_and_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 100).unwrap();
    let sha1 = put(&store, b"content").await.unwrap();
    assert_eq!(names(directory.path()), BTreeSet::from([sha1.to_string()]));
    drop(store);
    let store = Store::open(directory.path(), 100).unwrap();
    assert!(store.contains(sha1));
    assert_eq!(
        std::fs::read(store.path(sha1).unwrap()).unwrap(),
        b"content"
    );
    assert_eq!(store.file(sha1).await.unwrap().unwrap().length(), 7);
    let other = Sha1::of(b"other");
    assert!(!store.contains(other) && store.path(other).is_none());
    assert!(store.file(other).await.unwrap().is_none());
}

#[tokio::test]
async fn another_hash_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 10).unwrap();
    let mut draft = store.draft().unwrap();
    draft.write(b"0123456789").await.unwrap();
    let error = draft.finish(Sha1::of(b"else")).await.unwrap_err();
    assert_eq!(error.told(), "Digests did not match, removing again!");
    assert!(names(directory.path()).is_empty());
    put(&store, b"9876543210").await.unwrap();
}

#[tokio::test]
async fn a_dropped_draft_leaves_nothing_and_gives_its_room_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 10).unwrap();
    let mut draft = store.draft().unwrap();
    draft.reserve(10).unwrap();
    draft.write(b"012").await.unwrap();
    assert!(matches!(
        put(&store, b"x").await,
        Err(StoreError::Full { needed: 1, max: 10 })
    ));
    drop(draft);
    assert!(names(directory.path()).is_empty());
    put(&store, b"0123456789").await.unwrap();
}

#[tokio::test]
async fn drafts_written_at_once_do_not_overfill_the_store_together() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 10).unwrap();
    let (mut one, mut two) = (store.draft().unwrap(), store.draft().unwrap());
    one.write(b"012345").await.unwrap();
    two.write(b"0123").await.unwrap();
    assert!(matches!(
        two.write(b"4").await,
        Err(StoreError::Full { .. })
    ));
    one.finish(Sha1::of(b"012345")).await.unwrap();
    // Now there is something that may go.
    two.write(b"4").await.unwrap();
    two.finish(Sha1::of(b"01234")).await.unwrap();
    assert_eq!(
        names(directory.path()),
        BTreeSet::from([Sha1::of(b"01234").to_string()])
    );
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_restarts_keep_the_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), 80).unwrap();
    let mut sums = Vec::new();
    for content in 0..8 {
        sums.push(put(&store, &[content; 10]).await.unwrap());
    }
    for reopened in [false, true] {
        // Another order than that of arrival, of names, or of any map.
        sums.reverse();
        sums.swap(1, 6);
        for sha1 in &sums {
            assert!(store.path(*sha1).is_some());
        }
        if reopened {
            drop(store);
            store = Store::open(directory.path(), 80).unwrap();
        }
        for index in 0..8 {
            let content = [b'a' + index + 8 * u8::from(reopened); 10];
            let new = put(&store, &content).await.unwrap();
            assert!(!store.contains(sums[0]) && store.contains(sums[1]));
            sums.remove(0);
            sums.push(new);
        }
    }
}

#[tokio::test]
async fn pinned_files_stay_until_every_owner_has_let_go() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 10).unwrap();
    let kept = Sha1::of(b"0123456789");
    store.pin("panda01", kept);
    store.pin("panda02", kept);
    put(&store, b"0123456789").await.unwrap();
    for owner in ["panda01", "panda02"] {
        let error = put(&store, b"next").await.unwrap_err();
        assert!(
            error
                .told()
                .starts_with("Error accessing Librarian: the file cache is full: 4 ")
        );
        assert!(store.contains(kept));
        store.unpin(owner);
    }
    put(&store, b"next").await.unwrap();
    assert!(!store.contains(kept));
}

#[tokio::test]
async fn what_would_not_fit_anyway_evicts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 10).unwrap();
    let sha1 = put(&store, b"01234").await.unwrap();
    let mut draft = store.draft().unwrap();
    assert!(matches!(
        draft.reserve(11),
        Err(StoreError::Full {
            needed: 11,
            max: 10
        })
    ));
    assert!(store.contains(sha1));
}

#[tokio::test]
async fn opening_removes_a_crashs_drafts_and_leaves_foreign_files_alone() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at(&format!("{PREFIX}x1")), b"half").unwrap();
    std::fs::write(at("notes.txt"), b"mine").unwrap();
    std::fs::create_dir(at(&Sha1::of(b"dir").to_string())).unwrap();
    let store = Store::open(directory.path(), 3).unwrap();
    let left = ["notes.txt".to_owned(), Sha1::of(b"dir").to_string()];
    assert_eq!(names(directory.path()), BTreeSet::from(left));
    assert!(!store.contains(Sha1::of(b"dir")));
    put(&store, b"abc").await.unwrap();
}

#[tokio::test]
async fn a_file_that_somebody_removed_is_absent_and_fetched_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 7).unwrap();
    let origin = Origin::fixed(ok("content")).await;
    let (sha1, net, source) = (Sha1::of(b"content"), net(), source(&origin.url("/x"), ""));
    for _ in 0..2 {
        let fetched = store.fetch(sha1, &net, &source).await.unwrap();
        assert_eq!(fetched, Fetched::Downloaded);
        std::fs::remove_file(store.path(sha1).unwrap()).unwrap();
    }
    assert!(store.path(sha1).is_none() && !store.contains(sha1));
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(file.path(), 1).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&file.path().display().to_string()),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_is_downloaded_once_and_then_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 100).unwrap();
    let origin = Origin::fixed(ok("content")).await;
    let (sha1, net, source) = (Sha1::of(b"content"), net(), source(&origin.url("/x"), ""));
    let fetch = || store.fetch(sha1, &net, &source);
    assert_eq!(fetch().await.unwrap(), Fetched::Downloaded);
    assert_eq!(fetch().await.unwrap(), Fetched::Cached);
    assert_eq!(origin.heads().len(), 1);
    assert_eq!(
        std::fs::read(store.path(sha1).unwrap()).unwrap(),
        b"content"
    );
}

#[tokio::test]
async fn a_download_that_fails_leaves_nothing_and_tells_launchpad_why() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 100).unwrap();
    let sha1 = Sha1::of(b"content");
    let large = "x".repeat(101);
    for (answer, told) in [
        (ok("other"), "Digests did not match, removing again!"),
        (ok(""), "Digests did not match, removing again!"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ncontent".to_vec(),
            "Digests did not match, removing again!",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncontent".to_vec(),
            "Error accessing Librarian: URL: 7 bytes came where 9 were promised",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "Error accessing Librarian: URL: HTTP status 404",
        ),
        (
            ok(&large),
            "Error accessing Librarian: the file cache is full: 101 more bytes do not fit beside \
             what running builds need; raise its limit of 100 bytes",
        ),
    ] {
        let origin = Origin::fixed(answer).await;
        let url = origin.url("/x");
        let error = store
            .fetch(sha1, &net(), &source(&url, "s3cret"))
            .await
            .unwrap_err();
        assert_eq!(error.told(), told.replace("URL", &url));
        assert!(names(directory.path()).is_empty());
    }
}

/// An origin whose first answer waits until it is let go, and which knows one good password.
async fn gated(open: Arc<Notify>, begun: Arc<Notify>) -> Origin {
    Origin::start(move |head| {
        let (open, begun) = (open.clone(), begun.clone());
        async move {
            begun.notify_one();
            open.notified().await;
            open.notify_one();
            match header(&head, "authorization") {
                Some("Basic Omdvb2Q=") => ok("content"),
                _ => b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".to_vec(),
            }
        }
    })
    .await
}

/// Lets callers that were just spawned come as far as waiting: joining a download takes no I/O.
async fn let_join() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn callers_that_ask_for_one_file_make_one_download() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 100).unwrap();
    let (open, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let origin = gated(open.clone(), begun.clone()).await;
    let sha1 = Sha1::of(b"content");
    let callers: Vec<_> = (0..20)
        .map(|_| {
            let (store, source) = (store.clone(), source(&origin.url("/x"), "good"));
            tokio::spawn(async move { store.fetch(sha1, &net(), &source).await })
        })
        .collect();
    begun.notified().await;
    let_join().await;
    open.notify_one();
    for caller in callers {
        assert_eq!(caller.await.unwrap().unwrap(), Fetched::Downloaded);
    }
    assert_eq!(origin.heads().len(), 1);
}

#[tokio::test]
async fn a_caller_that_joined_a_failed_download_tries_with_its_own_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 100).unwrap();
    let (open, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let origin = gated(open.clone(), begun.clone()).await;
    let sha1 = Sha1::of(b"content");
    let fetch = |password: &str| {
        let (store, source) = (store.clone(), source(&origin.url("/x"), password));
        tokio::spawn(async move { store.fetch(sha1, &net(), &source).await })
    };
    let bad = fetch("bad");
    begun.notified().await;
    let good = fetch("good");
    let_join().await;
    assert_eq!(origin.heads().len(), 1);
    open.notify_one();
    assert!(matches!(bad.await.unwrap(), Err(StoreError::Download(_))));
    assert_eq!(good.await.unwrap().unwrap(), Fetched::Downloaded);
    let sent = ["Basic OmJhZA==", "Basic Omdvb2Q="].map(|text| Some(text.to_owned()));
    assert_eq!(origin.authorizations(), sent);
}

#[tokio::test]
async fn a_download_outlives_the_caller_that_began_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 100).unwrap();
    let (open, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let origin = gated(open.clone(), begun.clone()).await;
    let sha1 = Sha1::of(b"content");
    let good = source(&origin.url("/x"), "good");
    let begin = {
        let (store, good) = (store.clone(), good.clone());
        tokio::spawn(async move { store.fetch(sha1, &net(), &good).await })
    };
    begun.notified().await;
    begin.abort();
    assert!(begin.await.unwrap_err().is_cancelled());
    open.notify_one();
    store.fetch(sha1, &net(), &good).await.unwrap();
    assert_eq!(origin.heads().len(), 1);
}

#[tokio::test]
async fn callers_behind_a_server_that_hangs_all_wait_no_longer_than_their_limit() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), 100).unwrap();
    // It takes connections and never answers.
    let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", hung.local_addr().unwrap());
    let net = downloader(DownloadSettings {
        wait_limit: Duration::from_millis(100),
        ..DownloadSettings::default()
    });
    let callers = (0..10).map(|_| {
        let (store, net, source) = (store.clone(), net.clone(), source(&url, ""));
        tokio::spawn(async move { store.fetch(Sha1::of(b"x"), &net, &source).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        // Each would have a minute of its own for a first answer, one after another.
        let ended = tokio::time::timeout(Duration::from_secs(20), caller).await;
        let error = ended
            .expect("no caller waits for the others")
            .unwrap()
            .unwrap_err();
        assert!(matches!(error, StoreError::Waited(_)), "{error}");
        assert!(
            error
                .told()
                .starts_with("Error accessing Librarian: the file is not here")
        );
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Use(u8),
    Pin(u8, u8),
    Unpin(u8),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12_u8, 0..40_u8).prop_map(|(file, length)| Step::Put(file, length)),
        2 => (0..12_u8).prop_map(Step::Use),
        2 => (0..3_u8, 0..12_u8).prop_map(|(owner, file)| Step::Pin(owner, file)),
        1 => (0..3_u8).prop_map(Step::Unpin),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_store_never_exceeds_its_bound_nor_loses_what_is_pinned(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        const MAX: u64 = 100;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), MAX).unwrap();
        let mut sums = vec![Sha1::of(b""); 12];
        let mut pins: Vec<BTreeSet<Sha1>> = vec![BTreeSet::new(); 3];
        for step in steps {
            let pinned = pins.iter().flatten().copied().filter(|sha1| store.contains(*sha1));
            let pinned: BTreeSet<Sha1> = pinned.collect();
            match step {
                Step::Put(file, length) => {
                    let content = vec![file; length.into()];
                    match runtime.block_on(put(&store, &content)) {
                        Ok(sha1) => sums[usize::from(file)] = sha1,
                        Err(StoreError::Full { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                Step::Use(file) => drop(store.path(sums[usize::from(file)])),
                Step::Pin(owner, file) => {
                    store.pin(&owner.to_string(), sums[usize::from(file)]);
                    pins[usize::from(owner)].insert(sums[usize::from(file)]);
                }
                Step::Unpin(owner) => {
                    store.unpin(&owner.to_string());
                    pins[usize::from(owner)].clear();
                }
                Step::Reopen => {
                    store = Store::open(directory.path(), MAX).unwrap();
                    pins = vec![BTreeSet::new(); 3];
                }
            }
            for sha1 in pinned {
                prop_assert!(store.contains(sha1));
            }
            let mut total = 0;
            for name in names(directory.path()) {
                let sha1: Sha1 = name.parse().unwrap();
                let content = std::fs::read(directory.path().join(&name)).unwrap();
                prop_assert_eq!(Sha1::of(&content), sha1);
                prop_assert!(store.contains(sha1));
                total += content.len() as u64;
            }
            prop_assert!(total <= MAX);
        }
    }
}
