//! A boot with its chain of steps, as the ledger holds it and operators see it.

use serde::{Deserialize, Serialize};

use super::attempt::AttemptHistory;
use super::fact::Fact;
use super::grade::Grade;
use super::step::StepName;
use crate::digest::Sha256;
use crate::ids::{AttemptNo, BootId, BootNo, SlotName};

/// One step of a boot, as it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// When it began, in milliseconds since 1970 UTC; for people only.
    pub at_unix_ms: i64,
    /// How long it took, in milliseconds, by the monotonic clock.
    pub elapsed_ms: u64,
    /// What was seen, as a sentence for people: a port, a chip, a digest. It must hold no secret.
    pub detail: String,
    /// The grade of a cut's evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grade: Option<Grade>,
    /// The same as values, where the step has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fact: Option<Fact>,
    /// Why the step failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A boot with its chain. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootHistory {
    /// The slot's name.
    pub slot: SlotName,
    /// The boot's number.
    pub boot: BootNo,
    /// The boot's id.
    pub id: BootId,
    /// The image it booted.
    pub image: Sha256,
    /// When its cut was ordered, in milliseconds since 1970 UTC.
    pub began_unix_ms: i64,
    /// The attempts whose build ran on it: none or one.
    pub attempts: Vec<AttemptNo>,
    /// What is known of those attempts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builds: Vec<AttemptHistory>,
    /// Its steps, in the order in which they were recorded.
    pub steps: Vec<Step>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::Moved;

    #[test]
    fn a_boot_as_it_was_written_before_there_were_facts_is_read() {
        let json = r#"{"slot":"panda01","boot":3,"id":"00112233445566778899aabbccddeeff",
            "image":"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "began_unix_ms":1321970400123,"attempts":[5],"steps":[
            {"name":"cut","at_unix_ms":1,"elapsed_ms":2,"detail":"ordered and acknowledged"},
            {"name":"evidence","at_unix_ms":1,"elapsed_ms":2,"detail":"","grade":"readback"},
            {"name":"asic id","at_unix_ms":1,"elapsed_ms":2,"detail":"","error":"silence"}]}"#;
        let boot: BootHistory = serde_json::from_str(json).unwrap();
        assert_eq!(
            (boot.boot, &boot.attempts[..]),
            (BootNo::new(3), &[AttemptNo::new(5)][..])
        );
        assert!(boot.builds.is_empty());
        let names: Vec<_> = boot.steps.iter().map(|step| step.name.clone()).collect();
        assert_eq!(
            names,
            [StepName::Cut, StepName::Evidence, StepName::Identity]
        );
        assert_eq!(boot.steps[1].grade, Some(Grade::Readback));
    }

    #[test]
    fn a_boot_is_read_as_it_is_written() {
        let step = Step {
            name: StepName::PowerOn,
            at_unix_ms: -1,
            elapsed_ms: 2,
            detail: "ordered".to_owned(),
            grade: None,
            fact: None,
            error: None,
        };
        let boot = BootHistory {
            slot: "panda01".parse().unwrap(),
            boot: BootNo::new(1),
            id: "0".repeat(32).parse().unwrap(),
            image: Sha256::of(b""),
            began_unix_ms: 0,
            attempts: vec![AttemptNo::new(1)],
            builds: vec![AttemptHistory {
                moved: Moved {
                    inputs: 1,
                    results: 2,
                    log: 3,
                },
                ..AttemptHistory::new(AttemptNo::new(1), BootNo::new(1))
            }],
            steps: vec![step],
        };
        let json = serde_json::to_string(&boot).unwrap();
        assert_eq!(serde_json::from_str::<BootHistory>(&json).unwrap(), boot);
    }
}
