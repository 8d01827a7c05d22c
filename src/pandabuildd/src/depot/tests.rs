//! The depot over loopback, as boards meet it.

use panda_http::endpoint::Endpoint;
use panda_protocol::digest::Sha256;

use super::*;
use crate::filecache;
use crate::guest::tests::secrets;
use crate::guest::toy;
use crate::identity::{KeyAndCertificate, new_boot_id};
use crate::ledger::Ledger;

struct Place {
    depot: Depot,
    inputs: Filecache,
    address: String,
    master: KeyAndCertificate,
    _stop: tokio_util::sync::DropGuard,
    _state: tempfile::TempDir,
}

async fn place() -> Place {
    let master = KeyAndCertificate::make().unwrap();
    let own = Identity::from_pem(&master.certificate_pem, &master.key_pem).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stop = CancellationToken::new();
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&state.path().join("ledger.sqlite")).unwrap();
    let inputs = filecache::tests::holding(state.path(), ledger, &[b"mine", b"another's"]).await;
    let settings = ServerSettings {
        drain: Duration::ZERO,
        ..ServerSettings::default()
    };
    let (depot, _) = Depot::serve(listener, &own, inputs.clone(), settings, stop.clone()).unwrap();
    Place {
        depot,
        inputs,
        address,
        master,
        _stop: stop.drop_guard(),
        _state: state,
    }
}

impl Place {
    fn client(&self, secrets: &BootSecrets) -> Endpoint {
        toy::depot(&self.address, secrets, &self.master.certificate_pem)
    }
}

async fn get(client: &Endpoint, path: &str) -> (u16, Vec<u8>) {
    let (status, body) = client
        .get(path, 1 << 20, Duration::from_secs(10))
        .await
        .unwrap();
    (status.as_u16(), body.to_vec())
}

fn input(bytes: &[u8]) -> String {
    format!("{INPUT_PATH}{}", Sha1::of(bytes))
}

#[tokio::test]
async fn only_a_current_boots_certificate_is_let_in() {
    let place = place().await;
    let (old, new) = (secrets(), secrets());
    place.depot.admit("panda01", &old, None).unwrap();
    let old_client = place.client(&old);
    assert_eq!(get(&old_client, &input(b"mine")).await.0, 404);

    let awaiting = place.depot.admit("panda01", &new, None).unwrap();
    let silence = || awaiting.silence(Duration::ZERO, Duration::ZERO);
    assert_eq!(silence().await, Silence::Never);
    // The connection of the old boot is still open, and it is let in no more; nor on a new one.
    assert_eq!(get(&old_client, &input(b"mine")).await.0, 403);
    let limit = Duration::from_secs(10);
    let refused = place
        .client(&old)
        .get("/report", 100, limit)
        .await
        .unwrap_err();
    assert!(refused.is_silence(), "{refused}");
    // It is taken down, and ends nothing by itself.
    assert_eq!(silence().await, Silence::Outdated);
    assert!(place.depot.admits("panda01", &new.id));
    assert_eq!(get(&place.client(&new), &input(b"mine")).await.0, 404);

    // A certificate that nobody knows.
    assert!(
        place
            .client(&secrets())
            .get("/report", 100, limit)
            .await
            .is_err()
    );
    place.depot.dismiss("panda01");
    assert!(place.client(&new).get("/report", 100, limit).await.is_err());
}

#[tokio::test]
async fn a_report_reaches_the_boot_that_waits_for_it() {
    let place = place().await;
    let secrets = secrets();
    let mut awaiting = place.depot.admit("panda01", &secrets, None).unwrap();
    let client = place.client(&secrets);
    let report = toy::report(&secrets.id, secrets.image);
    assert_eq!(
        toy::post_report(&client, report.encode()).await.unwrap(),
        204
    );
    assert_eq!(awaiting.arrived().await, Some(Arrived::Report(report)));
}

#[tokio::test(start_paused = true)]
async fn a_boot_that_has_said_that_it_lives_is_dead_when_it_says_no_more() {
    let (first, limit) = (Duration::from_secs(60), Duration::from_secs(30));
    let unheard = Heard::Nothing;
    let boot = |heard| {
        let (heard, hearing) = watch::channel(heard);
        let (reports, reported) = watch::channel(None);
        let awaiting = Awaiting {
            reports: reported,
            heard: hearing,
            outdated: Outdated::default(),
        };
        (heard, reports, awaiting.silence(first, limit))
    };
    let after = |begun: Instant| begun.elapsed().as_secs();

    let (_heard, _reports, silence) = boot(unheard);
    let begun = Instant::now();
    assert_eq!((silence.await, after(begun)), (Silence::Never, 60));

    // It says so for longer than anything else here lasts.
    let (heard, _reports, silence) = boot(unheard);
    let begun = Instant::now();
    let saying = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(29)).await;
            heard.send_replace(Heard::Alive(Instant::now()));
        }
        std::future::pending::<()>().await;
    };
    let fell = tokio::select! {
        silence = silence => silence,
        () = saying => unreachable!("it says nothing more"),
    };
    assert_eq!((fell, after(begun)), (Silence::Fell, 10 * 29 + 30));

    // An agent that does not say so has all the time that its report may take.
    let (_heard, _reports, silence) = boot(Heard::Something);
    let waited = tokio::time::timeout(Duration::from_secs(1000), silence).await;
    assert!(waited.is_err());
    // Nor is a boot silent that is awaited no more.
    let (heard, _reports, silence) = boot(unheard);
    drop(heard);
    let waited = tokio::time::timeout(Duration::from_secs(1000), silence).await;
    assert!(waited.is_err());
}

#[tokio::test]
async fn what_a_boot_asks_for_is_its_first_word_and_only_alive_binds_it_to_go_on() {
    let place = place().await;
    let secrets = secrets();
    let awaiting = place.depot.admit("panda01", &secrets, None).unwrap();
    let client = place.client(&secrets);
    let heard = || *awaiting.heard.borrow();
    assert!(matches!(heard(), Heard::Nothing));
    assert_eq!(get(&client, TIME_PATH).await.0, 200);
    assert!(matches!(heard(), Heard::Something));
    let status = toy::post(&client, ALIVE_PATH, String::new()).await;
    assert_eq!(status.unwrap(), 204);
    let Heard::Alive(at) = heard() else {
        panic!("{:?}", heard());
    };
    assert_eq!(get(&client, TIME_PATH).await.0, 200);
    assert!(matches!(heard(), Heard::Alive(later) if later > at));
}

#[tokio::test]
async fn a_report_of_another_boot_or_image_is_refused_and_told() {
    for (boot, image, what) in [
        (Some(secrets().id), None, "boot"),
        (None, Some(Sha256::of(b"another image")), "image"),
    ] {
        let place = place().await;
        let secrets = secrets();
        let mut awaiting = place.depot.admit("panda01", &secrets, None).unwrap();
        let report = toy::report(
            &boot.unwrap_or(secrets.id.clone()),
            image.unwrap_or(secrets.image),
        );
        let status = toy::post_report(&place.client(&secrets), report.encode())
            .await
            .unwrap();
        assert_eq!(status, 403);
        assert_eq!(awaiting.arrived().await, Some(Arrived::Foreign(what)));
    }
}

#[tokio::test]
async fn a_boards_failure_reaches_the_boot_that_waits_and_another_boots_does_not() {
    let place = place().await;
    let secrets = secrets();
    let mut awaiting = place.depot.admit("panda01", &secrets, None).unwrap();
    let client = place.client(&secrets);
    let failure = Failure {
        boot: secrets.id.clone(),
        image: secrets.image,
        step: "rootfs".to_owned(),
        reason: "another digest".to_owned(),
        steps: Vec::new(),
    };
    for (wrong, what) in [
        (
            Failure {
                boot: new_boot_id().unwrap(),
                ..failure.clone()
            },
            "boot",
        ),
        (
            Failure {
                image: Sha256::of(b"another"),
                ..failure.clone()
            },
            "image",
        ),
    ] {
        let status = toy::post(&client, FAILURE_PATH, wrong.encode()).await;
        assert_eq!(status.unwrap(), 403);
        assert_eq!(awaiting.arrived().await, Some(Arrived::Foreign(what)));
    }
    let status = toy::post(&client, FAILURE_PATH, "{\"step\":7}".to_owned()).await;
    assert_eq!(status.unwrap(), 400);
    let status = toy::post(&client, FAILURE_PATH, failure.encode()).await;
    assert_eq!(status.unwrap(), 204);
    assert_eq!(awaiting.arrived().await, Some(Arrived::Failed(failure)));
}

#[tokio::test]
async fn boards_are_told_the_time() {
    let place = place().await;
    let secrets = secrets();
    place.depot.admit("panda01", &secrets, None).unwrap();
    let before = crate::clock::now_unix_ms();
    let (status, body) = get(&place.client(&secrets), TIME_PATH).await;
    let told: i64 = String::from_utf8(body).unwrap().trim().parse().unwrap();
    assert_eq!(status, 200);
    assert!(
        (before..=crate::clock::now_unix_ms()).contains(&told),
        "{told}"
    );
}

#[tokio::test]
async fn a_dismissed_boot_waits_no_longer() {
    let place = place().await;
    let mut awaiting = place.depot.admit("panda01", &secrets(), None).unwrap();
    place.depot.dismiss("panda01");
    assert_eq!(awaiting.arrived().await, None);
}

#[tokio::test]
async fn hostile_reports_are_refused_and_nobody_hears_of_them() {
    let place = place().await;
    let secrets = secrets();
    let mut awaiting = place.depot.admit("panda01", &secrets, None).unwrap();
    let client = place.client(&secrets);
    for (report, status) in [("", 400), ("{}", 400), ("[[[[[[", 400)] {
        assert_eq!(
            toy::post_report(&client, report.to_owned()).await.unwrap(),
            status
        );
    }
    let long = format!("\"{}\"", "x".repeat(MAX_REPORT));
    // Refused by its length; the server may hang up while the rest is still being sent.
    assert!(!matches!(toy::post_report(&client, long).await, Ok(status) if status != 413));
    // The first that counts is the good one.
    let good = toy::report(&secrets.id, secrets.image);
    toy::post_report(&client, good.encode()).await.unwrap();
    assert_eq!(awaiting.arrived().await, Some(Arrived::Report(good)));
}

#[tokio::test]
async fn a_board_gets_its_present_builds_inputs_and_nothing_else() {
    let place = place().await;
    let (mine, other) = (secrets(), secrets());
    place.depot.admit("panda01", &mine, None).unwrap();
    place.depot.admit("panda02", &other, None).unwrap();
    place.inputs.allow(
        "panda01",
        [Sha1::of(b"mine"), Sha1::of(b"not there")].into(),
    );
    let client = place.client(&mine);
    assert_eq!(get(&client, &input(b"mine")).await, (200, b"mine".to_vec()));
    for path in [
        input(b"another's"),
        input(b"not there"),
        "/input/".to_owned(),
        "/input/../report".to_owned(),
        format!("/input/{}", Sha1::of(b"mine").to_string().to_uppercase()),
        "/rootfs".to_owned(),
        "/".to_owned(),
    ] {
        assert_eq!(get(&client, &path).await.0, 404, "{path}");
    }
    assert_eq!(get(&place.client(&other), &input(b"mine")).await.0, 404);
    // The build has ended.
    place.inputs.release("panda01");
    assert_eq!(get(&client, &input(b"mine")).await.0, 404);
}

#[tokio::test]
async fn an_image_with_a_root_file_system_has_it_served() {
    let place = place().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rootfs");
    std::fs::write(&path, b"root file system").unwrap();
    let secrets = secrets();
    place.depot.admit("panda01", &secrets, Some(path)).unwrap();
    let got = get(&place.client(&secrets), ROOTFS_PATH).await;
    assert_eq!(got, (200, b"root file system".to_vec()));
}

#[test]
fn one_board_has_few_connections_and_a_rack_on_loopback_enough_for_all() {
    let settings = ServerSettings::default();
    let in_a_rack = bounded(settings, false);
    assert_eq!(in_a_rack.connections_per_address, 64);
    assert!(in_a_rack.connections_per_address * 4 < settings.connections);
    // 99 boards, each with a connection for its report and one for its inputs.
    assert!(bounded(settings, true).connections_per_address >= 2 * 99);
    let strict = ServerSettings {
        connections_per_address: 3,
        ..settings
    };
    for loopback in [false, true] {
        assert_eq!(bounded(strict, loopback), strict);
    }
}
