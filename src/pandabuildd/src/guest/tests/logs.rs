//! Logs that are fetched piece by piece, whatever else happens.

use super::*;

#[tokio::test]
async fn a_log_is_taken_up_where_it_was_left_with_nothing_doubled_or_lost() {
    let board = board().await;
    let worker = board.guest.link.worker().clone();
    let directory = board.guest.results.prepare(AttemptNo::new(3)).unwrap();
    let log: String = (0..5_000)
        .map(|line| format!("line {line} of https://user:pass{line}@host/ the log\n"))
        .chain(["x".repeat(200_000), " and the end".to_owned()])
        .collect();
    let clean: String = (0..5_000)
        .map(|line| format!("line {line} of https://host/ the log\n"))
        .chain(["x".repeat(200_000), " and the end".to_owned()])
        .collect();
    // The worker's log grows in steps that end anywhere; after each the daemon is killed.
    for step in 1..=40 {
        let upto = log.len() * step / 40;
        board.toy.has(LOG_NAME, &log.as_bytes()[..upto]);
        let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
        while puller.pull(&worker).await.unwrap() {}
        drop(puller);
        let here = fs::read_to_string(directory.join(LOG_NAME)).unwrap();
        assert!(clean.starts_with(&here), "step {step}");
        let lines = |text: &str| text.matches('\n').count();
        assert_eq!(
            lines(&here),
            lines(&log[..upto]),
            "step {step}: every whole line is here"
        );
    }
    // What was written after the last mark, before the kill, is cut off and asked for again.
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(directory.join(LOG_NAME))
        .unwrap();
    std::io::Write::write_all(&mut file, b"written and not marked").unwrap();
    let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
    puller.finish(&worker).await.unwrap();
    assert!(fs::read_to_string(directory.join(LOG_NAME)).unwrap() == clean);

    // Finished is finished, also for who comes later.
    board.toy.has(LOG_NAME, format!("{log}more\n").as_bytes());
    let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
    puller.finish(&worker).await.unwrap();
    assert!(fs::read_to_string(directory.join(LOG_NAME)).unwrap() == clean);
}

#[tokio::test]
async fn a_mark_that_does_not_fit_its_log_is_not_believed() {
    let board = board().await;
    let directory = board.guest.results.prepare(AttemptNo::new(3)).unwrap();
    board.toy.has(LOG_NAME, b"one\ntwo\n");
    for mark in [
        &b"{\"raw\":4,\"clean\":99,\"done\":true}"[..],
        b"nonsense",
        b"{\"raw\":4}",
    ] {
        fs::write(directory.join("buildlog.at"), mark).unwrap();
        fs::write(directory.join(LOG_NAME), b"on").unwrap();
        let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
        puller.finish(board.guest.link.worker()).await.unwrap();
        assert_eq!(fs::read(directory.join(LOG_NAME)).unwrap(), b"one\ntwo\n");
        fs::remove_file(directory.join("buildlog.at")).unwrap();
    }
}

#[tokio::test]
async fn a_log_that_is_too_long_is_cut_and_says_so() {
    let settings = GuestSettings {
        log_max_bytes: 20,
        ..quick()
    };
    let board = board_with(Toy::new(), settings.clone()).await;
    let directory = board.guest.results.prepare(AttemptNo::new(3)).unwrap();
    board
        .toy
        .has(LOG_NAME, b"0123456789\n0123456789\n0123456789\n");
    let expected = "0123456789\n012345678\n[pandabuildd: the log has more than 20 bytes; the rest \
                    is left out]\n";
    for _ in 0..2 {
        let mut puller = LogPuller::resume(&directory, &settings).await.unwrap();
        puller.finish(board.guest.link.worker()).await.unwrap();
        assert_eq!(
            fs::read_to_string(directory.join(LOG_NAME)).unwrap(),
            expected
        );
    }
}

#[tokio::test]
async fn a_build_that_moves_to_a_new_boot_begins_its_log_anew() {
    let board = board().await;
    let directory = board.guest.results.prepare(AttemptNo::new(3)).unwrap();
    board.toy.has(LOG_NAME, b"the first boot\n");
    let mut puller = LogPuller::resume(&directory, &quick()).await.unwrap();
    puller.pull(board.guest.link.worker()).await.unwrap();
    drop(puller);
    dispatch(&board.guest, &call(), "10.0.0.1:99")
        .await
        .unwrap();
    board.toy.has(LOG_NAME, b"2nd\n");
    board.toy.say(waiting(BuildStatus::ChrootFail));
    collect(&board.guest).await.unwrap();
    assert_eq!(
        fs::read(board.guest.results.log_path(AttemptNo::new(3))).unwrap(),
        b"2nd\n"
    );
}
