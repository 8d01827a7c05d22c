//! Images that are whole, and images that are not.

use std::fs;
use std::path::PathBuf;

use panda_protocol::agent_toml::{self, AgentToml};
use panda_protocol::cpio;
use tempfile::TempDir;

use super::*;
use crate::{draft, process, qemu};

fn made() -> (TempDir, PathBuf, Image) {
    let directory = tempfile::tempdir().unwrap();
    let agent = directory.path().join("agent");
    fs::write(&agent, vec![b'a'; 150_000]).unwrap();
    let path = directory.path().join("images/process");
    let image = process::make(&path, &agent, &settings()).unwrap();
    (directory, path, image)
}

fn settings() -> AgentToml {
    AgentToml {
        version: agent_toml::VERSION,
        arch: "amd64".to_owned(),
        executor: Some("true".to_owned()),
        insecure_fixed_disk_key: false,
    }
}

#[tokio::test]
async fn a_process_image_holds_the_agent_and_its_settings() {
    let (_directory, path, image) = made();
    let manifest = image.manifest();
    assert_eq!(manifest.machine, panda_protocol::manifest::Machine::Process);
    assert_eq!(
        image.read(&manifest.kernel).await.unwrap(),
        vec![b'a'; 150_000]
    );
    let ramdisk = image.read(&manifest.ramdisk).await.unwrap();
    let entries = cpio::read(&ramdisk).unwrap();
    assert_eq!(entries.len(), 1);
    let cpio::Node::File(bytes) = &entries[0].node else {
        panic!("{entries:?}")
    };
    assert_eq!(agent_toml::decode(bytes).unwrap(), settings());

    assert_eq!(Image::load(&path).unwrap().id(), image.id());
    let parent = fs::read_dir(path.parent().unwrap()).unwrap();
    assert_eq!(parent.count(), 1, "nothing half-made is left");
}

#[test]
fn an_image_is_made_anew_in_the_place_of_another() {
    let (directory, path, first) = made();
    let agent = directory.path().join("agent");
    fs::write(&agent, b"another agent").unwrap();
    let second = process::make(&path, &agent, &settings()).unwrap();
    assert_ne!(first.id(), second.id());
    assert_eq!(Image::load(&path).unwrap().id(), second.id());
}

#[test]
fn an_image_that_is_not_whole_names_its_file_and_both_digests() {
    let (_directory, path, image) = made();
    let kernel = path.join("kernel");
    let mut bytes = fs::read(&kernel).unwrap();
    bytes[70_000] ^= 1;
    fs::write(&kernel, &bytes).unwrap();
    let error = Image::load(&path).unwrap_err().to_string();
    let (expected, found) = (image.manifest().kernel.sha256, Sha256::of(&bytes));
    assert!(
        error.contains(&format!("{}: has SHA-256 {found}", kernel.display())),
        "{error}"
    );
    assert!(
        error.contains(&format!("its manifest says {expected}")),
        "{error}"
    );

    fs::write(&kernel, b"short").unwrap();
    let error = Image::load(&path).unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Size {
                expected: 150_000,
                found: 5,
                ..
            }
        ),
        "{error}"
    );

    fs::remove_file(&kernel).unwrap();
    let error = Image::load(&path).unwrap_err().to_string();
    assert!(error.contains("kernel: No such file"), "{error}");
}

#[test]
fn an_image_that_no_board_could_take_is_refused_by_name() {
    let (_directory, path, _) = made();
    let manifest_path = path.join(manifest::NAME);
    let text = fs::read_to_string(&manifest_path).unwrap();
    let stage = vec![0; 48 * 1024 + 1];
    fs::write(path.join("second-stage"), &stage).unwrap();
    let mut changed = manifest::parse(text.as_bytes()).unwrap();
    changed.second_stage.sha256 = Sha256::of(&stage);
    changed.second_stage.bytes = stage.len() as u64;
    // Where even the manifest's own check refuses it, so much the better.
    let refused = match manifest::encode(&changed) {
        Ok(text) => {
            fs::write(&manifest_path, text).unwrap();
            Image::load(&path).unwrap_err().to_string()
        }
        Err(error) => error.to_string(),
    };
    assert!(refused.contains("second"), "{refused}");

    fs::write(&manifest_path, "version = 1\nname = 7\n").unwrap();
    let error = Image::load(&path).unwrap_err().to_string();
    assert!(error.contains("manifest.toml"), "{error}");
    fs::write(&manifest_path, vec![b'#'; manifest::MAX_BYTES + 1]).unwrap();
    assert!(matches!(
        Image::load(&path),
        Err(ImageError::TooLarge { .. })
    ));
}

#[tokio::test]
async fn the_last_piece_of_a_part_that_has_changed_is_never_handed_out() {
    let (_directory, path, image) = made();
    let mut bytes = fs::read(path.join("kernel")).unwrap();
    bytes[0] ^= 1;
    fs::write(path.join("kernel"), &bytes).unwrap();
    let mut reader = image.open(&image.manifest().kernel).await.unwrap();
    let mut got = 0;
    let error = loop {
        match reader.next().await {
            Ok(piece) => got += piece.expect("no end without an error").len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ImageError::Digest { .. }), "{error}");
    assert!(got < bytes.len());
    // And it does not begin again.
    assert!(reader.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_part_that_has_grown_is_read_as_the_manifest_says() {
    let (_directory, path, image) = made();
    let mut bytes = fs::read(path.join("ramdisk")).unwrap();
    let ramdisk = bytes.clone();
    bytes.extend_from_slice(b"more");
    fs::write(path.join("ramdisk"), &bytes).unwrap();
    assert_eq!(
        image.read(&image.manifest().ramdisk).await.unwrap(),
        ramdisk
    );
    assert!(matches!(Image::load(&path), Err(ImageError::Size { .. })));
}

#[test]
fn what_is_no_kernel_of_the_images_architecture_is_found_when_it_is_loaded() {
    for (arch, kernel, expected) in [
        ("amd64", kernel::example("amd64"), None),
        (
            "armhf",
            kernel::example("amd64"),
            Some("it is an x86 bzImage"),
        ),
        ("amd64", b"#!/bin/sh\n".to_vec(), Some("it is a script")),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let draft = draft::Draft::begin(&directory.path().join("image")).unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        fs::write(draft.path(qemu::ROOTFS), "a root file system").unwrap();
        let parts = qemu::Parts {
            kernel: file("vmlinuz", &kernel),
            modules: Vec::new(),
            agent: file("agent", b"an agent"),
            name: "a test".to_owned(),
        };
        let settings = AgentToml {
            arch: arch.to_owned(),
            executor: None,
            ..settings()
        };
        let loaded = qemu::finish(draft, &parts, &settings);
        match expected {
            None => drop(loaded.unwrap()),
            Some(found) => {
                let error = loaded.unwrap_err().to_string();
                assert!(
                    error.contains("/kernel: ") && error.contains(found),
                    "{error}"
                );
            }
        }
    }
}
