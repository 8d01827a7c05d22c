//! The steps of a boot, each with one spelling: for the ledger, for operators, for the daemon's log.
//!
//! ```text
//! cut ─▶ evidence ─▶ [prepare] ─▶ power on ─▶ rom ─▶ identity ─▶ (the family hands over) ─▶ port released
//!     ─▶ [agent: INSECURE] [agent: NAME …] handshake ─▶ proof ─▶ [gadget]
//! ```
//!
//! What comes between `identity` and `port released` is the family's: its table in its own folder names those
//! steps ([`HandOver`]). What older versions called otherwise is read too; a name that this version does not
//! know at all is kept as it stands ([`StepName::Other`]).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::checks::is_line;
use crate::family::FAMILIES;
use crate::ids::Label;

/// What stands before the name of a step that the board has told of.
const BOARD: &str = "agent: ";
/// The most bytes of a name that this version does not know.
const MAX_OTHER: usize = 80;

/// A step of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StepName {
    /// Power off is ordered.
    Cut,
    /// The board is held without power, and watched.
    Evidence,
    /// The board is booted only so that its next cut can show more.
    Prepare,
    /// Power on is ordered.
    PowerOn,
    /// The boot ROM comes to the slot's port.
    Rom,
    /// Who is it: the ROM tells its chip.
    Identity,
    /// The family hands the board what the image holds for it.
    HandOver(HandOver),
    /// What was handed over has left the port.
    PortReleased,
    /// The agent reports with this boot's key.
    Handshake,
    /// The agent's link answers for this boot, and its worker is idle.
    Proof,
    /// The image's gadget is on the port.
    Gadget,
    /// The image is unfit for anything but a demonstration, as the board itself says.
    Insecure,
    /// A step on the board, as it told of it.
    Board(Label),
    /// A step that another version has recorded and this one does not know.
    Other(OtherStep),
}

/// A step by which a family hands the board what it boots. Only a family's own table makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandOver(&'static str);

impl HandOver {
    /// For a family's table: the step of this name, which no other step has.
    pub(crate) const fn named(name: &'static str) -> Self {
        Self(name)
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// Those of all families.
    pub fn all() -> impl Iterator<Item = Self> {
        FAMILIES.iter().flat_map(|facts| facts.hand_over).copied()
    }
}

/// The name of a step that this version does not know: one line of at most 80 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OtherStep(String);

/// A text that cannot be a step's name. It does not quote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of a boot's step, one line of at most {MAX_OTHER} bytes")]
pub struct BadStepName;

impl StepName {
    /// The steps that are the same for every family, in their order.
    pub const COMMON: [Self; 11] = [
        Self::Cut,
        Self::Evidence,
        Self::Prepare,
        Self::PowerOn,
        Self::Rom,
        Self::Identity,
        Self::PortReleased,
        Self::Handshake,
        Self::Proof,
        Self::Gadget,
        Self::Insecure,
    ];

    /// A step of which its text is fixed.
    const fn fixed(&self) -> Option<&'static str> {
        Some(match self {
            Self::Cut => "cut",
            Self::Evidence => "evidence",
            Self::Prepare => "prepare",
            Self::PowerOn => "power on",
            Self::Rom => "rom",
            Self::Identity => "identity",
            Self::HandOver(step) => step.0,
            Self::PortReleased => "port released",
            Self::Handshake => "handshake",
            Self::Proof => "proof",
            Self::Gadget => "gadget",
            Self::Insecure => "agent: INSECURE",
            Self::Board(_) | Self::Other(_) => return None,
        })
    }

    /// What older versions called otherwise.
    fn formerly(text: &str) -> Option<Self> {
        Some(match text {
            "asic id" | "asic-id" => Self::Identity,
            "started" => Self::PortReleased,
            _ => return None,
        })
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Board(name) => f.pad(&format!("{BOARD}{name}")),
            Self::Other(OtherStep(name)) => f.pad(name),
            known => f.pad(known.fixed().unwrap_or_default()),
        }
    }
}

impl FromStr for StepName {
    type Err = BadStepName;

    fn from_str(text: &str) -> Result<Self, BadStepName> {
        let families = HandOver::all().map(Self::HandOver);
        // Words were joined by `-` in places.
        let spelt = |step: &Self| {
            let name = step.fixed().unwrap_or_default();
            name == text || name.replace(' ', "-") == text
        };
        if let Some(known) = Self::COMMON.into_iter().chain(families).find(spelt) {
            return Ok(known);
        }
        if let Some(former) = Self::formerly(text) {
            return Ok(former);
        }
        if let Some(Ok(name)) = text.strip_prefix(BOARD).map(str::parse) {
            return Ok(Self::Board(name));
        }
        if is_line(text, MAX_OTHER) {
            Ok(Self::Other(OtherStep(text.to_owned())))
        } else {
            Err(BadStepName)
        }
    }
}

impl TryFrom<String> for StepName {
    type Error = BadStepName;

    fn try_from(text: String) -> Result<Self, BadStepName> {
        text.parse()
    }
}

impl From<StepName> for String {
    fn from(name: StepName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use crate::omap4;
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> impl Iterator<Item = StepName> {
        let others = ["agent: modules", "of another time"].map(|text| text.parse().unwrap());
        let families = HandOver::all().map(StepName::HandOver);
        StepName::COMMON.into_iter().chain(families).chain(others)
    }

    #[test]
    fn every_step_is_read_as_it_is_written_and_no_two_are_written_alike() {
        let mut texts = BTreeSet::new();
        for step in all() {
            let text = step.to_string();
            assert_eq!(text.parse(), Ok(step.clone()));
            let json = serde_json::to_string(&step).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<StepName>(&json).unwrap(), step);
            assert!(texts.insert(text));
        }
    }

    #[test]
    fn what_older_versions_wrote_is_read() {
        let second_stage = StepName::HandOver(omap4::SECOND_STAGE);
        for (text, step) in [
            ("asic id", StepName::Identity),
            ("asic-id", StepName::Identity),
            ("second stage", second_stage.clone()),
            ("second-stage", second_stage),
            ("boot-image", StepName::HandOver(omap4::BOOT_IMAGE)),
            ("power-on", StepName::PowerOn),
            ("started", StepName::PortReleased),
            ("agent: INSECURE", StepName::Insecure),
        ] {
            assert_eq!(text.parse(), Ok(step), "{text}");
        }
    }

    #[test]
    fn a_step_of_another_version_keeps_its_name_within_bounds() {
        let step: StepName = "warp drive".parse().unwrap();
        assert!(matches!(step, StepName::Other(_)));
        assert_eq!(step.to_string(), "warp drive");
        for bad in ["", "a\nb", "\u{1b}[31m", &"x".repeat(81)] {
            assert_eq!(bad.parse::<StepName>(), Err(BadStepName), "{bad:?}");
        }
        // A board's own step is a label or it is none of the board's.
        let odd = "agent: Not A Label".parse::<StepName>().unwrap();
        assert!(matches!(odd, StepName::Other(_)));
    }

    #[test]
    fn a_steps_name_is_shown_in_the_width_that_is_asked_for() {
        assert_eq!(format!("{:10}|", StepName::Cut), "cut       |");
        let told: StepName = "agent: kernel".parse().unwrap();
        assert_eq!(format!("{told:16}|"), "agent: kernel   |");
    }
}
