//! Boots that fail: each says which step it was, on the console and to the master, and switches the machine off.

use panda_protocol::cpio::{ArchivePath, Writer};

use super::machine::{Disk, Image, Machine};
use super::marks::agent;
use super::master::{Master, Quirks};

/// Boots, and returns the failure that the master was told, if it could be, and the console.
async fn fail(quirks: Quirks, disk: Disk, extra: &[u8]) -> (Option<(String, String)>, String) {
    let (image, directory) = (Image::get(), tempfile::tempdir_in("/var/tmp").unwrap());
    let master = Master::new(&image.rootfs(), directory.path(), quirks).await;
    let mut appendix = master.appendix(&agent("true", false));
    appendix.extend_from_slice(extra);
    let mut machine = Machine::start(&image, &master, disk, directory.path(), &appendix);
    let told = if quirks.no_depot {
        None
    } else {
        let failure = master.failed().await;
        assert!(!failure.steps.is_empty());
        Some((failure.step, failure.reason))
    };
    machine.off().await;
    let console = machine.console();
    assert!(console.contains("the boot has FAILED"), "{console}");
    assert!(
        !console.contains(master.secret()),
        "the console shows the key"
    );
    (told, console)
}

/// The same, of a fault that the master hears of: it and the console say the same.
async fn told(quirks: Quirks, disk: Disk, extra: &[u8]) -> (String, String) {
    let (told, console) = fail(quirks, disk, extra).await;
    let (step, reason) = told.unwrap();
    assert!(
        console.contains(&format!("boot: {step} FAILED: {reason}")),
        "{reason}:\n{console}"
    );
    (step, reason)
}

const GOOD_DISK: Disk = Disk::Erasing(3072);

#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn a_root_file_system_with_another_digest_is_not_used() {
    let quirks = Quirks {
        wrong_digest: true,
        ..Quirks::default()
    };
    let (step, reason) = told(quirks, GOOD_DISK, &[]).await;
    assert_eq!(step, "rootfs");
    assert!(reason.contains("digest"), "{reason}");
}

#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn a_board_without_a_scratch_disk_says_so() {
    let (step, reason) = told(Quirks::default(), Disk::None, &[]).await;
    assert_eq!(step, "disk");
    assert!(reason.contains("no scratch disk (vda, sda)"), "{reason}");
}

#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn a_disk_that_is_too_small_is_named_with_its_size() {
    let (step, reason) = told(Quirks::default(), Disk::Erasing(256), &[]).await;
    assert_eq!(step, "scratch");
    assert!(reason.contains("has 256 MiB"), "{reason}");
}

#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn a_module_that_does_not_load_is_named_and_the_network_comes_up_to_tell_it() {
    let mut archive = Writer::new();

    let path = ArchivePath::try_from("modules/000-broken.ko").unwrap();
    archive.file(&path, 0o644, b"no module").unwrap();
    let (step, reason) = told(Quirks::default(), GOOD_DISK, &archive.finish()).await;
    assert_eq!(step, "modules");
    assert!(reason.contains("broken ("), "{reason}");
}

#[tokio::test]
#[ignore = "boots a kernel under QEMU; run by `scripts/test qemu`"]
async fn a_depot_that_is_gone_is_said_on_the_console() {
    let quirks = Quirks {
        no_depot: true,
        ..Quirks::default()
    };
    let (_, console) = fail(quirks, GOOD_DISK, &[]).await;
    assert!(
        console.contains("boot: master FAILED: the master at 10.0.2.2:9 does not answer"),
        "{console}"
    );
}
