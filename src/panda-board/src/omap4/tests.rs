//! The family against a board that is scripted, on a paused clock.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use panda_protocol::manifest::Machine;
use panda_protocol::omap4::{aboot, bootimg, rom};
use tokio::sync::watch;

use super::*;
use crate::family::{EndedStep, MemoryPayload, Steps};
use crate::{Pipe, PipeError, Port, Presence};

/// Answers of the board to reads, in order; silence when there are none left.
struct Board {
    reads: VecDeque<Result<Vec<u8>, PipeError>>,
    writes: std::sync::Arc<Mutex<Vec<Vec<u8>>>>,
}

#[async_trait]
impl Pipe for Board {
    async fn write(&mut self, bytes: &[u8], _: Duration) -> Result<(), PipeError> {
        self.writes.lock().unwrap().push(bytes.to_vec());
        Ok(())
    }

    async fn read(&mut self, _: usize, limit: Duration) -> Result<Vec<u8>, PipeError> {
        match self.reads.pop_front() {
            Some(answer) => answer,
            None => {
                tokio::time::sleep(limit).await;
                Err(silence(limit))
            }
        }
    }
}

fn silence(limit: Duration) -> PipeError {
    PipeError::TimedOut {
        what: "read".to_owned(),
        limit,
    }
}

#[async_trait]
impl Port for Board {
    fn watch(&self) -> watch::Receiver<Presence> {
        watch::channel(Presence::Empty).1
    }

    async fn open(&self, _: u64) -> Result<Box<dyn Pipe>, PipeError> {
        Err(PipeError::Gone)
    }
}

#[derive(Default)]
struct Recorded(Mutex<Vec<EndedStep>>);

#[async_trait]
impl Steps for Recorded {
    async fn ended(&self, step: EndedStep) -> Result<(), String> {
        self.0.lock().unwrap().push(step);
        Ok(())
    }
}

fn pacing() -> Pacing {
    Pacing {
        write_pause: Duration::from_millis(1),
        read_pause: Duration::from_millis(20),
        transfer_bytes: 64 * 1024,
    }
}

fn payload(raw: Option<&[u8]>) -> MemoryPayload {
    let mut payload = MemoryPayload::new(Machine::Panda, "console=ttyO2", 2048);
    payload.add("second_stage", vec![1; 14_001]);
    match raw {
        Some(raw) => payload.add("raw", raw.to_vec()),
        None => {
            payload.add("kernel", vec![2; 70_000]);
            payload.add("ramdisk", vec![3; 1_001]);
        }
    }
    payload
}

/// Hands a payload over to a board that answers so.
async fn hand_over(
    payload: &MemoryPayload,
    reads: Vec<Result<Vec<u8>, PipeError>>,
) -> (Result<Sent, FamilyFailure>, Vec<Vec<u8>>, Vec<EndedStep>) {
    let writes = std::sync::Arc::new(Mutex::new(Vec::new()));
    let port = Board {
        reads: VecDeque::new(),
        writes: writes.clone(),
    };
    let mut pipe: Box<dyn Pipe> = Box::new(Board {
        reads: reads.into(),
        writes: writes.clone(),
    });
    let (steps, mut arrival) = (Recorded::default(), 1);
    let mut session = Session {
        pipe: &mut pipe,
        deadline: Instant::now() + Duration::from_secs(600),
        steps: &steps,
        port: &port,
        arrival: &mut arrival,
    };
    let family = Omap4::new(Settings::default(), pacing());
    let sent = family.hand_over(&mut session, payload).await;
    let writes = writes.lock().unwrap().clone();
    let steps = steps.0.lock().unwrap().clone();
    (sent, writes, steps)
}

fn greeting() -> Result<Vec<u8>, PipeError> {
    Ok(aboot::GREETING.to_le_bytes().to_vec())
}

#[tokio::test(start_paused = true)]
async fn a_second_stage_that_is_deaf_while_it_starts_is_asked_again() {
    let began = Instant::now();
    let deaf = vec![
        Err(PipeError::Io {
            what: "read".to_owned(),
            source: io::ErrorKind::Other.into(),
        }),
        Err(PipeError::Stalled("read".to_owned())),
        Err(silence(Duration::from_secs(3))),
        greeting(),
    ];
    let (sent, _, steps) = hand_over(&payload(None), deaf).await;
    sent.unwrap();
    assert!(began.elapsed() > Duration::from_secs(3), "a second apart");
    let names: Vec<_> = steps.iter().map(|step| step.name).collect();
    assert_eq!(names, [SECOND_STAGE, BOOT_IMAGE]);
}

#[tokio::test(start_paused = true)]
async fn a_second_stage_that_stays_deaf_or_leaves_is_given_up() {
    let began = Instant::now();
    let (sent, _, steps) = hand_over(&payload(None), Vec::new()).await;
    let error = sent.unwrap_err();
    assert_eq!(error.step, SECOND_STAGE);
    assert!(
        error
            .to_string()
            .contains("waiting for the second stage's greeting"),
        "{error}"
    );
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    assert!(steps[0].error.is_some());
    let began = Instant::now();
    let (sent, ..) = hand_over(&payload(None), vec![Err(PipeError::Gone)]).await;
    let error = sent.unwrap_err().to_string();
    assert!(error.contains("the device left the port"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(1));
    let wrong = vec![Ok(vec![1, 2, 3, 4])];
    let error = hand_over(&payload(None), wrong).await.0.unwrap_err();
    assert!(error.to_string().contains("not its magic"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn every_transfer_but_the_words_is_whole_packets() {
    for raw in [None, Some(&[9_u8; 1_001][..])] {
        let (sent, writes, _) = hand_over(&payload(raw), vec![greeting()]).await;
        let sent = sent.unwrap();
        assert_eq!(sent.bytes % 512, 0);
        let odd: Vec<usize> = writes.iter().map(Vec::len).collect();
        assert!(
            odd.iter().all(|bytes| *bytes == 4 || bytes % 512 == 0),
            "{odd:?}"
        );
        assert_eq!(writes[0], rom::word(rom::PERIPHERAL_BOOT));
        assert_eq!(writes[1], rom::word(14_336), "the size is what comes");
        assert_eq!(writes[2][..14_001], [1; 14_001]);
        let image = writes[4..].concat();
        assert_eq!(image.len() as u64, sent.bytes);
        assert_eq!(sent.sha256, panda_protocol::digest::Sha256::of(&image));
        match raw {
            Some(raw) => assert_eq!(&image[..raw.len()], raw),
            None => {
                let image = bootimg::parse(&image, Machine::Panda).unwrap();
                assert_eq!(image.kernel, [2; 70_000]);
                assert_eq!(image.ramdisk, [3; 1_001]);
            }
        }
    }
}

#[test]
fn a_second_stage_that_checks_signatures_is_warned_of() {
    let family = Omap4::new(Settings::default(), pacing());
    let checks = b"\x7f... SIGNATURE VERIFICATION FAILED\n\0";
    assert!(family.warnings("second_stage", checks)[0].contains("WITH_SIGNATURE_CHECK 0"));
    assert!(family.warnings("kernel", checks).is_empty());
    assert!(family.warnings("second_stage", b"BOOT FAILED").is_empty());
}

mod files {
    use std::path::{Path, PathBuf};

    use super::super::{Files, load};
    use super::*;

    struct Directory(tempfile::TempDir);

    impl Directory {
        fn new() -> Self {
            let directory = Self(tempfile::tempdir().unwrap());
            directory.file("aboot", &[1; 14_000]);
            let mut kernel = vec![0; 400];
            for (at, word) in [(0x24, 0x016f_2818_u32), (0x2c, 400), (0x30, 0x0403_0201)] {
                kernel[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            directory.file("kernel", &kernel);
            // The same, and unpacked it would reach into the ramdisk.
            for (at, word) in [
                (0x34, 0x4545_4545_u32),
                (0x38, 64),
                (64, 6),
                (68, 0x5a53_4c4b),
                (72, 100),
                (80, 0x0020_8000),
                (100, 32 << 20),
            ] {
                kernel[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            directory.file("kernel-with-much-built-in", &kernel);
            let tree = [&[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 12][..], &[9; 4]].concat();
            directory.file("dtb", &tree);
            directory.file("ramdisk", b"ramdisk");
            directory
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
            std::fs::write(self.path(name), bytes).unwrap();
            self.path(name)
        }

        fn sparse(&self, name: &str, bytes: u64) -> PathBuf {
            let file = std::fs::File::create(self.path(name)).unwrap();
            file.set_len(bytes).unwrap();
            self.path(name)
        }
    }

    fn loaded(
        directory: &Directory,
        change: impl FnOnce(&mut [Option<PathBuf>; 5], &mut String),
    ) -> Result<MemoryPayload, String> {
        let path = |name| Some(directory.path(name));
        let mut paths = [
            path("aboot"),
            path("kernel"),
            path("dtb"),
            path("ramdisk"),
            None,
        ];
        let mut cmdline = "console=ttyO2,115200".to_owned();
        change(&mut paths, &mut cmdline);
        let at = |place: usize| paths[place].as_deref();
        let files = Files {
            second_stage: at(0).unwrap_or(Path::new("")),
            kernel: at(1),
            dtb: at(2),
            ramdisk: at(3),
            cmdline: &cmdline,
            raw: at(4),
        };
        load(&files).map_err(|error| error.to_string())
    }

    #[test]
    fn kernel_tree_ramdisk_and_command_line_become_one_payload() {
        let directory = Directory::new();
        let payload = loaded(&directory, |_, _| {}).unwrap();
        assert_eq!(payload.bytes("second_stage").unwrap(), [1; 14_000]);
        let kernel = payload.bytes("kernel").unwrap();
        assert_eq!(kernel.len(), 412);
        assert!(kernel.ends_with(&[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 12, 9, 9, 9, 9]));
        assert_eq!(payload.bytes("ramdisk").unwrap(), b"ramdisk");
        let raw = directory.file("raw", b"code");
        let payload = loaded(&directory, |paths, _| {
            paths[1..4].fill(None);
            paths[4] = Some(raw);
        });
        assert_eq!(payload.unwrap().bytes("raw").unwrap(), b"code");
    }

    #[test]
    fn what_no_board_could_take_is_refused_with_its_file() {
        let directory = Directory::new();
        let too_much = u64::from(aboot::MAX_IMAGE) + 1;
        let cases = [
            (
                0,
                directory.file("big-stage", &[0; 49_153]),
                "big-stage: has 49153 bytes; at most 49152",
            ),
            (0, directory.file("no-stage", &[]), "no-stage"),
            (
                1,
                directory.file("vmlinux", b"\x7fELF"),
                "no ARM zImage: it is an ELF file",
            ),
            (
                1,
                directory.sparse("big-kernel", u64::from(aboot::MAX_KERNEL) + 1),
                "big-kernel: has",
            ),
            (
                1,
                directory.path("kernel-with-much-built-in"),
                "once it is unpacked, with its BSS",
            ),
            (1, directory.path(""), "expected a file"),
            (
                2,
                directory.file("dts", b"/dts-v1/;"),
                "the device tree is none",
            ),
            (4, directory.file("empty", &[]), "1 to"),
            (4, directory.sparse("huge", too_much), "huge: has"),
            (4, directory.path("missing"), "missing"),
        ];
        for (place, file, says) in cases {
            let error = loaded(&directory, |paths, _| {
                if place == 4 {
                    paths[1] = None;
                }
                paths[place] = Some(file);
            });
            let error = error.unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
        }
        let error = loaded(&directory, |_, cmdline| *cmdline = "x".repeat(512));
        let error = error.unwrap_err();
        assert!(
            error.contains("512 bytes; aboot takes at most 511"),
            "{error}"
        );
    }
}
