//! What comes back from a worker: files with their sums.

use super::*;

fn results(files: &[(&str, &[u8])]) -> (Status, FileMap) {
    let filemap: FileMap = files
        .iter()
        .map(|(name, bytes)| {
            (
                FileName::try_from((*name).to_owned()).unwrap(),
                Sha1::of(bytes),
            )
        })
        .collect();
    let outcome = Outcome {
        filemap: filemap.clone(),
        ..Outcome::bare(BuildStatus::Ok)
    };
    (
        Status::Waiting {
            build_id: build_id(),
            outcome,
        },
        filemap,
    )
}

#[tokio::test]
async fn results_are_here_only_with_the_hash_that_the_worker_named() {
    let board = board().await;
    let (deb, changes): (&[u8], &[u8]) = (&[7; 300_000], b"changes");
    let (status, filemap) = results(&[("a.deb", deb), ("b.deb", deb), ("a.changes", changes)]);
    board.toy.say(status);
    board.toy.has(LOG_NAME, b"log\n");
    let (deb_sum, changes_sum) = (Sha1::of(deb), Sha1::of(changes));
    board.toy.has(&deb_sum.to_string(), deb);
    board.toy.has(&changes_sum.to_string(), b"another");

    let lost = collect(&board.guest).await.unwrap_err();
    assert!(
        matches!(&lost, Lost::Lied(text) if text.contains("another SHA-1")),
        "{lost:?}"
    );
    assert!(
        board
            .guest
            .results
            .open(AttemptNo::new(3), changes_sum)
            .await
            .unwrap()
            .is_none()
    );
    let left = fs::read_dir(board.guest.results.attempt(AttemptNo::new(3))).unwrap();
    let names: Vec<String> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        !names.iter().any(|name| name.starts_with('.')),
        "nothing half is left: {names:?}"
    );

    board.toy.has(&changes_sum.to_string(), changes);
    assert_eq!(collect(&board.guest).await.unwrap().filemap, filemap);
    for (sum, bytes) in [(deb_sum, deb), (changes_sum, changes)] {
        assert_eq!(
            fs::read(
                board
                    .guest
                    .results
                    .attempt(AttemptNo::new(3))
                    .join(sum.to_string())
            )
            .unwrap(),
            bytes
        );
    }
    assert_eq!(
        fs::read(board.guest.results.log_path(AttemptNo::new(3))).unwrap(),
        b"log\n"
    );
    // One file under two names is fetched once a time.
    let fetches = board
        .toy
        .called()
        .iter()
        .filter(|call| **call == format!("file {deb_sum}"))
        .count();
    assert_eq!(fetches, 2);
}

#[tokio::test]
async fn a_missing_result_is_a_lie_and_too_many_bytes_are_refused() {
    let settings = GuestSettings {
        results_max_bytes: 10,
        ..quick()
    };
    let board = board_with(Toy::new(), settings).await;
    let (status, _) = results(&[("a.deb", b"01234567890")]);
    board.toy.say(status);
    let lost = collect(&board.guest).await.unwrap_err();
    assert!(
        matches!(&lost, Lost::Lied(text) if text.contains("that it has not")),
        "{lost:?}"
    );

    board
        .toy
        .has(&Sha1::of(b"01234567890").to_string(), b"01234567890");
    let lost = collect(&board.guest).await.unwrap_err();
    assert!(
        matches!(&lost, Lost::Refused(text) if text.contains("more than 10 bytes")),
        "{lost:?}"
    );

    // The bound is on all of them together.
    let (status, _) = results(&[("a", b"012345"), ("b", b"543210")]);
    board.toy.say(status);
    board.toy.has(&Sha1::of(b"012345").to_string(), b"012345");
    board.toy.has(&Sha1::of(b"543210").to_string(), b"543210");
    assert!(matches!(collect(&board.guest).await, Err(Lost::Refused(_))));
}
