//! Aborts, and words of a board that has run a build.

use super::*;

#[tokio::test]
async fn an_aborted_worker_hands_its_log_over() {
    let board = board().await;
    board.toy.say(building());
    board.toy.has(LOG_NAME, b"begun\nnot fin");
    abort(&board.guest).await;
    assert_eq!(
        fs::read(board.guest.results.log_path(AttemptNo::new(3))).unwrap(),
        b"begun\nnot fin"
    );
    assert!(board.toy.called().contains(&"abort".to_owned()));
}

/// What is logged while a test runs.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_used_boards_words_stay_out_of_the_log_when_it_refuses_the_abort() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let mut toy = Toy::new();
    Arc::get_mut(&mut toy).unwrap().abort_fault = Some("deb http://user:s3cret@ppa.example/ x");
    let settings = GuestSettings {
        abort_ms: 50,
        ..quick()
    };
    let board = board_with(toy, settings).await;
    board.toy.say(building());
    abort(&board.guest).await;
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("does not take the abort"), "{logged}");
    assert!(!logged.contains("s3cret"), "{logged}");
}

#[tokio::test]
async fn a_log_that_comes_byte_by_byte_does_not_keep_the_master_busy() {
    let mut toy = Toy::new();
    Arc::get_mut(&mut toy).unwrap().drips = true;
    let settings = GuestSettings {
        collect_ms: 1_000,
        ..quick()
    };
    let board = board_with(toy, settings).await;
    board.toy.say(waiting(BuildStatus::PackageFail));
    board.toy.has(LOG_NAME, b"");
    assert_eq!(collect(&board.guest).await, Err(Lost::OverTime));
    let asked = board.toy.called().len();
    assert!(asked < 20, "asked {asked} times");
}

#[tokio::test]
async fn no_worker_is_too_stuck_to_abort() {
    let mut toy = Toy::new();
    Arc::get_mut(&mut toy).unwrap().obeys = false;
    let board = board_with(
        toy,
        GuestSettings {
            abort_ms: 50,
            ..quick()
        },
    )
    .await;
    board.toy.say(building());
    board.toy.has(LOG_NAME, b"stuck\n");
    abort(&board.guest).await;
    assert_eq!(
        fs::read(board.guest.results.log_path(AttemptNo::new(3))).unwrap(),
        b"stuck\n"
    );

    let Board {
        agent,
        guest,
        state: _state,
        ..
    } = board;
    drop(agent);
    abort(&guest).await;
    assert_eq!(
        fs::read(guest.results.log_path(AttemptNo::new(3))).unwrap(),
        b"stuck\n"
    );
}
