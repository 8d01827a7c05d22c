//! What the ledger takes and gives: boots with their secrets and steps, build attempts.

use std::fmt;

use panda_protocol::digest::Sha256;
use panda_protocol::launchpad::BuildCall;
use panda_slot::{AttemptNo, BootNo};
use serde::{Deserialize, Serialize};

use super::grade::Grade;

/// An attempt that is accepted with the commit that makes the slot live.
#[derive(Debug, Clone)]
pub(crate) struct NewAttempt {
    /// Its number, as the machine gave it out.
    pub(crate) attempt: AttemptNo,
    /// What Launchpad asked for. It holds archive passwords, and is forgotten when the build has ended.
    pub(crate) call: BuildCall,
}

/// What identifies a boot. `Debug` shows neither key nor certificate.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BootSecrets {
    /// The boot's id: 32 hexadecimal digits of randomness.
    pub(crate) id: String,
    /// The known-good image it boots.
    pub(crate) image: Sha256,
    /// The boot's certificate, PEM.
    pub(crate) certificate_pem: String,
    /// The boot's private key, PEM.
    pub(crate) key_pem: String,
}

impl fmt::Debug for BootSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootSecrets")
            .field("id", &self.id)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// One step of a reset's chain, as it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// Its name: `cut`, `rom`, `second-stage`, …
    pub(crate) name: String,
    /// When it began, in milliseconds since 1970 UTC; for people only.
    pub(crate) at_unix_ms: i64,
    /// How long it took, in milliseconds, by the monotonic clock.
    pub(crate) elapsed_ms: u64,
    /// What was seen: a port, a chip, a digest. It must hold no secret; kept up to [`MAX_TEXT`] bytes.
    pub(crate) detail: String,
    /// The grade of a cut's evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grade: Option<Grade>,
    /// Why the step failed, where it did; kept up to [`MAX_TEXT`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// The most bytes kept of a step's detail or error: a board may have had a hand in them.
pub(crate) const MAX_TEXT: usize = 2048;

/// A boot with its chain, as operators see it. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BootHistory {
    /// The slot's name.
    pub(crate) slot: String,
    /// The boot's number.
    pub(crate) boot: BootNo,
    /// The boot's id.
    pub(crate) id: String,
    /// The image it booted.
    pub(crate) image: Sha256,
    /// When its cut was ordered, in milliseconds since 1970 UTC.
    pub(crate) began_unix_ms: i64,
    /// The attempts whose build ran on it: none or one.
    pub(crate) attempts: Vec<AttemptNo>,
    /// Its steps, in the order in which they were recorded.
    pub(crate) steps: Vec<Step>,
}

/// A build attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AttemptRecord {
    /// Its number.
    pub(crate) attempt: AttemptNo,
    /// The boot that it runs on, or ran on last.
    pub(crate) boot: BootNo,
    /// What Launchpad asked for; none once the build has ended.
    pub(crate) call: Option<BuildCall>,
}
