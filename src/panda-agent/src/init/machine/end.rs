//! How a machine ends: what went wrong is said and told, and the power goes off. Also what keeps it from ending early:
//! a build that eats the memory must not take the agent with it.

use std::fs;
use std::io;
use std::time::Duration;

use nix::sys::reboot::{RebootMode, reboot};
use panda_protocol::boot_toml::BootToml;
use panda_protocol::link::Failure;

use super::steps::{Failed, Steps};
use crate::link::DepotClient;

/// How long the master may take to hear of it.
const TELL_LIMIT: Duration = Duration::from_secs(20);
const OWN_OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// What the master is told.
pub(crate) fn failure(boot: &BootToml, failed: &Failed, steps: &Steps) -> Failure {
    Failure {
        boot: boot.boot.clone(),
        image: boot.image,
        step: failed.step.to_owned(),
        reason: if failed.reason.is_empty() {
            "no reason is known".to_owned()
        } else {
            failed.reason.clone()
        },
        steps: steps.done().to_vec(),
    }
}

/// Tells the master, and says on the console how that went.
pub(crate) async fn tell(boot: &BootToml, failure: &Failure) {
    let told = async {
        let depot = DepotClient::new(&boot.link).map_err(|error| error.to_string())?;
        depot.fail(failure).await
    };
    match tokio::time::timeout(TELL_LIMIT, told).await {
        Ok(Ok(())) => tracing::info!("boot: the master has been told"),
        Ok(Err(problem)) => tracing::error!("boot: the master was not told: {problem}"),
        Err(_) => tracing::error!("boot: the master was not told: it does not answer"),
    }
}

/// Switches the machine off. One that cannot be switched off hangs, until its power is cut: it must not end this
/// process, because the kernel would start the machine anew.
pub fn power_off() -> ! {
    tracing::error!("this machine is over; power off");
    nix::unistd::sync();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    tracing::error!("it cannot switch itself off ({error}); it hangs until its power is cut");
    loop {
        std::thread::park();
    }
}

/// Keeps the kernel from ending this process, and those it starts, when memory is short.
///
/// # Errors
/// Not allowed.
pub fn protect() -> io::Result<()> {
    fs::write(OWN_OOM_SCORE, "-1000")
}
