//! What a board does wrong when that is ordered: see the table in [`crate::faults`].

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use panda_board::Device;
use panda_protocol::omap4::asic_id::{AsicId, Chip};
use panda_protocol::omap4::bootimg;
use tokio::sync::mpsc::{Sender, WeakSender};
use tokio::time::Instant;

use super::{Board, Message, Power, Timing};
use crate::faults::{Fault, Order, boot_archive, with_archive, with_panic};
use crate::machine::Kind;
use crate::rom::{Break, Faults};

/// The boards of a twin by name, once all are there. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Neighbours(Arc<OnceLock<HashMap<String, WeakSender<Message>>>>);

impl Neighbours {
    /// Now they are there.
    pub fn are<'a>(&self, boards: impl Iterator<Item = (&'a String, &'a Sender<Message>)>) {
        let boards = boards.map(|(name, messages)| (name.clone(), messages.downgrade()));
        if self.0.set(boards.collect()).is_err() {
            tracing::debug!("a twin's boards are known already");
        }
    }

    fn find(&self, name: &str) -> Option<Sender<Message>> {
        self.0.get()?.get(name)?.upgrade()
    }
}

/// A boot ROM on the port that is not this board's, or that should not be there.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) device: Device,
    /// When it leaves by itself.
    pub(super) leaves: Option<Instant>,
}

/// What the board's chip says of itself: a general-purpose part, without a public id or a key, and so no board of
/// its own.
pub(super) fn chip(fault: Option<&Fault>) -> AsicId {
    AsicId {
        chip: match fault {
            Some(Fault::OtherChip) => Chip::Omap4460,
            _ => Chip::Omap4430,
        },
        ch: 7,
        rom_version: 4,
        block_13: [1, 0],
        public_id: [0; 20],
        mpk_hash: [0; 32],
        crcs: [0xf0d7_5e1b, 0],
    }
}

/// What its ROM and second stage do wrong.
pub(super) fn of_rom(fault: Option<&Fault>) -> Faults {
    let mut faults = Faults::default();
    match fault {
        Some(Fault::WrongAsicId) => faults.wrong_id = true,
        Some(Fault::ShortReads(most)) => faults.short_reads = Some(*most),
        Some(Fault::StallAt(byte)) => faults.breaks = Some((*byte, Break::Stalls)),
        Some(Fault::HangAt(byte)) => faults.breaks = Some((*byte, Break::Hangs)),
        Some(Fault::SecondStageDies) => faults.second_stage_dies = true,
        Some(
            Fault::NeverAppears
            | Fault::Late(_)
            | Fault::OtherChip
            | Fault::WrongPort(_)
            | Fault::KernelPanics
            | Fault::AgentSilent
            | Fault::OldCertificate
            | Fault::StaysOnPort,
        )
        | None => {}
    }
    faults
}

impl Board {
    pub(super) async fn handle_order(&mut self, order: Order) -> Result<(), String> {
        tracing::info!(board = self.parts.name, %order, "a fault is ordered");
        self.parts.console.note(&format!("fault: {order}"));
        match order {
            Order::Set(fault) => {
                if let Fault::WrongPort(other) = &fault
                    && (*other == self.parts.name || self.parts.neighbours.find(other).is_none())
                {
                    return Err(format!("there is no other board {other:?} in this twin"));
                }
                self.recall();
                self.fault = Some(fault);
            }
            Order::Clear => {
                self.recall();
                self.fault = None;
                self.on_port(|board| board.foreign = None);
            }
            Order::Reboot | Order::Rom if matches!(self.power, Power::Off) => {
                return Err("the board has no power".to_owned());
            }
            Order::Reboot => self.reboot().await,
            Order::Gadget(kept) => self.keep_gadget(kept),
            Order::Rom => {
                let device = self.new_device(Chip::Omap4430);
                let leaves = Some(Instant::now() + self.parts.timing.rom_window);
                self.on_port(|board| board.foreign = Some(Foreign { device, leaves }));
            }
        }
        Ok(())
    }

    /// The machine is gone, and the chip begins as after power-on.
    pub(super) async fn reboot(&mut self) {
        if let Power::Running { machine, .. } = &mut self.power
            && let Err(error) = machine.end(self.parts.timing.end_limit).await
        {
            tracing::warn!(board = self.parts.name, %error, "what is left of a machine");
        }
        let next = self.waking();
        self.on_port(|board| board.power = next);
    }

    /// The chip is about to run its boot ROM.
    pub(super) fn waking(&self) -> Power {
        let now = Instant::now();
        let Timing {
            rom_delay,
            rom_window,
            ..
        } = self.parts.timing;
        let arrives = match self.fault {
            Some(Fault::NeverAppears) => return Power::Dark,
            Some(Fault::Late(after)) => now + after,
            _ => now + rom_delay,
        };
        Power::Waking {
            arrives,
            leaves: arrives + rom_window.saturating_sub(rom_delay),
        }
    }

    /// Whether the boot ROM comes to another board's port; it is there then.
    pub(super) fn goes_astray(&self) -> bool {
        let Some(Fault::WrongPort(other)) = &self.fault else {
            return false;
        };
        self.astray(other, true);
        true
    }

    /// A boot ROM that went astray is gone with its power.
    pub(super) fn recall(&self) {
        if let Some(Fault::WrongPort(other)) = &self.fault {
            self.astray(other, false);
        }
    }

    fn astray(&self, other: &str, there: bool) {
        let told = self
            .parts
            .neighbours
            .find(other)
            .is_some_and(|other| other.try_send(Message::Astray { there }).is_ok());
        if !told {
            tracing::warn!(
                board = self.parts.name,
                other,
                "a boot ROM got lost on its way"
            );
        }
    }

    /// Another board's boot ROM has come to this one's port, or gone from there.
    pub(super) fn handle_astray(&mut self, there: bool) {
        let foreign = there.then(|| Foreign {
            device: self.new_device(Chip::Omap4430),
            leaves: Some(Instant::now() + self.parts.timing.rom_window),
        });
        self.on_port(|board| board.foreign = foreign);
    }

    /// What is on the port of a board that has just lost its power: nothing, or what it always shows.
    pub(super) fn still_on_port(&mut self) -> Option<Foreign> {
        // Another board's power is not cut here.
        let kept = match &self.power {
            Power::Rom { device, .. } => Some(*device),
            _ => None,
        };
        if self.fault != Some(Fault::StaysOnPort) {
            return None;
        }
        let device = kept.unwrap_or_else(|| self.new_device(Chip::Omap4430));
        Some(Foreign {
            device,
            leaves: None,
        })
    }

    /// What is started in the place of the image that arrived: itself, as a rule; nothing where nothing is.
    pub(super) fn spoiled(&mut self, image: Vec<u8>) -> Option<Vec<u8>> {
        let machine = self.parts.kind.manifest();
        let Ok(parsed) = bootimg::parse(&image, machine) else {
            return Some(image);
        };
        let this_boot = boot_archive(parsed.ramdisk).map(<[u8]>::to_vec);
        let note = |text: &str| self.parts.console.note(text);
        let started = match (&self.fault, &self.parts.kind) {
            (Some(Fault::KernelPanics), Kind::Qemu(_)) => with_panic(machine, &parsed).ok(),
            (Some(Fault::KernelPanics), Kind::Process) => {
                note("Kernel panic - not syncing: No working init found.");
                None
            }
            (Some(Fault::AgentSilent), _) => {
                note("the kernel is started, and its agent never calls");
                None
            }
            (Some(Fault::OldCertificate), _) => match &self.last_boot {
                Some(old) => with_archive(machine, &parsed, old).ok(),
                None => {
                    note("no boot before this one is known; the agent never calls");
                    None
                }
            },
            _ => Some(image),
        };
        self.last_boot = this_boot;
        started
    }
}
