//! The chain against a board in memory, on a paused clock.

use panda_slot::BootNo;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use panda_board::Presence;
use panda_board::family::{
    self, Families, Family, FamilyError, FamilyFailure, Payload, Session, StepNote,
};
use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::boot_toml::{self, BootToml, Network};
use panda_protocol::family::{FamilyName, RomUsb};
use panda_protocol::manifest::Machine;
use panda_protocol::omap4::BOOT_IMAGE;
use panda_protocol::omap4::asic_id::Chip;
use panda_protocol::omap4::bootimg;
use panda_protocol::operators::{Identity, PublicId, Sent};
use tokio::time::Instant;

use super::board_in_memory::{GADGET, Script, TestBoard, asic_id, device, rom};
use super::error::StepError;
use super::evidence::Dark;
use super::hand_over::Started;
use super::identity::Identified;
use super::rom::Rom;
use super::*;
use crate::identity::{KeyAndCertificate, new_boot_id};
use crate::ledger::Grade;
use panda_image::{Image, process};

const KERNEL: &[u8] = b"#!/bin/sh\necho the kernel\n";

fn image(directory: &Path) -> Image {
    let agent = directory.join("agent");
    // More than one piece, so that an image that is sent in part can be told from a whole one.
    let mut kernel = KERNEL.to_vec();
    kernel.resize(200_000, b'k');
    fs::write(&agent, kernel).unwrap();
    let settings = AgentToml {
        version: agent_toml::VERSION,
        arch: "amd64".to_owned(),
        executor: None,
        insecure_fixed_disk_key: false,
    };
    process::make(&directory.join("image"), &agent, &settings).unwrap()
}

fn boot_toml(image: &Image) -> BootToml {
    let (master, boot) = (
        KeyAndCertificate::make().unwrap(),
        KeyAndCertificate::make().unwrap(),
    );
    BootToml {
        version: boot_toml::VERSION,
        boot: new_boot_id().unwrap(),
        slot: "panda01".to_owned(),
        image: image.id(),
        time_unix_ms: 0,
        network: Network {
            address: None,
            gateway: None,
            nameservers: Vec::new(),
            hostname: "panda01".to_owned(),
            mac: None,
        },
        link: boot_toml::Link {
            listen: "127.0.0.1:1".to_owned(),
            depot: "127.0.0.1:2".to_owned(),
            master_certificate: master.certificate_pem,
            certificate: boot.certificate_pem,
            key: boot.key_pem,
        },
        rootfs: None,
        worker: None,
    }
}

async fn cut(board: &TestBoard, settings: BootSettings) -> Result<Evidence, Failure> {
    order(Chain::new(board.drivers(settings), BootNo::new(1)))
        .await?
        .evidence()
        .await
}

async fn dark(board: &TestBoard, settings: BootSettings) -> Result<Dark, Failure> {
    match cut(board, settings).await? {
        Evidence::Enough(dark) => Ok(dark),
        Evidence::Weak(weak) => Err(weak.into_failure()),
    }
}

async fn arrive(board: &TestBoard, settings: BootSettings) -> Result<Rom, Failure> {
    dark(board, settings).await?.power_on().await?.rom().await
}

async fn identify(board: &TestBoard, expected: ExpectedBoard) -> Result<Identified, Failure> {
    arrive(board, BootSettings::default())
        .await?
        .identify(&expected)
        .await
}

async fn start(board: &TestBoard, image: &Image) -> Result<Started, Failure> {
    let identified = identify(board, ExpectedBoard::default()).await?;
    identified.hand_over(image, boot_toml(image)).await
}

fn failed<T: std::fmt::Debug>(result: Result<T, Failure>, step: &str) -> StepError {
    let failure = result.unwrap_err();
    assert_eq!(failure.step(), step, "{failure}");
    failure.into_error()
}

#[tokio::test(start_paused = true)]
async fn a_board_is_cut_evidenced_and_started_with_exactly_the_image() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path());
    let board = TestBoard::new(Script::default());
    let started = start(&board, &image).await.unwrap();

    let sent = board.boot_image();
    assert_eq!(started.digest(), panda_protocol::digest::Sha256::of(&sent));
    let parsed = bootimg::parse(&sent, Machine::Process).unwrap();
    assert_eq!(
        parsed.kernel,
        fs::read(directory.path().join("agent")).unwrap()
    );
    let ramdisk = fs::read(directory.path().join("image/ramdisk")).unwrap();
    assert!(parsed.ramdisk.starts_with(&ramdisk));
    let boot = boot_toml::find(parsed.ramdisk).unwrap();
    assert_eq!(boot.slot, "panda01");
    assert!(
        boot.time_unix_ms > 1_600_000_000_000,
        "the time is put in when it is sent"
    );
    let stage = fs::read(directory.path().join("image/second-stage")).unwrap();
    assert_eq!(board.second_stage()[..stage.len()], stage);
    assert!(board.second_stage().len().is_multiple_of(512));

    let steps = board.steps();
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    let expected = [
        "cut",
        "evidence",
        "power on",
        "rom",
        "asic id",
        "second stage",
        "boot image",
        "started",
    ];
    assert_eq!(names, expected);
    assert!(
        steps
            .iter()
            .all(|step| step.error.is_none() && !step.detail.is_empty())
    );
    assert_eq!(steps[1].grade, Some(Grade::Readback));
    assert!(
        steps[1].elapsed_ms >= 3_000,
        "the hold is part of it: {}",
        steps[1].elapsed_ms
    );
    assert!(steps.iter().all(|step| !step.detail.contains("PRIVATE")));
}

#[tokio::test(start_paused = true)]
async fn a_device_on_the_port_during_the_hold_fails_the_cut() {
    let keyboard = device(0x046d, 0xc31c, 3, 9);
    for after_off in [
        vec![(0, Presence::Empty), (2_900, keyboard)],
        // One that has left again before anyone looked is no empty port either.
        vec![
            (0, Presence::Empty),
            (1_000, keyboard),
            (1_000, Presence::Empty),
        ],
    ] {
        let board = TestBoard::new(Script {
            after_off,
            ..Script::default()
        });
        let error = failed(dark(&board, BootSettings::default()).await, "evidence");
        assert!(matches!(error, StepError::PortOccupied { .. }), "{error}");
        assert!(
            board.steps()[1]
                .error
                .as_deref()
                .unwrap()
                .contains("on the port although")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_is_not_clear_or_not_seen_fails_the_cut_within_its_time() {
    let settings = BootSettings::default();
    let stays = TestBoard::new(Script {
        after_off: vec![],
        ..Script::default()
    });
    stays.put(device(1, 2, 3, 4));
    let began = Instant::now();
    let error = failed(dark(&stays, settings.clone()).await, "evidence");
    assert!(matches!(error, StepError::PortOccupied { .. }), "{error}");
    assert_eq!(
        began.elapsed(),
        Duration::from_millis(settings.port_clears_ms)
    );

    let unseen = TestBoard::new(Script {
        after_off: vec![],
        ..Script::default()
    });
    unseen.put(Presence::Unknown);
    let error = failed(dark(&unseen, settings).await, "evidence");
    assert!(matches!(error, StepError::PortUnseen), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_reads_back_power_or_nothing_is_no_evidence() {
    let on = Script {
        reads: Some(panda_board::PowerState::On),
        ..Script::default()
    };
    let error = failed(
        dark(&TestBoard::new(on), BootSettings::default()).await,
        "evidence",
    );
    assert!(matches!(error, StepError::StillOn), "{error}");

    let blind = Script {
        reads: None,
        ..Script::default()
    };
    let error = failed(
        dark(&TestBoard::new(blind), BootSettings::default()).await,
        "evidence",
    );
    assert!(matches!(error, StepError::WeakEvidence { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("none (the driver cannot read back)"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_power_driver_that_does_not_answer_is_given_up() {
    let board = TestBoard::new(Script {
        power_silent: true,
        ..Script::default()
    });
    let began = Instant::now();
    let error = failed(dark(&board, BootSettings::default()).await, "cut");
    assert!(
        error.to_string().contains("power off: no answer within 5s"),
        "{error}"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn the_gadgets_leaving_is_presence_only_within_its_window() {
    let gadget = device(GADGET.vendor, GADGET.product, 2, 5);
    let settings = BootSettings {
        gadget: Some(GADGET),
        ..BootSettings::default()
    };
    let strict = BootSettings {
        require_cut: Grade::Presence,
        ..settings.clone()
    };

    let quick = Script {
        after_off: vec![(100, Presence::Empty)],
        ..Script::default()
    };
    let board = TestBoard::new(quick);
    board.put(gadget);
    assert_eq!(
        dark(&board, strict.clone()).await.unwrap().grade(),
        Grade::Presence
    );

    let slow = || Script {
        after_off: vec![(1_600, Presence::Empty)],
        ..Script::default()
    };
    let board = TestBoard::new(slow());
    board.put(gadget);
    assert_eq!(
        dark(&board, settings.clone()).await.unwrap().grade(),
        Grade::Readback
    );
    let board = TestBoard::new(slow());
    board.put(gadget);
    let error = failed(dark(&board, strict.clone()).await, "evidence");
    assert!(
        error
            .to_string()
            .contains("is readback, and require_cut asks for presence"),
        "{error}"
    );

    // An empty port proves nothing: a running board without a gadget has nothing on it.
    let error = failed(
        dark(&TestBoard::new(Script::default()), strict).await,
        "evidence",
    );
    assert!(matches!(error, StepError::WeakEvidence { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn only_the_want_of_a_gadget_is_mended_by_a_boot() {
    let demands = |require_cut| BootSettings {
        gadget: Some(GADGET),
        require_cut,
        ..BootSettings::default()
    };
    let board = || TestBoard::new(Script::default());
    let presence = cut(&board(), demands(Grade::Presence)).await.unwrap();
    assert!(matches!(presence, Evidence::Weak(_)), "{presence:?}");
    // No boot brings a sense of the rail up.
    let sensed = cut(&board(), demands(Grade::Sensed)).await;
    let error = failed(sensed, "evidence");
    assert!(matches!(error, StepError::WeakEvidence { .. }), "{error}");
    // Power that is still there is another matter than how well its going is shown.
    let on = TestBoard::new(Script {
        reads: Some(panda_board::PowerState::On),
        ..Script::default()
    });
    let error = failed(cut(&on, demands(Grade::Presence)).await, "evidence");
    assert!(matches!(error, StepError::StillOn), "{error}");
    let taken = TestBoard::new(Script {
        after_off: vec![(0, Presence::Empty), (2_900, rom(9))],
        ..Script::default()
    });
    let error = failed(cut(&taken, demands(Grade::Presence)).await, "evidence");
    assert!(matches!(error, StepError::PortOccupied { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_gadget_that_leaves_before_the_order_proves_nothing() {
    let settings = BootSettings {
        gadget: Some(GADGET),
        cut_delay_max_ms: 3_600_000,
        ..BootSettings::default()
    };
    let board = TestBoard::new(Script::default());
    board.put(device(GADGET.vendor, GADGET.product, 2, 5));
    let leaves = board.clone();
    // The random delay is shorter than this once in four million times.
    let leaving = async move {
        tokio::time::sleep(Duration::from_millis(1)).await;
        leaves.put(Presence::Empty);
    };
    let (dark, ()) = tokio::join!(dark(&board, settings), leaving);
    assert_eq!(dark.unwrap().grade(), Grade::Readback);
}

#[tokio::test(start_paused = true)]
async fn a_sense_of_the_rail_is_the_strongest_evidence_and_overrules_the_others() {
    let settings = BootSettings {
        require_cut: Grade::Sensed,
        ..BootSettings::default()
    };
    let sensed =
        |board: &TestBoard| Chain::new(board.sensed_drivers(settings.clone()), BootNo::new(1));
    let board = TestBoard::with_rail(Script::default(), true);
    let seen = order(sensed(&board)).await.unwrap().evidence().await;
    let Evidence::Enough(dark) = seen.unwrap() else {
        panic!("a rail that is dark is evidence enough");
    };
    assert_eq!(dark.grade(), Grade::Sensed);

    let board = TestBoard::with_rail(Script::default(), false);
    let error = failed(
        order(sensed(&board)).await.unwrap().evidence().await,
        "evidence",
    );
    assert!(matches!(error, StepError::RailAlive), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_to_the_port_before_power_on_is_never_booted() {
    let board = TestBoard::new(Script::default());
    let dark = dark(&board, BootSettings::default()).await.unwrap();
    board.put(rom(1));
    let error = failed(dark.power_on().await, "power on");
    assert!(matches!(error, StepError::PortOccupied { .. }), "{error}");
    assert_eq!(board.power(), panda_board::PowerState::Off);
}

#[tokio::test(start_paused = true)]
async fn a_rom_must_come_inside_its_window() {
    let window = BootSettings::default().rom_window_ms;
    let never = TestBoard::new(Script {
        after_on: vec![],
        ..Script::default()
    });
    let late = TestBoard::new(Script {
        after_on: vec![(window + 1, rom(1))],
        ..Script::default()
    });
    for board in [never, late] {
        let powered = dark(&board, BootSettings::default())
            .await
            .unwrap()
            .power_on()
            .await
            .unwrap();
        let began = Instant::now();
        let error = failed(powered.rom().await, "rom");
        assert!(matches!(error, StepError::NoRom { .. }), "{error}");
        assert_eq!(began.elapsed(), Duration::from_millis(window));
    }
    let just = Script {
        after_on: vec![(window - 1, rom(1))],
        ..Script::default()
    };
    arrive(&TestBoard::new(just), BootSettings::default())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stale_arrival_or_another_device_is_no_rom() {
    let stale = TestBoard::new(Script {
        after_on: vec![(10, rom(5))],
        ..Script::default()
    });
    stale.put(rom(5));
    let error = failed(arrive(&stale, BootSettings::default()).await, "rom");
    assert!(matches!(error, StepError::StaleArrival { .. }), "{error}");

    let (vendor, product) = (0x0451, 0xd00f);
    for other in [
        device(0x046d, 0xc31c, 3, 1),
        device(vendor, 0xd00e, 0xff, 1),
        // The ROM's own numbers, and a keyboard's class.
        device(vendor, product, 3, 1),
    ] {
        let board = TestBoard::new(Script {
            after_on: vec![(10, other)],
            ..Script::default()
        });
        let error = failed(arrive(&board, BootSettings::default()).await, "rom");
        assert!(matches!(error, StepError::NotRom { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn another_chip_or_board_than_the_slots_is_told_apart_and_not_retried() {
    let chip = ExpectedBoard {
        chip: Some("omap4460".parse().unwrap()),
        public_id: None,
    };
    let failure = identify(&TestBoard::new(Script::default()), chip)
        .await
        .unwrap_err();
    assert_eq!(failure.cause(), FailureCause::WrongChip);
    let expected = "asic id: the board's chip is OMAP4430, and the slot's is OMAP4460";
    assert!(failure.to_string().starts_with(expected), "{failure}");

    let public_id = ExpectedBoard {
        chip: None,
        public_id: Some(PublicId::from_bytes(&[7; 20]).unwrap()),
    };
    let failure = identify(&TestBoard::new(Script::default()), public_id.clone())
        .await
        .unwrap_err();
    assert_eq!(failure.cause(), FailureCause::WrongChip);

    let mut id = asic_id(Chip::Omap4430);
    id.public_id = [7; 20];
    let board = TestBoard::new(Script {
        asic_id: Some(id),
        ..Script::default()
    });
    let found = identify(&board, public_id.clone()).await.unwrap();
    assert_eq!(found.identity().public_id, public_id.public_id);
}

#[tokio::test(start_paused = true)]
async fn a_silent_rom_or_second_stage_is_given_up_within_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path());
    let settings = BootSettings::default();

    let board = TestBoard::new(Script {
        asic_id: None,
        ..Script::default()
    });
    let rom = arrive(&board, settings.clone()).await.unwrap();
    let began = Instant::now();
    failed(rom.identify(&ExpectedBoard::default()).await, "asic id");
    assert_eq!(
        began.elapsed(),
        Duration::from_millis(settings.identify_ms())
    );

    let board = TestBoard::new(Script {
        greeting: None,
        ..Script::default()
    });
    let identified = identify(&board, ExpectedBoard::default()).await.unwrap();
    let began = Instant::now();
    let handed = identified.hand_over(&image, boot_toml(&image)).await;
    failed(handed, "second stage");
    let second_stage_ms = settings.families.omap4.second_stage_ms;
    assert!(began.elapsed() <= Duration::from_millis(second_stage_ms));

    let board = TestBoard::new(Script {
        greeting: Some(vec![1, 2, 3, 4]),
        ..Script::default()
    });
    let error = failed(start(&board, &image).await, "second stage");
    assert!(
        error.to_string().contains("4 bytes that are not its magic"),
        "{error}"
    );

    let board = TestBoard::new(Script {
        releases: false,
        ..Script::default()
    });
    let error = failed(start(&board, &image).await, "started");
    assert!(matches!(error, StepError::NotReleased { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_has_changed_on_the_disk_is_never_sent_whole() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path());
    let kernel = directory.path().join("image/kernel");
    let mut bytes = fs::read(&kernel).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&kernel, &bytes).unwrap();
    let board = TestBoard::new(Script::default());
    let error = failed(start(&board, &image).await, "boot image");
    let text = error.to_string();
    assert!(text.contains("image/kernel: has SHA-256"), "{text}");
    assert!(board.boot_image().len() < 200_000);

    fs::write(&kernel, &bytes[..1000]).unwrap();
    let error = failed(
        start(&TestBoard::new(Script::default()), &image).await,
        "boot image",
    );
    assert!(
        error
            .to_string()
            .contains("has 1000 bytes, and its manifest says 200000"),
        "{error}"
    );
}

/// A second family, for tests: its ROM is that of no other.
#[derive(Debug)]
struct Other;

#[async_trait]
impl Family for Other {
    fn name(&self) -> FamilyName {
        FamilyName::named("other")
    }

    fn roms(&self) -> &'static [RomUsb] {
        &[RomUsb {
            vendor: 0x1f3a,
            product: 0xefe8,
            interface_class: 0xff,
            endpoint_out: 0x01,
            endpoint_in: 0x82,
            chip: "other",
        }]
    }

    async fn identify(&self, _: &mut Session<'_>) -> Result<Identity, FamilyError> {
        Ok(Identity {
            family: "other".parse().unwrap(),
            chip: "other".parse().unwrap(),
            rom_version: None,
            public_id: None,
        })
    }

    async fn hand_over(
        &self,
        board: &mut Session<'_>,
        payload: &dyn Payload,
    ) -> Result<Sent, FamilyFailure> {
        // Its kernel goes over as it is; then the board leaves.
        let step = family::step(board.steps, BOOT_IMAGE, Duration::from_secs(1), async {
            let bytes = family::whole(payload, "kernel").await?.len() as u64;
            let sha256 = payload.part("kernel").unwrap().sha256;
            let sent = Sent { bytes, sha256 };
            Ok((sent, StepNote::sent(sent)))
        });
        step.await
    }

    fn hand_over_limit(&self, _: u64) -> Duration {
        Duration::from_secs(1)
    }
}

/// A board with another family's ROM, in a rack that knows both; the slot's image is for `family`.
fn with_other(board: &TestBoard, family: FamilyName) -> Arc<BoardParts> {
    let settings = BootSettings::default();
    let own = settings.families();
    let own = own.named(FamilyName::default()).unwrap().clone();
    let whole = board.drivers(settings.clone());
    Arc::new(BoardParts {
        power: whole.power.clone(),
        port: whole.port.clone(),
        sense: None,
        families: Families::of(vec![own, Arc::new(Other)]),
        family: Some(family),
        settings,
        journal: whole.journal.clone(),
    })
}

async fn rom_of_both(board: &TestBoard, family: FamilyName) -> Result<Rom, Failure> {
    let ordered = order(Chain::new(with_other(board, family), BootNo::new(1))).await?;
    let Evidence::Enough(dark) = ordered.evidence().await? else {
        panic!("the cut is shown");
    };
    dark.power_on().await?.rom().await
}

#[tokio::test(start_paused = true)]
async fn a_rom_of_another_family_is_refused_by_name_and_not_retried() {
    let other = device(0x1f3a, 0xefe8, 0xff, 1);
    let (omap4, named_other) = (FamilyName::default(), FamilyName::named("other"));
    for (on_port, image, found) in [(other, omap4, "other"), (rom(1), named_other, "omap4")] {
        let board = TestBoard::new(Script {
            after_on: vec![(1_000, on_port)],
            ..Script::default()
        });
        let failure = rom_of_both(&board, image).await.unwrap_err();
        assert_eq!(failure.cause(), FailureCause::WrongChip);
        let text = failure.to_string();
        assert!(
            text.contains(&format!("a boot ROM of family {found} (")),
            "{text}"
        );
        assert!(
            text.contains(&format!("boards of family {image}")),
            "{text}"
        );
        assert_eq!(
            board.steps().last().unwrap().error.as_ref(),
            Some(&failure.error().to_string())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_family_walks_the_same_chain() {
    let directory = tempfile::tempdir().unwrap();
    let image = image(directory.path());
    let board = TestBoard::new(Script {
        after_on: vec![
            (1_000, device(0x1f3a, 0xefe8, 0xff, 1)),
            (5_000, Presence::Empty),
        ],
        ..Script::default()
    });
    let rom = rom_of_both(&board, FamilyName::named("other"))
        .await
        .unwrap();
    let identified = rom.identify(&ExpectedBoard::default()).await.unwrap();
    assert_eq!(identified.identity().chip.as_str(), "other");
    let started = identified
        .hand_over(&image, boot_toml(&image))
        .await
        .unwrap();
    assert_eq!(started.digest(), image.manifest().kernel.sha256);
}

#[test]
fn no_file_of_the_chain_needs_one_that_needs_it() {
    use std::collections::BTreeMap;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/boot");
    let mut needs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if ["mod", "tests", "board_in_memory"].contains(&name.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code: Vec<&str> = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let code = code.join("\n");
        let after = code.split("super::").skip(1);
        let files = after.map(|rest| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap()
                .to_owned()
        });
        needs.insert(name.clone(), files.filter(|file| *file != name).collect());
    }
    // What needs nothing that is left goes first; a circle never does.
    while !needs.is_empty() {
        let known: Vec<String> = needs.keys().cloned().collect();
        let free = needs
            .iter()
            .find(|(_, files)| !files.iter().any(|file| known.contains(file)));
        let free = free.map(|(name, _)| name.clone());
        let Some(free) = free else {
            panic!("these need each other: {needs:?}");
        };
        needs.remove(&free);
    }
}
