//! A roll-out over slots whose boards do what the test has them do.

use std::sync::Arc;

use panda_slot::Event;
use tempfile::TempDir;

use super::*;
use crate::identity::{KeyAndCertificate, new_boot_id};
use crate::ledger::BootSecrets;
use crate::slot::{self, Settings};
use crate::testing::{Asked, ScriptedActivities};

struct Bench {
    _state: TempDir,
    ledger: Ledger,
    boards: Vec<Arc<ScriptedActivities>>,
    slots: Vec<SlotHandle>,
}

/// Slots that are Fresh, each from the image beside its name.
async fn bench(images: &[(&str, Sha256)]) -> Bench {
    let state = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&state.path().join("ledger.sqlite")).unwrap();
    let (mut boards, mut slots) = (Vec::new(), Vec::new());
    for (name, image) in images {
        let board = Arc::new(ScriptedActivities::default());
        let settings = Settings::default();
        let slot = slot::spawn(name, None, ledger.clone(), board.clone(), settings);
        let boot = board.until(cut_after(None)).await;
        let made = KeyAndCertificate::make().unwrap();
        let secrets = BootSecrets {
            id: new_boot_id().unwrap(),
            image: *image,
            certificate_pem: made.certificate_pem,
            key_pem: made.key_pem,
        };
        ledger.begin_boot(name, boot, secrets).await.unwrap();
        board.reset_well().await;
        let mut watch = slot.watch();
        watch.wait_for(View::is_idle).await.unwrap();
        boards.push(board);
        slots.push(slot);
    }
    Bench {
        _state: state,
        ledger,
        boards,
        slots,
    }
}

fn cut_after(before: Option<BootNo>) -> impl Fn(Asked) -> Option<BootNo> {
    move |asked| match asked {
        Asked::Cut(boot) if before.is_none_or(|before| boot > before) => Some(boot),
        _ => None,
    }
}

impl Bench {
    fn boot(&self, slot: usize) -> BootNo {
        self.slots[slot].view().slot.boot
    }

    fn idle(&self) -> usize {
        let idle = self.slots.iter().filter(|slot| slot.view().is_idle());
        idle.count()
    }
}

#[tokio::test(start_paused = true)]
async fn fresh_boards_of_an_older_image_are_reset_one_after_another() {
    let (old, new) = (Sha256::of(b"old"), Sha256::of(b"new"));
    let images = [
        ("panda01", old),
        ("panda02", new),
        ("panda03", old),
        ("panda04", old),
    ];
    let bench = bench(&images).await;
    let before: Vec<BootNo> = (0..4).map(|slot| bench.boot(slot)).collect();
    let stop = CancellationToken::new();
    let (slots, ledger) = (bench.slots.clone(), bench.ledger.clone());
    let rollout = tokio::spawn(run(slots, new, ledger, stop));

    bench.boards[0].until(cut_after(Some(before[0]))).await;
    assert_eq!(bench.idle(), 3, "never more than one at a time");
    bench.boards[0].reset_well().await;
    // This one fails with the new image, and the others still have their turn.
    for _ in 0..Settings::default().attempts {
        let last = bench.boot(2);
        let boot = if last == before[2] {
            bench.boards[2].until(cut_after(Some(last))).await
        } else {
            last
        };
        assert_eq!(bench.idle(), 3);
        let reason = "no power".to_owned();
        bench.boards[2].report(Event::CutFailed { boot, reason });
        let mut watch = bench.slots[2].watch();
        let moved = watch.wait_for(|view| {
            view.slot.boot > boot || matches!(view.slot.board, Board::Failed { .. })
        });
        moved.await.unwrap();
    }
    bench.boards[3].until(cut_after(Some(before[3]))).await;
    bench.boards[3].reset_well().await;
    rollout.await.unwrap();
    assert_eq!(bench.boot(1), before[1], "it has the current image");
}

#[tokio::test(start_paused = true)]
async fn a_roll_out_ends_with_the_daemon() {
    let old = Sha256::of(b"old");
    let bench = bench(&[("panda01", old), ("panda02", old)]).await;
    let stop = CancellationToken::new();
    let new = Sha256::of(b"new");
    let before = bench.boot(0);
    let (slots, ledger) = (bench.slots.clone(), bench.ledger.clone());
    let rollout = tokio::spawn(run(slots, new, ledger, stop.clone()));
    bench.boards[0].until(cut_after(Some(before))).await;
    stop.cancel();
    rollout.await.unwrap();
    assert!(bench.slots[1].view().is_idle());
}
