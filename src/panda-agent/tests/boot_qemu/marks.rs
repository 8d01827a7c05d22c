//! What one build leaves on the board for the next: marks by the fixture package's own program, as root, in every
//! place that it knows. Three racks: as it is meant to be, with a disk that cannot erase itself, and with the known
//! keys of a demonstration, where the same search must find them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::digest::Sha1;
use panda_protocol::launchpad::{EnsurePresent, Outcome, Status, Sum};

use super::common::{DSC, LIMIT, call};
use super::machine::{Disk, Image, Machine};
use super::master::{Master, Quirks};

const PLACES: [&str; 6] = [
    "root-file",
    "scratch-file",
    "mapped-raw",
    "disk-raw",
    "swap-raw",
    "swap-page",
];
/// The fixture's program comes in the chroot's place.
const MARKING: &str = r#"cp "$PANDA_CHROOT" ../marks && chmod 755 ../marks && ../marks; exit 1"#;

pub(crate) fn agent(executor: &str, insecure_fixed_disk_key: bool) -> AgentToml {
    AgentToml {
        version: agent_toml::VERSION,
        arch: "armhf".to_owned(),
        executor: Some(
            executor
                .replace('\n', " ; ")
                .replace("; ;", ";")
                .trim_matches([' ', ';'])
                .to_owned(),
        ),
        insecure_fixed_disk_key,
    }
}

/// Runs the board's executor as a build, with `chroot` as its chroot; returns how it ended, and its log.
pub(crate) async fn run_build(master: &Master, inputs: &Path, chroot: &[u8]) -> (Outcome, String) {
    let client = master.client();
    for bytes in [DSC, chroot] {
        let sum = Sha1::of(bytes);
        fs::write(inputs.join(sum.to_string()), bytes).unwrap();
        let ensure = EnsurePresent {
            sum: Sum::from(sum),
            url: Some(master.depot_url(&format!("/input/{sum}"))),
            username: String::new(),
            password: String::new(),
        };
        assert!(client.ensure_present(ensure).await.unwrap().present);
    }
    let mut build = call(DSC);
    build.chroot = Sum::from(Sha1::of(chroot));
    client.build(build).await.unwrap();
    let ended = async {
        loop {
            if let Status::Waiting { outcome, .. } = client.status().await.unwrap().status {
                return outcome;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let outcome = tokio::time::timeout(LIMIT, ended).await.unwrap();
    let (_, log) = master
        .endpoint()
        .get("/filecache/buildlog", 1 << 20, LIMIT)
        .await
        .unwrap();
    (outcome, String::from_utf8_lossy(&log).into_owned())
}

/// What one run of the fixture's program says.
#[derive(Debug)]
struct Table {
    run: String,
    /// By place: what was found, whether a mark was left.
    places: BTreeMap<String, (String, String)>,
}

impl Table {
    fn of(log: &str) -> Self {
        let mut table = Self {
            run: String::new(),
            places: BTreeMap::new(),
        };
        for line in log
            .lines()
            .filter_map(|line| line.strip_prefix("PANDA-MARKS "))
        {
            let fields: BTreeMap<_, _> = line
                .split(' ')
                .filter_map(|field| field.split_once('='))
                .collect();
            if let Some(run) = fields.get("run") {
                table.run = (*run).to_owned();
            }
            if let Some(place) = fields.get("place") {
                let value = (fields["found"].to_owned(), fields["left"].to_owned());
                table.places.insert((*place).to_owned(), value);
            }
        }
        assert!(
            table.run.len() == 32 && table.places.len() == PLACES.len(),
            "{log}"
        );
        table
    }

    fn found(&self, place: &str) -> &str {
        &self.places[place].0
    }
}

/// The fixture's program, which needs no library.
fn program(directory: &Path) -> Vec<u8> {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/sources/panda-marks/marks.c");
    let program = directory.join("marks");
    let built = Command::new("cc")
        .args(["-static", "-O2", "-o"])
        .args([&program, &source])
        .status();
    assert!(built.unwrap().success());
    fs::read(program).unwrap()
}

/// Two builds, one after the other, on two boots of a board with one disk.
async fn two_builds(disk: Disk, fixed_key: bool) -> [Table; 2] {
    let (image, directory) = (Image::get(), tempfile::tempdir_in("/var/tmp").unwrap());
    let marks = program(directory.path());
    let mut tables = Vec::new();
    for _ in 0..2 {
        let master = Master::new(&image.rootfs(), directory.path(), Quirks::default()).await;
        let appendix = master.appendix(&agent(MARKING, fixed_key));
        let machine = Machine::start(&image, &master, disk, directory.path(), &appendix);
        let report = master.proven().await;
        assert_eq!(
            report.insecure.concat(),
            if fixed_key { "fixed-disk-key" } else { "" }
        );
        assert_eq!(machine.console().contains("INSECURE"), fixed_key);
        let scratch = report
            .steps
            .iter()
            .find(|step| step.name == "scratch")
            .unwrap();
        println!("{} ({} ms)", scratch.detail, scratch.elapsed_ms);
        let (_, log) = run_build(&master, directory.path(), &marks).await;
        let table = Table::of(&log);
        println!("{table:#?}");
        for place in PLACES {
            assert_eq!(table.places[place].1, "yes", "{place} has its mark");
        }
        tables.push(table);
    }
    let [first, second] = tables.try_into().unwrap();
    for place in PLACES {
        assert_eq!(first.found(place), "-", "{place} of a new disk");
    }
    [first, second]
}

#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn nothing_that_a_build_left_anywhere_is_found_by_the_next() {
    let [_, second] = two_builds(Disk::Erasing(3072), false).await;
    for place in PLACES {
        assert_eq!(second.found(place), "-", "{place}");
    }
}

#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn with_known_keys_the_same_search_finds_it_everywhere() {
    let [first, second] = two_builds(Disk::Erasing(3072), true).await;
    for place in PLACES {
        assert_eq!(second.found(place), first.run, "{place}");
    }
}

/// The keys alone, without erasing: all that went through them is gone; what root wrote below them is not.
#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn on_a_disk_that_cannot_erase_only_what_was_written_below_the_encryption_is_found() {
    let [first, second] = two_builds(Disk::Plain(3072), false).await;
    for place in PLACES {
        let expected = if place == "disk-raw" { &first.run } else { "-" };
        assert_eq!(second.found(place), expected, "{place}");
    }
}
