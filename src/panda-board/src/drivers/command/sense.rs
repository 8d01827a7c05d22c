//! A sense of a board's supply rail by a command of the rack's owner: it prints `dark` or `live`, and exits with 0.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;

use super::{CommandPower, CommandSettings, MOST_MS, check_argv, find, four_seconds};
use crate::driver::{Claim, Machine, SenseDriver, Settings};
use crate::settings::{Mistake, Mistakes};
use crate::{PowerError, Sense};

/// `driver = "command"` of `[slot.sense]`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSenseSettings {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// It must have ended within this.
    #[serde(default = "four_seconds")]
    pub limit_ms: u64,
}

/// Without its arguments.
impl fmt::Debug for CommandSenseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command().fmt(f)
    }
}

impl CommandSenseSettings {
    /// What `driver` says.
    pub const DRIVER: &'static str = "command";

    fn command(&self) -> CommandSettings {
        CommandSettings {
            argv: self.argv.clone(),
            reads: true,
            limit_ms: self.limit_ms,
        }
    }
}

impl Settings for CommandSenseSettings {
    fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Mistakes::default();
        check_argv(&self.argv, &mut mistakes);
        mistakes.milliseconds("limit_ms", self.limit_ms, 1..=MOST_MS);
        mistakes.end()
    }

    /// Nothing: what a command senses cannot be known.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    fn find(&self, _: &Machine) -> Result<(), Mistake> {
        find(self.command().program())
    }
}

impl SenseDriver for CommandSenseSettings {
    fn make(&self, machine: &mut Machine) -> Result<Arc<dyn Sense>, Mistake> {
        self.find(machine)?;
        Ok(Arc::new(CommandSense::new(self)))
    }
}

/// A sense of the rail that a command reads.
#[derive(Debug, Clone)]
pub struct CommandSense(CommandPower);

impl CommandSense {
    /// By this command.
    #[must_use]
    pub fn new(settings: &CommandSenseSettings) -> Self {
        Self(CommandPower::new(settings.command()))
    }
}

#[async_trait]
impl Sense for CommandSense {
    async fn dark(&self) -> Result<bool, PowerError> {
        let output = self.0.run("sense").await?;
        match output.trim() {
            "dark" => Ok(true),
            "live" => Ok(false),
            _ => Err(PowerError::Answer(format!(
                "`{}`, which senses the rail: expected it to print \"dark\" or \"live\", got {:?}",
                self.0.settings.program(),
                self.0.told(&output)
            ))),
        }
    }
}
