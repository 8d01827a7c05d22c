//! Who is in the drills: each slot's board or device, and what must become of it.

use std::time::Duration;

use panda_protocol::omap4::asic_id::Chip;

use crate::device::{Face, Life, Script, Trick, id};
use crate::switchboard::Behind;

/// How sure the rack can be of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grade {
    HubPort,
    Relay,
    Gadget,
    Sense,
}

/// In the order of the table.
pub(crate) const GRADES: [Grade; 4] = [Grade::HubPort, Grade::Relay, Grade::Gadget, Grade::Sense];

impl Grade {
    /// What its column is called.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Self::HubPort => "hub port (`readback`)",
            Self::Relay => "relay (`readback`)",
            Self::Gadget => "relay and gadget (`presence`)",
            Self::Sense => "relay and sense (`sensed`)",
        }
    }
}

/// What must become of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Its boot fails at this step.
    Fails(&'static str),
    /// Its boot fails at one of these steps, as its timing has it.
    FailsAt(&'static [&'static str]),
    /// The board is good.
    Fresh,
}

/// It gets as far as a board without a machine can: it is given the image, and never proves its boot. Nothing
/// about the device's USB was refused.
const UNPROVEN: Expected = Expected::FailsAt(&["started", "handshake"]);

pub(crate) struct Drill {
    /// Its port.
    pub(crate) port: &'static str,
    /// What is on it.
    pub(crate) what: &'static str,
    /// Who is behind it.
    pub(crate) behind: Behind,
    /// The ASIC ID that its slot expects.
    pub(crate) expects: Option<u8>,
    /// What must become of its slot, whatever the grade.
    pub(crate) expected: Expected,
}

fn drill(port: &'static str, what: &'static str, script: Script, expected: Expected) -> Drill {
    Drill {
        port,
        what,
        behind: Behind::Device(script),
        expects: None,
        expected,
    }
}

fn good(port: &'static str, what: &'static str) -> Drill {
    Drill {
        port,
        what,
        behind: Behind::Board,
        expects: None,
        expected: Expected::Fresh,
    }
}

/// The hub that loses its supply, and the good board on it.
pub(crate) const LOST_HUB: &str = "3";

/// The slots, each with what is on its port.
pub(crate) fn drills() -> Vec<Drill> {
    use Expected::{Fails, FailsAt};
    const STEPS: &[&str] = &["evidence", "rom", "asic id", "second stage", "boot image"];
    let chip = Chip::Omap4430;
    let rom = Script {
        life: Life::Powered,
        face: Face::Rom(chip),
        id: id(chip, 0),
        trick: Trick::None,
    };
    let with = |life, trick| Script {
        life,
        trick,
        ..rom.clone()
    };
    let face = |face| Script {
        face,
        ..rom.clone()
    };
    let other_chip = Script {
        face: Face::Rom(Chip::Omap4460),
        id: id(Chip::Omap4460, 0),
        ..rom.clone()
    };
    let swapped = |port, own: u8, expects: u8| Drill {
        expects: Some(expects),
        ..drill(
            port,
            "two boards swapped",
            Script {
                id: id(chip, own),
                ..rom.clone()
            },
            Fails("asic id"),
        )
    };
    let ms = Duration::from_millis;
    vec![
        good("1.1", "a good board beside them all"),
        drill(
            "1.2",
            "stalls in the boot",
            with(Life::Powered, Trick::Stall),
            Fails("second stage"),
        ),
        drill(
            "1.3",
            "unplugged in the middle of a transfer",
            with(Life::Powered, Trick::Leave(100_000)),
            Fails("boot image"),
        ),
        drill("1.4", "a keyboard", face(Face::Keyboard), Fails("rom")),
        drill("1.5", "a wrong chip", other_chip, Fails("asic id")),
        swapped("1.6", 0x11, 0x22),
        swapped("1.7", 0x22, 0x11),
        drill(
            "2.1",
            "strings of 255 bytes that are no text",
            face(Face::HugeStrings),
            UNPROVEN,
        ),
        drill(
            "2.2",
            "255 configurations of 65,535 bytes",
            face(Face::EndlessConfigurations(65_535)),
            Fails("rom"),
        ),
        drill(
            "2.3",
            "interfaces that change at every look",
            face(Face::ChangingInterfaces),
            FailsAt(&["rom", "handshake"]),
        ),
        // It holds up the kernel, and with it whatever else is on its hub: a good board there may wait for minutes.
        drill(
            "2.4",
            "enumerates again and again",
            with(Life::Cycle(ms(700), ms(400)), Trick::None),
            FailsAt(STEPS),
        ),
        // By a hub's own port anything leaves that is cut; where the kernel gives the power back, this one is there again at once.
        drill(
            "2.5",
            "a ROM that never left",
            with(Life::Always, Trick::None),
            Fails("evidence"),
        ),
        drill(
            "2.6",
            "a ROM that leaves and returns as it likes",
            with(Life::Cycle(ms(5_000), ms(5_000)), Trick::None),
            FailsAt(&[
                "evidence",
                "rom",
                "asic id",
                "second stage",
                "boot image",
                "started",
                "handshake",
            ]),
        ),
        drill(
            "2.7",
            "255 configurations of 4,096 bytes",
            face(Face::EndlessConfigurations(4_096)),
            Fails("rom"),
        ),
        good("3.1", "a good board whose hub loses its supply"),
    ]
}

/// Whether a failure at this step is what is expected.
pub(crate) fn fits(expected: Expected, step: &str) -> bool {
    match expected {
        Expected::Fails(expected) => step == expected,
        Expected::FailsAt(steps) => steps.contains(&step),
        Expected::Fresh => false,
    }
}
