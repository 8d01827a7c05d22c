//! Steps 8 and 9. `handshake`: the agent reports at the depot over this boot's certificate, whose key only
//! what was sent over the pipe can hold. `proof`: the daemon connects to the agent's link in turn, where it
//! must say the same, with a worker that is idle. A boot ROM that comes to the port meanwhile means that the
//! board has restarted; silence, once it has said that it boots, that it is dead ([`Awaiting::silence`]).
//!
//! The board tells its own steps with their times, and where it failed if it did. They are recorded before
//! the handshake's own end as `agent: NAME`: its words, which nothing here is decided by.

use std::time::Duration;

use panda_board::Presence;
use panda_protocol::digest::Sha256;
use panda_protocol::link::{BootStep, Report};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::chain::{Chain, Note};
use super::error::{Failure, StepError, digest_or_none};
use super::hand_over::Started;
use super::rom::wait_for_unawaited_rom;
use super::settings::ms;
use crate::depot::{Arrived, Awaiting, Silence};
use crate::guest::Link;

/// The pause between two attempts to reach a link that does not answer yet.
const LINK_PAUSE: Duration = Duration::from_millis(250);

/// The step that is recorded for a boot of an image that is insecure, in its own words.
pub(crate) const INSECURE: &str = "agent: INSECURE";

/// What is awaited of a boot.
#[derive(Debug)]
pub(crate) struct Awaited {
    /// Its place at the depot.
    pub(crate) reports: Awaiting,
    /// The way to its agent.
    pub(crate) link: Link,
    /// The architecture that its worker must announce: the image's.
    pub(crate) arch: String,
    /// The root file system that it must have verified, where its image has one.
    pub(crate) rootfs: Option<Sha256>,
}

/// The board has proven this boot.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(super) chain: Chain,
    pub(super) port: watch::Receiver<Presence>,
    report: Report,
}

impl Proof {
    /// What the agent said of itself.
    #[must_use]
    pub(crate) fn into_report(self) -> Report {
        self.report
    }
}

impl Started {
    /// Waits for the agent's report over this boot's certificate, and asks it back over the link.
    ///
    /// # Errors
    /// No report, one of another boot, a worker that is not idle.
    pub(crate) async fn handshake(self, awaited: Awaited) -> Result<Proof, Failure> {
        shake(self, awaited).await
    }
}

async fn shake(started: Started, awaited: Awaited) -> Result<Proof, Failure> {
    let Started { chain, port, .. } = started;
    let Awaited {
        mut reports,
        link,
        arch,
        rootfs,
    } = awaited;
    let limit = ms(chain.settings().handshake_ms);
    let deadline = Instant::now() + limit;
    let (first_word, silent) = (
        ms(chain.settings().first_word_ms),
        ms(chain.settings().silent_ms),
    );
    let (silence, outdated) = (reports.silence(first_word, silent), reports.outdated());

    let handshake = async {
        let report = tokio::select! {
            arrived = timeout_at(deadline, reports.arrived()) => match arrived {
                Ok(Some(Arrived::Report(report))) => report,
                Ok(Some(Arrived::Failed(failure))) => {
                    tell_steps(&chain, &failure.steps).await?;
                    let text = panda_http::client::clean_text;
                    return Err(StepError::Board {
                        step: text(&failure.step),
                        reason: text(&failure.reason),
                    });
                }
                Ok(Some(Arrived::Foreign(what))) => return Err(StepError::WrongReport { what }),
                Ok(None) => return Err(StepError::Superseded),
                Err(_) if outdated.get() => return Err(StepError::OutdatedBoot { limit }),
                Err(_) => return Err(StepError::NoReport { limit }),
            },
            silence = silence => return Err(match silence {
                Silence::Never => StepError::NoWord { limit: first_word },
                Silence::Outdated => StepError::OutdatedBoot { limit: first_word },
                Silence::Fell => StepError::FellSilent { limit: silent },
            }),
            () = wait_for_unawaited_rom(port.clone()) => return Err(StepError::Restarted),
        };
        tell_steps(&chain, &report.steps).await?;
        if !report.insecure.is_empty() {
            let what = format!(
                "the image is for demonstrations only: {}",
                report.insecure.join(", ")
            );
            chain
                .told(INSECURE, crate::clock::now_unix_ms(), 0, &what)
                .await?;
        }
        if report.arch != arch {
            return Err(StepError::WrongArch {
                expected: arch,
                found: report.arch,
            });
        }
        if report.rootfs != rootfs {
            return Err(StepError::WrongRootFs {
                expected: digest_or_none(rootfs),
                found: digest_or_none(report.rootfs),
            });
        }
        let skew = report
            .clock_unix_ms
            .saturating_sub(crate::clock::now_unix_ms());
        let detail = format!(
            "agent {}, up for {} ms, its clock {skew} ms off",
            panda_http::client::clean_text(&report.agent),
            report.uptime_ms
        );
        Ok((report, Note::from(detail)))
    };
    let report = chain.step("handshake", limit * 2, handshake).await?;

    // It listened before it reported.
    let patience = deadline.min(Instant::now() + silent);
    let proof = async {
        let asking = async {
            loop {
                match link.report().await {
                    Ok(_) => break,
                    Err(error) if error.is_silence() && Instant::now() < patience => {
                        sleep(LINK_PAUSE).await;
                    }
                    Err(error) => return Err(StepError::from(error)),
                }
            }
            Ok(link.idle().await?)
        };
        tokio::select! {
            asked = asking => asked?,
            () = wait_for_unawaited_rom(port.clone()) => return Err(StepError::Restarted),
        }
        Ok((
            (),
            Note::from("the link answers for this boot, and the worker is idle".to_owned()),
        ))
    };
    chain.step("proof", limit, proof).await?;
    Ok(Proof {
        chain,
        port,
        report,
    })
}

/// Records the board's own steps. They end about now; when each began is reckoned back from there.
async fn tell_steps(chain: &Chain, steps: &[BootStep]) -> Result<(), StepError> {
    let whole: u64 = steps.iter().map(|step| step.elapsed_ms).sum();
    let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let mut at = crate::clock::now_unix_ms().saturating_sub(ms(whole));
    for step in steps {
        let name = format!("agent: {}", step.name);
        chain.told(&name, at, step.elapsed_ms, &step.detail).await?;
        at = at.saturating_add(ms(step.elapsed_ms));
    }
    Ok(())
}
